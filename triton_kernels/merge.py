"""Adding a low-rank product to a weight in place, in Triton.

A program takes one tile of the weight: it sums over all ranks in float32, reads the tile, adds, and
rounds once. Both layouts of a weight are one kernel; the factors are read with other strides.
"""

import torch
import triton
import triton.language as tl

from .common import ceil_div
from .floats import rounded, widened
from .matrix import add_product

SMALL = {"ROWS": 64, "COLUMNS": 64, "RANKS": 16, "num_warps": 4}
LARGE = {"ROWS": 128, "COLUMNS": 64, "RANKS": 16, "num_warps": 8}
MANY = 256
"""So many large tiles keep a GPU busy."""

GROUP = tl.constexpr(8)  # rows of tiles that are worked on together, so that factors stay in L2


@triton.jit(do_not_specialize=["rows", "columns", "rank"])
def merge_kernel(
    base,  # (rows, columns)
    tall,  # (rows, rank), or its transpose
    wide,  # (rank, columns), or its transpose
    scale,  # float32 (rank,)
    rows: tl.int64,
    columns: tl.int64,
    rank: tl.int64,
    TRANSPOSED: tl.constexpr,
    EVEN: tl.constexpr,  # rows and columns are counted in 8, ranks in 4: this shows alignment
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANKS: tl.constexpr,
):
    """One tile of the weight."""
    if EVEN:
        rows, columns, rank = rows * 8, columns * 8, rank * 4
    row_tiles, column_tiles = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    group = program // (GROUP * column_tiles) * GROUP
    height = tl.minimum(row_tiles - group, GROUP)
    place = program % (GROUP * column_tiles)
    row = (group + place % height) * ROWS + tl.arange(0, ROWS)
    column = place // height * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, RANKS).to(tl.int64)
    narrow: tl.constexpr = wide.dtype.element_ty != tl.float32
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, rank, RANKS):
        inner = first + k
        if TRANSPOSED:
            tall_at, wide_at = inner[None, :] * rows + row[:, None], column[None, :] * rank
            wide_at += inner[:, None]
        else:
            tall_at, wide_at = row[:, None] * rank + inner[None, :], inner[:, None] * columns
            wide_at += column[None, :]
        some = inner < rank
        own = tl.load(tall + tall_at, mask=(row < rows)[:, None] & some[None, :], other=0.0)
        other = tl.load(wide + wide_at, mask=some[:, None] & (column < columns)[None, :], other=0.0)
        factor = tl.load(scale + inner, mask=some, other=0.0)
        scaled = widened(own) * factor[None, :]
        sums = add_product(sums, scaled, widened(other), False, narrow)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    target = base + row[:, None] * columns + column[None, :]
    total = widened(tl.load(target, mask=inside, other=0.0)) + sums
    tl.store(target, rounded(total, base.dtype.element_ty), mask=inside)


def tiles_of(base: torch.Tensor, tile: dict[str, int]) -> int:
    """How many tiles of this size cover the weight."""
    return ceil_div(base.shape[0], tile["ROWS"]) * ceil_div(base.shape[1], tile["COLUMNS"])


def lora_merge_(
    base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, transposed: bool
) -> None:
    """Write base + (b · scale) @ a, or its transpose, in float32 and rounded once.

    Args:
        base: float32, float16 or bfloat16 (out, in), or (in, out) with ``transposed``; written.
        a: (rank, in), float32 or of the dtype of ``base``; rank at least 1.
        b: (out, rank), likewise.
        scale: (rank,).
        transposed: which of the two.
    """
    rows, columns = base.shape
    rank = len(scale)
    tall, wide = (a, b) if transposed else (b, a)
    even = rows % 8 == 0 and columns % 8 == 0 and rank % 4 == 0
    sizes = (rows // 8, columns // 8, rank // 4) if even else (rows, columns, rank)
    tile = LARGE if tiles_of(base, LARGE) >= MANY else SMALL
    with torch.cuda.device_of(base):
        merge_kernel[(tiles_of(base, tile),)](
            *(base, tall, wide, scale.to(torch.float32)),
            *sizes,
            TRANSPOSED=transposed,
            EVEN=even,
            **tile,
        )
