"""Nodes that come and go, servers that may do anything, models of every dtype, a missing Flower."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord

from engines.grids import NODES, FakeGrid, app_of, grid_of, protocol_of, zeros
from pyfed import Key
from pyfed.engines.flower import SecureAggMod, SecureFedAvg, SecureRounds, to_arrays, to_tensors
from pyfed.engines.flower.arrays import count_floats, flat_floats, with_floats
from pyfed.errors import ArgumentError, DtypeError
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
