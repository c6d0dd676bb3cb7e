"""CountSketch in Triton, without atomic additions: samples are sorted by their rows of G.

A program then adds up the samples of one row, in their order, so that sums are always the same.
The transpose only looks up.
"""

import triton
import triton.language as tl

from .common import NOT_FINITE, clear_shared, report_any
from .entries import COUNTSKETCH, words_of
from .floats import not_finite
from .philox import tile_owner
from .projection import rows_from


@triton.jit
def places_of(source, place, stream, rows, PUBLIC: tl.constexpr, COUNT: tl.constexpr):
    """The row of G that each of ``COUNT`` columns has its entry in, and that entry's sign.

    Args:
        source: pointer to the seed or the key, int32.
        place: the first column, int64, a multiple of 16.
        stream: uint32 scalar.
        rows: of G, at most 2^31.
        PUBLIC: which of the two.
        COUNT: a multiple of 16.

    Returns:
        int64 (COUNT,), and uint32 (COUNT,), 1 for minus.
    """
    zero = tl.zeros((1,), tl.uint32)
    chosen = words_of(source, zero, place, stream, COUNTSKETCH, PUBLIC, COUNT)
    sign = words_of(source, zero + 1, place, stream, COUNTSKETCH, PUBLIC, COUNT)
    row = (tl.reshape(chosen, (COUNT,)).to(tl.uint64) * rows.to(tl.uint64)) >> 32
    return row.to(tl.int64), tl.reshape(sign, (COUNT,)) & 1


@triton.jit
def signed(value, sign):
    """float32, negated on its bits where ``sign`` is 1."""
    return (value.to(tl.uint32, bitcast=True) ^ (sign << 31)).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["source", "starts", "samples", "rows", "clients", "stream"])
def place_kernel(
    row_of,  # int32 or int64 (samples,): of the rows of all clients, one after another
    sign_of,  # int8 (samples,)
    source,  # int32 (2,) the seed, or int32 (8,) the key
    starts,  # int64 (clients + 1,)
    samples: tl.int64,
    rows: tl.int64,
    clients: tl.int64,
    stream: tl.int32,
    PUBLIC: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """Where one tile of one client's samples goes."""
    tile = tl.program_id(0).to(tl.int64)
    client, begin, first, end = tile_owner(starts, clients, samples, 1, tile, SAMPLES)
    own = (stream + client).to(tl.uint32)
    row, sign = places_of(source, first - begin, own, rows, PUBLIC, SAMPLES)
    sample = first + tl.arange(0, SAMPLES)
    tl.store(row_of + sample, (client * rows + row).to(row_of.dtype.element_ty), mask=sample < end)
    tl.store(sign_of + sample, sign.to(tl.int8), mask=sample < end)
    clear_shared()


@triton.jit(do_not_specialize=["order", "begins", "rows", "features", "scale"])
def bucket_kernel(
    out,  # float32 (splits, rows, features)
    x,  # float32 (samples, features)
    sign_of,  # int8 (samples,)
    order,  # int64 (samples,): sorted by row
    begins,  # int64 (rows + 1,): where each row's samples begin in it
    word,
    rows: tl.int64,  # of all clients
    features: tl.int64,
    scale: tl.float32,
    EVEN: tl.constexpr,  # features are counted in 4, and x begins on 16 bytes: for alignment
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The sum of the samples of one row, in one tile of columns."""
    if EVEN:
        features = features * 4
    tiles = tl.cdiv(features, COLUMNS)
    row = tl.program_id(0).to(tl.int64) // tiles
    column = tl.program_id(0).to(tl.int64) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    begin, end = tl.load(begins + row), tl.load(begins + row + 1)
    span = tl.cdiv(end - begin, tl.num_programs(1))
    begin += tl.program_id(1) * span
    end = tl.minimum(begin + span, end)
    some = column < features
    x = rows_from(x, row * 0, features, EVEN)
    sums = tl.zeros((SAMPLES, COLUMNS), tl.float32)
    bad = tl.zeros((SAMPLES, COLUMNS), tl.int1)
    for start in range(begin, end, SAMPLES):
        place = start + tl.arange(0, SAMPLES)
        held = place < end
        sample = tl.load(order + place, mask=held, other=0)
        sign = tl.load(sign_of + sample, mask=held, other=0).to(tl.uint32)
        at = x + sample[:, None] * features + column[None, :]
        value = tl.load(at, mask=held[:, None] & some[None, :], other=0.0)
        bad = bad | not_finite(value)
        sums += signed(value, sign[:, None])
    report_any(word, bad, NOT_FINITE)
    at = out + (tl.program_id(1) * rows + row) * features + column
    tl.store(at, tl.sum(sums, 0) * scale, mask=some)


@triton.jit(
    do_not_specialize=[
        "source",
        "starts",
        "samples",
        "rows",
        "features",
        "clients",
        "stream",
        "scale",
    ]
)
def lookup_kernel(
    out,  # float32 (samples, features)
    x,  # float32 (clients, rows, features)
    source,  # int32 (2,) the seed, or int32 (8,) the key
    starts,  # int64 (clients + 1,)
    samples: tl.int64,
    rows: tl.int64,
    features: tl.int64,
    clients: tl.int64,
    stream: tl.int32,
    scale: tl.float32,
    PUBLIC: tl.constexpr,
    EVEN: tl.constexpr,  # features are counted in 4, and x begins on 16 bytes: for alignment
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of Gᵀ x, samples of one client."""
    if EVEN:
        features = features * 4
    tiles = tl.cdiv(features, COLUMNS)
    tile = tl.program_id(0).to(tl.int64) // tiles
    column = tl.program_id(0).to(tl.int64) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    client, begin, first, end = tile_owner(starts, clients, samples, 1, tile, SAMPLES)
    own = (stream + client).to(tl.uint32)
    row, sign = places_of(source, first - begin, own, rows, PUBLIC, SAMPLES)
    sample = first + tl.arange(0, SAMPLES)
    inside = (sample < end)[:, None] & (column < features)[None, :]
    at = rows_from(x, client * rows, features, EVEN) + row[:, None] * features + column[None, :]
    value = tl.load(at, mask=inside)
    value = signed(value * scale, sign[:, None])
    tl.store(out + sample[:, None] * features + column[None, :], value, mask=inside)
    clear_shared()
