"""Secure rounds through real Flower messages, held against the rounds in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord

from engines.grids import SECRET, FakeGrid, Loss, app_of, from_one, grid_of, protocol_of, zeros
from pyfed import Key
from pyfed.engines.flower import SecureFedAvg
from pyfed.engines.flower.arrays import flat_floats
from pyfed.secagg import RoundResult, simulate

LENGTH = 6
WEIGHTS = [1, 2, 3, 4, 40]  # the last one is above the largest, which is 9
CAPPED = [1, 2, 3, 4, 9]
STAGES = ("keys", "share", "update", "recover")
PHASES = dict(zip(STAGES, ("keys", "share", "upload", "recover"), strict=True))
PROTOCOLS = ("LightSecAgg", "SecAggPlus", "SwiftAgg")


def some_updates(count: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randn(LENGTH).clamp(-1.2, 1.2) for _ in range(count)]


def play(
    name: str,
    folder: Path,
    loss: Loss = lambda *_: None,
    rounds: int = 1,
    protocol: Any = None,
    **options: Any,
) -> tuple[FakeGrid, SecureFedAvg, list[RoundResult | None], list[torch.Tensor]]:
    """Rounds with the model at zero in each, so that an update comes back as it was."""
    protocol = protocol_of(name, LENGTH) if protocol is None else protocol
    grid = grid_of(protocol, some_updates(), WEIGHTS, folder, loss)
    strategy = from_one(SecureFedAvg(protocol, stage_timeout=0.01, **options))
    strategy._last = rounds
    results, models = [], []
    for number in range(1, rounds + 1):
        strategy.result = None
        messages = strategy.configure_train(number, zeros(LENGTH), ConfigRecord(), grid)
        replies = grid.send_and_receive(messages, timeout=1.0)
        model, _ = strategy.aggregate_train(number, replies)
        results.append(strategy.result)
        models.append(torch.empty(0) if model is None else flat_floats(model))
    return grid, strategy, results, models


def expected(name: str, number: int, drop: dict[str, set[int]]) -> RoundResult:
    result: RoundResult = simulate(
        protocol_of(name, LENGTH), some_updates(), CAPPED, drop, Key(SECRET), number
    )
    return result


def same(got: RoundResult | None, wanted: RoundResult) -> None:
    assert got is not None
    assert got.included == wanted.included
    assert got.total_weight == wanted.total_weight
    assert torch.equal(got.integers, wanted.integers)


def lost_from(stage: str, node: int, fate: str, first: int = 1) -> Loss:
    """A node that is lost from the first letter of a stage on, the ``first`` time it comes."""
    seen: list[int] = []

    def loss(call: int, now: str, at: int) -> str | None:
        if at != node:
            return None
        if now == stage:
            seen.append(call)
        return fate if len(seen) >= first else None

    return loss


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rounds_equal_those_in_one_process(name: str, tmp_path: Path) -> None:
    _, _, results, models = play(name, tmp_path, rounds=3)
    for number, (result, model) in enumerate(zip(results, models, strict=True), 1):
        wanted = expected(name, number, {})
        same(result, wanted)
        assert torch.equal(model, wanted.mean)


@pytest.mark.parametrize("fate", ["silent", "error", "late"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["LightSecAgg", "SecAggPlus"])
def test_a_client_lost_in_any_stage_leaves_the_round_whole(
    name: str, stage: str, fate: str, tmp_path: Path
) -> None:
    _, _, results, _ = play(name, tmp_path, lost_from(stage, 13, fate), rounds=2)
    client = 2
    phase = PHASES[stage]
    same(results[0], expected(name, 1, {phase: {client}}))
    same(results[1], expected(name, 2, {"keys": {client}}))


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_client_of_swiftagg_lost_in_any_stage_leaves_the_round_whole(
    first: int, tmp_path: Path
) -> None:
    phase = ["share", "upload", "recover"][first - 1]
    stage = "share" if first == 1 else "recover"
    loss = lost_from(stage, 13, "silent", max(1, first - 1))
    _, _, results, _ = play("SwiftAgg", tmp_path, loss)
    same(results[0], expected("SwiftAgg", 1, {phase: {2}}))


def test_sums_of_swiftagg_climb_a_tree_of_groups(tmp_path: Path) -> None:
    """The upper groups wait, in their saved states, for sums from below."""
    clients, weights = 9, [1 + i for i in range(9)]
    protocol = protocol_of("SwiftAgg", LENGTH, clients)
    updates = some_updates(clients)
    apps = {11 + i: app_of(protocol, updates[i], weights[i], tmp_path) for i in range(clients)}
    strategy = from_one(SecureFedAvg(protocol, stage_timeout=0.01, min_available_nodes=clients))
    grid: Any = FakeGrid(apps, lambda *_: None)
    messages = strategy.configure_train(1, zeros(LENGTH), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages, timeout=1.0))
    same(strategy.result, simulate(protocol, updates, weights, {}, Key(SECRET), 1))
    assert [stage for stage, _ in grid.stages].count("recover") >= 3  # reports, and two levels


def test_a_round_costs_the_training_and_one_stage_after_the_first(tmp_path: Path) -> None:
    grid, *_ = play("LightSecAgg", tmp_path, rounds=3)
    stages = [stage for stage, _ in grid.stages]
    assert stages == ["keys", "share", *["update", "recover"] * 3]


def test_a_client_without_its_set_up_sits_one_round_out_and_comes_back(tmp_path: Path) -> None:
    def loss(call: int, stage: str, node: int) -> str | None:
        return "error" if (call, node) == (3, 13) else None  # the training of the first round

    grid, _, results, _ = play("LightSecAgg", tmp_path, loss, rounds=3)
    everybody = frozenset(range(5))
    assert [r.included for r in results if r] == [everybody - {2}, everybody - {2}, everybody]
    stages = [stage for stage, _ in grid.stages]
    assert stages[4:] == ["keys update", "recover", "update", "recover"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_round_that_fails_changes_nothing_and_the_next_begins_afresh(
    stage: str, tmp_path: Path
) -> None:
    """Two of five are lost, and one is borne; they are back in the round after."""
    over: list[int] = []

    def loss(call: int, now: str, node: int) -> str | None:
        if now == stage and (not over or over[0] == call):
            over[:1] = [call]
            return "silent" if node in (12, 13) else None
        return None

    grid, _, results, models = play("LightSecAgg", tmp_path, loss, rounds=2)
    assert results[0] is None and models[0].numel() == 0
    assert results[1] is not None and len(results[1].included) == 5
    failed = STAGES.index(stage) + 1
    assert [s for s, _ in grid.stages][failed:] == ["keys", "share", "update", "recover"]


def test_a_round_that_fails_is_raised_on_demand(tmp_path: Path) -> None:
    def loss(call: int, stage: str, node: int) -> str | None:
        return "silent" if node in (12, 13) else None

    with pytest.raises(Exception, match="3 clients are left in phase 'keys' and 4 are needed"):
        play("LightSecAgg", tmp_path, loss, on_failure="raise")


@pytest.mark.parametrize("name", ["LightSecAgg", "SwiftAgg"])
def test_start_runs_all_rounds_and_evaluates(name: str, tmp_path: Path) -> None:
    protocol = protocol_of(name, LENGTH)
    grid = grid_of(protocol, some_updates(), WEIGHTS, tmp_path)
    strategy = SecureFedAvg(protocol, stage_timeout=5.0)
    result = strategy.start(grid, zeros(LENGTH), num_rounds=2, timeout=5.0)  # type: ignore[arg-type]
    mean = sum(w * u.clamp(-1, 1) for w, u in zip(CAPPED, some_updates(), strict=True)) / 19
    assert torch.allclose(flat_floats(result.arrays), 2 * mean, atol=1e-3)
    metrics = dict(result.train_metrics_clientapp[2])
    assert metrics == {"loss": 0.5, "clients": 5, "num-examples": 19}
    assert result.evaluate_metrics_clientapp[2]["accuracy"] == 1.0


def test_a_run_may_have_one_strategy_after_another(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_of(protocol, some_updates(), WEIGHTS, tmp_path)
    for _ in range(2):
        strategy = SecureFedAvg(protocol, stage_timeout=5.0, fraction_evaluate=0.0)
        strategy.start(grid, zeros(LENGTH), num_rounds=2, timeout=5.0)  # type: ignore[arg-type]
        assert strategy.result is not None and len(strategy.result.included) == 5
