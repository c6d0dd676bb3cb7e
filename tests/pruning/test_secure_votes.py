"""Votes through secure aggregation: exact counts, and what a cheating client can do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, FixedPoint, Key
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.lanes import VoteLanes
from pyfed.ops import mask_pack
from pyfed.pruning.secure import SecureVotes
from pyfed.pruning.votes import MaskVotes
from pyfed.secagg import LightSecAgg, RoundResult, simulate
from pyfed.secagg.messages import Upload
from pyfed.secagg.wire import HEADER
from secagg.rounds import SECRET, Round, replaced

SHAPES = {"q": (3, 7), "empty": (0, 5), "k": (10,), "down": (4, 11)}


def some_masks(clients: int, seed: int = 5) -> list[dict[str, torch.Tensor]]:
    made = torch.Generator().manual_seed(seed)
    base = {name: torch.rand(shape, generator=made) for name, shape in SHAPES.items()}
    return [
        {name: x + 0.3 * torch.rand(x.shape, generator=made) < 0.65 for name, x in base.items()}
        for _ in range(clients)
    ]


def played(
    secure: SecureVotes, masks: list[dict[str, torch.Tensor]], **more: Any
) -> list[RoundResult]:
    chunks = [secure.chunks(each) for each in masks]
    return [
        simulate(agreed, [each[i] for each in chunks], key=Key(SECRET), round=i, **more)
        for i, agreed in enumerate(secure.protocols)
    ]


DROPS: list[dict[str, set[int]]] = [
    *[{}, {"keys": {0}}, {"share": {4}}, {"upload": {2}}, {"recover": {6}}],
    {"keys": {1}, "share": {2}, "upload": {3}, "recover": {4}},
]


@pytest.mark.parametrize("drop", DROPS)
def test_secure_counts_are_the_plain_counts_of_those_included(drop: dict[str, set[int]]) -> None:
    masks = some_masks(8)
    secure = SecureVotes(SHAPES, clients=8, privacy=2, dropouts=4)
    (result,) = played(secure, masks, drop=drop)
    plain = MaskVotes(SHAPES)
    outside = set().union(*(lost for phase, lost in drop.items() if phase != "recover"))
    for client in set(range(8)) - outside:
        plain.add(client, masks[client])
    found = secure.counts([result])
    assert list(found) == list(SHAPES)
    for name, (counts, included) in found.items():
        assert included == plain.clients(name)
        assert torch.equal(counts, plain.counts(name))
    assert result.mean.dtype == torch.float32
    wanted = torch.cat([found[name].counts for name in SHAPES]) / result.total_weight
    assert torch.equal(result.mean, wanted)


def test_packed_masks_wrong_answers_and_other_primes_change_nothing() -> None:
    masks = some_masks(9)
    packed = [{name: mask_pack(m.reshape(-1)) for name, m in each.items()} for each in masks]
    plain = SecureVotes(SHAPES, 9, 1, 1)
    wanted = plain.counts(played(plain, masks))
    other = SecureVotes(SHAPES, 9, 2, 1, MERSENNE31, errors=1, detect=1)
    found = other.counts(played(other, packed))
    assert all(torch.equal(found[name].counts, wanted[name].counts) for name in SHAPES)


@pytest.mark.parametrize("chunk", [1, 7, 10, 11, 21, 30, 31, 32, 75, 76])
def test_chunks_hold_whole_layers_where_they_fit_and_counts_are_the_same(chunk: int) -> None:
    masks = some_masks(4)
    whole = SecureVotes(SHAPES, 4, 1, 1)
    assert len(whole.protocols) == 1
    cut = SecureVotes(SHAPES, 4, 1, 1, chunk=chunk)
    lengths = [agreed.parameters.length for agreed in cut.protocols]
    assert sum(lengths) == 75
    assert max(lengths) <= chunk
    for name, shape in SHAPES.items():
        size = torch.Size(shape).numel()
        sessions = sum(any(p.name == name for p in pieces) for pieces in cut._chunks)
        assert sessions == max(-(-size // chunk), 1)
    if chunk > 6:
        found, wanted = cut.counts(played(cut, masks)), whole.counts(played(whole, masks))
        assert all(torch.equal(found[name].counts, wanted[name].counts) for name in SHAPES)


def test_a_layer_keeps_its_own_clients_unless_it_was_cut_between_two_sets() -> None:
    masks = some_masks(5)
    secure = SecureVotes({"q": (3, 7), "down": (4, 11)}, 5, 1, 1, chunk=44)
    layers = [{name: each[name] for name in ("q", "down")} for each in masks]
    chunks = [secure.chunks(each) for each in layers]
    results = [
        simulate(agreed, [each[i] for each in chunks], drop={"upload": {i}})
        for i, agreed in enumerate(secure.protocols)
    ]
    found = secure.counts(results)
    assert found["q"].included == {1, 2, 3, 4}
    assert found["down"].included == {0, 2, 3, 4}
    cut = SecureVotes({"down": (4, 11)}, 5, 1, 1, chunk=22)
    chunks = [cut.chunks({"down": each["down"]}) for each in masks]
    results = [
        simulate(agreed, [each[i] for each in chunks], drop={"upload": {i}})
        for i, agreed in enumerate(cut.protocols)
    ]
    with pytest.raises(ArgumentError, match="different clients"):
        cut.counts(results)


def test_an_upload_is_4_bytes_for_as_many_votes_as_there_are_lanes() -> None:
    secure = SecureVotes({"w": (100, 100)}, clients=100, privacy=10, dropouts=10)
    assert secure.bits_per_weight == 8
    assert Upload.largest(secure.protocols[0].parameters) <= 4 * 2501 + HEADER + 5 * 100
    run = Round(LightSecAgg(5, 1, 1, 1000, VoteLanes(100)))
    run.updates = [update > 0 for update in run.updates]
    run.play("upload")
    assert {len(m.masked) for m in run.upwards.values() if isinstance(m, Upload)} == {4 * 251}


def cheated(clients: int, length: int, added: int, votes: float) -> RoundResult:
    """A round in which client 0 adds a number to its first residue before it uploads."""
    lanes = VoteLanes(clients)
    run = Round(LightSecAgg(clients, 1, 1, length, lanes))
    run.updates = [torch.rand(length) < votes for _ in range(clients)]
    for phase in ("keys", "share"):
        run.send(phase)
        run.collect()
        run.close()
    values = run.clients[0]._values
    values[0] = (int(values[0]) + added) % lanes.field.modulus
    run.send("upload")
    run.collect()
    run.close()
    run.send("recover")
    run.collect()
    run.close()
    return run.server.result


def test_a_carry_into_the_next_lane_is_seen_only_when_a_lane_exceeds_the_clients() -> None:
    carry = VoteLanes(5).radix  # 6 votes in lane 0: the same residue as one vote in lane 1
    assert cheated(5, 4, carry, votes=0.0).integers.tolist() == [0, 1, 0, 0]
    assert cheated(5, 4, 3, votes=0.0).integers.tolist() == [3, 0, 0, 0]  # three votes of one
    with pytest.raises(DecodeError, match="did not keep to the encoding"):
        _ = cheated(5, 4, carry, votes=1.0).integers  # 6 of 5 in lane 1
    with pytest.raises(DecodeError, match="did not keep to the encoding"):
        _ = cheated(5, 4, SOLINAS31.modulus - 1, votes=0.0).sum  # below none
    with pytest.raises(DecodeError, match="in a sum over 5 masks of 4 votes"):
        _ = cheated(5, 4, carry**4, votes=0.0).mean  # into a lane where no element is


def test_a_weight_that_is_not_1_is_refused_by_the_client_and_noticed_in_the_sum() -> None:
    secure = SecureVotes({"w": (8,)}, 5, 1, 1)
    (agreed,) = secure.protocols
    masks = [torch.rand(8) < 0.5 for _ in range(5)]
    for bad in (0, 2):
        with pytest.raises(ArgumentError, match=rf"weight.* is {bad}"):
            simulate(agreed, masks, weights=[1, 1, bad, 1, 1])
    result = simulate(agreed, masks)
    light = replaced_result(result, total_weight=4)
    with pytest.raises(DecodeError, match="5 clients sum to 4"):
        secure.counts([light])


def replaced_result(result: RoundResult, **change: Any) -> RoundResult:
    return replaced(result, **change)  # type: ignore[arg-type, no-any-return]


UPDATES: list[tuple[Any, type[Exception], str]] = [
    (torch.zeros(9), DtypeError, "update has dtype torch.float32; it must be torch.bool or"),
    (torch.zeros(8).bool(), ArgumentError, "update has 8 elements; length is 9"),
    (torch.zeros(9).byte(), ArgumentError, "update has shape .* must be 2 bytes"),
    (torch.tensor([0, 2], dtype=torch.uint8), ArgumentError, "behind its 9 elements"),
    (torch.zeros(3, 3).bool(), ArgumentError, "2 dimensions"),
    (None, DtypeError, "update is NoneType"),
]


@pytest.mark.parametrize(("update", "error", "text"), UPDATES)
def test_updates_that_are_no_masks_are_refused_and_start_may_be_tried_again(
    update: Any, error: type[Exception], text: str
) -> None:
    client = LightSecAgg(5, 1, 1, 9, VoteLanes(5)).client(0, 0)
    with pytest.raises(error, match=text):
        client.start(update)
    assert len(client.start(torch.tensor([255, 1], dtype=torch.uint8))) == 1


W = torch.zeros(2, 3).bool()
PADDED = torch.tensor([64], dtype=torch.uint8)
CALLS: list[tuple[Any, type[Exception], str]] = [
    (lambda s: SecureVotes({}, 5, 1, 1), ArgumentError, "shapes is empty"),
    (lambda s: SecureVotes([(2, 3)], 5, 1, 1), DtypeError, "shapes is list"),
    (lambda s: SecureVotes({"w": 6}, 5, 1, 1), DtypeError, "maps 'w' to int"),
    (lambda s: SecureVotes({"w": (2, -3)}, 5, 1, 1), ArgumentError, "a size of 'w' is -3"),
    (lambda s: SecureVotes({"w": (2, 3)}, 5, 1, 1, chunk=0), ArgumentError, "chunk is 0"),
    (lambda s: SecureVotes({"w": (2, 3)}, 2, 1, 1), ArgumentError, "clients is 2"),
    (lambda s: SecureVotes({"w": (2, 3)}, 5, 2, 2), ArgumentError, "it must be at least 2"),
    (lambda s: SecureVotes({"w": (2, 3)}, 70_000, 1, 1), ArgumentError, "clients is 70000"),
    (lambda s: s.chunks([W]), DtypeError, "masks is list"),
    (lambda s: s.chunks({}), ArgumentError, r"missing or unknown are \['w'\]"),
    (lambda s: s.chunks({"w": W, "x": W}), ArgumentError, r"missing or unknown are \['x'\]"),
    (lambda s: s.chunks({"w": W.t()}), ArgumentError, r"has shape \(3, 2\); it must be \(2, 3\)"),
    (lambda s: s.chunks({"w": W.float()}), DtypeError, "torch.float32"),
    (lambda s: s.chunks({"w": [[0] * 3] * 2}), DtypeError, "is list"),
    (lambda s: s.chunks({"w": PADDED}), ArgumentError, "behind its 6 elements"),
    (lambda s: s.chunks({"w": W.byte()}), ArgumentError, "uint8 means packed"),
    (lambda s: SecureVotes({"w": (2, 3)}, 4097, 1, 1), ArgumentError, "clients is 4097"),
    (lambda s: s.counts([]), ArgumentError, "0 results are given; there are 1 sessions"),
    (lambda s: s.counts(None), DtypeError, "must be a list of RoundResult"),
    (lambda s: s.counts([W]), DtypeError, "must be a list of RoundResult"),
]


@pytest.mark.parametrize(("call", "error", "text"), CALLS)
def test_wrong_calls_are_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(SecureVotes({"w": (2, 3)}, 5, 1, 1))


def test_results_of_other_sessions_are_refused() -> None:
    secure = SecureVotes({"w": (6,)}, 5, 1, 1)
    masks = [torch.ones(6).bool()] * 5
    for fixed, updates in (
        (VoteLanes(6), masks),
        (FixedPoint(clients=5), [mask.float() for mask in masks]),
    ):
        result = simulate(LightSecAgg(5, 1, 1, 6, fixed), updates)
        with pytest.raises(ArgumentError, match=r"results\[0\] is of another session"):
            secure.counts([result])


@pytest.mark.gpu
def test_votes_on_cuda_give_the_counts_of_the_cpu() -> None:
    masks = some_masks(6)
    secure = SecureVotes(SHAPES, 6, 1, 1)
    there = [{name: mask.cuda() for name, mask in each.items()} for each in masks]
    wanted = secure.counts(played(secure, masks))
    found = secure.counts(played(secure, there))
    for name, (counts, _) in found.items():
        assert counts.is_cuda
        assert torch.equal(counts.cpu(), wanted[name].counts)
