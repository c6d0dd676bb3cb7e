"""torch.distributed on four gloo ranks: exact sums, losses, refusals on every rank, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("cryptography")
pytest.importorskip("msgpack")

from engines.engine_scenes import DROPS, SECRET, code, protocol, some_updates, vector, weights
from engines.ranks import session
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, FixedPoint, Key
from pyfed.secagg import simulate

RANKS = 4
CONTROL = 3 * 16 * 8  # bytes of one agreement: 16 words to each other rank


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return session("rank_checks", RANKS, tmp_path_factory.mktemp("ranks"))


def plain_sum(field: Field, length: int, ranks: Any = range(RANKS)) -> torch.Tensor:
    """The sum modulo each prime, in int64."""
    total = sum(vector(field, length, rank).to(torch.int64) for rank in ranks)
    primes = torch.tensor([plane.modulus for plane in field.planes])
    return (total % (primes[:, None] if field.lead else primes)).to(torch.int32)


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31, WIDE], ids=lambda f: f.name)
def test_slices_and_sums_are_those_of_integers(seen: dict[str, list[Any]], field: Field) -> None:
    for length in (0, 1, 5, 64, 1003):
        parts, gathered, reduced = zip(
            *(rank[field.name, length] for rank in seen["check_sums"]), strict=True
        )
        wanted = plain_sum(field, length)
        assert torch.equal(torch.cat(parts, dim=-1), wanted)
        assert all(torch.equal(found, wanted) for found in (*gathered, *reduced))


def test_slices_may_have_any_sizes(seen: dict[str, list[Any]]) -> None:
    parts = [rank["splits"] for rank in seen["check_sums"]]
    assert [part.numel() for part in parts] == [0, 7, 0, 3]
    assert torch.equal(torch.cat(parts), plain_sum(SOLINAS31, 10))
    for rank in seen["check_sums"]:
        assert torch.equal(rank["strided"], plain_sum(SOLINAS31, 20)[::2])


def test_a_group_of_two_sums_alone(seen: dict[str, list[Any]]) -> None:
    outside, one, other, last = (seen["check_a_group_of_two"][i] for i in (0, 1, 3, 2))
    assert torch.equal(one, plain_sum(SOLINAS31, 33, (1, 3))) and torch.equal(one, other)
    for kind, text in (outside, last):
        assert kind == "ArgumentError" and "is not in group" in text


@pytest.mark.parametrize(
    ("case", "kind", "text"),
    [
        ("dtype", "DtypeError", "x has dtype torch.int64; it must be torch.int32"),
        ("value", "ArgumentError", "10 of 10 elements are outside [0, 2147352577)"),
        ("protocol", "DtypeError", "protocol is NoneType; it must be a LightSecAgg"),
        ("key", "DtypeError", "key is int; it must be a pyfed.Key"),
        ("lost", "ArgumentError", "lost is 'later'; it must be None or one of keys, share"),
        ("update", "ArgumentError", "update has 3 elements; length is 40"),
    ],
)
def test_what_one_rank_gives_wrong_every_rank_refuses(
    seen: dict[str, list[Any]], case: str, kind: str, text: str
) -> None:
    for rank, found in enumerate(seen["check_wrong_arguments"]):
        if rank == 2:
            assert found[case][0] == kind and text in found[case][1]
        else:
            assert found[case][0] == "ArgumentError"
            assert "ranks [2] refused, so no rank went on" in found[case][1]


@pytest.mark.parametrize("case", ["length", "field", "op"])
def test_ranks_that_differ_are_told(seen: dict[str, list[Any]], case: str) -> None:
    for rank, found in enumerate(seen["check_wrong_arguments"]):
        others = "[0, 1, 3]" if rank == 2 else "[2]"
        assert found[case][0] == "ArgumentError"
        assert f"ranks {others} call something else" in found[case][1]


def test_every_rank_may_be_wrong_and_go_on(seen: dict[str, list[Any]]) -> None:
    for rank, found in enumerate(seen["check_wrong_arguments"]):
        assert "splits has 1 sizes with the sum 10" in found["splits"][1]
        assert "group is str" in found["group"][1]
        assert "protocol has 5 clients and the group 4 ranks" in found["clients"][1]
        assert "all ranks must agree" in found["round"][1]
        assert found["order"][0] == "ProtocolError"
        assert "reduce() came out of order; what comes next is share()" in found["order"][1]
        assert "key of digest" in found["secret"][1]
        assert "the part of rank 0 has 3 elements" in found["columns"][1]
        assert found["then"] == [4, 4, 4], rank


def test_secure_sums_are_those_of_one_process_bit_for_bit(seen: dict[str, list[Any]]) -> None:
    agreed = protocol(RANKS)
    updates, given = some_updates(agreed), weights(RANKS)
    for number, drop in enumerate(DROPS):
        wanted = simulate(agreed, updates, given, drop=drop, key=Key(SECRET), round=number)
        for rank in seen["check_secure_sums"]:
            residues, included, total, _ = rank[number]
            assert torch.equal(residues, wanted.residues)
            assert (included, total) == (wanted.included, wanted.total_weight)


def test_secure_sums_in_other_fields_and_without_an_update(seen: dict[str, list[Any]]) -> None:
    updates = some_updates(protocol(RANKS))
    fields, everybody = (MERSENNE31, WIDE, SOLINAS31), {0, 1, 2, 3}
    for place, field in enumerate(fields, start=len(DROPS)):
        fixed = protocol(RANKS, field).fixed
        ranks = everybody - {1} if field is SOLINAS31 else everybody
        plain = torch.stack([updates[rank].clamp(-1, 1) for rank in ranks]).sum(0)
        first = seen["check_secure_sums"][0][place][0]
        for rank in seen["check_secure_sums"]:
            residues, included, total, _ = rank[place]
            assert torch.equal(residues, first)
            assert (included, total) == (ranks, len(ranks))
            assert isinstance(fixed, FixedPoint)
            assert float((fixed.decode(residues) - plain).abs().max()) < 4 / fixed.scale


def test_a_lost_rank_sends_no_boxes(seen: dict[str, list[Any]]) -> None:
    boxes = sum(protocol(RANKS).parameters.segments)
    for drop, rank, peers in ((0, 0, 3), (1, 0, 0), (1, 3, 2), (2, 1, 0)):
        sent = seen["check_secure_sums"][rank][drop][3]["rank", "share"]
        assert sent == peers * boxes + CONTROL


def test_too_few_ranks_are_told_on_every_rank(seen: dict[str, list[Any]]) -> None:
    phases = protocol(RANKS).phases
    for rank in seen["check_too_few"]:
        assert len(rank) == len(phases)
        for phase, (missing, needed, text) in zip(phases, rank, strict=True):
            assert (missing, needed) == ((0, 3), 3)
            assert f"2 ranks are left in phase {phase!r} and 3 are needed" in text


def test_spoilt_boxes_and_wrong_answers_are_borne_as_by_a_server(
    seen: dict[str, list[Any]],
) -> None:
    for one, two, repaired, beyond in seen["check_faults"]:
        assert one == ([0, 2, 3], (), 0.75)  # the rank that lacks a share leaves
        assert two == ([1, 2, 3], (), 0.75)  # more than privacy complain: the dealer leaves
        assert repaired == ([0, 1, 2, 3], (3,), 1.0)
        assert "contradict one another" in beyond or "refused" in beyond


@pytest.mark.parametrize("length", [3, 50, 250])
def test_shares_of_all_ranks_are_those_of_one_process(
    seen: dict[str, list[Any]], length: int
) -> None:
    flat = vector(SOLINAS31, length, 9)
    firsts, shares, backs = zip(*(rank[length] for rank in seen["check_shards"]), strict=True)
    wanted = code().encode(flat, Key(SECRET))
    assert torch.equal(torch.cat(shares, dim=1), wanted)
    ends = [first + part.shape[1] for first, part in zip(firsts, shares, strict=True)]
    assert (firsts[0], list(firsts[1:]), ends[-1]) == (0, ends[:-1], wanted.shape[1])
    assert all(torch.equal(back, flat) for back in backs)


def test_floats_are_encoded_where_they_lie(seen: dict[str, list[Any]]) -> None:
    fixed = FixedPoint(clip=1.0, bits=16, clients=2)
    wanted = code().encode(torch.linspace(-1, 1, 80), Key(SECRET), stream=3, fixed=fixed)
    found = [rank["floats"] for rank in seen["check_shards"]]
    assert [first for first, _ in found] == [0, 10, 20, 30]
    assert torch.equal(torch.cat([shares for _, shares in found], dim=1), wanted)


def test_a_wrong_share_on_one_rank_is_told_or_repaired_on_all(seen: dict[str, list[Any]]) -> None:
    flat = vector(SOLINAS31, 250, 9)
    for rank, found in enumerate(seen["check_shards"]):
        assert found["wrong"][0] == "DecodeError"
        assert rank == 1 or "ranks [1] refused" in found["wrong"][1]
        assert torch.equal(found["repaired"], flat)


@pytest.mark.parametrize(("name", "ranks"), [("all", 4), ("pair", 2)])
def test_masked_gradients_are_the_plain_ones_but_for_rounding(
    seen: dict[str, list[Any]], name: str, ranks: int
) -> None:
    found = seen["check_gradients"]
    plain, _ = found[0][name, "plain"]
    assert float(plain.abs().max()) < 1.0  # nothing is clipped
    for arithmetic in ("field", "words"):
        for rank in range(ranks):
            masked, steps = found[rank][name, arithmetic]
            assert torch.equal(masked, found[0][name, arithmetic][0])
            assert steps == 4
            assert float((masked - plain).abs().max()) < 2.0**-19 + 1e-6
    # The same rounding in both arithmetics, and so the same mean.
    assert torch.equal(found[0][name, "field"][0], found[0][name, "words"][0])


def test_gradients_of_half_precision_are_masked_too(seen: dict[str, list[Any]]) -> None:
    for rank in seen["check_gradients"]:
        plain, masked = rank["half"]
        assert plain.dtype == masked.dtype == torch.bfloat16
        assert torch.allclose(plain, masked, rtol=2.0**-6, atol=2.0**-13)


@pytest.mark.parametrize("arithmetic", ["field", "words"])
def test_a_gradient_without_a_number_stops_every_rank(
    seen: dict[str, list[Any]], arithmetic: str
) -> None:
    for rank in seen["check_hook_faults"]:
        assert "gradients are NaN or infinite on 1 of 4 ranks" in rank[arithmetic][1]
        assert "all 2^32 steps of these keys are used" in rank[arithmetic, "steps"][1]
        assert "the ranks are not at one step" in rank[arithmetic, "apart"][1]


def test_secrets_that_come_again_make_other_masks(seen: dict[str, list[Any]]) -> None:
    found = seen["check_secrets_that_come_again"]
    keys = [key for rank in found for once, _ in rank for key in once]
    assert len(keys) == 2 * RANKS * (RANKS - 1)
    assert len(set(keys)) == RANKS * (RANKS - 1)  # each is at both ends, in one of two states
    assert all(tail != [3, 0] for rank in found for _, tail in rank)
    for turn in (0, 1):
        sums = torch.tensor([rank[turn][1] for rank in found]).sum(0) % SOLINAS31.modulus
        assert sums.tolist() == [3 * RANKS, 0]


def test_the_hook_refuses_what_it_cannot_do(seen: dict[str, list[Any]]) -> None:
    for rank in seen["check_hook_faults"]:
        assert rank["propagated"] is True
        assert rank["step"] == 1
        assert "has dtype torch.float64" in rank["double"][1]
        assert "all ranks must agree" in rank["options"][1]
        assert "arithmetic is 'floats'" in rank["arithmetic"][1]


def test_old_and_new_names_of_collectives_serve(seen: dict[str, list[Any]]) -> None:
    every = [rank for rank in range(RANKS) for _ in range(2)]
    for rank, found in enumerate(seen["check_names"]):
        assert found == [(every, [RANKS * rank] * 2)] * 2
