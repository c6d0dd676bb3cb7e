"""Exact products of residues modulo the primes with fast kernels, on int8 matrix units.

Take the left factor w and the right one x centred, so that they lie in [-2^30, 2^30], and write
in base 256 with digits from -128 to 127:

    x = Σ_j x_j · 2^8j,    w · 2^8j mod p (centred) = Σ_i w_ji · 2^8i,    so
    Σ_k w_k · x_k  ≡  Σ_i 2^8i · (Σ_k,j w_kji · x_kj)    (mod p),

four int8 products with an inner dimension of 4k, whose int32 sums are joined once at the end. The
digits x_j are made in registers; the w_ji are made once by ``factor.digits_kernel``.
"""

import torch
import triton
import triton.language as tl

from .common import BAD_RESIDUE, canonical, ceil_div, clear_shared, report_any
from .factor import digits_of, signed_digits

SLAB = 16384
"""Inner length of one launch. An int32 sum of it is at most 4 · 2^14 · 2^7 · 2^7 = 2^30."""

# On 8 warps: 64 registers of digit sums in a thread, 16 residues, and one ChaCha20 block for every
# 16 residues. Twice as many sums spill.
NARROW = {"COLUMNS": 256, "INNER": 16, "ROWS": 16}
WIDE = {"COLUMNS": 128, "INNER": 32, "ROWS": 32}


@triton.jit
def digit_bytes(value, modulus, COLUMNS: tl.constexpr, INNER: tl.constexpr):
    """Residues, int32 (COLUMNS, INNER) → their digits, int8 (COLUMNS, 4 · INNER)."""
    digits = signed_digits(value, modulus)
    low = tl.join(digits.to(tl.int8), (digits >> 16).to(tl.int8))
    high = tl.join((digits >> 8).to(tl.int8), (digits >> 24).to(tl.int8))
    return tl.reshape(tl.join(low, high), (COLUMNS, 4 * INNER))


@triton.jit
def left_tiles(left, row_tile, row_tiles, width, INNER: tl.constexpr, ROWS: tl.constexpr):
    """Where the digits of a tile of rows are, in int8 (4, row_tiles · ROWS, 4 · width · INNER).

    Written with the constants, so that the compiler sees how the addresses are aligned.

    Returns:
        Pointer to the first tile of plane 0; int32 offsets in it, (4 · INNER, ROWS), below
        ROWS · 4 · SLAB + 4 · INNER < 2^22; elements from one plane to the next.
    """
    line = 4 * INNER * width
    offset = tl.arange(0, ROWS)[None, :] * line + tl.arange(0, 4 * INNER)[:, None]
    return left + row_tile * ROWS * line, offset, row_tiles * ROWS * line


@triton.jit
def multiply_add(value, left, plane, modulus, a0, a1, a2, a3):
    """Add to the four digit sums the product of a tile of residues with its part of the digits.

    Args:
        value: int32 (COLUMNS, INNER).
        left: pointers to plane 0 of the left factor's digits, (4 · INNER, ROWS).
        plane: elements from one plane to the next.
        modulus: the prime, int32.
        a0: the sums of the lowest digit, int32 (COLUMNS, ROWS).
        a1: the sums of the next one.
        a2: the sums of the next one.
        a3: the sums of the highest digit.
    """
    right = digit_bytes(value, modulus, value.shape[0], value.shape[1])
    a0 = tl.dot(right, tl.load(left), a0, out_dtype=tl.int32)
    a1 = tl.dot(right, tl.load(left + plane), a1, out_dtype=tl.int32)
    a2 = tl.dot(right, tl.load(left + 2 * plane), a2, out_dtype=tl.int32)
    a3 = tl.dot(right, tl.load(left + 3 * plane), a3, out_dtype=tl.int32)
    return a0, a1, a2, a3


@triton.jit
def store_sums(out, offset, inside, add, modulus, a0, a1, a2, a3):
    """Join the digit sums, add what ``out`` holds when ``add`` is 1, and store the residues.

    |a_i| ≤ 2^30, so the joined sum is below 2^55 in magnitude, and p · 2^26 > 2^55 makes it
    positive without leaving int64.
    """
    total = a0.to(tl.int64) + (a1.to(tl.int64) << 8)
    total += (a2.to(tl.int64) << 16) + (a3.to(tl.int64) << 24)
    total += modulus.to(tl.int64) << 26
    if add != 0:
        total += tl.load(out + offset, mask=inside, other=0)
    residue = canonical(total.to(tl.uint64, bitcast=True), modulus)
    tl.store(out + offset, residue.to(tl.int32, bitcast=True), mask=inside)


