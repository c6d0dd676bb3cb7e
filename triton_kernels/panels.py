"""Products with a dense G by panels of it, in Triton: each is made once, and small enough for L2.

A panel is a block of rows of G, and of samples of all clients: bfloat16 (pieces, height, width),
one piece for signs, three for normals. One kernel fills it; the next multiplies by it, or by its
transpose, and adds to what other panels have given.
"""

import triton
import triton.language as tl

from .common import clear_shared
from .entries import (
    RADEMACHER,
    add_normals,
    add_signs,
    narrowed,
    nearest_pieces,
    words_of,
)
from .normal import normals_of
from .philox import tile_owner
from .projection import report_samples, rows_from, samples_tile


@triton.jit(
    do_not_specialize=[
        *("source", "starts", "first_row", "first_sample", "height", "width"),
        *("samples", "clients", "stream"),
    ]
)
def panel_kernel(
    panel,  # bfloat16 (pieces, height, width)
    source,  # int32 (2,) the seed, or int32 (8,) the key
    starts,  # int64 (clients + 1,)
    first_row: tl.int64,
    first_sample: tl.int64,
    height: tl.int64,
    width: tl.int64,
    samples: tl.int64,  # of all clients
    clients: tl.int64,
    stream: tl.int32,
    KIND: tl.constexpr,
    PUBLIC: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,  # 32 signs for each word of a block; or a multiple of 16 normals
):
    """One tile of rows and samples; the samples are those of one client."""
    tile = tl.program_id(0).to(tl.int64) + first_sample // SAMPLES
    client, begin, first, end = tile_owner(starts, clients, samples, 1, tile, SAMPLES)
    line = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = (first_row + line).to(tl.uint32)
    own = (stream + client).to(tl.uint32)
    sample = first + tl.arange(0, SAMPLES)
    place = sample - first_sample
    inside = (line < height)[:, None] & ((sample < end) & (place >= 0) & (place < width))[None, :]
    at = panel + line[:, None] * width + place[None, :]
    if KIND == RADEMACHER:
        HELD: tl.constexpr = SAMPLES // 32
        words = words_of(source, row, (first - begin) >> 5, own, KIND, PUBLIC, HELD)
        moved = words[:, :, None] << (31 - tl.arange(0, 32))[None, None, :].to(tl.uint32)
        signs = narrowed(((moved & 0x80000000) | 0x3F800000).to(tl.float32, bitcast=True))
        tl.store(at, tl.reshape(signs, (ROWS, SAMPLES)), mask=inside)
    else:
        words = words_of(source, row, first - begin, own, KIND, PUBLIC, SAMPLES)
        high, middle, low = nearest_pieces(normals_of(words))
        tl.store(at, high, mask=inside)
        tl.store(at + height * width, middle, mask=inside)
        tl.store(at + 2 * height * width, low, mask=inside)
    clear_shared()


@triton.jit
def panel_tile(at, inside, TRANSPOSED: tl.constexpr):
    """A tile of the panel, 0 where ``inside`` is false; transposed where it is multiplied so."""
    value = tl.load(at, mask=inside, other=0.0)
    return tl.trans(value) if TRANSPOSED else value


@triton.jit(
    do_not_specialize=[
        *("starts", "first_row", "first_sample", "height", "width", "rows", "samples"),
        *("features", "clients", "add"),
    ]
)
def panel_product_kernel(
    out,  # float32 (splits, rows, features), or (splits, samples, features)
    panel,  # bfloat16 (pieces, height, width)
    x,  # float32 (samples, features) of one client, or (clients, rows, features)
    starts,  # int64 (clients + 1,)
    word,
    first_row: tl.int64,
    first_sample: tl.int64,
    height: tl.int64,
    width: tl.int64,
    rows: tl.int64,
    samples: tl.int64,
    features: tl.int64,
    clients: tl.int64,
    add: tl.int32,  # 1: to what is there
    KIND: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    EVEN: tl.constexpr,  # as in sketch_kernel, and the width is counted in 8
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """One tile of the panel, or of its transpose, times x."""
    if EVEN:
        features, width = features * 4, width * 8
    column_tiles = tl.cdiv(features, COLUMNS)
    tile = tl.program_id(0).to(tl.int64) // column_tiles
    column = tl.program_id(0).to(tl.int64) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    if TRANSPOSED:
        tile += first_sample // ROWS
        client, _, begin, stop = tile_owner(starts, clients, samples, 1, tile, ROWS)
        target = begin + tl.arange(0, ROWS)
        line = target - first_sample  # column of the panel
        held = (line >= 0) & (line < width) & (target < stop)
        depth, before = tl.minimum(rows - first_row, height), client * rows + first_row
    else:
        line = tile * ROWS + tl.arange(0, ROWS)  # row of the panel
        target = first_row + line
        held = (line < height) & (target < rows)
        depth, before = tl.minimum(samples - first_sample, width), first_sample
    span = tl.cdiv(tl.cdiv(depth, DEPTH), tl.num_programs(1)) * DEPTH
    first = tl.program_id(1) * span
    last = tl.minimum(first + span, depth)
    if tl.max(held.to(tl.int32)) != 0:
        k = tl.arange(0, DEPTH)
        own = rows_from(x, before, features, EVEN)
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(first, last, DEPTH):
            inner = start + k
            if TRANSPOSED:
                at = panel + inner[:, None] * width + line[None, :]
                inside = (inner < last)[:, None] & held[None, :]
            else:
                at = panel + line[:, None] * width + inner[None, :]
                inside = held[:, None] & (inner < last)[None, :]
            high = panel_tile(at, inside, TRANSPOSED)
            value = samples_tile(own, inner, last, column, features)
            if KIND == RADEMACHER:
                sums = add_signs(sums, high, value)
            else:
                middle = panel_tile(at + height * width, inside, TRANSPOSED)
                low = panel_tile(at + 2 * height * width, inside, TRANSPOSED)
                sums = add_normals(sums, high, middle, low, value)
        lead = tl.program_id(1) * (samples if TRANSPOSED else rows)
        at = out + (lead + target[:, None]) * features + column[None, :]
        inside = held[:, None] & (column < features)[None, :]
        report_samples(word, sums, own, first, last, column, features, DEPTH)
        if add != 0:
            sums += tl.load(at, mask=inside, other=0.0)
        tl.store(at, sums, mask=inside)
    clear_shared()
