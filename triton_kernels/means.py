"""Means over the clients that hold an element, in Triton: dense, packed, rectangles and indices.

Sums run over the clients in order, in float32, each product rounded and then each sum: launches
switch contraction off. Where clients give a mask or a rectangle, a program takes a block of
elements through all clients, in registers. Lists of indices are scattered instead, one launch for
each client, into sums that take 8 bytes an element (12 with weights): within a client no place
comes twice, and launches follow one another.
"""

import torch
import triton
import triton.language as tl

from .common import NOT_FINITE, ceil_div, report_any
from .floats import not_finite, rounded, widened

DENSE = tl.constexpr(0)
PACKED = tl.constexpr(1)
RECTANGLES = tl.constexpr(2)
INDICES = tl.constexpr(3)
KEEPERS, ALL = 0, 1  # denominators; 2 is one
BLOCK = 1024
SPAN = tl.constexpr(512)  # elements whose first packed value is told
PROGRAMS = 1024  # at most, that scatter the values of one client

EXACT = {"enable_fp_fusion": False}


@triton.jit
def finish(
    out,
    server,  # like out, or None
    word,
    index,
    inside,
    total,
    votes,
    below,
    min_votes,
):
    """Divide the sums of a tile, round once, and store; too few votes give the server's or 0."""
    used = inside & (votes >= min_votes) & (below > 0)
    mean = tl.div_rn(total, tl.maximum(below, 1).to(tl.float32))
    narrow = rounded(mean, out.dtype.element_ty)
    bad = not_finite(mean) | not_finite(narrow.to(tl.float32))
    report_any(word, used & bad, NOT_FINITE)
    if server is None:
        rest = tl.zeros_like(narrow)
    else:
        rest = tl.load(server + index, mask=inside, other=0.0)
    tl.store(out + index, tl.where(used, narrow, rest), mask=inside)


@triton.jit
def bits_at(masks, start, width, BLOCK: tl.constexpr):
    """The bits of a client's elements start …, int32 (BLOCK,); ``start`` is a multiple of 8."""
    byte = start // 8 + tl.arange(0, BLOCK // 8)
    value = tl.load(masks + byte, mask=byte < width, other=0).to(tl.int32)
    return tl.reshape((value[:, None] >> tl.arange(0, 8)[None, :]) & 1, (BLOCK,))


