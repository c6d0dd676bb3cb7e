"""Masks in fewer bits than elements: the difference from a reference mask, entropy-coded.

Masks here are packed: uint8 (⌈length / 8⌉,), as :func:`pyfed.ops.mask_pack` gives them.
"""

from __future__ import annotations

import hashlib
import struct
import zlib

import numpy as np
import numpy.typing as npt
import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.ops.masks import LONGEST, bad_padding, bytes_of, expect_packed

Bytes = npt.NDArray[np.uint8]

RAW, GAPS, BYTES = range(3)
WITH_REFERENCE = 16
HEADER = struct.Struct("<BI")  # method, and CRC-32 of the length, the body and the mask
DIGEST = 8  # bytes of the reference's digest, behind the header

ESCAPE = 255
"""In gaps: 255 clear bits and no set bit behind them. A smaller g: g clear bits, then a set one."""


def encode_mask(packed: torch.Tensor, length: int, reference: torch.Tensor | None = None) -> bytes:
    """Encode a mask, as its difference from a reference that the reader has too.

    Where the difference has few set bits, the numbers of clear bits between them are one byte each
    and these are Huffman-coded, which takes nearly the entropy H(d) of a fraction d of set bits:
    0.29 bits for each element at d = 5 %. Otherwise the bytes of the difference are Huffman-coded,
    and where nothing helps the mask is kept as it is, plus 5 bytes.

    The first byte names the method; then come a CRC-32 and, if it was of use, a digest of the
    reference. Another build of zlib may give other bytes, which every one reads.

    Args:
        packed: uint8 (⌈length / 8⌉,), on any device.
        length: elements of the mask.
        reference: a packed mask of the same length, such as the last round's; None: no mask.

    Returns:
        At most ⌈length / 8⌉ + 5 bytes.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: a shape does not fit the length, or a padding bit is set.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.pruning import decode_mask, encode_mask
        >>> old = torch.rand(100_000) < 0.5
        >>> new = old ^ (torch.rand(100_000) < 0.05)
        >>> old, new = pyfed.ops.mask_pack(old), pyfed.ops.mask_pack(new)
        >>> data = encode_mask(new, 100_000, reference=old)
        >>> len(data) * 8 / 100_000 < 0.31
        True
        >>> torch.equal(decode_mask(data, 100_000, reference=old), new)
        True
    """
    mask = mask_array("encode_mask", "packed", packed, length)
    difference, extra, flag = mask, b"", 0
    if reference is not None:
        known = mask_array("encode_mask", "reference", reference, length)
        difference, extra, flag = mask ^ known, _digest(known, length), WITH_REFERENCE
    gaps = _gaps(difference, length)
    method = BYTES if gaps is None else GAPS
    body = extra + _deflated(difference if gaps is None else gaps)
    if len(body) >= len(mask):
        method, flag, body = RAW, 0, mask.tobytes()
    return HEADER.pack(method + flag, _crc(length, body, mask)) + body


def decode_mask(
    data: bytes | bytearray | memoryview, length: int, reference: torch.Tensor | None = None
) -> torch.Tensor:
    """Read a mask that :func:`encode_mask` wrote.

    Nothing about ``data`` is trusted: never more than ⌈length / 8⌉ bytes are unpacked from it, and
    data and mask must match the CRC-32 that came along. That finds damage, not forgery.

    Args:
        data: what a peer sent.
        length: elements of the mask.
        reference: the packed mask that it was encoded against.

    Returns:
        uint8 (⌈length / 8⌉,) on the CPU.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: the reference does not fit the length, or has a padding bit set.
        ProtocolError: ``data`` is not exactly one mask of that length, or was encoded against
            another reference.

    Example:
        >>> import torch
        >>> from pyfed.pruning import decode_mask, encode_mask
        >>> decode_mask(encode_mask(torch.tensor([5], dtype=torch.uint8), 3), 3)
        tensor([5], dtype=torch.uint8)
    """
    view = data_view("decode_mask", data)
    expect_int("decode_mask", "length", length, 0, LONGEST)
    known = None if reference is None else mask_array("decode_mask", "reference", reference, length)
    most = bytes_of(length)
    if not HEADER.size <= len(view) <= HEADER.size + most:
        raise _refused(
            f"data has {len(view)} bytes; a mask of {length} elements has "
            f"{HEADER.size} to {HEADER.size + most}"
        )
    tag, crc = HEADER.unpack_from(view)
    body, method = view[HEADER.size :], tag & ~WITH_REFERENCE
    if method not in (RAW, GAPS, BYTES) or tag == RAW + WITH_REFERENCE:
        raise _refused(f"data names method {tag}, which there is not")
    if tag & WITH_REFERENCE:
        if known is None:
            raise _refused("data is a difference from a reference mask, and none is given")
        if bytes(body[:DIGEST]) != _digest(known, length):
            raise _refused("data was encoded against another reference mask")
        body = body[DIGEST:]
    mask = _undone(method, body, length)
    if len(mask) != most:
        raise _refused(f"{len(mask)} bytes are there for {length} elements; there must be {most}")
    if tag & WITH_REFERENCE:
        assert known is not None
        mask = mask ^ known
    if length % 8 and mask[-1] >> (length % 8):
        raise _refused(f"a bit behind the {length} elements is set")
    if _crc(length, view[HEADER.size :], mask) != crc:
        raise _refused("data was damaged: it does not match its checksum")
    return torch.from_numpy(mask)


