"""Nodes that come and go, servers that may do anything, models of every dtype, a missing Flower."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord

from engines.grids import NODES, FakeGrid, app_of, grid_of, protocol_of, zeros
from pyfed import Key
from pyfed.engines.flower import SecureAggMod, SecureFedAvg, SecureRounds, to_arrays, to_tensors
from pyfed.engines.flower.arrays import count_floats, flat_floats, with_floats
from pyfed.engines.flower.letters import STYPE, Letter, take, write
from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.secagg import Identity

LENGTH = 6


def updates_of(count: int) -> list[torch.Tensor]:
    return [torch.full((LENGTH,), i / 8) for i in range(count)]


def one_round(strategy: SecureFedAvg, grid: FakeGrid, number: int) -> set[int]:
    """Play a round; the nodes that are in the sum."""
    messages = strategy.configure_train(number, zeros(LENGTH), ConfigRecord(), grid)  # type: ignore[arg-type]
    replies = grid.send_and_receive(messages, timeout=1.0)
    model, _ = strategy.aggregate_train(number, replies)
    assert model is not None and strategy.result is not None
    inside = strategy.result.included
    return {node for node, client in strategy.rounds.numbers.items() if client in inside}


def test_a_session_ends_when_a_node_leaves_or_a_free_place_can_be_taken(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_of(protocol, updates_of(5), [1] * 5, tmp_path)
    apps, nodes = dict(grid.apps), set(NODES)
    strategy = SecureFedAvg(protocol, stage_timeout=0.01)
    stages: list[list[str]] = []
    here = [nodes, nodes - {12}, nodes - {12}, nodes, nodes]
    for number, present in enumerate(here, 1):
        grid.apps = {node: app for node, app in apps.items() if node in present}
        del grid.stages[:]
        assert one_round(strategy, grid, number) == present
        stages.append([stage for stage, _ in grid.stages])
    anew, prepared = ["keys", "share", "update", "recover"], ["update", "recover"]
    assert stages == [anew, anew, prepared, anew, prepared]


def test_more_nodes_than_places_leave_the_session_as_it_is(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_of(protocol, updates_of(5), [1] * 5, tmp_path)
    strategy = SecureFedAvg(protocol, stage_timeout=0.01)
    one_round(strategy, grid, 1)
    more = app_of(protocol, torch.zeros(LENGTH), 1, tmp_path)
    grid.apps[99] = more
    assert one_round(strategy, grid, 2) == set(NODES)
    assert len(grid.stages) == 6
    fresh = SecureRounds(protocol, timeout=0.01)
    fresh._gather(grid)  # type: ignore[arg-type]
    assert len(fresh._nodes) == 5


@pytest.mark.parametrize("name", ["LightSecAgg", "SecAggPlus", "SwiftAgg"])
def test_a_server_that_may_do_anything_costs_one_more_stage(name: str, tmp_path: Path) -> None:
    keys = [Key(bytes([i]) * 32) for i in range(5)]
    pinned = [Identity(key).public for key in keys]
    protocol = protocol_of(name, LENGTH, server="malicious", identities=pinned)
    grid = grid_of(protocol, updates_of(5), [1] * 5, tmp_path)
    order = [3, 0, 4, 2, 1]  # the identity decides on the number, not the node
    for node, number in zip(sorted(NODES), order, strict=True):
        path = tmp_path / f"identity-{number}"
        path.touch(mode=0o600)
        path.write_bytes(keys[number].reveal())
        grid.contexts[node].node_config["pyfed-identity-file"] = str(path)
    strategy = SecureFedAvg(protocol, stage_timeout=1.0)
    for number in (1, 2):
        assert one_round(strategy, grid, number) == set(NODES)
        assert strategy.result is not None
        assert strategy.result.sum.tolist() == pytest.approx([10 / 8] * LENGTH, abs=1e-3)
    assert strategy.rounds.numbers == dict(zip(sorted(NODES), order, strict=True))
    stages = [stage for stage, _ in grid.stages]
    if name != "SwiftAgg":
        assert stages == ["keys", "share", *["update", "recover", "recover"] * 2]
    missing = grid_of(protocol, updates_of(5), [1] * 5, tmp_path)
    with pytest.raises(Exception, match="0 clients are left"):
        one_round(SecureFedAvg(protocol, stage_timeout=1.0, on_failure="raise"), missing, 1)


def test_clients_may_send_the_model_in_place_of_the_difference(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_of(protocol, updates_of(5), [1] * 5, tmp_path)
    strategy = SecureFedAvg(protocol, send="weights", stage_timeout=1.0)
    half = to_arrays({"w": torch.full((LENGTH,), 0.25)})
    messages = strategy.configure_train(1, half, ConfigRecord(), grid)  # type: ignore[arg-type]
    model, _ = strategy.aggregate_train(1, grid.send_and_receive(messages, timeout=1.0))
    assert model is not None
    assert torch.allclose(flat_floats(model), torch.full((LENGTH,), 0.5), atol=1e-4)


def test_weights_that_are_all_zero_leave_the_model(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_of(protocol, updates_of(5), [0] * 5, tmp_path)
    strategy = SecureFedAvg(protocol, stage_timeout=1.0)
    messages = strategy.configure_train(1, zeros(LENGTH), ConfigRecord(), grid)  # type: ignore[arg-type]
    replies = grid.send_and_receive(messages, timeout=1.0)
    assert strategy.aggregate_train(1, replies) == (None, None)


def test_models_of_every_dtype_keep_their_bits() -> None:
    tensors = {
        "bf16": torch.tensor([[1.5, -0.0], [torch.inf, 3e38]], dtype=torch.bfloat16),
        "half": torch.tensor([0.5], dtype=torch.float16),
        "steps": torch.tensor(2**40),
        "flags": torch.tensor([True, False]),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "empty": torch.empty(0, 2, dtype=torch.bfloat16),
        "single": torch.tensor([0.1]),
    }
    record = to_arrays(tensors)
    back = to_tensors(record)
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)
    assert count_floats(record) == 7
    moved = to_tensors(with_floats(record, torch.arange(7.0)))
    assert moved["bf16"].tolist() == [[0, 1], [2, 3]]
    assert (moved["half"].item(), moved["double"].item(), moved["single"].item()) == (4, 5, 6)
    assert moved["steps"] == 2**40 and moved["flags"].tolist() == [True, False]
    assert moved["bf16"].dtype == torch.bfloat16 and moved["double"].dtype == torch.float64
    with pytest.raises(ArgumentError, match="'half' is missing"):
        flat_floats(to_arrays({"bf16": tensors["bf16"]}), like=record)
    with pytest.raises(DtypeError, match="'a' is float"):
        to_arrays({"a": 1.0})  # type: ignore[dict-item]


@pytest.mark.parametrize("sizes", [(), (0, 5), (70_000, 3, 65_536, 65_537, 70_002)])
def test_letters_come_back_as_they_were_written(sizes: tuple[int, ...]) -> None:
    from flwr.app import RecordDict

    from engines.grids import through_bytes

    letter = Letter("train.pyfed_share", tuple(bytes([7]) * size for size in sizes), 3, 9)
    content = RecordDict({"arrays": ArrayRecord()})
    write(letter, content)
    content = through_bytes(content)
    back = take(content)
    assert back is not None
    assert sorted(back.messages) == sorted(letter.messages)
    assert (back.stage, back.client, back.enter) == (letter.stage, 3, 9)
    assert set(content) == {"arrays"} and take(content) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stage": "train.other"}, "stage is 'train.other'"),
        ({"client": "1"}, "client is '1'"),
        ({"small": [1]}, "small must be a list of bytes"),
        ({"small": [b""] * 16}, "17 messages; it may have 16"),
    ],
)
def test_letters_that_are_none_are_refused(change: dict[str, object], told: str) -> None:
    from flwr.app import RecordDict

    content = RecordDict()
    write(Letter("train.pyfed_share", (bytes(70_000),)), content)
    content.config_records["pyfed"].update(change)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match=told):
        take(content)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": (17_499,)}, "does not hold a message of the size"),
        ({"shape": (17_501,)}, "does not hold a message of the size"),
        ({"shape": (17_500, 1)}, "does not hold a message of the size"),
        ({"dtype": "int16"}, "does not hold a message of the size"),
        ({"stype": "numpy.ndarray"}, "does not hold a message of the size"),
    ],
)
def test_arrays_that_hold_no_message_are_refused(change: dict[str, Any], told: str) -> None:
    from flwr.app import RecordDict

    content = RecordDict()
    write(Letter("train.pyfed_share", (bytes(69_998),)), content)
    bodies = content.array_records["pyfed-messages"]
    array = bodies["0"]
    as_it_is = {"dtype": "int32", "shape": (17_500,), "stype": STYPE, "data": array.data}
    assert (array.dtype, tuple(array.shape), array.stype) == ("int32", (17_500,), STYPE)
    bodies["0"] = Array(**{**as_it_is, **change})
    with pytest.raises(ProtocolError, match=told):
        take(content)
    bodies["1"] = Array(**as_it_is)  # type: ignore[arg-type]
    del bodies["0"]
    write(Letter("train.pyfed_share"), other := RecordDict())
    other["pyfed-messages"] = bodies
    with pytest.raises(ProtocolError, match="not numbered from 0"):
        take(other)


def test_without_flower_the_message_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['flwr'] = None\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'flwr' else real(name, *a)\n"
        "import pyfed, pyfed.secagg\n"
        "assert not [name for name in sys.modules if name.startswith('flwr.')]\n"
        "import pyfed.engines.flower\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr and "pyfed-kernels[flower]" in done.stderr


def test_names_resolve_and_others_do_not() -> None:
    import pyfed.engines.flower as flower

    assert set(flower.__all__) <= set(dir(flower))
    assert flower.SecureAggMod is SecureAggMod
    with pytest.raises(AttributeError, match="no attribute 'FedAvg'"):
        _ = flower.FedAvg
