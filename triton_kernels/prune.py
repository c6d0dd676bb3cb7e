"""Pruning in place in Triton: the selection, then the weights.

They are two steps, so that bad input is known before anything is written, and ties by magnitude see
the weights as they were; it costs one byte a weight that is read again, the mask. Survivors take a
factor in float32 with one rounding: there is no sum, so nothing can be contracted.
"""

import torch
import triton
import triton.language as tl

from .common import NOT_FINITE, ceil_div, load_tile, report_any, store_tile
from .floats import rounded, widened
from .order import MAGNITUDE, RANDOM
from .random import SELECTION, random_words
from .selection import EXPONENTS, select

BLOCK = 2048


@triton.jit(do_not_specialize=["count"])
def finite_kernel(
    weight,  # int16 or int32 (count,): the bits of floats
    word,
    count: tl.int64,
    EXPONENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Report the floats of one block that are not finite."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    index = start + tl.arange(0, BLOCK)
    bits = load_tile(weight + index, index < count, start + BLOCK <= count).to(tl.int32)
    report_any(word, (bits & EXPONENT) == EXPONENT, NOT_FINITE)


@triton.jit(do_not_specialize=["factors", "count"])
def prune_kernel(
    weight,  # floats (count,), written in place
    mask,  # uint8 (count,): 1 is pruned
    counts,  # uint8 or int32 (count,)
    factors,  # float32, one for each count; or None: survivors are not touched
    word,  # when it is not 0 nothing is written
    count: tl.int64,
    BLOCK: tl.constexpr,
):
    """The weights of one block."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    index = start + tl.arange(0, BLOCK)
    limit = tl.where(tl.load(word) == 0, count, 0)
    inside, full = index < limit, start + BLOCK <= limit
    pruned = load_tile(mask + index, inside, full) != 0
    if factors is None:
        zero = tl.zeros((BLOCK,), weight.dtype.element_ty)
        tl.store(weight + index, zero, mask=inside & pruned)
    else:
        votes = load_tile(counts + index, inside, full)
        factor = tl.load(factors + votes, mask=inside, other=0.0)
        value = widened(load_tile(weight + index, inside, full))
        value = tl.where(pruned, 0.0, value * factor)
        store_tile(weight + index, rounded(value, weight.dtype.element_ty), inside, full)


def mask_prune_(
    weight: torch.Tensor,
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    factors: torch.Tensor | None,
    rows: int,
    columns: int,
    tile_rows: int,
    tile_columns: int,
    k: int,
    ties: int,
    stream: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """Select as mask_select does, zero what is selected, and scale the rest: bool, like ``weight``.

    Args:
        weight: float32, float16 or bfloat16, rows · columns in all; written in place.
        counts: uint8 or int32, as many.
        tie: scores, as many, or None.
        key: int32 (8,), for random ties.
        factors: float32 (m + 1,), what survivors with each count are multiplied by, or None.
        rows: of the matrix.
        columns: of the matrix.
        tile_rows: of a group.
        tile_columns: of a group.
        k: how many of each group.
        ties: 0 by index, 1 random, 2 by magnitude of the weight, 3 by score.
        stream: of the key, from 0 to 2^32 - 1.
        word: gets bit 32 when a count lies outside [0, m], or [0, 65535] without factors; bit 2
            when a weight or a score is not finite. The weight is left as it is then.
    """
    total = weight.numel()
    if total == 0:
        return torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
    inplace = weight.contiguous()  # a copy where the weight has gaps
    found = torch.zeros_like(word)  # of this call alone: it decides what is written
    matrix = rows, columns, tile_rows, tile_columns
    most = 65535 if factors is None else len(factors) - 1
    if ties == RANDOM.value and key is not None:
        tie = random_words(key, total, stream, 0, SELECTION)
    tie = inplace if ties == MAGNITUDE.value else tie
    mask = select(counts, tie, matrix, k, ties, most, found)
    bits = inplace.view(torch.int32 if weight.element_size() == 4 else torch.int16)
    grid = (ceil_div(total, BLOCK),)
    with torch.cuda.device_of(weight):
        if ties != MAGNITUDE.value:  # then the selection has looked at them
            finite_kernel[grid](bits, found, total, EXPONENT=EXPONENTS[weight.dtype], BLOCK=BLOCK)
        target = bits if factors is None else inplace
        factors = None if factors is None else factors.contiguous()
        prune_kernel[grid](
            *(target, mask.view(torch.uint8), counts.contiguous(), factors, found, total),
            BLOCK=BLOCK,
        )
    if inplace is not weight:
        weight.copy_(inplace)
    word.bitwise_or_(found)
    return mask.view(weight.shape)
