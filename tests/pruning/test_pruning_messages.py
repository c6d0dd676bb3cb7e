"""The bytes of votes and decisions: one form, and nothing else is read."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import subprocess
import sys
from typing import Any

import msgpack
import pytest

from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.pruning import Plan, PrunableLayer, PruneDecision, PruneMessage, PruneVote

LAYERS = (
    PrunableLayer("a", (3, 3), 0),  # 9 bits: 7 bits of padding
    PrunableLayer("b", (2, 4), 0),
    PrunableLayer("größer", (3, 1), 1),
)
PLAN = Plan((("scaling", False), ("sparsity", "1/2")), LAYERS)
SCALED = Plan((("scaling", True), ("sparsity", "1/2")), LAYERS)
FIRST = (("a", b"\xff\x01"), ("b", b"\x0f"))
COMMON = {"session": PLAN.digest, "round": 3, "block": 0, "masks": FIRST}


def vote(**fields: Any) -> PruneVote:
    return PruneVote(**{**COMMON, "sender": 4, "recipient": -1, **fields})


def decision(**fields: Any) -> PruneDecision:
    return PruneDecision(**{**COMMON, "sender": -1, "recipient": 4, "voters": 2, **fields})


def scaled(voters: int, high: int = 0) -> PruneDecision:
    width = 1 if voters <= 255 else 2
    counts = (("a", high.to_bytes(width, "little") * 9), ("b", bytes(8 * width)))
    return decision(session=SCALED.digest, voters=voters, counts=counts)


GENUINE: dict[str, tuple[PruneMessage, Plan]] = {
    "vote": (vote(), PLAN),
    "second block": (vote(block=1, masks=(("größer", b"\5"),)), PLAN),
    "largest numbers": (vote(sender=65_534, round=2**64 - 1), PLAN),
    "decision": (decision(), PLAN),
    "narrow counts": (scaled(255, 255), SCALED),
    "wide counts": (scaled(256, 256), SCALED),
    "most counts": (scaled(65_535, 65_535), SCALED),
}
EVERY = pytest.mark.parametrize("what", GENUINE)


def sealed(values: Any) -> bytes:
    """Any msgpack value with the digest that a message needs."""
    packed = values if isinstance(values, bytes) else msgpack.packb(values)
    return packed + hashlib.sha256(packed).digest()


def unsealed(message: PruneMessage) -> list[Any]:
    return msgpack.unpackb(message.to_bytes()[:-32])


def refused(data: Any, plan: Plan = PLAN) -> str:
    with pytest.raises(ProtocolError) as caught:
        PruneMessage.from_bytes(data, plan)
    return str(caught.value)


@EVERY
def test_messages_come_back_as_they_were(what: str) -> None:
    message, plan = GENUINE[what]
    data = message.to_bytes()
    for form in (data, bytearray(data), memoryview(data)):
        again = PruneMessage.from_bytes(form, plan)  # type: ignore[arg-type]
        assert again == message
        assert type(again) is type(message)
        assert again.to_bytes() == data
    assert len(data) <= type(message).largest(plan)


def test_the_bytes_have_the_documented_form() -> None:
    masks = [["a", b"\xff\x01"], ["b", b"\x0f"]]
    assert unsealed(vote()) == [1, "PruneVote", PLAN.digest, 3, 4, -1, 0, masks]
    wanted = [1, "PruneDecision", PLAN.digest, 3, -1, 4, 0, masks, 2, []]
    assert unsealed(decision()) == wanted


def test_the_digest_is_made_of_the_documented_values() -> None:
    layers = [["a", [3, 3], 0], ["b", [2, 4], 0], ["größer", [3, 1], 1]]
    packed = msgpack.packb([1, [["scaling", False], ["sparsity", "1/2"]], layers])
    assert PLAN.digest == hashlib.sha256(b"pyfed/v1/pruning" + packed).digest()


@EVERY
def test_every_damaged_byte_is_noticed(what: str) -> None:
    message, plan = GENUINE[what]
    data = message.to_bytes()
    for at in range(len(data)):
        assert "was damaged" in refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], plan)
    for cut in (data[:-1], data[1:], data[:33], data + b"\0"):
        refused(cut, plan)


@EVERY
def test_random_changes_with_a_right_digest_raise_nothing_else(what: str) -> None:
    message, plan = GENUINE[what]
    packed, draw = message.to_bytes()[:-32], random.Random(7)
    for _ in range(400):
        changed = bytearray(packed)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            again = PruneMessage.from_bytes(sealed(bytes(changed)), plan)
        except ProtocolError:
            continue
        assert again.to_bytes()[:-32] == changed  # it is another genuine message


def put(message: PruneMessage, at: int, value: Any) -> bytes:
    values = unsealed(message)
    values[at] = value
    return sealed(values)


BAD: dict[str, tuple[bytes | Any, str]] = {
    "no bytes": ("text", "a message is str"),
    "nothing": (b"", "has 0 bytes"),
    "too much": (bytes(10_000), "has 10000 bytes; it must have 32 to"),
    "no array": (sealed({}), "not well-formed|header of 6"),
    "a number": (sealed(7), "header of 6 fields"),
    "a short header": (sealed([1, "PruneVote"]), "header of 6 fields"),
    "two values": (sealed(msgpack.packb(unsealed(vote())) + b"\0"), "not well-formed"),
    "an unknown type": (put(vote(), 1, "Upload"), "has type 'Upload'"),
    "a type of bytes": (put(vote(), 1, b"PruneVote"), "header of 6 fields"),
    "a field too many": (sealed([*unsealed(vote()), 0]), "9 fields; there must be 8"),
    "a field too few": (sealed(unsealed(vote())[:-1]), "7 fields; there must be 8"),
    "another version": (put(vote(), 0, 2), "version must be 1"),
    "a version that is true": (put(vote(), 0, True), "version must be 1"),
    "a short session": (put(vote(), 2, bytes(31)), "session must be 32 bytes"),
    "a session of text": (put(vote(), 2, "x" * 32), "session must be 32 bytes"),
    "a negative round": (put(vote(), 3, -1), "round must be an integer"),
    "a round of a half": (put(vote(), 3, 0.5), "round must be an integer"),
    "a vote of the server": (put(vote(), 4, -1), "sender must be an integer"),
    "a sender too high": (put(vote(), 4, 65_535), "sender must be an integer"),
    "a vote for a client": (put(vote(), 5, 0), "recipient must be an integer"),
    "a decision of a client": (put(decision(), 4, 0), "sender must be an integer"),
    "a decision for the server": (put(decision(), 5, -1), "recipient must be an integer"),
    "a block too high": (put(vote(), 6, 2), "block must be an integer"),
    "the other block": (put(vote(), 6, 1), "the layers in masks must be those of block 1"),
    "no masks": (put(vote(), 7, None), "masks must be an array"),
    "masks in a map": (put(vote(), 7, {"a": b"\0\0"}), "not well-formed"),
    "masks alone": (put(vote(), 7, [b"\0\0", b"\0"]), "each of masks must be a pair"),
    "masks in disorder": (put(vote(), 7, FIRST[::-1]), "the layers in masks"),
    "a mask twice": (put(vote(), 7, [*FIRST, FIRST[1]]), "the layers in masks"),
    "a mask of text": (put(vote(), 7, [FIRST[0], ["b", "x"]]), "b in masks must be 1 bytes"),
    "a short mask": (put(vote(), 7, [["a", b"\0"], FIRST[1]]), "a in masks must be 2 bytes"),
    "padding": (
        put(vote(), 7, [["a", b"\xff\x03"], FIRST[1]]),
        "the mask of a must be 0 in its 7 padding bits",
    ),
    "no voters": (put(decision(), 8, 0), "voters must be an integer"),
    "the lowest bit of the padding alone": (
        put(vote(), 7, [["a", b"\xff\x02"], FIRST[1]]),
        "the mask of a must be 0 in its 7 padding bits",
    ),
    "too many voters": (put(decision(), 8, 65_536), "voters must be an integer"),
    "counts without scaling": (put(decision(), 9, FIRST), "counts must be empty"),
    "a number in its long form": (
        sealed(msgpack.packb(unsealed(vote())).replace(b"\x03\x04\xff", b"\xcc\x03\x04\xff")),
        "not in canonical form",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bytes_that_are_no_message_are_refused(what: str) -> None:
    import re

    data, match = BAD[what]
    assert re.search(match, refused(data))


BAD_COUNTS: dict[str, tuple[PruneDecision, str]] = {
    "none": (decision(session=SCALED.digest), "in counts must be those"),
    "above the voters": (scaled(2, 3), "a in counts must be 2 at most"),
    "wide above the voters": (scaled(300, 301), "a in counts must be 300 at most"),
    "narrow for many": (
        dataclasses.replace(scaled(255), voters=256),
        "a in counts must be 18 bytes",
    ),
    "wide for few": (dataclasses.replace(scaled(256), voters=255), "a in counts must be 9 bytes"),
}


@pytest.mark.parametrize("what", BAD_COUNTS)
def test_counts_that_cannot_be_are_refused(what: str) -> None:
    message, match = BAD_COUNTS[what]
    assert match in refused(message.to_bytes(), SCALED)


def test_a_length_that_a_message_only_claims_is_not_allocated() -> None:
    for head in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"):
        assert "not well-formed" in refused(sealed(head))
        assert "not well-formed" in refused(sealed(b"\x98\x01" + head))


def test_a_vote_as_long_as_a_decision_is_refused() -> None:
    values = unsealed(vote())
    values[7] = [["a", bytes(PruneVote.largest(SCALED))], ["b", b"\0"]]
    wide = Plan((("scaling", True),), (PrunableLayer("a", (99, 99), 0), LAYERS[1]))
    values[7][0][1] = bytes(PruneVote.largest(wide))
    assert "are more than such a message has" in refused(sealed(values), wide)


def test_a_plan_is_needed_to_read() -> None:
    with pytest.raises(DtypeError, match="plan is NoneType"):
        PruneMessage.from_bytes(vote().to_bytes(), None)  # type: ignore[arg-type]


def test_plans_cannot_hold_what_has_no_bytes() -> None:
    with pytest.raises((TypeError, ArgumentError)):
        Plan((("score", object()),), LAYERS)


def test_messages_are_read_without_torch() -> None:
    code = "import sys, pyfed.pruning.messages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0
