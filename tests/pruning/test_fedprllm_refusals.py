"""What a client or a server of FedPrLLM will not take, and that nothing changes then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pruning.models import (
    Plain,
    bert,
    fingerprint,
    llama,
    masks_of,
    matrix,
    refused,
    tokens,
    votes_of,
)
from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.pruning import (
    FedPrLLM,
    PruneMessage,
    PruneResult,
    fedprllm_server,
    simulate_pruning,
)


def changed(**fields: Any) -> Callable[[PruneMessage], PruneMessage]:
    return lambda message: dataclasses.replace(message, **fields)


def with_mask(make: Callable[[bytes], bytes]) -> Callable[[PruneMessage], PruneMessage]:
    def change(message: PruneMessage) -> PruneMessage:
        (name, packed), *rest = message.masks
        return dataclasses.replace(message, masks=((name, make(packed)), *rest))

    return change


def renamed(message: PruneMessage) -> PruneMessage:
    (_, packed), *rest = message.masks
    return dataclasses.replace(message, masks=(("blocks.0.other", packed), *rest))


def moved(packed: bytes) -> bytes:
    """As many bits in all, but not in every row: one goes from the first byte to the last."""
    bits = int.from_bytes(packed, "little")
    low = bits & -bits
    free = ~bits & ~((1 << (8 * len(packed) - 8)) - 1)
    return (bits - low | (free & -free)).to_bytes(len(packed), "little")


FORGED: dict[str, tuple[Callable[[PruneMessage], Any], str]] = {
    "another type": (lambda m: m.to_bytes(), "a message is bytes"),
    "another version": (changed(version=2), "version must be 1"),
    "other settings": (
        changed(session=bytes(32)),
        "other settings, layers or shapes.*compare the rules, and plan.layers",
    ),
    "another round": (changed(round=4), "is of round 4; this is round 0"),
    "no round": (changed(round=True), "round must be an integer"),
    "an unknown block": (changed(block=7), r"block must be an integer in \[0, 2\)"),
    "an unknown layer": (renamed, "the layers in masks must be those of block"),
    "a layer too few": (lambda m: changed(masks=m.masks[:1])(m), "the layers in masks must be"),
    "a long mask": (with_mask(lambda p: p + b"\0"), "must be 16 bytes"),
    "a mask of all": (with_mask(lambda p: b"\xff" * len(p)), "does not prune the agreed part"),
    "a mask of none": (with_mask(lambda p: bytes(len(p))), "does not prune the agreed part"),
    "an uneven mask": (with_mask(moved), "does not prune the agreed part"),
}


def ready() -> tuple[FedPrLLM, nn.Module]:
    return FedPrLLM(score="magnitude", group="row", local_group="row"), Plain()


@pytest.mark.parametrize("what", [*FORGED, "another sender", "a decision", "another recipient"])
def test_a_server_refuses_and_counts_nothing(what: str) -> None:
    rule, model = ready()
    votes = rule.client(0, model).start()
    if what == "a decision":
        helper = rule.server(model, 1)
        for vote in votes:
            helper.handle(vote, 0)
        bad, match = helper.close_phase()[0], "PruneDecision is not for this side"
    elif what == "another sender":
        bad, match = changed(sender=1)(votes[0]), "names sender 1, but came from 0"
    elif what == "another recipient":
        bad, match = changed(recipient=0)(votes[0]), "recipient must be"
    else:
        change, match = FORGED[what]
        bad = change(votes[0])
    server = rule.server(model, 2)
    with pytest.raises(ProtocolError, match=match) as caught:
        server.handle(bad, 0)
    assert caught.value.phase in ("vote", "")
    assert server.waiting == {0, 1}
    for vote in votes:  # the genuine votes of the same client still count, once
        server.handle(vote, 0)
    server.close_phase()
    assert server.result.voters == (1, 1)
    assert masks_of(server.result) == votes_of(model, None, score="magnitude")


def test_a_server_refuses_repeats_strangers_and_what_comes_late() -> None:
    rule, model = ready()
    votes = rule.client(0, model).start()
    server = rule.server(model, 2)
    for vote in votes:
        server.handle(vote, 0)
    assert "client 0 voted on block 1 before" in refused(server.handle, votes[1], 0)
    stranger = changed(sender=2)(votes[0])
    assert "client 2 is none of the 2" in refused(server.handle, stranger, 2)
    assert "there is no result yet" in refused(lambda: server.result)
    server.close_phase()
    assert server.result.voters == (1, 1)
    assert "the round is done" in refused(server.handle, changed(sender=1)(votes[0]), 1)
    assert "no phase to close" in refused(server.close_phase)
    server.close()
    assert "the round is closed" in refused(server.handle, votes[0], 0)


def test_a_server_that_decides_in_turn_takes_votes_on_that_block_only() -> None:
    model, samples = llama(2), tokens(2)
    rule = FedPrLLM(iterative=True)
    server = rule.server(model, 2)
    client = rule.client(0, model, samples)
    (first,) = client.start()
    server.handle(first, 0)
    (second,) = client.handle(server.close_phase()[0], -1)
    late = changed(sender=1)(first)
    assert "block 0 is not open" in refused(server.handle, late, 1)
    fresh = rule.server(model, 2)
    assert "block 1 is not open" in refused(fresh.handle, second, 0)


def decided(rule: FedPrLLM, model: nn.Module) -> tuple[Any, list[PruneMessage]]:
    """A client that has voted, and the decisions for it."""
    client, server = rule.client(0, model), rule.server(model, 1)
    for vote in client.start():
        server.handle(vote, 0)
    return client, server.close_phase()


@pytest.mark.parametrize(
    "what", [*FORGED, "another source", "a vote", "another recipient", "no voters", "counts"]
)
def test_a_client_refuses_and_its_model_stays(what: str) -> None:
    rule, model = ready()
    before = fingerprint(model)
    client, decisions = decided(rule, model)
    source = -1
    if what == "a vote":
        bad, match = rule.client(0, model).start()[0], "PruneVote is not for this side"
    elif what == "another source":
        bad, match, source = decisions[0], "names sender -1, but came from 3", 3
    elif what == "another recipient":
        bad, match = changed(recipient=1)(decisions[0]), "is for client 1"
    elif what == "no voters":
        bad, match = changed(voters=0)(decisions[0]), "voters must be"
    elif what == "counts":
        bad, match = changed(counts=decisions[0].masks)(decisions[0]), "counts must be empty"
    else:
        change, match = FORGED[what]
        bad = change(decisions[0])
    with pytest.raises(ProtocolError, match=match):
        client.handle(bad, source)
    assert fingerprint(model) == before
    for decision in decisions:
        client.handle(decision, -1)
    assert fingerprint(model) != before


def test_a_client_refuses_repeats_and_disorder() -> None:
    rule, model = ready()
    client = rule.client(0, model)
    other, decisions = decided(rule, model)
    del other
    assert "start has not been called" in refused(client.handle, decisions[0], -1)
    client.start()
    assert "start was called before" in refused(client.start)
    client.handle(decisions[1], -1)  # at once, the order is free
    assert "block 1 was decided before" in refused(client.handle, decisions[1], -1)
    assert "there is no result yet" in refused(lambda: client.result)
    client.handle(decisions[0], -1)
    assert "the round is done" in refused(client.handle, decisions[0], -1)

    model, samples = llama(2), tokens(2)
    rule = FedPrLLM(iterative=True)
    client = rule.client(0, model, samples)
    client.start()
    _, later = decided(dataclasses.replace(rule, iterative=False, score="magnitude"), model)
    ahead = changed(session=client.plan.digest)(later[1])
    before = fingerprint(model)
    assert "block 0 is to be decided next" in refused(client.handle, ahead, -1)
    assert fingerprint(model) == before


def test_a_client_that_is_closed_leaves_the_model_and_takes_nothing() -> None:
    rule, model = ready()
    before = fingerprint(model)
    client, decisions = decided(rule, model)
    client.handle(decisions[0], -1)
    client.close()
    assert "the round is closed" in refused(client.handle, decisions[1], -1)
    assert fingerprint(model) == before


def test_counts_above_the_voters_are_refused() -> None:
    model = Plain()
    rule = FedPrLLM(score="magnitude", scaling=True)
    client, decisions = decided(rule, model)
    (name, data), *rest = decisions[0].counts  # type: ignore[attr-defined]
    bad = changed(counts=((name, b"\2" + data[1:]), *rest))(decisions[0])
    assert "1 at most, the voters" in refused(client.handle, bad, -1)
    short = changed(counts=((name, data[1:]), *rest))(decisions[0])
    assert "must be 128 bytes" in refused(client.handle, short, -1)
    assert "in counts must be" in refused(client.handle, changed(counts=())(decisions[0]), -1)


def test_a_model_that_cannot_be_calibrated_closes_the_client() -> None:
    model = Plain()
    with torch.no_grad():
        model.embedding.weight.fill_(torch.inf)
    before = fingerprint(model)
    client = FedPrLLM().client(0, model, tokens(1))
    with pytest.raises(ArgumentError, match="not finite"):
        client.start()
    assert client.phase == "closed"
    assert fingerprint(model) == before


def test_a_failure_in_turn_closes_the_client_and_leaves_the_model() -> None:
    model = llama(2)
    rule = FedPrLLM(iterative=True)
    server, client = rule.server(model, 1), rule.client(0, model, tokens(1))
    server.handle(client.start()[0], 0)
    (decision,) = server.close_phase()
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda *_: 1 / 0)
    before = fingerprint(model)
    with pytest.raises(ZeroDivisionError):
        client.handle(decision, -1)
    assert client.phase == "closed"
    assert fingerprint(model) == before
    hook.remove()


def test_a_client_that_is_cut_off_while_it_prunes_does_not_prune_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule, model = ready()
    client, decisions = decided(rule, model)
    for decision in decisions[:-1]:
        client.handle(decision, -1)

    def fail(*given: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(PruneResult, "apply_", fail)
    with pytest.raises(MemoryError):
        client.handle(decisions[-1], -1)
    assert "the round is closed" in refused(client.handle, decisions[-1], -1)


@pytest.mark.parametrize("part", ["MaskVotes", "PruneResult"])
def test_a_server_that_is_cut_off_decides_a_block_once(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama(2)
    rule = FedPrLLM(iterative=True)
    server, client = rule.server(model, 1), rule.client(0, model, tokens(1))
    (vote,) = client.start()

    def fail(*given: Any) -> None:
        raise MemoryError("no memory")

    for _ in range(2):
        server.handle(vote, 0)
        last = not server._plan.blocks[vote.block + 1 :]  # type: ignore[attr-defined]
        if last == (part == "PruneResult"):
            with monkeypatch.context() as broken, pytest.raises(MemoryError):
                broken.setattr(fedprllm_server, part, fail)
                server.close_phase()
        (decision,) = server.close_phase()
        assert decision.block == vote.block  # type: ignore[attr-defined]
        (vote,) = client.handle(decision, -1) or (vote,)
    assert server.phase == client.phase == "done"
    assert [one.block for one in server._decided] == [0, 1]


def test_a_result_prunes_models_with_its_layers_only() -> None:
    model = llama()
    result = simulate_pruning(FedPrLLM(score="magnitude"), model, [None] * 2)
    other = llama(3)
    result.apply_(other)  # more blocks than were planned stay
    assert bool((matrix(other, "model.layers.2.mlp.up_proj") != 0).all())
    for wrong in (llama(1), bert(), Plain()):
        before = fingerprint(wrong)
        with pytest.raises(ArgumentError, match="model has"):
            result.apply_(wrong)
        assert fingerprint(wrong) == before
    with pytest.raises(ArgumentError, match=r"there is no layer 'lm_head'.*such as 'model\.layers"):
        result.mask("lm_head")
    with pytest.raises(DtypeError, match=r"model is OrderedDict; it must be a torch\.nn\.Module"):
        result.apply_(model.state_dict())  # type: ignore[arg-type]
    small = simulate_pruning(FedPrLLM(score="magnitude"), Plain(), [None])
    with pytest.raises(ArgumentError, match=r"matrix of shape \(12, 6\) as .* shape \(16, 8\)"):
        small.apply_(Plain(width=6))
