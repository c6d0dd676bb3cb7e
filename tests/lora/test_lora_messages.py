"""The bytes of updates and means: one form, and nothing else is read."""

from __future__ import annotations

import dataclasses
import random
import re
import struct
import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.wire_cases import (
    BRAIN,
    EVERY,
    GENUINE,
    HALF,
    MOST,
    PLAN,
    VALUES,
    refused,
    sealed,
    shared,
    unsealed,
    update,
)
from pyfed.errors import DtypeError, ProtocolError
from pyfed.lora import LoraMessage, LoraPlan


@EVERY
def test_messages_come_back_as_they_were(what: str) -> None:
    message, plan = GENUINE[what]
    data = message.to_bytes()
    for form in (data, bytearray(data), memoryview(data)):
        again = LoraMessage.from_bytes(form, plan)  # type: ignore[arg-type]
        assert again == message
        assert type(again) is type(message)
        assert again.to_bytes() == data
    assert len(data) <= 192 + plan.payload_bytes


def test_the_bytes_have_the_documented_form() -> None:
    head = [PLAN.digest, PLAN.marks, 3]
    raw = VALUES.tobytes()
    assert unsealed(update()) == [1, "LoraUpdate", *head, 4, -1, 20, raw]
    assert unsealed(shared()) == [1, "LoraShared", *head, -1, 4, 41, 2, raw]


@EVERY
def test_every_flipped_bit_and_every_cut_is_noticed(what: str) -> None:
    message, plan = GENUINE[what]
    data = message.to_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert "was damaged" in refused(bytes(damaged), plan)
    for length in range(len(data)):
        refused(data[:length], plan)
    for longer in (data + b"\0", b"\0" + data, data + data):
        refused(longer, plan)


def changed_at_random(message: LoraMessage, plan: LoraPlan, seed: int, count: int) -> int:
    """How many of so many changes with a right digest are read; all else must be refused."""
    packed, draw, read = message.to_bytes()[:-32], random.Random(seed), 0
    for _ in range(count):
        changed = bytearray(packed)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(changed))
            kind = draw.randrange(4)
            if kind == 0:
                changed[place] = draw.randrange(256)
            elif kind == 1:
                changed[place] ^= 1 << draw.randrange(8)
            elif kind == 2:
                del changed[place : place + draw.randint(1, 4)]
                changed = changed or bytearray(b"\0")
            else:
                changed[place:place] = draw.randbytes(draw.randint(1, 4))
        try:
            again = LoraMessage.from_bytes(sealed(bytes(changed)), plan)
        except ProtocolError:
            continue
        assert again.to_bytes()[:-32] == changed  # it is another genuine message
        again.check(plan)
        read += 1
    return read


@EVERY
def test_random_changes_with_a_right_digest_raise_nothing_else(what: str) -> None:
    message, plan = GENUINE[what]
    assert 0 < changed_at_random(message, plan, 7, 400) < 200


@pytest.mark.slow
@EVERY
def test_random_changes_with_a_right_digest_raise_nothing_else_in_full(what: str) -> None:
    message, plan = GENUINE[what]
    assert changed_at_random(message, plan, 8, 20_000) > 0


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary()
    | st.text(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.integers(0, 8), value=ODD)
def test_any_value_in_any_field_is_a_message_or_refused(at: int, value: Any) -> None:
    values = unsealed(update())
    values[at] = value
    data = sealed(values)
    try:
        again = LoraMessage.from_bytes(data, PLAN)
    except ProtocolError:
        return
    assert again.to_bytes() == data
    assert at in (4, 5, 7, 8) or values[at] == unsealed(update())[at]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused(data: bytes) -> None:
    refused(data)
    refused(sealed(data))


def put(message: LoraMessage, at: int, value: Any) -> bytes:
    values = unsealed(message)
    values[at] = value
    return sealed(values)


