"""FedPrLLM over Flower: what has the most votes is pruned, and no vote is seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from engines.grids import NODES, FakeGrid, keyed, protocol_of
from pyfed.engines.flower import FedPrLLMStrategy, SecureAggMod, to_arrays, to_tensors
from pyfed.errors import ArgumentError
from pyfed.lanes import VoteLanes
from pyfed.secagg import LightSecAgg

SHAPES = {"up": (4, 6), "down": (6, 4)}


def model() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    kinds = {"up": torch.bfloat16, "down": torch.float32}
    layers = {name: torch.randn(shape).to(kinds[name]) for name, shape in SHAPES.items()}
    return {"bias": torch.randn(3), **layers}


def votes_of(node: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(node % 997)
    return {name: torch.rand(shape) < 0.5 for name, shape in SHAPES.items()}


def grid_with(folder: Path, votes: Any = votes_of, loss: Any = lambda *_: None) -> FakeGrid:
    apps = {}
    for node in NODES:
        app = ClientApp(mods=[SecureAggMod(protocol(), key_file=folder / "key")])

        @app.train()
        def train(message: Message, context: Context, node: int = node) -> Message:
            assert set(message.content["arrays"]) == {"bias", "up", "down"}
            content = {"arrays": to_arrays(votes(node)), "metrics": MetricRecord({"seconds": 1.0})}
            return Message(RecordDict(content), reply_to=message)

        apps[node] = app
    return FakeGrid(apps, loss)


def protocol() -> Any:
    return keyed(LightSecAgg)(  # type: ignore[call-arg]
        clients=5, privacy=1, dropouts=1, length=48, fixed=VoteLanes(clients=5)
    )


def most_voted(counts: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """In each row, half of the elements: those with the most votes, then with the lowest index."""
    out = keep.clone()
    for row, told in zip(out, counts.tolist(), strict=True):
        order = sorted(range(len(told)), key=lambda i: (-told[i], i))
        row[order[: len(told) // 2]] = 0
    return out


@pytest.mark.parametrize("lost", [None, 13])
def test_what_has_the_most_votes_is_pruned(lost: int | None, tmp_path: Path) -> None:
    def loss(call: int, stage: str, node: int) -> str | None:
        return "error" if stage == "update" and node == lost else None

    strategy = FedPrLLMStrategy(
        protocol(), layers=["up", "down"], group="row", stage_timeout=1.0, fraction_evaluate=0.0
    )
    grid = grid_with(tmp_path, loss=loss)
    result = strategy.start(grid, to_arrays(model()), timeout=1.0)  # type: ignore[arg-type]
    pruned = to_tensors(result.arrays)
    votes = [votes_of(node) for node in NODES if node != lost]
    for name in SHAPES:
        counts = sum(each[name].int() for each in votes)
        assert isinstance(counts, torch.Tensor)
        assert torch.equal(pruned[name], most_voted(counts, model()[name]))
    assert torch.equal(pruned["bias"], model()["bias"])
    assert set(result.train_metrics_clientapp) == {1}
    metrics = dict(result.train_metrics_clientapp[1])
    assert (metrics["clients"], metrics["sparsity"]) == (len(votes), 0.5)


def test_there_is_no_second_round() -> None:
    strategy = FedPrLLMStrategy(protocol(), layers=["up", "down"])
    arrays = to_arrays(model())
    for given, more in (((arrays, 2), {}), ((arrays, 0), {}), ((arrays,), {"num_rounds": 3})):
        with pytest.raises(ArgumentError, match=r"num_rounds is \d; it must be 1"):
            strategy.start(None, *given, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"up": torch.zeros(4, 6) > 0}, "'down' is missing"),
        (
            {"up": torch.zeros(6, 4) > 0, "down": torch.zeros(6, 4) > 0},
            r"'up' is bool of shape \(6, 4\)",
        ),
        ({"up": torch.zeros(4, 6), "down": torch.zeros(6, 4) > 0}, "'up' is float32"),
    ],
)
def test_votes_that_do_not_fit_are_told(bad: Any, told: str, tmp_path: Path) -> None:
    grid = grid_with(tmp_path, votes=lambda node: bad)
    strategy = FedPrLLMStrategy(protocol(), layers=["up", "down"], stage_timeout=1.0)
    messages = strategy.configure_train(1, to_arrays(model()), ConfigRecord(), grid)  # type: ignore[arg-type]
    for reply in grid.send_and_receive(messages, timeout=1.0):
        assert re.search(told, reply.error.reason.replace("\\'", "'"))


def test_arguments_that_are_wrong_are_told() -> None:
    for change, told in (
        ({"layers": "up"}, "layers is 'up'"),
        ({"layers": ["up", "up"]}, "each once"),
        ({"ties": "random"}, "ties is 'random'"),
    ):
        with pytest.raises(ArgumentError, match=told):
            FedPrLLMStrategy(protocol(), **{"layers": ["up"], **change})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="encoding is FixedPoint; it must be VoteLanes"):
        FedPrLLMStrategy(protocol_of("LightSecAgg"), layers=["up"])
    for layers, told in ((["other"], "no arrays"), (["up"], "24 weights and the protocol's")):
        strategy = FedPrLLMStrategy(protocol(), layers=layers)
        with pytest.raises(ArgumentError, match=told):
            strategy.configure_train(1, to_arrays(model()), None, None)  # type: ignore[arg-type]