def _undone(method: int, body: memoryview, length: int) -> Bytes:
    """The bytes of the mask or difference that a body stands for, writable."""
    values = body if method == RAW else _inflated(body, bytes_of(length))
    out = np.frombuffer(values, np.uint8).copy()
    return _filled(out, length) if method == GAPS else out


def _gaps(difference: Bytes, length: int) -> Bytes | None:
    """The clear bits before every set bit, a byte each; None when that takes ⌈length / 8⌉ bytes."""
    most = bytes_of(length)
    bits = np.unpackbits(difference, count=length, bitorder="little")
    if np.count_nonzero(bits) >= most:
        return None
    places = np.flatnonzero(bits)
    gaps = np.diff(places, prepend=-1) - 1
    escapes = gaps // ESCAPE
    ends = np.cumsum(escapes + 1)
    count = int(ends[-1]) if len(ends) else 0
    if count >= most:
        return None
    out = np.full(count, ESCAPE, np.uint8)
    out[ends - 1] = gaps - ESCAPE * escapes
    return out


def _filled(gaps: Bytes, length: int) -> Bytes:
    """The bits that gaps stand for, packed."""
    if len(gaps) and gaps[-1] == ESCAPE:
        raise _refused("its gaps do not end with a set bit")
    closes = gaps < ESCAPE
    places = np.cumsum(gaps.astype(np.int64) + closes)[closes] - 1
    if len(places) and places[-1] >= length:
        raise _refused(f"its gaps reach element {places[-1]} of {length}")
    bits = np.zeros(length, np.uint8)
    bits[places] = 1
    return np.packbits(bits, bitorder="little")


def _deflated(values: Bytes) -> bytes:
    # Huffman codes alone: the repetitions that zlib would find are chance, and cost more bits.
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(values.tobytes()) + packer.flush()


def _inflated(body: memoryview, most: int) -> bytes:
    """The bytes of one whole raw deflate stream, at most ``most``; refused when there are more."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise _refused(f"data is no deflate stream: {error}") from None
    if len(out) > most or not unpacker.eof:
        raise _refused(f"data is cut short or stands for more than {most} bytes")
    if unpacker.unused_data:
        raise _refused(f"{len(unpacker.unused_data)} bytes follow the mask")
    return out


def mask_array(op: str, name: str, packed: object, length: int) -> Bytes:
    """A packed mask as an array (⌈length / 8⌉,); raises unless it is one."""
    expect_packed(op, name, packed, length, 1)
    assert isinstance(packed, torch.Tensor)
    if bool(bad_padding(packed, length).any()):
        raise ArgumentError(
            f"{op}: {name} has a bit set behind its {length} elements; padding bits must be 0"
        )
    array: Bytes = packed.detach().cpu().numpy()
    return array


def data_view(op: str, data: object) -> memoryview:
    """The bytes that a peer sent; raises unless they are bytes."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DtypeError(f"{op}: data is {type(data).__name__}; it must be bytes")
    return memoryview(data).cast("B")


def _crc(length: int, body: bytes | memoryview, mask: Bytes) -> int:
    crc = zlib.crc32(body, zlib.crc32(length.to_bytes(8, "little")))
    return zlib.crc32(mask.tobytes(), crc)


def _digest(mask: Bytes, length: int) -> bytes:
    counted = hashlib.blake2b(length.to_bytes(8, "little"), digest_size=DIGEST)
    counted.update(mask.tobytes())
    return counted.digest()


def _refused(reason: str) -> ProtocolError:
    return ProtocolError(f"decode_mask: {reason}")