BAD: dict[str, tuple[bytes | Any, str]] = {
    "no bytes": ("text", "a message is str"),
    "wider elements": (memoryview(bytes(80)).cast("I"), "not a flat row of bytes"),
    "nothing": (b"", "has 0 bytes; it must have 33 to 224"),
    "too much": (bytes(10_000), "has 10000 bytes; it must have 33 to 224$"),
    "a map": (sealed({}), "not well-formed|begins with version"),
    "a number": (sealed(7), "an array that begins with version and type"),
    "a short header": (sealed([1]), "an array that begins with version and type"),
    "two values": (sealed(msgpack.packb(unsealed(update())) + b"\0"), "not well-formed"),
    "an unknown type": (put(update(), 1, "PruneVote"), "has type 'PruneVote'"),
    "a type of bytes": (put(update(), 1, b"LoraUpdate"), "begins with version and type"),
    "a field too many": (sealed([*unsealed(update()), 0]), "10 fields; there must be 9"),
    "a field too few": (sealed(unsealed(update())[:-1]), "8 fields; there must be 9"),
    "another version": (put(update(), 0, 2), "version must be 1"),
    "a version that is true": (put(update(), 0, True), "version must be 1"),
    "a short session": (put(update(), 2, bytes(31)), "session must be 32 bytes"),
    "a session of text": (put(update(), 2, "x" * 32), "session must be 32 bytes"),
    "another session": (put(update(), 2, bytes(32)), "its digest is not that of the plan"),
    "short marks": (put(update(), 3, bytes(27)), "marks must be 28 bytes"),
    "a negative round": (put(update(), 4, -1), "round must be an integer"),
    "a round of a half": (put(update(), 4, 0.5), "round must be an integer"),
    "an update of the server": (put(update(), 5, -1), "sender must be an integer"),
    "a sender too high": (put(update(), 5, 65_535), "sender must be an integer"),
    "an update for a client": (put(update(), 6, 0), "recipient must be an integer"),
    "a mean of a client": (put(shared(), 5, 0), "sender must be an integer"),
    "a mean for the server": (put(shared(), 6, -1), "recipient must be an integer"),
    "a negative weight": (put(update(), 7, -1), "weight must be an integer"),
    "a weight too high": (put(update(), 7, 2**37), "weight must be an integer"),
    "a weight of a half": (put(update(), 7, 0.5), "weight must be an integer"),
    "a mean of nobody": (put(shared(), 8, 0), "included must be an integer"),
    "a mean of too many": (put(shared(), 8, 65_536), "included must be an integer"),
    "a mean without weight": (put(shared(), 7, 0), "weight must be an integer"),
    "a mean of too much": (put(shared(), 7, 2 * MOST + 1), "weight must be an integer"),
    "no payload": (put(update(), 8, None), "payload must be 32 bytes"),
    "a payload of text": (put(update(), 8, "x" * 32), "payload must be 32 bytes|not well-formed"),
    "a short payload": (put(update(), 8, bytes(31)), "payload must be 32 bytes"),
    "a long payload": (put(update(), 8, bytes(36)), "payload must be 32 bytes"),
    "a payload in parts": (put(update(), 8, [bytes(16)] * 2), "payload must be 32 bytes"),
    "a number in its long form": (
        sealed(msgpack.packb(unsealed(update())).replace(b"\x03\x04\xff", b"\xcc\x03\x04\xff")),
        "not in canonical form",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bytes_that_are_no_message_are_refused(what: str) -> None:
    data, match = BAD[what]
    assert re.search(match, refused(data))


NUMBERS = [
    (PLAN, 4, struct.pack("<f", float("nan")), r"q.lora_A.weight holds nan at \(0, 2\)"),
    (PLAN, 0, struct.pack("<f", float("-inf")), r"größer.lora_A.weight holds -inf at \(0, 0\)"),
    (PLAN, 7, struct.pack("<I", 0xFE800001), "beyond|at most 2\\^126"),
    (HALF, 5, struct.pack("<H", 0x7801), r"q.lora_A.weight holds 32800.0 at \(1, 0\)"),
    (HALF, 5, struct.pack("<H", 0x7C01), r"holds nan at \(1, 0\)"),
    (BRAIN, 1, struct.pack("<H", 0x7FC0), r"größer.lora_A.weight holds nan at \(0, 1\)"),
    (BRAIN, 1, struct.pack("<H", 0xFF80), r"größer.lora_A.weight holds -inf at \(0, 1\)"),
]


@pytest.mark.parametrize("number", range(len(NUMBERS)))
def test_values_that_are_no_numbers_are_refused_with_client_and_key(number: int) -> None:
    plan, place, raw, match = NUMBERS[number]
    payload = bytearray(plan.payload_bytes)
    payload[place * len(raw) : (place + 1) * len(raw)] = raw
    bad = update(plan, payload=bytes(payload))
    text = refused(bad.to_bytes(), plan)
    assert text.startswith("LoraUpdate of client 4: ")
    assert re.search(match, text)
    with pytest.raises(ProtocolError) as caught:
        bad.check(plan)
    assert caught.value.sender == 4


def test_values_at_the_limit_travel_and_means_may_be_beyond_it() -> None:
    for plan, bits in ((PLAN, 0x7E800000), (HALF, 0x7800), (BRAIN, 0x7E80)):
        form = "<u4" if plan is PLAN else "<u2"
        for sign in (0, 1 << (31 if plan is PLAN else 15)):
            at = np.full(8, bits | sign, dtype=form).tobytes()
            assert LoraMessage.from_bytes(update(plan, payload=at).to_bytes(), plan)
        above = np.full(8, bits + 1, dtype=form).tobytes()
        refused(update(plan, payload=above).to_bytes(), plan)
        assert LoraMessage.from_bytes(shared(plan, payload=above).to_bytes(), plan)


def test_a_length_that_a_message_only_claims_is_not_allocated() -> None:
    for head in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"):
        assert "not well-formed" in refused(sealed(head))
        assert "not well-formed" in refused(sealed(b"\x99\x01" + head))


def test_a_plan_is_needed_to_read() -> None:
    with pytest.raises(DtypeError, match="plan is NoneType"):
        LoraMessage.from_bytes(update().to_bytes(), None)  # type: ignore[arg-type]


def test_payloads_are_not_printed() -> None:
    assert "payload" not in repr(dataclasses.replace(update(), payload=bytes(1000)))


def test_messages_are_read_without_torch() -> None:
    code = "import sys, pyfed.lora.messages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0
