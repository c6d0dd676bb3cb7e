"""The order in which elements are pruned, as one integer each, and where those of a group lie.

The order of an element is (most - count) · 2^b + key: fewer votes and larger keys come later. The
key has as many bits as what it is made of: none, a random word, or the bits of a float, which
ascend with its magnitude; so half precision takes half the passes. Nothing here computes in floats.
"""

import triton
import triton.language as tl

from .common import BAD_COUNT, NOT_FINITE, load_tile, report_any

INDEX = tl.constexpr(0)
RANDOM = tl.constexpr(1)
MAGNITUDE = tl.constexpr(2)
SCORE = tl.constexpr(3)

LAYOUT = ["columns", "tile_rows", "tile_columns", "most"]
"""Numbers that all kernels take and none is specialised on."""


@triton.jit
def order_at(
    counts,  # uint8 or int32
    tie,  # int32 words; or the bits of floats, int32 or int16; or None
    offset,
    inside,
    full,  # as for load_tile
    most,  # the largest count allowed, int32 scalar
    TIES: tl.constexpr,
    EXPONENT: tl.constexpr,  # bits of a float that are all set where it is not finite
):
    """The orders of a tile: int32 or int64, at least 0; bad counts are clamped, bad floats are 0.

    Returns:
        Orders, which counts are bad, which floats are bad; all shaped like ``offset``.
    """
    count = load_tile(counts + offset, inside, full).to(tl.int32)
    bad_count = (count < 0) | (count > most)
    wide = counts.dtype.element_ty == tl.int32
    top = 65535 if wide else 255
    order = top - tl.minimum(tl.maximum(count, 0), top)
    bad_float = bad_count & False
    if TIES != INDEX:
        loaded = load_tile(tie + offset, inside, full)
        if TIES == RANDOM:
            key = loaded.to(tl.uint32, bitcast=True).to(tl.int64)
        else:
            sign = 1 << (tie.dtype.element_ty.primitive_bitwidth - 1)
            bits = loaded.to(tl.int64)
            key = bits & (sign - 1)
            bad_float = (key & EXPONENT) == EXPONENT
            key = tl.where(bad_float, 0, key)
            if TIES == SCORE:
                key = sign + tl.where(bits < 0, -key, key)
        order = (order.to(tl.int64) << tie.dtype.element_ty.primitive_bitwidth) | key
    return order, bad_count, bad_float


@triton.jit
def origin(group, columns, tile_rows, tile_columns):
    """Where the first element of each group lies in the matrix."""
    across = columns // tile_columns
    return group // across * tile_rows * columns + group % across * tile_columns


@triton.jit
def place(
    first,
    start,
    columns,
    tile_rows,
    tile_columns,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The elements ``start`` … of one group.

    Args:
        first: int64 scalar, where the group begins.
        start: int64 scalar, index in the group, row by row.
        columns: of the matrix.
        tile_rows: of a group.
        tile_columns: of a group.
        WHOLE: the matrix is one group.
        BLOCK: how many.

    Returns:
        Where they lie, int64 (BLOCK,); which there are; whether they are all there, in one piece.
    """
    lane = tl.arange(0, BLOCK)
    size = tile_rows * tile_columns
    inside = start + lane < size
    full = (start + BLOCK <= size) & WHOLE
    if WHOLE:
        return start + lane, inside, full
    column = start % tile_columns + lane
    # Division is slow in 64 bits, and none is needed where a tile has no more than one line end.
    if tile_columns < BLOCK:
        line = column.to(tl.int32) // tile_columns.to(tl.int32)
    else:
        line = (column >= tile_columns).to(tl.int32)
    row = start // tile_columns + line
    return first + row * columns + (column - line * tile_columns), inside, full


@triton.jit
def report_votes(word, inside, bad_count, bad_float):
    """Report the bad elements of a tile."""
    report_any(word, inside & bad_count, BAD_COUNT)
    report_any(word, inside & bad_float, NOT_FINITE)
