"""What a session is bound to: old hashes stay, and no two kinds of encoding share one."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import pytest

from pyfed import MERSENNE31, FixedPoint
from pyfed.errors import ProtocolError
from pyfed.lanes import VoteLanes
from pyfed.secagg import LightSecAgg, SecAggPlus
from pyfed.secagg.differences import differences
from pyfed.secagg.session import LONG, Member, Parameters, canonical, canonical_parts
from secagg.rounds import Round, refuse

# Written down before encodings other than fixed point existed: clients of then and now must agree.
FROZEN = [
    (
        FixedPoint(clients=5, max_weight=9),
        "d3a1064067d03984168011930557a9e3ac8a24efd8605cd8f1d52810cddc73de",
        "bc2dea547d1cbfe294f3566632eddb2c6a3168ff92ebc561110d6e0e9b91c6e8",
    ),
    (
        FixedPoint(clip=0.75, bits=20, clients=6, max_weight=3, field=MERSENNE31),
        "bd1fad3f6bed2600919dfa5eaa3f5382a3d1ffd1baebb41e626bd19189937ccc",
        "5a2a4356ad9d09519912f607453041e6fdf2d327a6e223740e8171458cc25177",
    ),
]


@pytest.mark.parametrize(("fixed", "digest", "session"), FROZEN)
def test_hashes_of_fixed_point_sessions_are_what_they_always_were(
    fixed: FixedPoint, digest: str, session: str
) -> None:
    agreed = LightSecAgg(fixed.clients, 1, 1, length=4, fixed=fixed, detect=1)
    roster = tuple(Member(i, bytes([i]) * 32, b"") for i in range(fixed.clients))
    assert agreed.parameters.digest().hex() == digest
    assert agreed.parameters.session(roster, bytes(range(32))).hex() == session


def test_no_two_sessions_that_read_residues_differently_have_one_hash() -> None:
    encodings = [
        FixedPoint(clients=5),
        FixedPoint(clients=5, bits=12),
        FixedPoint(clients=5, clip=0.5, bits=15),  # the same scale
        FixedPoint(clients=6),  # the same meaning of a residue: the same hash
        VoteLanes(5),
        VoteLanes(6),
        VoteLanes(5, MERSENNE31),
    ]
    digests = {
        (number, length): LightSecAgg(5, 1, 1, length, fixed).parameters.digest()
        for (number, fixed), length in itertools.product(enumerate(encodings), (9, 10, 11))
    }
    same = {(number, length) for number in (0, 3) for length in (9, 10, 11)}
    assert len(set(digests.values())) == len(digests) - len(same) // 2
    parameters = LightSecAgg(5, 1, 1, 10, VoteLanes(5)).parameters
    assert parameters.residues == LightSecAgg(5, 1, 1, 11, VoteLanes(5)).parameters.residues
    fields = msgpack.unpackb(parameters.packed(), use_list=False)
    assert fields[-5:] == (10, "votes", 11, 6, 1)


def test_what_differs_between_two_sides_is_told_by_name() -> None:
    def numbers(**changes: Any) -> Parameters:
        fixed = changes.pop("fixed", FixedPoint(clip=0.5, clients=5))
        given = {"clients": 5, "privacy": 1, "dropouts": 1, "length": 9} | changes
        return LightSecAgg(**given, fixed=fixed).parameters  # type: ignore[arg-type]

    own = numbers()
    for other, told in (
        (numbers(length=10), "length is 10 there and 9 here"),
        (numbers(fixed=FixedPoint(clip=1.0, clients=5)), "clip is 1.0 there and 0.5 here"),
        (numbers(privacy=2), "privacy is 2 there and 1 here, blocks is 2 there and 3 here"),
        (numbers(fixed=VoteLanes(5)), "the encoding differs, or"),
        (
            SecAggPlus(5, 1, 1, 9, FixedPoint(clip=0.5, clients=5)).parameters,
            "protocol is 'SecAggPlus' there and 'LightSecAgg' here, ",
        ),
    ):
        assert differences(own, other.packed()).startswith(told)


def test_hostile_parameters_are_refused_or_cut_short() -> None:
    own = LightSecAgg(5, 1, 1, 9, FixedPoint(clients=5)).parameters
    for packed in (
        b"",
        b"\x9f",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\x01\x02",
        b"\x91" * 99,
        b"\xa1\xff",
    ):
        with pytest.raises(ProtocolError, match="well-formed"):
            differences(own, packed)
    assert len(differences(own, canonical(["x" * 2**20, "\n\x1b[2J"]))) < 400
    assert "\n" not in differences(own, canonical(["x", "\n\x1b[2J"]))
    assert differences(own, canonical(7)).startswith("protocol is 7 there")
    with pytest.raises(ProtocolError, match="more than"):
        differences(own, b"\xdd\x00\x00\x07\xd0" + b"\xc0" * 2000)


def test_values_of_other_types_differ() -> None:
    own = LightSecAgg(5, 1, 1, 9, FixedPoint(clients=5)).parameters
    values = msgpack.unpackb(own.packed())
    assert values[1] == 1
    for other in (True, 1.0):
        told = differences(own, msgpack.packb([values[0], other, *values[2:]]))
        assert told == f"version is {other} there and 1 here"


def test_numbers_of_votes_are_not_named_after_those_of_floats() -> None:
    votes = LightSecAgg(5, 1, 1, 4, VoteLanes(5)).parameters
    floats = LightSecAgg(5, 1, 1, 1, FixedPoint(clients=5)).parameters
    for own, other in ((votes, floats), (floats, votes)):
        assert "clip" not in differences(own, other.packed())


def test_a_client_of_floats_refuses_the_roster_of_a_session_of_votes() -> None:
    votes = LightSecAgg(5, 1, 1, 4, VoteLanes(5))
    floats = LightSecAgg(5, 1, 1, 1, FixedPoint(clients=5))
    assert votes.parameters.width == floats.parameters.width
    run, other = Round(floats), Round(votes)
    other.updates = [(update > 0) for update in other.updates]
    for each in (run, other):
        each.send("keys")
        each.collect()
        each.close()
    refuse(run.clients[0], other.downwards[0], -1, "other parameters")
    refuse(other.clients[0], run.downwards[0], -1, "other parameters")


def test_parts_of_long_values_are_the_one_encoding_behind_one_another() -> None:
    long, short = bytes(LONG), bytes(LONG - 1)
    values: list[Any] = [
        *(long, short, [], (), [[]], "text", 2**63, None),
        *((1, "a", long), (1, short, (short,)), [[(0, (long, short)), (1, (long,))], b"", -1]),
        tuple((i, (long if i % 2 else short,)) for i in range(20)),  # more than 15 members
        (Member(1, b"k" * 32, b""), long + b"x"),
    ]
    for value in values:
        assert b"".join(canonical_parts(value)) == canonical(value)
    assert sum(part is long for part in canonical_parts((long, [long]))) == 2  # not copied
