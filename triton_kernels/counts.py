"""Sums of many clients' packed masks in Triton, by carry-save adders on whole words.

A word holds 32 elements where the rows allow it (whole words, aligned), else 8: the kernels take
the size from the pointer. Bit b of a group of totals is one word, a plane, and eight masks are
added to planes at once, in 14 three-input operations and a carry: for 32 bytes read, few enough to
wait for memory only.
"""

import torch
import triton
import triton.language as tl

from .common import BAD_PADDING, TOO_MANY, ceil_div, report_any

WORDS = 128  # of a program: one for each thread of 4 warps, with 8 planes of its elements
CHUNK = tl.constexpr(248)  # masks that 8 planes hold, a multiple of 8


@triton.jit
def full_add(a, b, c):
    """Sum and carry of three bits, in every bit of a word."""
    partial = a ^ b
    return partial ^ c, (a & b) | (partial & c)


@triton.jit
def ripple(planes, carry):
    """Add one bit to the numbers in a tuple of planes; gives the planes and the carry out."""
    out = ()
    for i in tl.static_range(len(planes)):
        out += (planes[i] ^ carry,)
        carry = planes[i] & carry
    return out, carry


@triton.jit
def zero_planes(like, PLANES: tl.constexpr):
    """A tuple of planes that hold 0."""
    out = ()
    for _ in tl.static_range(PLANES):
        out += (tl.zeros_like(like),)
    return out


@triton.jit
def add_eight(planes, packed, first, last, width, index):
    """Add the masks ``first`` to ``first`` + 7 that are below ``last`` to a tuple of planes.

    Args:
        planes: at least 3, uint32 (words,).
        packed: pointer to (clients, width) words.
        first: int64 scalar.
        last: int64 scalar.
        width: words of a row.
        index: int64 (words,), which of them.

    Returns:
        The planes, and what was carried out of the last.
    """
    x = ()
    for i in tl.static_range(8):
        there = index < tl.where(first + i < last, width, 0)
        loaded = tl.load(packed + (first + i) * width + index, mask=there, other=0)
        x += (as_word(loaded),)
    ones, a = full_add(planes[0], x[0], x[1])
    ones, b = full_add(ones, x[2], x[3])
    ones, c = full_add(ones, x[4], x[5])
    ones, d = full_add(ones, x[6], x[7])
    twos, a = full_add(planes[1], a, b)
    twos, b = full_add(twos, c, d)
    fours, carry = full_add(planes[2], a, b)
    above, carry = ripple(planes[3:], carry)
    planes = (ones, twos, fours)
    planes += above
    return planes, carry


@triton.jit
def as_word(loaded):
    """What was loaded, int32 or uint8, as uint32."""
    if loaded.dtype == tl.int32:
        return loaded.to(tl.uint32, bitcast=True)
    return loaded.to(tl.uint32)


