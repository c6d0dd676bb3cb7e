"""The search for the k-th order of a group by digits, in Triton: histograms, then marking."""

import triton
import triton.language as tl

from .common import store_tile
from .order import LAYOUT, order_at, origin, place, report_votes


@triton.jit
def bins_of(
    counts,
    tie,
    begin,
    start,
    stop,
    columns,
    tile_rows,
    tile_columns,
    most,
    prefix,
    shift,
    TIES: tl.constexpr,
    EXPONENT: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How many elements ``start`` … ``stop`` - 1 of a group have each digit: int64 (256,).

    The digit is the 8 bits above the lowest ``shift``, of orders whose bits above are ``prefix``.
    The group begins at ``begin``; all else is as for ``order_at`` and ``place``.
    """
    bins = tl.zeros((256,), tl.int64)
    for first in range(start, stop, BLOCK):
        offset, inside, full = place(begin, first, columns, tile_rows, tile_columns, WHOLE, BLOCK)
        order, _, _ = order_at(counts, tie, offset, inside, full, most, TIES, EXPONENT)
        begins = (order >> shift >> 8) == prefix
        bins += tl.histogram(((order >> shift) & 255).to(tl.int32), 256, mask=inside & begins)
    return bins


@triton.jit
def mark(
    out,
    counts,
    tie,
    word,
    begin,
    start,
    stop,
    columns,
    tile_rows,
    tile_columns,
    most,
    threshold,
    wanted,
    TIES: tl.constexpr,
    EXPONENT: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mark the elements ``start`` … ``stop`` - 1 of a group that are pruned, and report bad ones.

    Pruned are those below the order ``threshold``, and the first ``wanted`` of those at it, which
    may be none or a negative number (int64). All else is as for ``bins_of``.
    """
    for first in range(start, stop, BLOCK):
        offset, inside, full = place(begin, first, columns, tile_rows, tile_columns, WHOLE, BLOCK)
        order, bad_count, bad_float = order_at(
            counts, tie, offset, inside, full, most, TIES, EXPONENT
        )
        equal = inside & (order == threshold)
        rank = tl.cumsum(equal.to(tl.int32), 0)
        chosen = (order < threshold) | (equal & (rank <= wanted))
        store_tile(out + offset, chosen.to(tl.uint8), inside, full)
        wanted -= tl.sum(equal.to(tl.int32))
        report_votes(word, inside, bad_count, bad_float)


@triton.jit(do_not_specialize=[*LAYOUT, "counts", "tie", "k"])
def group_kernel(
    out,  # uint8 (rows, columns), as counts and tie
    counts,
    tie,
    word,
    columns: tl.int64,
    tile_rows: tl.int64,
    tile_columns: tl.int64,
    most: tl.int32,
    k: tl.int64,
    TIES: tl.constexpr,
    EXPONENT: tl.constexpr,
    DIGITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One group."""
    group = tl.program_id(0).to(tl.int64)
    begin = origin(group, columns, tile_rows, tile_columns)
    size = tile_rows * tile_columns
    wanted = k.to(tl.int64)  # interpreted, a small number comes as int32
    prefix = wanted * 0
    for digit in range(DIGITS):
        bins = bins_of(
            *(counts, tie, begin, group * 0, size, columns, tile_rows, tile_columns, most),
            *(prefix, 8 * (DIGITS - 1 - digit), TIES, EXPONENT, False, BLOCK),
        )
        below = tl.cumsum(bins, 0) < wanted
        wanted -= tl.sum(tl.where(below, bins, 0))
        prefix = prefix * 256 + tl.sum(below.to(tl.int32))
    mark(
        *(out, counts, tie, word, begin, group * 0, size, columns, tile_rows, tile_columns, most),
        *(prefix, wanted, TIES, EXPONENT, False, BLOCK),
    )


@triton.jit
def chunk_of(size, CHUNK: tl.constexpr):
    """Group, first element and end of this program's chunk."""
    program = tl.program_id(0).to(tl.int64)
    chunks = (size + CHUNK - 1) // CHUNK
    start = program % chunks * CHUNK
    return program // chunks, start, tl.minimum(start + CHUNK, size)


@triton.jit(do_not_specialize=[*LAYOUT, "shift"])
def histogram_kernel(
    out,  # int32 (groups, chunks, 256)
    counts,
    tie,
    prefix,  # int64 (groups,)
    columns: tl.int64,
    tile_rows: tl.int64,
    tile_columns: tl.int64,
    most: tl.int32,
    shift: tl.int32,
    TIES: tl.constexpr,
    EXPONENT: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The histogram of one chunk of a group."""
    group, start, stop = chunk_of(tile_rows * tile_columns, CHUNK)
    begin = origin(group, columns, tile_rows, tile_columns)
    bins = bins_of(
        *(counts, tie, begin, start, stop, columns, tile_rows, tile_columns, most),
        *(tl.load(prefix + group), shift, TIES, EXPONENT, WHOLE, BLOCK),
    )
    target = out + tl.program_id(0).to(tl.int64) * 256 + tl.arange(0, 256)
    tl.store(target, bins.to(tl.int32))


@triton.jit(do_not_specialize=LAYOUT)
def mark_kernel(
    out,  # uint8 (rows, columns), as counts and tie
    counts,
    tie,
    word,
    threshold,  # int64 (groups,)
    wanted,  # int64 (groups, chunks): how many at the threshold, of this chunk and later ones
    columns: tl.int64,
    tile_rows: tl.int64,
    tile_columns: tl.int64,
    most: tl.int32,
    TIES: tl.constexpr,
    EXPONENT: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Prune in one chunk of a group."""
    group, start, stop = chunk_of(tile_rows * tile_columns, CHUNK)
    begin = origin(group, columns, tile_rows, tile_columns)
    mark(
        *(out, counts, tie, word, begin, start, stop, columns, tile_rows, tile_columns, most),
        *(tl.load(threshold + group), tl.load(wanted + tl.program_id(0))),
        *(TIES, EXPONENT, WHOLE, BLOCK),
    )
