"""Dropout by counter in Triton, over the elements of one client after the other."""

import torch
import triton
import triton.language as tl

from .common import load_tile, signed32, store_tile
from .philox import dropped, kept_in_a_row, tile_owner

BLOCK = 2048
ALIGNED = 8
"""Elements that 16 bytes hold at most: rows of a multiple of them all begin on 16 bytes."""


@triton.jit(
    do_not_specialize=[
        *("key", "streams", "starts", "rows", "features", "clients", "threshold", "scale"),
    ]
)
def dropout_kernel(
    out,  # (rows, features)
    x,  # likewise
    key,  # int32 (8,)
    streams,  # int64 (clients,)
    starts,  # int64 (clients + 1,)
    rows: tl.int64,
    features: tl.int64,
    clients: tl.int64,
    threshold: tl.int32,
    scale: tl.float32,
    EVEN: tl.constexpr,  # features is a multiple of ALIGNED
    BLOCK: tl.constexpr,
):
    """One block of elements of one client."""
    tile = tl.program_id(0).to(tl.int64)
    found = tile_owner(starts, clients, rows * features, features, tile, BLOCK)
    client, begin, first, end = found
    if EVEN:
        first = tl.multiple_of(first, 8)
        end = tl.multiple_of(end, 8)
    if first < end:
        index = first + tl.arange(0, BLOCK)
        inside, full = index < end, first + BLOCK <= end
        value = load_tile(x + index, inside, full)
        stream = tl.load(streams + client)
        kept = kept_in_a_row(first - begin, stream, key, threshold.to(tl.uint32), BLOCK)
        store_tile(out + index, dropped(value, kept, scale), inside, full)


def counter_dropout(
    x: torch.Tensor,
    key: torch.Tensor,
    streams: torch.Tensor,
    starts: torch.Tensor,
    threshold: int,
    scale: float,
) -> torch.Tensor:
    """Elements whose word is ``threshold`` or more, times ``scale``; 0 elsewhere: like ``x``.

    Args:
        x: float32, float16 or bfloat16 (…, features).
        key: int32 (8,), of which two words are used.
        streams: int64 (clients,).
        starts: int64 (clients + 1,): where each client's rows begin, from 0 to their number.
        threshold: from 0 to 2^32 - 1.
        scale: rounded to float32.
    """
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    features, clients = x.shape[-1], len(streams)
    with torch.cuda.device_of(x):
        dropout_kernel[(x.numel() // BLOCK + clients,)](
            *(out, x, key, streams, starts, x.numel() // features, features, clients),
            *(signed32(threshold), scale),
            EVEN=features % ALIGNED == 0,
            BLOCK=BLOCK,
        )
    return out
