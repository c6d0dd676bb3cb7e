"""Clipping and optimiser steps of many clients at once, in Triton: a row is one client's.

The steps give the same bits as the reference: launches switch contraction off, and divisions and
square roots are rounded to nearest.
"""

import torch
import triton
import triton.language as tl

from .common import NOT_FINITE, ceil_div, load_tile, store_tile
from .floats import not_finite

CHUNK = 4096
BLOCK = 1024
PARTIALS = 1024
ALIGNED = 4
"""Elements that 16 bytes hold: rows of a multiple of them all begin on 16 bytes."""

EPSILON = tl.constexpr(1e-6)
EXACT = {"enable_fp_fusion": False}


@triton.jit
def block_of_row(length, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """The row and the block in it of this program; the length is counted in units.

    Returns:
        The row, int64; places in the arena, int64 (BLOCK,); which are in the row; whether all are.
    """
    length = length * UNIT
    blocks = tl.cdiv(length, BLOCK)
    row = tl.program_id(0).to(tl.int64) // blocks
    first = tl.program_id(0).to(tl.int64) % blocks * BLOCK
    column = first + tl.arange(0, BLOCK)
    return row, row * length + column, column < length, first + BLOCK <= length


@triton.jit(do_not_specialize=["length"])
def squares_kernel(
    partials,  # float64 (rows, chunks)
    grads,  # float32 (rows, length)
    length: tl.int64,  # in units
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,  # a chunk
):
    """The sum of the squares of one chunk."""
    _, place, inside, full = block_of_row(length, UNIT, BLOCK)
    wide = load_tile(grads + place, inside, full).to(tl.float64)
    tl.store(partials + tl.program_id(0).to(tl.int64), tl.sum(wide * wide))


@triton.jit(do_not_specialize=["max_norm", "chunks"])
def norms_kernel(
    norms,  # float32 (rows,)
    factors,  # float32 (rows,)
    partials,  # float64 (rows, chunks)
    max_norm,  # float32 (rows,)
    word,
    chunks: tl.int64,
    PARTIALS: tl.constexpr,
):
    """The norm of one row, and what it is multiplied by."""
    row = tl.program_id(0).to(tl.int64)
    sums = tl.zeros((PARTIALS,), tl.float64)
    for start in range(0, chunks, PARTIALS):
        place = start + tl.arange(0, PARTIALS)
        sums += tl.load(partials + row * chunks + place, mask=place < chunks, other=0.0)
    norm = tl.sqrt(tl.sum(sums)).to(tl.float32)
    tl.atomic_or(word, NOT_FINITE, mask=not_finite(norm))
    tl.store(norms + row, norm)
    tl.store(factors + row, tl.div_rn(tl.load(max_norm + row), norm + EPSILON))


@triton.jit(do_not_specialize=["length"])
def clip_kernel(
    grads,  # float32 (rows, length), written
    factors,  # float32 (rows,)
    word,  # when it is not 0 nothing is written
    length: tl.int64,  # in units
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Scale one block, where its row is to be scaled."""
    row, place, inside, full = block_of_row(length, UNIT, BLOCK)
    factor = tl.load(factors + row)
    if (factor < 1) & (tl.load(word) == 0):
        value = load_tile(grads + place, inside, full)
        store_tile(grads + place, value * factor, inside, full)


@triton.jit(do_not_specialize=["factors", "length"])
def adamw_kernel(
    params,  # float32 (rows, length), written
    grads,
    exp_avg,  # written
    exp_avg_sq,  # written
    factors,  # float32 (rows, 8)
    length: tl.int64,  # in units
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of AdamW."""
    row, place, inside, full = block_of_row(length, UNIT, BLOCK)
    own = factors + row * 8
    if tl.load(own) != 0:
        decay, new1 = tl.load(own + 1), tl.load(own + 2)
        beta2, new2 = tl.load(own + 3), tl.load(own + 4)
        size, root, eps = tl.load(own + 5), tl.load(own + 6), tl.load(own + 7)
        p = load_tile(params + place, inside, full)
        g = load_tile(grads + place, inside, full)
        m = load_tile(exp_avg + place, inside, full)
        v = load_tile(exp_avg_sq + place, inside, full)
        m = m + (g - m) * new1
        v = v * beta2 + (new2 * g) * g
        below = tl.div_rn(tl.sqrt_rn(v), tl.zeros_like(v) + root) + eps
        p = p * decay
        p = p - size * tl.div_rn(m, below)
        store_tile(params + place, p, inside, full)
        store_tile(exp_avg + place, m, inside, full)
        store_tile(exp_avg_sq + place, v, inside, full)


@triton.jit(do_not_specialize=["factors", "length"])
def sgd_kernel(
    params,  # float32 (rows, length), written
    grads,
    momentum,  # written, or None
    factors,  # float32 (rows, 8)
    length: tl.int64,  # in units
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of SGD."""
    row, place, inside, full = block_of_row(length, UNIT, BLOCK)
    own = factors + row * 8
    if tl.load(own) != 0:
        rate, decay = tl.load(own + 1), tl.load(own + 4)
        p = load_tile(params + place, inside, full)
        d = load_tile(grads + place, inside, full)
        d = tl.where(decay != 0, d + decay * p, d)
        if momentum is not None:
            kept, fresh = tl.load(own + 2), tl.load(own + 3)
            buffer = load_tile(momentum + place, inside, full)
            buffer = tl.where(tl.load(own + 6) != 0, d, buffer * kept + fresh * d)
            d = tl.where(tl.load(own + 5) != 0, d + kept * buffer, buffer)
            store_tile(momentum + place, buffer, inside, full)
        store_tile(params + place, p - rate * d, inside, full)


def unit_of(length: int) -> int:
    """What a row's length is counted in, so that the compiler sees how rows are aligned."""
    return ALIGNED if length % ALIGNED == 0 else 1


def segment_clip_(grads: torch.Tensor, max_norm: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
    """Scale every row to a norm of at most ``max_norm``; the norms before, float32 (rows,).

    Args:
        grads: float32 (rows, length), written unless a norm is not finite.
        max_norm: (rows,).
        word: gets bit 2 when a norm is not finite.
    """
    rows, length = grads.shape
    norms = torch.zeros(rows, dtype=torch.float32, device=grads.device)
    if grads.numel() == 0:
        return norms
    chunks = ceil_div(length, CHUNK)
    partials = torch.empty(rows, chunks, dtype=torch.float64, device=grads.device)
    factors = torch.empty_like(norms)
    found = torch.zeros_like(word)  # of this call alone: it decides what is written
    unit = unit_of(length)
    with torch.cuda.device_of(grads):
        squares_kernel[(rows * chunks,)](partials, grads, length // unit, UNIT=unit, BLOCK=CHUNK)
        limits = max_norm.to(torch.float32)
        norms_kernel[(rows,)](norms, factors, partials, limits, found, chunks, PARTIALS=PARTIALS)
        grid = (rows * ceil_div(length, BLOCK),)
        clip_kernel[grid](grads, factors, found, length // unit, UNIT=unit, BLOCK=BLOCK)
    word.bitwise_or_(found)
    return norms


def bank_adamw_(
    params: torch.Tensor,
    grads: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    factors: torch.Tensor,
) -> None:
    """A step of AdamW for every row, in place.

    Args:
        params: float32 (rows, length), written.
        grads: likewise.
        exp_avg: likewise, written.
        exp_avg_sq: likewise, written.
        factors: float32 (rows, 8): active, 1 - lr λ, 1 - β₁, β₂, 1 - β₂, lr / (1 - β₁ᵗ),
            √(1 - β₂ᵗ), ε. Rows whose first number is 0 are left alone.
    """
    _step(adamw_kernel, (params, grads, exp_avg, exp_avg_sq, factors))


def bank_sgd_(
    params: torch.Tensor, grads: torch.Tensor, momentum: torch.Tensor | None, factors: torch.Tensor
) -> None:
    """A step of SGD for every row, in place.

    Args:
        params: float32 (rows, length), written.
        grads: likewise.
        momentum: likewise, written; or None.
        factors: float32 (rows, 8): active, lr, μ, 1 - dampening, λ, Nesterov, first step, unused.
            Rows whose first number is 0 are left alone.
    """
    _step(sgd_kernel, (params, grads, momentum, factors))


def _step(kernel, arenas) -> None:  # type: ignore[no-untyped-def]
    params = arenas[0]
    rows, length = params.shape
    if params.numel() == 0:
        return
    unit = unit_of(length)
    with torch.cuda.device_of(params):
        kernel[(rows * ceil_div(length, BLOCK),)](
            *arenas, length // unit, UNIT=unit, BLOCK=BLOCK, **EXACT
        )
