"""The int8 digits of the left factor of a product, which ``product.py`` explains.

They are made once, and read by each tile of the product.
"""

import torch
import triton
import triton.language as tl

from .common import BAD_RESIDUE, canonical, ceil_div, clear_shared, report_any


@triton.jit
def signed_digits(value, modulus):
    """Residues, int32 → their four base-256 digits from -128 to 127, one in each byte, uint32.

    Adding 128 to each digit makes all of them unsigned bytes; the flip of each top bit takes the
    128 away again. No carry is lost: |centred value| ≤ 2^30 and 0x80808080 ± 2^30 is in [0, 2^32).
    """
    centred = tl.where(value > (modulus >> 1), value - modulus, value)
    centred = centred.to(tl.uint32, bitcast=True)
    return tl.add(centred, 0x80808080, sanitize_overflow=False) ^ 0x80808080


@triton.jit(
    do_not_specialize=[
        *("source", "rows", "inner", "stride", "split", "split_tiles", "width", "modulus"),
    ]
)
def digits_kernel(
    out,  # int32 (padded rows) x (width · INNER) in 4 planes: byte j of an element is digit w_ji
    source,  # int32 (rows, inner), or its transpose; ``stride`` from one line to the next
    word,
    rows: tl.int64,
    inner: tl.int64,
    stride: tl.int64,
    split: tl.int64,  # columns of ``source`` in the first ``split_tiles`` tiles; the others follow
    split_tiles: tl.int32,
    width: tl.int32,  # in tiles
    modulus: tl.int32,
    TRANSPOSED: tl.constexpr,
    INNER: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The digits w_ji of one tile of a left factor, (ROWS, INNER)."""
    tile = tl.program_id(0) % width
    row = (tl.program_id(0) // width).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tile * INNER + tl.arange(0, INNER).to(tl.int64)
    line = INNER * width
    target = out + row[:, None] * line + column[None, :]
    plane = (tl.num_programs(0) // width).to(tl.int64) * ROWS * line
    column_end = split
    if tile >= split_tiles:
        column += split - split_tiles * INNER
        column_end = inner
    inside = (row < rows)[:, None] & (column < column_end)[None, :]
    if TRANSPOSED:
        offset = column[None, :] * stride + row[:, None]
    else:
        offset = row[:, None] * stride + column[None, :]
    value = tl.load(source + offset, mask=inside, other=0)
    report_any(word, value.to(tl.uint32, bitcast=True) >= modulus.to(tl.uint32), BAD_RESIDUE)
    residue = value.to(tl.uint32, bitcast=True).to(tl.uint64)
    w0 = signed_digits(value, modulus)
    w1 = signed_digits(canonical(residue << 8, modulus).to(tl.int32, bitcast=True), modulus)
    w2 = signed_digits(canonical(residue << 16, modulus).to(tl.int32, bitcast=True), modulus)
    w3 = signed_digits(canonical(residue << 24, modulus).to(tl.int32, bitcast=True), modulus)
    for i in tl.static_range(4):
        digits = ((w0 >> (8 * i)) & 255) | (((w1 >> (8 * i)) & 255) << 8)
        digits |= (((w2 >> (8 * i)) & 255) << 16) | (((w3 >> (8 * i)) & 255) << 24)
        tl.store(target + i * plane, digits.to(tl.int32, bitcast=True))
    clear_shared()


def digits_of(
    factor: torch.Tensor,
    transposed: bool,
    columns: slice,
    split: int,
    tiles: dict[str, int],
    modulus: int,
    word: torch.Tensor,
) -> tuple[torch.Tensor, int]:
    """The digits of some columns of a left factor, padded with zeros to whole tiles.

    Args:
        factor: int32 (rows, inner), contiguous; with ``transposed``, (inner, rows).
        transposed: which of the two.
        columns: which of the ``inner`` columns.
        split: how many of them come before the padding to whole tiles that separates the columns
            that meet data from those that meet random rows.
        tiles: the tile sizes.
        modulus: 2^31 - 2^17 + 1, 2^31 - 2^19 + 1 or 2^31 - 1.
        word: gets bit 1 when an element of these columns lies outside [0, p).

    Returns:
        int8 (4, padded rows, 4 · width · INNER), and the width in tiles.
    """
    rows = factor.shape[1] if transposed else factor.shape[0]
    inner = columns.stop - columns.start
    split_tiles = ceil_div(split, tiles["INNER"])
    width = split_tiles + ceil_div(inner - split, tiles["INNER"])
    row_tiles = ceil_div(rows, tiles["ROWS"])
    out = factor.new_empty(4, row_tiles * tiles["ROWS"], width * tiles["INNER"])
    stride = factor.shape[1]
    source = factor.view(-1)[columns.start * (stride if transposed else 1) :]
    digits_kernel[(row_tiles * width,)](
        *(out, source, word, rows, inner, stride, split, split_tiles, width, modulus),
        TRANSPOSED=transposed,
        INNER=tiles["INNER"],
        ROWS=tiles["ROWS"],
    )
    return out.view(torch.int8), width
