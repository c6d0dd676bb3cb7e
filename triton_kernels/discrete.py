"""The discrete Gaussian over the integers in Triton, in constant time.

Every entry of the table is loaded by every program and held against every sample's words, so no
branch and no address depends on a random bit.
"""

import torch
import triton
import triton.language as tl

from .common import ceil_div, clear_shared, signed32
from .random import LANES, chacha20, domain_of, tile_of_blocks

NOISE = 4
FIRST_ATTEMPT = 1  # attempt 0 is for other noise


@triton.jit
def _word(table, place):
    return tl.load(table + place).to(tl.uint32, bitcast=True)


@triton.jit(
    do_not_specialize=[
        *("key", "table", "coefficients", "block", "lead", "count", "stream", "domain"),
        *("entries", "terms"),
    ]
)
def discrete_gaussian_kernel(
    out,  # (count,)
    key,
    table,  # (3, entries), highest words first
    coefficients,  # (terms,)
    block: tl.int32,
    lead: tl.int32,
    count: tl.int64,
    stream: tl.int32,
    domain: tl.int32,
    entries: tl.int32,
    terms: tl.int32,
    LANES: tl.constexpr,
):
    """The integers of one tile of blocks: Σ_b coefficients[b] · (base sample b)."""
    counter, first, local, inside = tile_of_blocks(block, lead, count, LANES)
    stream, domain = stream.to(tl.uint32), domain.to(tl.uint32)
    total = tl.zeros((LANES, 16), tl.int32)
    for term in range(0, terms):
        high = tl.reshape(chacha20(key, counter, stream * 0, stream, domain), (LANES, 16))
        middle = tl.reshape(chacha20(key, counter, stream * 0, stream, domain + 1), (LANES, 16))
        low = tl.reshape(chacha20(key, counter, stream * 0, stream, domain + 2), (LANES, 16))
        magnitude = tl.zeros((LANES, 16), tl.int32)
        for entry in range(0, entries):
            h, m = _word(table, entry), _word(table, entries + entry)
            below = (middle < m) | ((middle == m) & (low < _word(table, 2 * entries + entry)))
            below = (high < h) | ((high == h) & below)
            magnitude += below.to(tl.int32)
        sign = 1 - 2 * (low & 1).to(tl.int32)
        total += tl.load(coefficients + term) * sign * magnitude
        domain += 3  # the next base sample's attempts
    tl.store(out + first + local, total, mask=inside)
    clear_shared()


def discrete_gaussian(
    key: torch.Tensor,
    table: torch.Tensor,
    coefficients: torch.Tensor,
    count: int,
    stream: int,
    start: int,
) -> torch.Tensor:
    """Samples start … start + count - 1 of a key's stream: int32 (count,).

    Args:
        key: int32 (8,).
        table: int32 (3, entries), contiguous: what the magnitude of a base sample counts, as
            96-bit numbers, highest words first.
        coefficients: int32 (terms,): those of the base samples.
        count: how many; start + count ≤ 2^36.
        stream: from 0 to 2^32 - 1.
        start: index of the first sample.
    """
    out = torch.empty(count, dtype=torch.int32, device=key.device)
    if count == 0:
        return out
    block, lead = divmod(start, 16)
    grid = (ceil_div(lead + count, 16 * LANES),)
    with torch.cuda.device_of(out):
        discrete_gaussian_kernel[grid](
            *(out, key.contiguous(), table, coefficients, signed32(block), lead, count),
            *(signed32(stream), domain_of(NOISE, 0) | FIRST_ATTEMPT, table.shape[1]),
            *(len(coefficients),),
            LANES=LANES,
        )
    return out
