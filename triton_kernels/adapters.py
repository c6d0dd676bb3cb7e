"""The three products of adapters whose rows belong to clients, in Triton.

Rows shrink to the rank and expand from it, and factors get their gradients client by client. No
program holds rows of two clients, and programs find their client by themselves, so that nothing
waits to learn how many rows each client has. Dropout is made again wherever dropped rows are read.

Where EVEN, features are counted in 16, ranks and strides in 4, so that the compiler sees how lines
are aligned; and no block of random words spans two rows.
"""

import triton
import triton.language as tl

from .floats import rounded, widened
from .matrix import add_product
from .philox import dropped, kept_in_rows, tile_owner


@triton.jit(
    do_not_specialize=[
        *("scale", "key", "streams", "starts"),
        *("rows", "inner", "rank", "stride", "clients", "threshold", "keep"),
    ]
)
def shrink_kernel(
    out,  # float32 (rows, rank)
    x,  # (rows, inner)
    factor,  # float32, a client's every ``stride``: (rank, inner), or its transpose
    scale,  # float32 (clients,), or None
    key,  # int32 (8,), or None: no dropout
    streams,  # int64 (clients,)
    starts,  # int64 (clients + 1,)
    rows: tl.int64,
    inner: tl.int64,
    rank: tl.int64,
    stride: tl.int64,
    clients: tl.int64,
    threshold: tl.int32,
    keep: tl.float32,
    TRANSPOSED: tl.constexpr,
    EVEN: tl.constexpr,  # see the top
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):
    """Rows of one client times its factor: out = s · drop(x) Fᵀ, one tile."""
    if EVEN:
        inner, rank, stride = inner * 16, rank * 4, stride * 4
    tiles = tl.cdiv(rank, RANK)
    tile = tl.program_id(0).to(tl.int64) // tiles
    n = tl.program_id(0).to(tl.int64) % tiles * RANK + tl.arange(0, RANK)
    client, begin, first, end = tile_owner(starts, clients, rows, 1, tile, ROWS)
    if first < end:
        row = first + tl.arange(0, ROWS)
        k = tl.arange(0, COLUMNS).to(tl.int64)
        inside, held = row < end, n < rank
        narrow: tl.constexpr = x.dtype.element_ty != tl.float32
        sums = tl.zeros((ROWS, RANK), tl.float32)
        own = factor + client * stride
        for start in range(0, inner, COLUMNS):
            column = start + k
            some = column < inner
            at = x + row[:, None] * inner + column[None, :]
            value = tl.load(at, mask=inside[:, None] & some[None, :], other=0.0)
            if key is not None:
                stream = tl.load(streams + client)
                place = row - begin
                kept = kept_in_rows(
                    *(place, start, inner, stream, key, threshold.to(tl.uint32)),
                    *(ROWS, COLUMNS, EVEN),
                )
                value = dropped(value, kept, keep)
            if TRANSPOSED:
                at = own + column[:, None] * rank + n[None, :]
            else:
                at = own + n[None, :] * inner + column[:, None]
            other = tl.load(at, mask=some[:, None] & held[None, :], other=0.0)
            sums = add_product(sums, widened(value), other, narrow, False)
        if scale is not None:
            sums = sums * tl.load(scale + client)
        at = out + row[:, None] * rank + n[None, :]
        tl.store(at, sums, mask=inside[:, None] & held[None, :])


