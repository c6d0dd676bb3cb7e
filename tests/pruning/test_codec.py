"""Masks and 2:4 patterns in fewer bits: lossless, small, and read strictly."""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.pruning.codec import BYTES, ESCAPE, GAPS, RAW, decode_mask, encode_mask
from pyfed.pruning.patterns import PATTERNS, pack_2_4, unpack_2_4

Bits = np.ndarray[Any, np.dtype[np.bool_]]


def packed(bits: Bits) -> torch.Tensor:
    return torch.from_numpy(np.packbits(bits, bitorder="little"))


def entropy(fraction: float) -> float:
    return float(-fraction * np.log2(fraction) - (1 - fraction) * np.log2(1 - fraction))


def differing(rows: int, columns: int, mean: float, seed: int = 0) -> Bits:
    """A difference whose rate varies from row to row, as between masks of real models."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(4.0, mean / 4.0, size=(rows, 1)).clip(0.001, 0.4)
    return (rng.random((rows, columns)) < rates).reshape(-1)


@st.composite
def masks(draw: st.DrawFn) -> tuple[Bits, Bits]:
    """A mask and a reference of one length, that differ in any part of their bits."""
    length = draw(st.one_of(st.integers(0, 70), st.integers(0, 6000)))
    seed = draw(st.integers(0, 2**32))
    rate = draw(st.sampled_from([0.0, 0.0005, 0.004, 0.05, 0.2, 0.5, 0.9, 1.0]))
    rng = np.random.default_rng(seed)
    reference = rng.random(length) < draw(st.sampled_from([0.0, 0.5, 0.98]))
    return reference ^ (rng.random(length) < rate), reference


@settings(max_examples=150, deadline=None, derandomize=True)
@given(masks())
def test_masks_come_back_whatever_they_differ_in(pair: tuple[Bits, Bits]) -> None:
    mask, reference = pair
    length = len(mask)
    for known in (None, packed(reference)):
        data = encode_mask(packed(mask), length, known)
        assert len(data) <= -(-length // 8) + 5
        assert torch.equal(decode_mask(data, length, known), packed(mask))
        assert torch.equal(decode_mask(memoryview(bytearray(data)), length, known), packed(mask))


@pytest.mark.parametrize("mean", [0.044, 0.048, 0.052])
def test_masks_of_the_usual_disagreement_take_at_most_two_percent_more_than_their_entropy(
    mean: float,
) -> None:
    change = differing(1024, 1024, mean)
    reference = np.random.default_rng(1).random(len(change)) < 0.5
    data = encode_mask(packed(reference ^ change), len(change), packed(reference))
    bits = 8 * len(data) / len(change)
    assert data[0] == GAPS + 16
    assert bits <= 1.02 * entropy(float(change.mean())) <= 0.31
    assert 8 * len(encode_mask(packed(reference), len(change))) / len(change) < 1.001


@pytest.mark.parametrize(
    ("rate", "method", "most"), [(0.0, GAPS, 0.001), (0.001, GAPS, 0.015), (0.2, BYTES, 0.75)]
)
def test_rare_and_frequent_differences_have_methods_of_their_own(
    rate: float, method: int, most: float
) -> None:
    mask = np.random.default_rng(2).random(2**18) < rate
    data = encode_mask(packed(mask), len(mask))
    assert data[0] == method
    assert 8 * len(data) / len(mask) <= most


def test_what_does_not_get_smaller_is_kept_as_it_is() -> None:
    mask = packed(np.random.default_rng(3).random(1001) < 0.5)
    data = encode_mask(mask, 1001)
    assert data[0] == RAW
    assert len(data) == 5 + 126
    assert data[5:] == mask.numpy().tobytes()
    other = packed(np.random.default_rng(4).random(1001) < 0.5)
    assert encode_mask(mask, 1001, reference=other) == data
    assert torch.equal(decode_mask(data, 1001, reference=other), mask)


@pytest.mark.parametrize("gap", [253, 254, 255, 256, 509, 510, 511, 5000])
def test_gaps_around_a_byte_come_back(gap: int) -> None:
    mask = np.zeros(2 * gap + 700, dtype=bool)
    mask[[gap, 2 * gap + 1, -1]] = True
    data = encode_mask(packed(mask), len(mask))
    assert data[0] == GAPS
    assert torch.equal(decode_mask(data, len(mask)), packed(mask))


LENGTH = 4001
CHANGE = differing(1, LENGTH, 0.05, seed=6)
REFERENCE = np.random.default_rng(7).random(LENGTH) < 0.5
MASK, KNOWN = packed(REFERENCE ^ CHANGE), packed(REFERENCE)
FORMS = {
    "gaps": (encode_mask(MASK, LENGTH, KNOWN), KNOWN),
    "bytes": (encode_mask(packed(differing(1, LENGTH, 0.25)), LENGTH), None),
    "raw": (encode_mask(KNOWN, LENGTH), None),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_damaged_data_is_read(form: str) -> None:
    data, known = FORMS[form]
    decode_mask(data, LENGTH, known)
    rng = np.random.default_rng(8)
    for at in {*range(8 * 16), *rng.integers(0, 8 * len(data), 400).tolist()}:
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(ProtocolError):
            decode_mask(changed, LENGTH, known)
    for cut in range(0, len(data), 7):
        with pytest.raises(ProtocolError):
            decode_mask(data[:cut], LENGTH, known)
    for more in (b"\0", b"\x03\0", data):
        with pytest.raises(ProtocolError):
            decode_mask(data + more, LENGTH, known)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.integers(0, 3000))
def test_noise_is_refused(data: bytes, length: int) -> None:
    for form in (data, bytes([GAPS]) + data, bytes([BYTES]) + data, bytes([RAW]) + data):
        with pytest.raises(ProtocolError):
            decode_mask(form, length)


def test_another_length_or_reference_is_refused() -> None:
    data = FORMS["gaps"][0]
    for length in (LENGTH - 1, LENGTH + 1, LENGTH + 7, LENGTH + 8, 0, 10**6):
        with pytest.raises(ProtocolError):
            decode_mask(data, length, packed(np.zeros(length, dtype=bool)))
    raw = encode_mask(packed(np.zeros(3, dtype=bool)), 3)
    with pytest.raises(ProtocolError, match="does not match its checksum"):
        decode_mask(raw, 4)  # the same byte
    with pytest.raises(ProtocolError, match="none is given"):
        decode_mask(data, LENGTH)
    other = KNOWN.clone()
    other[17] ^= 4
    with pytest.raises(ProtocolError, match="encoded against another reference mask"):
        decode_mask(data, LENGTH, other)


def written(method: int, body: bytes, mask: torch.Tensor, length: int) -> bytes:
    """Data with a checksum that fits ``mask``."""
    crc = zlib.crc32(length.to_bytes(8, "little") + body + mask.numpy().tobytes())
    return struct.pack("<BI", method, crc) + body


def deflated(values: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(values) + packer.flush()


def test_a_small_body_that_stands_for_much_is_not_unpacked() -> None:
    length = 80_000
    nothing = packed(np.zeros(length, dtype=bool))
    size = len(nothing)
    good = written(BYTES, deflated(bytes(size)), nothing, length)
    assert torch.equal(decode_mask(good, length), nothing)
    for bomb in (deflated(bytes(9_000_000)), deflated(bytes(size + 1)), deflated(bytes(size - 1))):
        assert len(bomb) < size
        with pytest.raises(ProtocolError, match=r"stands for more than|must be"):
            decode_mask(written(BYTES, bomb, nothing, length), length)
    with pytest.raises(ProtocolError, match="stands for more than 10000 bytes"):
        decode_mask(written(GAPS, deflated(bytes(size + 1)), nothing, length), length)


@pytest.mark.parametrize(
    ("method", "body", "text"),
    [
        (GAPS, bytes([100, 100]), "reach element 201 of 201"),
        (GAPS, bytes([ESCAPE, 0]), "reach element 255 of 201"),
        (GAPS, bytes([3, ESCAPE]), "do not end with a set bit"),
        (BYTES, bytes(25) + b"\2", "a bit behind the 201 elements is set"),
        (BYTES, bytes(25), "25 bytes are there for 201 elements; there must be 26"),
        (RAW, bytes(25) + b"\2", "a bit behind the 201 elements is set"),
        (RAW, bytes(25), "25 bytes are there for 201 elements; there must be 26"),
    ],
)
def test_bodies_that_do_not_fill_the_mask_exactly_are_refused(
    method: int, body: bytes, text: str
) -> None:
    mask = torch.frombuffer(bytearray(body), dtype=torch.uint8)
    data = written(method, body if method == RAW else deflated(body), mask, 201)
    with pytest.raises(ProtocolError, match=text):
        decode_mask(data, 201)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: encode_mask([5], 3), DtypeError, "packed is list"),  # type: ignore[arg-type]
        (lambda: encode_mask(MASK.bool(), LENGTH), DtypeError, "torch.bool"),
        (lambda: encode_mask(MASK, LENGTH + 8), ArgumentError, "must be 502 bytes"),
        (lambda: encode_mask(MASK[None], LENGTH), ArgumentError, "2 dimensions"),
        (lambda: encode_mask(MASK | 255, LENGTH), ArgumentError, "packed has a bit set behind"),
        (lambda: encode_mask(MASK, LENGTH, KNOWN[1:]), ArgumentError, "reference has shape"),
        (lambda: encode_mask(MASK, LENGTH, KNOWN | 255), ArgumentError, "reference has a bit"),
        (lambda: decode_mask(b"", LENGTH, KNOWN[1:]), ArgumentError, "reference has shape"),
        (lambda: decode_mask("x", 3), DtypeError, "data is str"),  # type: ignore[arg-type]
        (lambda: decode_mask(b"", 3), ProtocolError, "data has 0 bytes; .* has 5 to 6"),
        (lambda: decode_mask(bytes(5), -3), ArgumentError, "length is -3"),
        (lambda: decode_mask(b"\x03" + bytes(5), 3), ProtocolError, "method 3, which there is not"),
        (lambda: decode_mask(b"\x10" + bytes(5), 3), ProtocolError, "method 16, which there"),
        (lambda: pack_2_4(MASK, LENGTH), ArgumentError, "length is 4001; it must be a multiple"),
        (lambda: unpack_2_4(b"", 2), ArgumentError, "length is 2; it must be a multiple of 4"),
        (lambda: unpack_2_4(b"", 4), ProtocolError, "data has 0 bytes; a mask of 4 .* has 1"),
        (lambda: unpack_2_4(None, 4), DtypeError, "data is NoneType"),  # type: ignore[arg-type]
        (lambda: unpack_2_4(bytes(2), 4), ProtocolError, "data has 2 bytes"),
    ],
)
def test_wrong_arguments_are_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PATTERNS), max_size=70))
def test_2_4_masks_take_3_bits_for_4_elements_and_come_back(patterns: list[int]) -> None:
    bits = np.array([p >> i & 1 for p in patterns for i in range(4)], dtype=bool)
    data = pack_2_4(packed(bits), len(bits))
    assert len(data) == -(-3 * len(patterns) // 8)
    codes = sum(PATTERNS.index(p) << 3 * i for i, p in enumerate(patterns))
    assert data == codes.to_bytes(len(data), "little")
    assert torch.equal(unpack_2_4(data, len(bits)), packed(bits))


@pytest.mark.parametrize("groups", [1, 2, 3, 8, 9])
def test_groups_without_exactly_two_are_refused_and_named(groups: int) -> None:
    for group, nibble in itertools.product(range(groups), set(range(16)) - set(PATTERNS)):
        patterns = [PATTERNS[5]] * groups
        patterns[group] = nibble
        bits = np.array([p >> i & 1 for p in patterns for i in range(4)], dtype=bool)
        where = f"elements {4 * group} to {4 * group + 3} have {nibble.bit_count()} set"
        with pytest.raises(ArgumentError, match=where):
            pack_2_4(packed(bits), len(bits))


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 8, 9])
def test_codes_that_stand_for_no_pattern_and_bits_behind_are_refused(groups: int) -> None:
    size = -(-3 * groups // 8)
    for group, code in itertools.product(range(groups), (6, 7)):
        with pytest.raises(ProtocolError, match="a code above 5"):
            unpack_2_4((code << 3 * group).to_bytes(size, "little"), 4 * groups)
    for bit in range(3 * groups, 8 * size):
        with pytest.raises(ProtocolError, match="a bit set behind"):
            unpack_2_4((1 << bit).to_bytes(size, "little"), 4 * groups)


@pytest.mark.gpu
def test_masks_on_cuda_are_encoded_as_on_the_cpu() -> None:
    assert encode_mask(MASK.cuda(), LENGTH, KNOWN.cuda()) == FORMS["gaps"][0]
    assert torch.equal(decode_mask(FORMS["gaps"][0], LENGTH, KNOWN.cuda()), MASK)
