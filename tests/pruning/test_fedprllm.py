"""Rounds of FedPrLLM: what is voted on, decided and pruned."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import pyfed
from pruning.models import (
    FAMILIES,
    Plain,
    again,
    bert,
    fingerprint,
    gpt2,
    llama,
    masks_of,
    matrix,
    opt,
    play,
    shares,
    tokens,
    votes_of,
)
from pyfed.errors import ThresholdError
from pyfed.pruning import (
    FedPrLLM,
    PruneResult,
    local_votes,
    prunable_layers,
    simulate_pruning,
)

EVERY = pytest.mark.parametrize("family", FAMILIES)


@EVERY
@pytest.mark.parametrize(
    ("score", "group"),
    [
        *(("wanda", group) for group in ("layer", "row", "column", "2:4", "4x8")),
        *((score, "row") for score in ("ria", "magnitude", "sparsegpt")),
    ],
)
def test_one_client_gets_its_own_mask(family: str, score: str, group: str) -> None:
    model, samples = FAMILIES[family](), tokens(2)
    wanted = votes_of(model, samples, score=score, group=group)
    for iterative in (False, True):
        rule = FedPrLLM(score=score, local_group=group, group=group, iterative=iterative)
        result, (pruned,) = play(rule, model, [samples])
        assert masks_of(result) == wanted
        for name, mask in wanted.items():
            assert torch.equal(matrix(pruned, name) == 0, torch.tensor(mask))


@pytest.mark.parametrize("make", [llama, bert, opt, gpt2, Plain])
def test_what_is_pruned_is_plus_zero_and_nothing_else_changes(make: Any) -> None:
    model = make()
    _, copies = play(FedPrLLM(), model, shares())
    layers = {layer.name for layer in prunable_layers(model)}
    for pruned in copies:
        for name in layers:
            was, now = matrix(model, name), matrix(pruned, name)
            assert int((now == 0).sum()) * 2 == now.numel()
            assert not bool(torch.signbit(now[now == 0]).any())
            assert torch.equal(now[now != 0], was[now != 0])
        for name, tensor in pruned.state_dict().items():
            if name.removesuffix(".weight") not in layers:
                assert torch.equal(tensor, model.state_dict()[name])


@EVERY
@pytest.mark.parametrize("iterative", [False, True])
def test_the_order_of_clients_does_not_matter(family: str, iterative: bool) -> None:
    model, samples = FAMILIES[family](), shares(4)
    rule = FedPrLLM(iterative=iterative, group="row")
    first, _ = play(rule, model, samples)
    second, _ = play(rule, model, samples, order=[3, 1, 0, 2])
    permuted, _ = play(rule, model, [samples[i] for i in (2, 0, 3, 1)])
    assert masks_of(first) == masks_of(second) == masks_of(permuted)


@pytest.mark.parametrize("group", ["layer", "row", "column"])
def test_clients_with_one_mask_get_that_mask(group: str) -> None:
    model, samples = llama(), tokens(2)
    wanted = votes_of(model, samples, group=group)
    rule = FedPrLLM(local_group=group, group=group)
    for count in (1, 2, 5):
        assert masks_of(play(rule, model, [samples] * count)[0]) == wanted


def test_column_grouped_wanda_gives_every_client_and_every_number_of_them_one_mask() -> None:
    model = llama()
    votes = [votes_of(model, own, group="column") for own in shares(3)]
    assert (
        votes[0] == votes[1] == votes[2] == votes_of(model, None, score="magnitude", group="column")
    )
    for group in ("column", "layer"):
        rule = FedPrLLM(local_group="column", group=group)
        for count in (1, 3):
            assert masks_of(play(rule, model, shares(count))[0]) == votes[0]


def test_one_block_is_decided_alike_at_once_and_in_turn() -> None:
    model, samples = llama(1), shares(4)
    results = [play(FedPrLLM(iterative=i), model, samples)[0] for i in (False, True)]
    assert masks_of(results[0]) == masks_of(results[1])


def test_in_turn_every_block_is_scored_behind_what_was_decided() -> None:
    model, samples = llama(3), shares(3)
    result, _ = play(FedPrLLM(iterative=True), model, samples)
    runs = [local_votes(model, own) for own in samples]
    votes = [next(run) for run in runs]
    for block in range(3):
        names = [layer.name for layer in result.plan.blocks[block]]
        for name in names:
            total = sum(vote[name].int() for vote in votes)
            wanted = pyfed.ops.mask_select(total.int(), total.shape, 0.5)
            assert torch.equal(result.mask(name), wanted), name
        decided = {name: result.mask(name) for name in names}
        if block < 2:
            votes = [run.send(decided) for run in runs]


@pytest.mark.parametrize("iterative", [False, True])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_scaled_survivors_are_the_masked_mean_of_the_clients_own_models(
    make: Any, iterative: bool
) -> None:
    model, samples = make(1), shares(4)
    result, copies = play(FedPrLLM(scaling=True, iterative=iterative), model, samples)
    votes = [votes_of(model, own) for own in samples]
    for layer in prunable_layers(model):
        weight = matrix(model, layer.name).double()
        keep = ~result.mask(layer.name)
        own = [weight * ~torch.tensor(vote[layer.name]) for vote in votes]
        mean = sum(own) / 4 * keep
        for pruned in copies:
            got = matrix(pruned, layer.name)
            assert torch.allclose(got.double(), mean, rtol=2**-22, atol=0)
            assert bool((got[~keep] == 0).all())


def repeated(count: int, rule: FedPrLLM, model: nn.Module) -> PruneResult:
    """A round in which ``count`` clients send the votes of one."""
    (vote,) = rule.client(0, model).start()
    server = rule.server(model, count)
    for index in range(count):
        server.handle(dataclasses.replace(vote, sender=index), index)
    decision = again(server.close_phase()[0], server.plan)
    client = rule.client(0, model)
    client.start()
    client.handle(decision, -1)
    return client.result


@pytest.mark.parametrize("group", ["layer", "row", "column"])
@pytest.mark.parametrize("count", [127, 128, 129, 255, 256, 257])
def test_counts_do_not_wrap(count: int, group: str) -> None:
    model = Plain(1)
    wanted = votes_of(model, None, score="magnitude", group=group)
    before = {layer.name: matrix(model, layer.name).clone() for layer in prunable_layers(model)}
    rule = FedPrLLM(score="magnitude", local_group=group, group=group, scaling=True)
    result = repeated(count, rule, model)
    assert result.voters == (count,)
    assert masks_of(result) == wanted
    for name, mask in wanted.items():
        counts = result.verdict(name).counts
        assert counts is not None
        assert torch.equal(counts.int(), torch.tensor(mask).int() * count)
        kept = ~torch.tensor(mask)  # nobody voted on these: the factor is exactly 1
        assert torch.equal(matrix(model, name), before[name] * kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scaling_rounds_once_as_mask_prune_does(dtype: torch.dtype) -> None:
    model, samples = Plain().to(dtype), shares(3)
    result, copies = play(FedPrLLM(scaling=True), model, samples)
    for layer in prunable_layers(model):
        counts = result.verdict(layer.name).counts
        assert counts is not None
        weight = matrix(model, layer.name).clone()
        pyfed.ops.mask_prune_(weight, counts, 0.5, clients=3)
        for pruned in copies:
            assert torch.equal(matrix(pruned, layer.name), weight)


def test_ties_by_magnitude_prune_the_smallest_weights_first() -> None:
    model, samples = gpt2(), shares(2)  # its weights are stored the other way round
    rule = FedPrLLM(ties="magnitude", group="row")
    result, _ = play(rule, model, samples)
    votes = [votes_of(model, own) for own in samples]
    for layer in prunable_layers(model):
        total = sum(torch.tensor(vote[layer.name]).int() for vote in votes)
        weight = matrix(model, layer.name)
        for row in range(layer.shape[0]):
            order = sorted(
                range(layer.shape[1]), key=lambda j: (-total[row, j], abs(weight[row, j]), j)
            )
            wanted = set(order[: layer.shape[1] // 2])
            assert set(result.mask(layer.name)[row].nonzero()[:, 0].tolist()) == wanted
    by_weights = {layer.name: matrix(model, layer.name).clone() for layer in prunable_layers(model)}
    server = rule.server(prunable_layers(model), 2, weights=by_weights)
    for index, own in enumerate(samples):
        for vote in rule.client(index, copy.deepcopy(model), own).start():
            server.handle(vote, index)
    server.close_phase()
    assert masks_of(server.result) == masks_of(result)


def test_random_ties_follow_the_key_and_differ_between_layers() -> None:
    model = Plain(2)
    with torch.no_grad():
        for block in model.blocks:
            block.up.weight.fill_(1)  # every row votes for its first half,
            block.down.weight.fill_(1)  # so in a column all votes are equal
    key, other = pyfed.Key(bytes(range(32))), pyfed.Key(bytes(32))
    layers = prunable_layers(model)
    rules = [
        FedPrLLM(0.5, "magnitude", "row", "column", "random", key=secret)
        for secret in (key, key, other)
    ]
    first, second, third = [masks_of(simulate_pruning(rule, model, [None])) for rule in rules]
    assert first == second != third
    assert first["blocks.0.up"] != first["blocks.1.up"]
    for number, layer in enumerate(layers):
        counts = torch.tensor(votes_of(model, None, score="magnitude")[layer.name]).int()
        wanted = pyfed.ops.mask_select(
            counts, layer.shape, 0.5, "column", "random", key=key, stream=number
        )
        assert first[layer.name] == wanted.tolist()


def test_a_block_without_votes_is_refused_and_stays_open() -> None:
    model = Plain()
    rule = FedPrLLM(score="magnitude")
    server = rule.server(model, 3)
    first, second = rule.client(0, model).start()
    server.handle(first, 0)
    with pytest.raises(ThresholdError, match="no client voted on block 1") as caught:
        server.close_phase()
    assert (caught.value.missing, caught.value.needed) == ((0, 1, 2), 1)
    assert server.waiting == {0, 1, 2}
    server.handle(second, 0)
    assert server.waiting == {1, 2}
    assert len(server.close_phase()) == 6
    assert server.waiting == frozenset()


def test_a_client_that_missed_a_block_goes_on_with_its_decision() -> None:
    model, samples = llama(2), shares(2)
    rule = FedPrLLM(iterative=True)
    server = rule.server(model, 2)
    copies = [copy.deepcopy(model) for _ in samples]
    clients = [rule.client(i, copies[i], own) for i, own in enumerate(samples)]
    server.handle(clients[0].start()[0], 0)
    clients[1].start()  # its vote is lost
    for _ in range(2):
        for decision in server.close_phase():
            for vote in clients[decision.recipient].handle(decision, -1):
                server.handle(vote, decision.recipient)
    assert server.result.voters == (1, 2)
    assert clients[0].result.decisions[1].masks == clients[1].result.decisions[1].masks
    assert all(
        torch.equal(a, b)
        for a, b in zip(copies[0].parameters(), copies[1].parameters(), strict=True)
    )


@pytest.mark.parametrize("iterative", [False, True])
def test_the_model_changes_with_the_last_decision_only(iterative: bool) -> None:
    model = llama(3)
    rule = FedPrLLM(iterative=iterative, scaling=True)
    server, client = rule.server(model, 1), rule.client(0, model, tokens(2))
    before = fingerprint(model)
    votes = client.start()
    taken = 0
    while server.phase == "vote":
        for vote in votes:
            server.handle(vote, 0)
        for decision in server.close_phase():
            assert fingerprint(model) == before
            votes = client.handle(decision, -1)
            taken += 1
    assert taken == 3
    assert client.phase == "done"
    assert fingerprint(model) != before
    assert client.result.decisions == server.result.decisions