@triton.jit
def numbers(planes, WORDS: tl.constexpr, BITS: tl.constexpr):
    """The numbers in 8 planes: int32 (WORDS · BITS,).

    A product spreads four bits to four bytes, so that all planes of four elements gather in one
    word before it is taken apart.
    """
    nibble = (tl.arange(0, BITS // 4) * 4)[None, :].to(tl.uint32)
    four = tl.zeros((WORDS, BITS // 4), tl.uint32)
    for i in tl.static_range(8):
        bits = (planes[i][:, None] >> nibble) & 0xF
        four |= ((bits * 0x00204081) & 0x01010101) << i
    byte = (tl.arange(0, 4) * 8)[None, None, :].to(tl.uint32)
    return tl.reshape(((four[:, :, None] >> byte) & 0xFF).to(tl.int32), (WORDS * BITS,))


@triton.jit(do_not_specialize=["packed", "clients", "length", "width"])
def count_kernel(
    out,  # uint8 or int32 (length,)
    packed,  # int32 or uint8 (clients, width)
    word,
    clients: tl.int64,
    length: tl.int64,
    width: tl.int64,
    WORDS: tl.constexpr,
    BITS: tl.constexpr,
):
    """The counts of one tile of elements, a chunk of clients at a time."""
    tile = tl.program_id(0).to(tl.int64)
    index = tile * WORDS + tl.arange(0, WORDS)
    total = tl.zeros((WORDS * BITS,), tl.int32)
    for start in range(0, clients, CHUNK):
        planes = zero_planes(index.to(tl.uint32), 8)
        last = tl.minimum(clients, start + CHUNK)
        for first in range(start, last, 8):
            planes, _ = add_eight(planes, packed, first, last, width, index)
        total += numbers(planes, WORDS, BITS)
    element = tile * (WORDS * BITS) + tl.arange(0, WORDS * BITS)
    tl.store(out + element, total.to(out.dtype.element_ty), mask=element < length)
    # Behind the last element only padding bits were counted.
    report_any(word, (element >= length) & (total != 0), BAD_PADDING)


@triton.jit(
    do_not_specialize=["planes", "packed", "count", "clients", "out_count", "length", "width"]
)
def add_kernel(
    out,  # int32 or uint8 (out_count, width), as all three
    planes,  # (count, width)
    packed,  # (clients, width)
    word,
    count: tl.int32,
    clients: tl.int64,
    out_count: tl.int32,
    length: tl.int64,
    width: tl.int64,
    WORDS: tl.constexpr,
    BITS: tl.constexpr,
):
    """The new planes of one tile of words."""
    index = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    total = ()
    for i in tl.static_range(16):
        there = index < tl.where(i < count, width, 0)
        total += (as_word(tl.load(planes + i * width + index, mask=there, other=0)),)
    lost = tl.zeros_like(total[0])
    for first in range(0, clients, 8):
        total, carry = add_eight(total, packed, first, clients, width, index)
        lost |= carry
    used = lost
    for i in tl.static_range(16):
        used |= total[i]
        lost |= tl.where(i < out_count, 0, total[i])
        tl.store(
            *(out + i * width + index, total[i].to(out.dtype.element_ty, bitcast=BITS == 32)),
            mask=index < tl.where(i < out_count, width, 0),
        )
    filled = tl.minimum(tl.maximum(length - index * BITS, 0), BITS).to(tl.uint64)
    elements = ((filled * 0 + 1) << filled) - 1
    report_any(word, (used & ~elements) != 0, BAD_PADDING)
    report_any(word, (lost & elements) != 0, TOO_MANY)


@triton.jit(do_not_specialize=["planes", "count", "length", "width"])
def totals_kernel(
    out,  # uint8 or int32 (length,)
    planes,  # int32 or uint8 (count, width)
    word,
    count: tl.int32,
    length: tl.int64,
    width: tl.int64,
    WORDS: tl.constexpr,
    BITS: tl.constexpr,
):
    """The totals of one tile of elements."""
    tile = tl.program_id(0).to(tl.int64)
    index = tile * WORDS + tl.arange(0, WORDS)
    total = tl.zeros((WORDS * BITS,), tl.int32)
    for group in tl.static_range(out.dtype.element_ty.primitive_bitwidth // 8):
        if group < 2:
            eight = ()
            for i in tl.static_range(8 * group, 8 * group + 8):
                there = index < tl.where(i < count, width, 0)
                loaded = tl.load(planes + i * width + index, mask=there, other=0)
                eight += (as_word(loaded),)
            total += numbers(eight, WORDS, BITS) << (8 * group)
    element = tile * (WORDS * BITS) + tl.arange(0, WORDS * BITS)
    tl.store(out + element, total.to(out.dtype.element_ty), mask=element < length)
    report_any(word, (element >= length) & (total != 0), BAD_PADDING)


def _words(*rows: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], dict[str, int]]:
    """Packed rows as words of 32 bits where they consist of such, and the tile of the kernels."""
    whole = all(r.shape[1] % 4 == 0 and r.stride(1) == 1 and r.data_ptr() % 4 == 0 for r in rows)
    bits = 32 if whole else 8
    if whole:
        rows = tuple(r.view(torch.int32) for r in rows)
    return rows, {"WORDS": WORDS, "BITS": bits}


def mask_count(packed: torch.Tensor, length: int, word: torch.Tensor) -> torch.Tensor:
    """Count the masks that have each element set: uint8 (clients, ⌈length / 8⌉) → (length,).

    Args:
        packed: at most 65,535 clients.
        length: elements of a mask.
        word: gets bit 8 when a bit behind the last element is set.

    Returns:
        uint8 up to 255 clients, int32 beyond.
    """
    clients = packed.shape[0]
    dtype = torch.uint8 if clients <= 255 else torch.int32
    out = torch.empty(length, dtype=dtype, device=packed.device)
    if length == 0:
        return out
    (packed,), tile = _words(packed.contiguous())
    with torch.cuda.device_of(out):
        count_kernel[(ceil_div(packed.shape[1], WORDS),)](
            out, packed, word, clients, length, packed.shape[1], **tile
        )
    return out


def mask_add(
    planes: torch.Tensor, packed: torch.Tensor, length: int, out_planes: int, word: torch.Tensor
) -> torch.Tensor:
    """Add masks to totals in bit planes: (planes, bytes), (clients, bytes) → (out_planes, bytes).

    Args:
        planes: uint8, at most 16.
        packed: uint8, at most 65,535 clients.
        length: elements of a mask.
        out_planes: at most 16.
        word: gets bit 8 when a bit behind the last element is set, bit 16 when a total does not
            fit in the new planes.
    """
    planes, packed = planes.contiguous(), packed.contiguous()
    out = torch.empty(out_planes, planes.shape[1], dtype=torch.uint8, device=planes.device)
    if length == 0:
        return out
    rows, tile = _words(out, planes, packed)
    counts = planes.shape[0], packed.shape[0], out_planes
    with torch.cuda.device_of(out):
        add_kernel[(ceil_div(rows[0].shape[1], WORDS),)](
            *rows, word, *counts, length, rows[0].shape[1], **tile
        )
    return out


def mask_totals(planes: torch.Tensor, length: int, word: torch.Tensor) -> torch.Tensor:
    """Read totals from bit planes: uint8 (planes, ⌈length / 8⌉) → (length,).

    Args:
        planes: at most 16.
        length: elements of a mask.
        word: gets bit 8 when a bit behind the last element is set.

    Returns:
        uint8 up to 8 planes, int32 beyond.
    """
    count = planes.shape[0]
    dtype = torch.uint8 if count <= 8 else torch.int32
    out = torch.empty(length, dtype=dtype, device=planes.device)
    if length == 0:
        return out
    (planes,), tile = _words(planes.contiguous())
    with torch.cuda.device_of(out):
        totals_kernel[(ceil_div(planes.shape[1], WORDS),)](
            out, planes, word, count, length, planes.shape[1], **tile
        )
    return out
