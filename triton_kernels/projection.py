"""Products with a dense G that is never stored, in Triton: its tiles are made where they are used.

A program takes one tile of one client's sketch and goes through that client's samples, or through
a part of them where there are few tiles. G's columns are counted from the client's first sample.
"""

import triton
import triton.language as tl

from .common import NOT_FINITE, clear_shared, report_any
from .entries import RADEMACHER, add_normals, add_signs, nearest_pieces, sign_tile, words_of
from .floats import not_finite
from .normal import normals_of

SPAN = tl.constexpr(512)  # samples that one block of ChaCha20 has the signs of


@triton.jit
def rows_from(x, first, features, EVEN: tl.constexpr):
    """Where row ``first`` of x (…, features) begins, in 16 bytes where ``EVEN``."""
    at = x + first * features
    return tl.multiple_of(at, 16) if EVEN else at


@triton.jit
def samples_tile(x, sample, end, column, features):
    """The float32 tile of x (…, features) at these samples, 0 from ``end`` on."""
    at = x + sample[:, None] * features + column[None, :]
    return tl.load(at, mask=(sample < end)[:, None] & (column < features)[None, :], other=0.0)


@triton.jit
def report_samples(word, sums, x, begin, end, column, features, DEPTH: tl.constexpr):
    """Tell of samples that are not finite; they are looked for where sums are not."""
    if tl.max(not_finite(sums).to(tl.int32)) != 0:
        for start in range(begin, end, DEPTH):
            value = samples_tile(x, start + tl.arange(0, DEPTH), end, column, features)
            report_any(word, not_finite(value), NOT_FINITE)


@triton.jit(
    do_not_specialize=["source", "starts", "samples", "rows", "features", "clients", "stream"]
)
def sketch_kernel(
    out,  # float32 (splits, clients, rows, features)
    x,  # float32 (samples, features)
    source,  # int32 (2,) the seed, or int32 (8,) the key
    starts,  # int64 (clients + 1,); what lies outside x, or does not ascend, is clamped
    word,
    samples: tl.int64,  # of all clients
    rows: tl.int64,
    features: tl.int64,
    clients: tl.int64,
    stream: tl.int32,
    KIND: tl.constexpr,
    PUBLIC: tl.constexpr,
    EVEN: tl.constexpr,  # features are counted in 4, and x begins on 16 bytes: for alignment
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,  # 32 for signs
):
    """One tile of one client's G x."""
    if EVEN:
        features = features * 4
    row_tiles, column_tiles = tl.cdiv(rows, ROWS), tl.cdiv(features, COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    column = program % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    row = program // column_tiles % row_tiles * ROWS + tl.arange(0, ROWS)
    client = program // (column_tiles * row_tiles)
    own = (stream + client).to(tl.uint32)
    begin = tl.minimum(tl.maximum(tl.load(starts + client), 0), samples)
    count = tl.minimum(tl.maximum(tl.load(starts + client + 1), begin), samples) - begin
    mine = rows_from(x, begin, features, EVEN)
    splits, split = tl.num_programs(1), tl.program_id(1)
    span = tl.cdiv(tl.cdiv(count, SPAN), splits) * SPAN
    first = split * span
    last = tl.minimum(first + span, count)
    place = row.to(tl.uint32)
    k = tl.arange(0, DEPTH)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    if KIND == RADEMACHER:
        HELD: tl.constexpr = 4 if PUBLIC else 16
        words = tl.zeros((ROWS, HELD), tl.uint32)
        for start in range(first, last, 32):
            number = (start >> 5) % HELD
            if number == 0:
                words = words_of(source, place, start >> 5, own, KIND, PUBLIC, HELD)
            chosen = tl.arange(0, HELD)[None, :] == number
            left = sign_tile(tl.sum(tl.where(chosen, words, 0), 1))
            value = samples_tile(mine, start + k, count, column, features)
            sums = add_signs(sums, left, value)
    else:
        for start in range(first, last, DEPTH):
            words = words_of(source, place, start, own, KIND, PUBLIC, DEPTH)
            high, middle, low = nearest_pieces(normals_of(words))
            value = samples_tile(mine, start + k, count, column, features)
            sums = add_normals(sums, high, middle, low, value)
    at = out + ((split * clients + client) * rows + row[:, None]) * features + column[None, :]
    tl.store(at, sums, mask=(row < rows)[:, None] & (column < features)[None, :])
    report_samples(word, sums, mine, first, last, column, features, DEPTH)
    clear_shared()