@triton.jit(
    do_not_specialize=[
        *("values", "masks", "places", "starts", "weights", "everyone", "server"),
        *("clients", "length", "columns", "values_count", "min_votes"),
    ]
)
def mean_kernel(
    out,  # (length,)
    values,  # (clients, length) where dense, else (values_count,)
    masks,  # uint8 (clients, ⌈length / 8⌉), or None
    places,  # int64 (clients, 4), rectangles only
    starts,  # int64 (clients, spans) where packed, (clients,) for rectangles
    weights,  # int32 (clients,), or None
    everyone,  # int32 (1,): the denominator where it is not that of the keepers, else None
    server,
    word,
    clients: tl.int64,
    length: tl.int64,
    columns: tl.int64,
    values_count: tl.int64,
    min_votes: tl.int32,
    FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The means of one block of elements."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    index = start + tl.arange(0, BLOCK)
    inside = index < length
    width = (length + 7) // 8
    total = tl.zeros((BLOCK,), tl.float32)
    votes = tl.zeros((BLOCK,), tl.int32)
    below = tl.zeros((BLOCK,), tl.int32)
    if FORM == RECTANGLES:
        row = index // columns
        column = index - row * columns
    if FORM == PACKED:
        spans = (length + SPAN - 1) // SPAN
        span = start // SPAN + tl.arange(0, BLOCK // SPAN)
    for client in range(0, clients):
        held = inside
        if masks is not None:
            bit = bits_at(masks + client * width, start, width, BLOCK)
            held = inside & (bit != 0)
        if FORM == DENSE:
            # All are read, so that no load waits for the mask's.
            offset = client * length + index
            there = inside
        elif FORM == PACKED:
            local = tl.reshape(bit, (BLOCK // SPAN, SPAN))
            first = tl.load(starts + client * spans + span, mask=span < spans, other=0)
            offset = tl.reshape(first[:, None] + tl.cumsum(local, 1) - local, (BLOCK,))
            there = held & (offset < values_count)
        else:
            box = places + client * 4
            row0, row1 = tl.load(box), tl.load(box + 1)
            column0, column1 = tl.load(box + 2), tl.load(box + 3)
            held &= (row >= row0) & (row < row1) & (column >= column0) & (column < column1)
            offset = tl.load(starts + client) + (row - row0) * (column1 - column0)
            offset += column - column0
            there = held & (offset < values_count)
        own = widened(tl.load(values + offset, mask=there, other=0.0))
        if weights is None:
            below += held.to(tl.int32)
        else:
            weight = tl.load(weights + client)
            own = own * weight.to(tl.float32)
            below += tl.where(held, weight, 0)
        total = tl.where(held, total + own, total)
        votes += held.to(tl.int32)
    if everyone is not None:
        below = tl.zeros_like(below) + tl.load(everyone)
    finish(out, server, word, index, inside, total, votes, below, min_votes)


@triton.jit(
    do_not_specialize=[
        *("values", "places", "starts", "weights", "client", "length", "values_count"),
    ]
)
def scatter_kernel(
    sums,  # float32 (length,)
    votes,  # int32 (length,)
    below,  # int32 (length,), or None: as votes
    values,  # (values_count,)
    places,  # int64 (values_count,)
    starts,  # int64 (clients + 1,)
    weights,  # int32 (clients,), or None
    client: tl.int64,
    length: tl.int64,
    values_count: tl.int64,
    BLOCK: tl.constexpr,
):
    """Add one client's values where they belong. What lies out of range is left out."""
    first = tl.load(starts + client)
    last = tl.minimum(tl.load(starts + client + 1), values_count)
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for start in range(first + tl.program_id(0).to(tl.int64) * BLOCK, last, step):
        index = start + tl.arange(0, BLOCK)
        place = tl.load(places + index, mask=index < last, other=-1)
        inside = (place >= 0) & (place < length)
        own = widened(tl.load(values + index, mask=inside, other=0.0))
        if weights is not None:
            weight = tl.load(weights + client)
            own = own * weight.to(tl.float32)
        total = tl.load(sums + place, mask=inside, other=0.0)
        tl.store(sums + place, total + own, mask=inside)
        count = tl.load(votes + place, mask=inside, other=0)
        tl.store(votes + place, count + 1, mask=inside)
        if below is not None:
            held = tl.load(below + place, mask=inside, other=0)
            tl.store(below + place, held + weight, mask=inside)


@triton.jit(do_not_specialize=["everyone", "server", "length", "min_votes"])
def finish_kernel(
    out,  # (length,)
    sums,  # float32 (length,)
    votes,  # int32 (length,)
    below,  # int32 (length,), or None
    everyone,  # int32 (1,), or None
    server,
    word,
    length: tl.int64,
    min_votes: tl.int32,
    BLOCK: tl.constexpr,
):
    """The means of one block of elements from their sums."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < length
    total = tl.load(sums + index, mask=inside, other=0.0)
    count = tl.load(votes + index, mask=inside, other=0)
    if everyone is not None:
        weight = tl.zeros_like(count) + tl.load(everyone)
    elif below is not None:
        weight = tl.load(below + index, mask=inside, other=0)
    else:
        weight = count
    finish(out, server, word, index, inside, total, count, weight, min_votes)


def masked_mean(
    values: torch.Tensor,
    masks: torch.Tensor | None,
    places: torch.Tensor | None,
    starts: torch.Tensor | None,
    weights: torch.Tensor | None,
    server: torch.Tensor | None,
    clients: int,
    length: int,
    shape: list[int],
    columns: int,
    form: int,
    denominator: int,
    min_votes: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """Σ a_i m_ij v_ij / den_j, in the order of the clients: (shape), of the dtype of ``values``.

    Args:
        values: float32, float16 or bfloat16: (clients, length) where dense, else all kept ones.
        masks: uint8 (clients, ⌈length / 8⌉) where dense (None: all count) or packed.
        places: int64 (clients, 4) rectangles, or (values,) ascending indices of each client.
        starts: int64: where in the values each client's begin: (clients,) for rectangles,
            (clients + 1,) for indices, (clients, ⌈length / 512⌉), each span's, where packed.
        weights: int32 (clients,), from 0 to 2^24 - 1 with a sum below 2^31; None: all 1.
        server: like the result, or None.
        clients: how many.
        length: elements of the result.
        shape: of the result.
        columns: of the matrix that rectangles lie in.
        form: 0 dense, 1 packed, 2 rectangles, 3 indices.
        denominator: 0 the weights of those that hold an element, 1 all weights, 2 one.
        min_votes: fewer clients than these give the server's value, or 0.
        word: gets bit 2 when a mean is not finite.
    """
    device = values.device
    out = torch.empty(shape, dtype=values.dtype, device=device)
    if length == 0:
        return out
    everyone = None
    if denominator != KEEPERS:
        everyone = torch.ones(1, dtype=torch.int32, device=device)
        if denominator == ALL:
            everyone *= clients if weights is None else weights.sum(dtype=torch.int32)
    with torch.cuda.device_of(out):
        if form != INDICES.value:
            block = BLOCK // 2 if form == RECTANGLES.value else BLOCK  # places take registers
            mean_kernel[(ceil_div(length, block),)](
                *(out, values, masks, places, starts, weights, everyone, server, word),
                *(clients, length, columns, values.numel(), min_votes),
                **{"FORM": form, "BLOCK": block, **EXACT},
            )
            return out
        sums = torch.zeros(length, dtype=torch.float32, device=device)
        votes = torch.zeros(length, dtype=torch.int32, device=device)
        weighted = weights is not None and everyone is None
        below = torch.zeros_like(votes) if weighted else None
        some = (min(PROGRAMS, ceil_div(values.numel(), BLOCK)),)
        for client in range(clients if values.numel() else 0):
            scatter_kernel[some](
                *(sums, votes, below, values, places, starts, weights),
                *(client, length, values.numel()),
                **{"BLOCK": BLOCK, **EXACT},
            )
        finish_kernel[(ceil_div(length, BLOCK),)](
            *(out, sums, votes, below, everyone, server, word, length, min_votes),
            **{"BLOCK": BLOCK, **EXACT},
        )
    return out