@triton.jit(
    do_not_specialize=[
        *("scale", "key", "streams", "starts"),
        *("rows", "columns", "rank", "stride", "clients", "threshold", "keep"),
    ]
)
def expand_kernel(
    out,  # (rows, columns)
    base,  # likewise, or None
    hidden,  # float32 (rows, rank)
    factor,  # float32, a client's every ``stride``: (rank, columns), or its transpose
    scale,  # float32 (clients,), or None
    key,  # int32 (8,), or None: no dropout
    streams,  # int64 (clients,)
    starts,  # int64 (clients + 1,)
    rows: tl.int64,
    columns: tl.int64,
    rank: tl.int64,
    stride: tl.int64,
    clients: tl.int64,
    threshold: tl.int32,
    keep: tl.float32,
    TRANSPOSED: tl.constexpr,
    EVEN: tl.constexpr,  # see the top
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):
    """Hidden rows of one client times its factor: out = base + s · drop(H F), one tile."""
    if EVEN:
        columns, rank, stride = columns * 16, rank * 4, stride * 4
    tiles = tl.cdiv(columns, COLUMNS)
    tile = tl.program_id(0).to(tl.int64) // tiles
    start = tl.program_id(0).to(tl.int64) % tiles * COLUMNS
    client, begin, first, end = tile_owner(starts, clients, rows, 1, tile, ROWS)
    if first < end:
        row = first + tl.arange(0, ROWS)
        column = start + tl.arange(0, COLUMNS)
        k = tl.arange(0, RANK).to(tl.int64)
        inside, some = row < end, column < columns
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        own = factor + client * stride
        for done in range(0, rank, RANK):
            n = done + k
            held = n < rank
            at = hidden + row[:, None] * rank + n[None, :]
            value = tl.load(at, mask=inside[:, None] & held[None, :], other=0.0)
            if TRANSPOSED:
                at = own + column[None, :] * rank + n[:, None]
            else:
                at = own + n[:, None] * columns + column[None, :]
            other = tl.load(at, mask=held[:, None] & some[None, :], other=0.0)
            sums = add_product(sums, value, other, False, False)
        if scale is not None:
            sums = sums * tl.load(scale + client)
        if key is not None:
            stream = tl.load(streams + client)
            kept = kept_in_rows(
                *(row - begin, start, columns, stream, key, threshold.to(tl.uint32)),
                *(ROWS, COLUMNS, EVEN),
            )
            sums = tl.where(kept, sums * keep, 0.0)
        place = row[:, None] * columns + column[None, :]
        both = inside[:, None] & some[None, :]
        if base is not None:
            sums += widened(tl.load(base + place, mask=both, other=0.0))
        tl.store(out + place, rounded(sums, out.dtype.element_ty), mask=both)


@triton.jit(
    do_not_specialize=[
        *("scale", "key", "streams", "starts"),
        *("rows", "columns", "rank", "clients", "threshold", "keep"),
    ]
)
def gradient_kernel(
    out,  # float32 (splits, clients, rank, columns), or (splits, clients, columns, rank)
    hidden,  # float32 (rows, rank)
    x,  # (rows, columns)
    scale,  # float32 (clients,), or None
    key,  # int32 (8,), or None: no dropout
    streams,  # int64 (clients,)
    starts,  # int64 (clients + 1,)
    rows: tl.int64,
    columns: tl.int64,
    rank: tl.int64,
    clients: tl.int64,
    threshold: tl.int32,
    keep: tl.float32,
    TRANSPOSED: tl.constexpr,
    EVEN: tl.constexpr,  # see the top
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):
    """Sum over some of one client's rows, in order: out = s · Hᵀ drop(x), one tile."""
    if EVEN:
        columns, rank = columns * 16, rank * 4
    tiles, ranks = tl.cdiv(columns, COLUMNS), tl.cdiv(rank, RANK)
    program = tl.program_id(0).to(tl.int64)
    start = program % tiles * COLUMNS
    n = program // tiles % ranks * RANK + tl.arange(0, RANK)
    client = program // (tiles * ranks)
    begin = tl.minimum(tl.maximum(tl.load(starts + client), 0), rows)
    end = tl.minimum(tl.load(starts + client + 1), rows)
    splits, split = tl.num_programs(1), tl.program_id(1)
    span = tl.cdiv(tl.cdiv(end - begin, ROWS), splits) * ROWS
    first = begin + split * span
    last = tl.minimum(first + span, end)
    column = start + tl.arange(0, COLUMNS)
    held, some = n < rank, column < columns
    narrow: tl.constexpr = x.dtype.element_ty != tl.float32
    sums = tl.zeros((RANK, COLUMNS), tl.float32)
    for top in range(first, last, ROWS):
        row = top + tl.arange(0, ROWS)
        inside = row < last
        at = hidden + row[None, :] * rank + n[:, None]
        left = tl.load(at, mask=held[:, None] & inside[None, :], other=0.0)
        at = x + row[:, None] * columns + column[None, :]
        value = tl.load(at, mask=inside[:, None] & some[None, :], other=0.0)
        if key is not None:
            stream = tl.load(streams + client)
            kept = kept_in_rows(
                *(row - begin, start, columns, stream, key, threshold.to(tl.uint32)),
                *(ROWS, COLUMNS, EVEN),
            )
            value = dropped(value, kept, keep)
        sums = add_product(sums, left, widened(value), False, narrow)
    if scale is not None:
        sums = sums * tl.load(scale + client)
    own = out + (split * clients + client) * rank * columns
    if TRANSPOSED:
        at = own + column[None, :] * rank + n[:, None]
    else:
        at = own + n[:, None] * columns + column[None, :]
    tl.store(at, sums, mask=held[:, None] & some[None, :])