@triton.jit(
    do_not_specialize=[
        *("right", "columns", "inner", "rows", "right_stride", "out_stride", "limit"),
        *("width", "add", "modulus"),
    ]
)
def product_kernel(
    out,  # (rows, columns), or its transpose; ``out_stride`` from one line to the next
    right,  # (inner, columns), or its transpose; ``right_stride`` from one line to the next
    left,  # int8: the digits of the (rows, inner) left factor, in whole tiles
    word,
    columns: tl.int64,
    inner: tl.int64,
    rows: tl.int64,
    right_stride: tl.int64,
    out_stride: tl.int64,
    limit: tl.int64,  # elements of ``out``
    width: tl.int32,  # of ``left``, in tiles
    add: tl.int32,
    modulus: tl.int32,
    RIGHT_TRANSPOSED: tl.constexpr,
    OUT_TRANSPOSED: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One tile of the product, made transposed: (COLUMNS, ROWS)."""
    row_tiles = tl.cdiv(rows, ROWS)
    row_tile = tl.program_id(0).to(tl.int64) % row_tiles
    first = tl.program_id(0).to(tl.int64) // row_tiles * COLUMNS
    row = row_tile * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    k = tl.arange(0, INNER)
    left, left_tile, plane = left_tiles(left, row_tile, row_tiles, width, INNER, ROWS)
    a0 = tl.zeros((COLUMNS, ROWS), tl.int32)
    a1 = tl.zeros((COLUMNS, ROWS), tl.int32)
    a2 = tl.zeros((COLUMNS, ROWS), tl.int32)
    a3 = tl.zeros((COLUMNS, ROWS), tl.int32)
    largest = tl.zeros((COLUMNS, INNER), tl.uint32)
    if RIGHT_TRANSPOSED:
        source = right + (first + column)[:, None] * right_stride + k[None, :]
    else:
        source = right + (k.to(tl.int64) * right_stride + first)[None, :] + column[:, None]
    for base in range(0, inner, INNER):
        inside = (column < columns - first)[:, None] & (k < inner - base)[None, :]
        value = tl.load(source, mask=inside, other=0)
        largest = tl.maximum(largest, value.to(tl.uint32, bitcast=True))
        a0, a1, a2, a3 = multiply_add(value, left + left_tile, plane, modulus, a0, a1, a2, a3)
        left += 4 * INNER
        source += INNER if RIGHT_TRANSPOSED else INNER * right_stride
    report_any(word, largest >= modulus.to(tl.uint32), BAD_RESIDUE)
    inside = (column < columns - first)[:, None] & (row < rows)[None, :]
    if OUT_TRANSPOSED:
        offset = (first + column)[:, None] * out_stride + row[None, :]
        inside = inside & (offset < limit)
    else:
        offset = (row * out_stride + first)[None, :] + column[:, None]
    store_sums(out, offset, inside, add, modulus, a0, a1, a2, a3)
    clear_shared()


def tiles_for(rows: int) -> dict[str, int]:
    """The tile sizes for an output with so many rows."""
    return NARROW if rows <= 16 else WIDE


def product(
    out: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    shape: tuple[int, int, int],
    modulus: int,
    word: torch.Tensor,
    *,
    left_transposed: bool = False,
    right_transposed: bool = False,
    out_transposed: bool = False,
) -> None:
    """Write left @ right mod p into ``out``.

    Args:
        out: int32 (rows, columns), or transposed and flat: then it may end early.
        left: int32 (rows, inner), contiguous, or transposed.
        right: int32 (inner, columns), contiguous, or transposed.
        shape: rows, inner and columns, none of them 0.
        modulus: 2^31 - 2^17 + 1, 2^31 - 2^19 + 1 or 2^31 - 1.
        word: gets bit 1 when an element lies outside [0, p).
        left_transposed: whether ``left`` is (inner, rows).
        right_transposed: whether ``right`` is (columns, inner).
        out_transposed: whether ``out`` is (columns, rows).
    """
    rows, inner, columns = shape
    tiles = tiles_for(rows)
    right_line = inner if right_transposed else columns
    grid = (ceil_div(rows, tiles["ROWS"]) * ceil_div(columns, tiles["COLUMNS"]),)
    with torch.cuda.device_of(out):
        for start in range(0, inner, SLAB):
            stop = min(start + SLAB, inner)
            whole = (slice(start, stop), stop - start)
            digits, width = digits_of(left, left_transposed, *whole, tiles, modulus, word)
            part = right.view(-1)[start * (1 if right_transposed else right_line) :]
            product_kernel[grid](
                *(out, part, digits, word, columns, stop - start, rows, right_line),
                *(rows if out_transposed else columns, out.numel(), width, int(start > 0), modulus),
                RIGHT_TRANSPOSED=right_transposed,
                OUT_TRANSPOSED=out_transposed,
                **tiles,
                num_warps=8,
                num_stages=2,
            )
            digits.zero_()  # they tell what the left factor is, which may be secret
