"""What bytes from a stranger may hold, told from msgpack's tags before any of it is unpacked."""

from __future__ import annotations

import struct
from typing import NoReturn

from pyfed.errors import ProtocolError

_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}  # nil, false, true, float32, float64
_FIXED |= {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}  # integers
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes and str: width of the size
_ARRAYS = {0xDC: 2, 0xDD: 4}
_SIZES = {1: ">B", 2: ">H", 4: ">I"}
DEPTH = 8
"""Messages nest less deeply than this."""


def _malformed(reason: str) -> NoReturn:
    raise ProtocolError(f"a message is not well-formed msgpack: {reason}")


def _size(packed: memoryview, at: int, width: int) -> int:
    if at + width > len(packed):
        _malformed("it is cut short")
    (size,) = struct.unpack_from(_SIZES[width], packed, at)
    return int(size)


def _step(packed: memoryview, at: int) -> tuple[int, int]:
    """Where the object after the tag at ``at`` begins, and how many members an array has."""
    tag = packed[at]
    after, members = at + 1, 0
    if tag < 0x80 or tag >= 0xE0:  # small integers
        pass
    elif 0x90 <= tag < 0xA0:
        members = tag - 0x90
    elif 0xA0 <= tag < 0xC0:
        after += tag - 0xA0
    elif tag in _FIXED:
        after += _FIXED[tag]
    elif tag in _SIZED:
        width = _SIZED[tag]
        after += width + _size(packed, after, width)
    elif tag in _ARRAYS:
        width = _ARRAYS[tag]
        members = _size(packed, after, width)
        after += width
    else:
        _malformed(f"byte {tag:#04x} begins a map or an extension")
    if after > len(packed):
        _malformed("it is cut short")
    return after, members


def expect_few_objects(packed: memoryview, most: int) -> None:
    """Raise ProtocolError unless the bytes are one object with at most ``most`` objects in it.

    An object that is unpacked takes some 60 bytes of memory and may have come in one, so the
    number is bounded first. Nothing is allocated here.
    """
    at, objects = 0, 0
    open_arrays = [1]  # members that each array still lacks
    while open_arrays:
        if at >= len(packed):
            _malformed("it is cut short")
        at, members = _step(packed, at)
        objects += 1
        if objects + members > most:
            _malformed(f"it has more than {most} objects")
        open_arrays[-1] -= 1
        if members:
            open_arrays.append(members)
            if len(open_arrays) > DEPTH:
                _malformed(f"it is nested more than {DEPTH} deep")
        while open_arrays and open_arrays[-1] == 0:
            open_arrays.pop()
    if at != len(packed):
        _malformed(f"{len(packed) - at} bytes follow it")


def kind_name(packed: memoryview) -> str:
    """The name of a message's type: the third field, read without unpacking the others."""
    at, members = _step(packed, 0)
    if members < 8:
        raise ProtocolError("a message is not an array with a header of 8 fields")
    for _ in range(2):  # version and protocol; what else may stand there fails the later checks
        if at < len(packed):
            at, _members = _step(packed, at)
    if at >= len(packed) or not 0xA0 <= packed[at] < 0xC0:
        raise ProtocolError("a message is not an array with a header of 8 fields")
    size = packed[at] - 0xA0
    try:
        return str(packed[at + 1 : at + 1 + size], "utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("a message has a type that is no text") from None
