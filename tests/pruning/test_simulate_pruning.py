"""Rounds in one process: exact quotas, lost votes, and the same outcome as between parties."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch

from pruning.models import (
    Plain,
    fingerprint,
    llama,
    play,
    shares,
)
from pyfed.errors import ArgumentError, DtypeError, ThresholdError
from pyfed.pruning import (
    FedPrLLM,
    PruneVote,
    prunable_layers,
    simulate_pruning,
)


@pytest.mark.parametrize("sparsity", [0, 1, 0.29, Fraction(2, 3)])
def test_exactly_the_agreed_part_is_pruned(sparsity: float) -> None:
    model, samples = llama(), shares(3)
    for rounding in ("floor", "nearest", "ceil"):
        rule = FedPrLLM(sparsity, rounding=rounding, group="row", local_group="row")
        result = simulate_pruning(rule, model, samples)
        for layer in result.plan.layers:
            exact = Fraction(str(sparsity)) * layer.shape[1]
            k = {
                "floor": exact // 1,
                "nearest": (exact + Fraction(1, 2)) // 1,
                "ceil": -(-exact // 1),
            }
            assert set(result.mask(layer.name).sum(1).tolist()) == {int(k[rounding])}


def test_simulated_rounds_are_rounds_of_real_parties_and_leave_the_model() -> None:
    model, samples = llama(2), shares(3)
    before = fingerprint(model)
    for iterative in (False, True):
        rule = FedPrLLM(iterative=iterative, scaling=True, group="row")
        simulated = simulate_pruning(rule, model, samples)
        result, copies = play(rule, model, samples)
        assert [d.masks for d in simulated.decisions] == [d.masks for d in result.decisions]
        assert [d.counts for d in simulated.decisions] == [d.counts for d in result.decisions]
        assert simulated.traffic["client", "vote"] > 0
        pruned = copy.deepcopy(model)
        simulated.apply_(pruned)
        assert all(map(torch.equal, pruned.parameters(), copies[0].parameters()))
    assert fingerprint(model) == before


def test_simulations_name_bad_arguments() -> None:
    model, rule = Plain(), FedPrLLM(score="magnitude")
    with pytest.raises(DtypeError, match="rule is str"):
        simulate_pruning("wanda", model, [None])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a block in drop is 5"):
        simulate_pruning(rule, model, [None], {5: {0}})
    with pytest.raises(DtypeError, match="drop is set; it must map blocks to clients"):
        simulate_pruning(rule, model, [None], {0})  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"drop\[0\] is int; it must be a set of clients"):
        simulate_pruning(rule, model, [None], {0: 0})  # type: ignore[dict-item]
    with pytest.raises(DtypeError, match="samples is int; it must be a list"):
        simulate_pruning(rule, model, 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a client in drop is 1"):
        simulate_pruning(rule, model, [None], {0: {1}})
    with pytest.raises(ArgumentError, match="client 0 in two blocks"):
        simulate_pruning(rule, model, [None], {0: {0}, 1: {0}})
    with pytest.raises(ThresholdError, match="block 1"):
        simulate_pruning(rule, model, [None], {1: {0}})


def test_votes_hold_a_bit_for_each_weight() -> None:
    model = llama()
    votes = FedPrLLM(score="magnitude").client(0, model).start()
    weights = sum(layer.shape[0] * layer.shape[1] for layer in prunable_layers(model))
    assert all(isinstance(vote, PruneVote) for vote in votes)
    assert sum(len(packed) for vote in votes for _, packed in vote.masks) == weights // 8


@pytest.mark.parametrize("iterative", [False, True])
def test_clients_may_drop_block_by_block(iterative: bool) -> None:
    model, samples = llama(3), shares(4)
    rule = FedPrLLM(iterative=iterative)
    drop = {0: {3}, 1: {1}, 2: {0}}
    result = simulate_pruning(rule, model, samples, drop)
    assert result.voters == (3, 2, 1)
    if not iterative:
        for block, came in enumerate([[0, 1, 2], [0, 2], [2]]):
            alone = simulate_pruning(rule, model, [samples[i] for i in came])
            for layer in result.plan.blocks[block]:
                assert torch.equal(result.mask(layer.name), alone.mask(layer.name))
