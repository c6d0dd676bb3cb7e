"""FedSA-LoRA over Flower: the halves A are averaged, and no B leaves a client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from engines.grids import NODES, FakeGrid, protocol_of, through_bytes
from pyfed.engines.flower import FedSALoRA, SecureAggMod, to_arrays, to_tensors
from pyfed.engines.flower.arrays import count_floats
from pyfed.errors import ArgumentError
from pyfed.lora import aggregate

A, B = "base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"
HEAD = "base_model.model.classifier.weight"


def adapter_of(node: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(node % 997)
    half, other = torch.randint(-64, 64, (2, 3)), torch.randn(4, 2)
    return {A: half / 64, B: other, HEAD: torch.randint(-64, 64, (2, 2)) / 64}


def app_of(node: int, protocol: Any, folder: Path, seen: list[Message]) -> ClientApp:
    app = ClientApp(mods=[SecureAggMod(protocol, key_file=folder / "key")])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(message)
        content = {"arrays": to_arrays(adapter_of(node)), "metrics": MetricRecord()}
        content["metrics"]["num-examples"] = 1 + sorted(NODES).index(node)  # type: ignore[index]
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        seen.append(message)
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


@pytest.mark.parametrize("heads", ["shared", "local"])
def test_the_halves_a_are_averaged_and_no_b_leaves_a_client(heads: str, tmp_path: Path) -> None:
    nodes, seen = sorted(NODES), list[Message]()
    zeros = to_arrays({name: torch.zeros_like(value) for name, value in adapter_of(1).items()})
    travels = FedSALoRA.travelling(zeros, heads)
    assert list(travels) == ([A, HEAD] if heads == "shared" else [A])
    protocol = protocol_of("LightSecAgg", count_floats(travels))
    grid = FakeGrid({node: app_of(node, protocol, tmp_path, seen) for node in nodes})
    sent: list[bytes] = []
    reply = grid.reply

    def watched(message: Message) -> Message | None:
        answer = reply(message)
        assert answer is not None and answer.has_content()
        from flwr.common.serde import recorddict_to_proto

        sent.append(recorddict_to_proto(through_bytes(answer.content)).SerializeToString())
        return answer

    grid.reply = watched  # type: ignore[method-assign]
    strategy = FedSALoRA(protocol, heads=heads, stage_timeout=1.0)
    result = strategy.start(grid, zeros, num_rounds=1, timeout=1.0)  # type: ignore[arg-type]
    shared = to_tensors(result.arrays)
    assert list(shared) == list(travels)
    wanted = aggregate([adapter_of(node) for node in nodes], [1, 2, 3, 4, 5], rule="fedsa").shared
    for name, value in shared.items():
        assert torch.allclose(value, wanted[name], atol=1e-6)
    assert len(seen) == 10
    assert all(set(message.content["arrays"]) == set(travels) for message in seen)
    for node in nodes:
        own = adapter_of(node)[B].numpy().tobytes()
        assert not any(own[at : at + 8] in data for data in sent for at in range(0, 32, 8))


def test_what_is_no_adapter_is_told() -> None:
    with pytest.raises(ArgumentError, match="no part of an adapter"):
        FedSALoRA.travelling(to_arrays({"weight": torch.zeros(1)}))
    with pytest.raises(ArgumentError, match="none of the 0 arrays"):
        FedSALoRA.travelling(ArrayRecord())
    with pytest.raises(ArgumentError, match="heads is 'all'"):
        FedSALoRA(protocol_of("LightSecAgg"), heads="all")
