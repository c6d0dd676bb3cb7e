"""Records of rounds: what is in them, where adapters put them, what is said when they cannot."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("cryptography")
pytest.importorskip("msgpack")

from engines.engine_scenes import protocol, some_updates
from pyfed import FixedPoint
from pyfed.engines.callbacks import JsonLines, RoundCallback, TensorBoard, WeightsAndBiases
from pyfed.errors import ArgumentError, DtypeError
from pyfed.pruning import FedPrLLM, simulate_pruning
from pyfed.secagg import SecEA, simulate


class Kept:
    """A callback that keeps its records, and spoils the lists in them."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_round_end(self, record: dict[str, Any]) -> None:
        self.records.append(json.loads(json.dumps(record)))
        record["seconds"].clear()
        record.clear()


class Writer:
    """Stands for a SummaryWriter, and for a run of Weights & Biases."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.made_with, self.seen, self.closed = (args, settings), [], False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.seen.append((name, value, step))

    def log(self, values: dict[str, float], step: int) -> None:
        self.seen += [(name, value, step) for name, value in values.items()]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    finish = close


def test_a_round_is_told_to_every_callback() -> None:
    agreed, one, other = protocol(4), Kept(), Kept()
    assert isinstance(one, RoundCallback)
    result = simulate(
        agreed, some_updates(agreed), drop={"upload": {2}}, round=5, callbacks=[one, other]
    )
    assert one.records == other.records
    (record,) = one.records
    assert (record["protocol"], record["round"], record["clients"]) == ("LightSecAgg", 5, 4)
    assert (record["included"], record["total_weight"], record["wrong"]) == ([0, 1, 3], 3, [])
    assert record["bytes"]["client"]["upload"] == result.traffic["client", "upload"]
    assert record["seconds"] == result.seconds and set(result.seconds) == set(agreed.phases)


def test_the_other_engines_tell_as_well() -> None:
    kept = Kept()
    fixed = FixedPoint(clip=1.0, bits=16, clients=3)
    entities = [{1: torch.tensor([0.5])}, {1: torch.tensor([0.25])}, {}]
    simulate(SecEA(clients=3, privacy=1, blocks=1, dim=1, fixed=fixed), entities, callbacks=[kept])
    assert [(r["protocol"], r["union_size"]) for r in kept.records] == [("SecEA", 1)]
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(2)])
    lines: list[dict[str, Any]] = []
    listener = SimpleNamespace(on_round_end=lines.append)
    simulate_pruning(FedPrLLM(score="magnitude"), model, [None] * 3, callbacks=[listener])
    assert [(r["protocol"], r["voters"], r["sparsity"]) for r in lines] == [
        ("FedPrLLM", [3, 3], 0.5)
    ]


def test_lines_of_json_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    for number in range(2):
        own = {"loss": torch.tensor(0.5), "lost": {3, 1}}
        JsonLines(path).on_round_end({"round": number, **own})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"round": number, "loss": 0.5, "lost": [1, 3]} for number in range(2)
    ]
    with pytest.raises(ArgumentError, match="there is no folder"):
        JsonLines(tmp_path / "none" / "rounds.jsonl")
    with pytest.raises(DtypeError, match="no form in JSON: it holds object"):
        JsonLines(path).on_round_end({"round": object()})


RECORD = {"protocol": "X", "round": 3, "seconds": {"share": 0.5}, "included": [0], "clients": 4}
SCALARS = [("seconds/share", 0.5, 3), ("clients", 4.0, 3)]


def test_numbers_go_to_tensorboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = ModuleType("torch.utils.tensorboard")
    stub.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    with TensorBoard(tmp_path) as board:
        board.on_round_end(dict(RECORD))
        writer = board._writer
    assert (writer.made_with[0], writer.seen, writer.closed) == ((str(tmp_path),), SCALARS, True)
    own = Writer()
    with TensorBoard(writer=own) as board:
        board.on_round_end(dict(RECORD))
    assert (own.seen, own.closed) == (SCALARS, False)
    with pytest.raises(ArgumentError, match="either folder or writer"):
        TensorBoard()


def test_numbers_go_to_weights_and_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = ModuleType("wandb")
    stub.init = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stub)
    with WeightsAndBiases(project="p", mode="offline") as board:
        board.on_round_end(dict(RECORD))
        run = board._run
    assert run.made_with == ((), {"project": "p", "mode": "offline"})
    assert (run.seen, run.closed) == (SCALARS, True)
    with pytest.raises(ArgumentError, match="run is given beside project"):
        WeightsAndBiases(run, project="p")


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (lambda: TensorBoard("runs"), "torch.utils.tensorboard", "tensorboard"),
        (WeightsAndBiases, "wandb", "wandb"),
    ],
)
def test_a_package_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, make: Any, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=f"run: pip install {package}"):
        make()


def test_wrong_callbacks_are_refused_before_the_round() -> None:
    agreed = protocol(4)
    with pytest.raises(DtypeError, match=r"callbacks\[1\] is str; it must have a method"):
        simulate(agreed, some_updates(agreed), callbacks=[Kept(), "no"])
    with pytest.raises(DtypeError, match="callbacks is Kept; it must be a list"):
        simulate(agreed, some_updates(agreed), callbacks=Kept())


def test_the_library_is_silent_until_asked(caplog: pytest.LogCaptureFixture) -> None:
    code = "import logging, pyfed; print(logging.getLogger('pyfed').handlers)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "NullHandler" in told.stdout and told.stderr == ""
    agreed = protocol(4)
    with caplog.at_level(logging.INFO, logger="pyfed"):
        simulate(agreed, some_updates(agreed), round=9)
    assert [record.getMessage() for record in caplog.records] == ["LightSecAgg: round 9 is over"]
