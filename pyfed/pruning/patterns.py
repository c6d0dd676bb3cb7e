"""2:4 masks in 3 bits for every 4 elements: 6 patterns are legal, and a code tells which."""

from __future__ import annotations

import numpy as np
import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, ProtocolError
from pyfed.ops.masks import LONGEST, bytes_of
from pyfed.pruning.codec import Bytes, data_view, mask_array

PATTERNS = (0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100)
"""The legal 2:4 patterns in the order of their codes, the first element in the lowest bit."""

ILLEGAL = 255


def _tables() -> tuple[Bytes, Bytes]:
    """From a byte to its two codes, lower one first in 6 bits, or ILLEGAL; and back, or 0."""
    codes, patterns = np.full(256, ILLEGAL, np.uint8), np.zeros(64, np.uint8)
    for low, first in enumerate(PATTERNS):
        for high, second in enumerate(PATTERNS):
            codes[first | second << 4] = low | high << 3
            patterns[low | high << 3] = first | second << 4
    return codes, patterns


_CODES, _PATTERNS = _tables()


def pack_2_4(packed: torch.Tensor, length: int) -> bytes:
    """Write a 2:4 mask, in which exactly 2 of every 4 elements are set, in 3 bits for every 4.

    Code 0 to 5 of group g is in bits 3·g … 3·g + 2, lowest bit first.

    Args:
        packed: uint8 (⌈length / 8⌉,), on any device.
        length: elements of the mask, a multiple of 4.

    Returns:
        ⌈3·length / 32⌉ bytes; bits behind the last code are 0.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: a shape does not fit the length, a padding bit is set, the length is no
            multiple of 4, or a group has not exactly 2 set.

    Example:
        >>> import torch
        >>> from pyfed.pruning.patterns import pack_2_4
        >>> pack_2_4(torch.tensor([0b1100_0101], dtype=torch.uint8), 8)
        b')'
    """
    mask = mask_array("pack_2_4", "packed", packed, length)
    _expect_fours("pack_2_4", length)
    if length % 8:
        mask = mask.copy()
        mask[-1] |= PATTERNS[0] << 4  # code 0, which is what bits behind the end are
    codes = _CODES[mask]  # two codes, 6 bits
    if (codes == ILLEGAL).any():
        byte = int(np.argmax(codes == ILLEGAL))
        group = 2 * byte + (int(mask[byte]) & 15 in PATTERNS)
        bits = int(mask[byte]) >> 4 * (group % 2) & 15
        raise ArgumentError(
            f"pack_2_4: elements {4 * group} to {4 * group + 3} have {bits.bit_count()} set; it "
            "must be exactly 2 of every 4"
        )
    fours = np.zeros((-(-len(codes) // 4), 4), np.uint32)
    fours.reshape(-1)[: len(codes)] = codes
    words = fours[:, 0] | fours[:, 1] << 6 | fours[:, 2] << 12 | fours[:, 3] << 18
    packed_bytes = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    return packed_bytes.tobytes()[: _bytes_of_fours(length)]


def unpack_2_4(data: bytes | bytearray | memoryview, length: int) -> torch.Tensor:
    """Read a mask that :func:`pack_2_4` wrote.

    Args:
        data: what a peer sent; nothing about it is trusted.
        length: elements of the mask, a multiple of 4.

    Returns:
        uint8 (⌈length / 8⌉,) on the CPU.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: the length is no multiple of 4.
        ProtocolError: ``data`` has another size, a code above 5, or a bit set behind the last one.

    Example:
        >>> from pyfed.pruning.patterns import unpack_2_4
        >>> unpack_2_4(b")", 8)
        tensor([197], dtype=torch.uint8)
    """
    view = data_view("unpack_2_4", data)
    _expect_fours("unpack_2_4", length)
    if len(view) != _bytes_of_fours(length):
        raise ProtocolError(
            f"unpack_2_4: data has {len(view)} bytes; a mask of {length} elements has "
            f"{_bytes_of_fours(length)}"
        )
    size = bytes_of(length)
    triples = np.zeros((-(-size // 4), 4), np.uint8)
    flat = np.zeros(3 * len(triples), np.uint8)
    flat[: len(view)] = np.frombuffer(view, np.uint8)
    triples[:, :3] = flat.reshape(-1, 3)
    words = triples.view("<u4").reshape(-1, 1)
    codes = (words >> np.array([0, 6, 12, 18], np.uint32) & 63).reshape(-1)
    mask = _PATTERNS[codes[:size]]
    behind = codes[size:].any() or (length % 8 != 0 and codes[size - 1] >> 3)
    if (mask == 0).any() or behind:
        raise ProtocolError("unpack_2_4: data has a code above 5, or a bit set behind the last one")
    if length % 8:
        mask[-1] &= 15
    return torch.from_numpy(mask)


def _bytes_of_fours(length: int) -> int:
    """⌈3·length / 32⌉: 3 bits for each group."""
    return -(-3 * length // 32)


def _expect_fours(op: str, length: int) -> None:
    expect_int(op, "length", length, 0, LONGEST)
    if length % 4:
        raise ArgumentError(f"{op}: length is {length}; it must be a multiple of 4")
