"""Bytes of messages that were damaged: flipped, cut, too long, or with a false claim inside."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg import Message
from pyfed.secagg.messages import Share
from secagg.checksums import CHECKSUM, checked
from secagg.genuine import EVERY, GENUINE, PARAMETERS, expect_refused, sealed, unsealed


@EVERY
def test_every_flipped_bit_is_noticed(kind: str) -> None:
    data = GENUINE[kind].to_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        expect_refused(bytes(flipped))


@EVERY
def test_every_truncation_and_extension_is_noticed(kind: str) -> None:
    data = GENUINE[kind].to_bytes()
    for size in range(len(data)):
        expect_refused(data[:size])
    for more in (b"\0", b"\xc0", data, bytes(1000)):
        expect_refused(data + more)
        expect_refused(more + data)


@EVERY
def test_well_sealed_truncations_and_trailing_bytes_are_refused(kind: str) -> None:
    packed = GENUINE[kind].to_bytes()[:-CHECKSUM]
    cut = [packed[:size] for size in range(len(packed))]
    for content in (*cut, packed + b"\0", packed + packed):
        expect_refused(checked(content))


@pytest.mark.parametrize(
    "content",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\xdb\xff\xff\xff\xff",  # text
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\xd6\xff" + bytes(4),  # a time stamp
        b"\x91" * 5000,  # deep arrays
        b"\xdc\x00\x10" * 300,
        b"\xc1",
        b"\xa2\xff\xfe",  # text that is no UTF-8
        b"",
    ],
)
def test_claims_about_size_are_not_believed(content: bytes) -> None:
    expect_refused(checked(content))


def test_a_message_larger_than_its_type_can_be_is_refused() -> None:
    values = unsealed(GENUINE["Hello"])
    values[8] = bytes(type(GENUINE["Hello"]).largest(PARAMETERS))
    data = sealed(values)
    assert len(data) < Share.largest(PARAMETERS)
    with pytest.raises(ProtocolError, match="more than such a message"):
        Message.from_bytes(data, PARAMETERS)
    with pytest.raises(ProtocolError, match="bytes; it must have"):
        Message.from_bytes(bytes(10**6), PARAMETERS)


@pytest.mark.parametrize("data", [None, 7, "text", [1]])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    expect_refused(data)


def mutated(rng: random.Random, packed: bytes) -> bytes:
    """A few random edits: flips, inserted and removed pieces, pieces of itself, large claims."""
    out = bytearray(packed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        edit = rng.randrange(5)
        if edit == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif edit == 1:
            out[at:at] = rng.randbytes(rng.randint(1, 6))
        elif edit == 2:
            del out[at : at + rng.randint(1, 40)]
        elif edit == 3:
            begin = rng.randrange(len(packed))
            out[at:at] = packed[begin : begin + rng.randint(1, 60)]
        elif at < len(out):
            out[at] = rng.choice((0x90, 0xC0, 0xC4, 0xC6, 0xDC, 0xDD, 0xDF, 0xFF, 0xCF, 0xD9))
    return bytes(out)


def fuzz(count: int, seed: int) -> int:
    """How many of so many damaged messages with a right digest are still messages."""
    rng = random.Random(seed)
    originals = [message.to_bytes()[:-CHECKSUM] for message in GENUINE.values()]
    accepted = 0
    for _ in range(count):
        content = mutated(rng, rng.choice(originals))
        data = checked(content)
        try:
            message = Message.from_bytes(data, PARAMETERS)
        except ProtocolError:
            continue
        accepted += 1
        message.check(PARAMETERS)
        assert message.to_bytes() == data
    return accepted


def test_damaged_messages_are_refused_or_are_messages() -> None:
    accepted = fuzz(2_000, seed=1)
    assert 0 < accepted < 1_000  # contents of residues, boxes and keys may be anything


@pytest.mark.slow
def test_many_damaged_messages_are_refused_or_are_messages() -> None:
    accepted = fuzz(120_000, seed=2)
    assert 0 < accepted < 60_000


def test_integers_in_another_form_of_the_same_length_are_refused() -> None:
    data = dataclasses.replace(GENUINE["Hello"], round=300).to_bytes()[:-CHECKSUM]
    assert data.count(b"\xcd\x01\x2c") == 1
    Message.from_bytes(checked(data), PARAMETERS)
    with pytest.raises(ProtocolError, match="canonical form"):
        Message.from_bytes(checked(data.replace(b"\xcd\x01\x2c", b"\xd1\x01\x2c")), PARAMETERS)
