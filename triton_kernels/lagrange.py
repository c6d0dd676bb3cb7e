"""Encoding and decoding of Lagrange shares in Triton.

Encoding multiplies the coding matrix with columns of data stacked on random rows. A program makes
its random residues in registers, one ChaCha20 block for 16 columns of a row, so that they are
never in memory; its tile of columns starts at a multiple of 16 of the stream. How residues are
multiplied: :mod:`.product`.
"""

import torch
import triton
import triton.language as tl

from .common import ALL_REJECTED, BAD_RESIDUE, ceil_div, clear_shared, report_any, signed32
from .factor import digits_of
from .product import SLAB, left_tiles, multiply_add, product, store_sums, tiles_for
from .random import PADDING, domain_of, residues


@triton.jit(
    do_not_specialize=[
        *("data", "key", "length", "columns", "rows", "blocks", "first_block", "some_blocks"),
        *("first_random", "some_random", "width", "block", "lead", "stream", "domain", "add"),
        "modulus",
    ]
)
def lagrange_encode_kernel(
    out,  # (rows, columns)
    data,  # (length,): element c · blocks + k is row k of column c
    left,  # int8: the digits of these columns of the matrix, in whole tiles
    key,
    word,
    length: tl.int64,
    columns: tl.int64,
    rows: tl.int64,
    blocks: tl.int64,
    first_block: tl.int64,
    some_blocks: tl.int64,
    first_random: tl.int64,
    some_random: tl.int64,
    width: tl.int32,  # of ``left``, in tiles
    block: tl.int32,
    lead: tl.int32,
    stream: tl.int32,
    domain: tl.int32,
    add: tl.int32,
    modulus: tl.int32,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One tile of the shares, made transposed: (COLUMNS, ROWS)."""
    row_tiles = tl.cdiv(rows, ROWS)
    row_tile = tl.program_id(0).to(tl.int64) % row_tiles
    tile = tl.program_id(0).to(tl.int64) // row_tiles
    row = row_tile * ROWS + tl.arange(0, ROWS)
    column = tile * COLUMNS + tl.arange(0, COLUMNS) - lead
    real = (column >= 0) & (column < columns)
    k = tl.arange(0, INNER)
    left, left_tile, plane = left_tiles(left, row_tile, row_tiles, width, INNER, ROWS)
    a0 = tl.zeros((COLUMNS, ROWS), tl.int32)
    a1 = tl.zeros((COLUMNS, ROWS), tl.int32)
    a2 = tl.zeros((COLUMNS, ROWS), tl.int32)
    a3 = tl.zeros((COLUMNS, ROWS), tl.int32)

    largest = tl.zeros((COLUMNS, INNER), tl.uint32)
    for base in range(0, some_blocks, INNER):
        line = base + k.to(tl.int64)
        offset = column[:, None] * blocks + (first_block + line)[None, :]
        inside = real[:, None] & (line < some_blocks)[None, :] & (offset < length)
        value = tl.load(data + offset, mask=inside, other=0)
        largest = tl.maximum(largest, value.to(tl.uint32, bitcast=True))
        a0, a1, a2, a3 = multiply_add(value, left + left_tile, plane, modulus, a0, a1, a2, a3)
        left += 4 * INNER
    report_any(word, largest >= modulus.to(tl.uint32), BAD_RESIDUE)

    lanes = tile * (COLUMNS // 16) + tl.arange(0, COLUMNS // 16)
    counter = tl.add(block.to(tl.uint32), lanes.to(tl.uint32), sanitize_overflow=False)
    real = tl.reshape(real, (COLUMNS // 16, 1, 16))
    prime = modulus.to(tl.uint32)
    failed = tl.zeros((COLUMNS // 16, INNER, 16), tl.int1)
    for base in range(0, some_random, INNER):
        line = base + k.to(tl.int64)
        wanted = real & (line < some_random)[None, :, None]
        counters = counter[:, None] + tl.zeros((1, INNER), tl.uint32)
        random_row = (first_random + line).to(tl.uint32)[None, :] + tl.zeros_like(counters)
        value, rejected = residues(
            *(key, counters, random_row, stream.to(tl.uint32), domain.to(tl.uint32)),
            *(wanted, prime, prime * 0 + 0x7FFFFFFF),
        )
        failed = failed | rejected
        value = tl.reshape(tl.permute(value, (0, 2, 1)), (COLUMNS, INNER))
        value = value.to(tl.int32, bitcast=True)
        a0, a1, a2, a3 = multiply_add(value, left + left_tile, plane, modulus, a0, a1, a2, a3)
        left += 4 * INNER
    report_any(word, failed, ALL_REJECTED)

    offset = row[None, :] * columns + column[:, None]
    inside = (column >= 0)[:, None] & (column < columns)[:, None] & (row < rows)[None, :]
    store_sums(out, offset, inside, add, modulus, a0, a1, a2, a3)
    clear_shared()


def lagrange_encode(
    data: torch.Tensor,
    matrix: torch.Tensor,
    key: torch.Tensor,
    modulus: int,
    blocks: int,
    stream: int,
    start_column: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """Shares of a flat vector of int32 residues: (length,) → (shares, ⌈length / blocks⌉).

    Args:
        data: (length,).
        matrix: (shares, blocks + privacy).
        key: int32 (8,): residue ``start_column + c`` of row t of purpose 3 is random row t of
            column c.
        modulus: 2^31 - 2^17 + 1, 2^31 - 2^19 + 1 or 2^31 - 1.
        blocks: data rows in a column.
        stream: from 0 to 2^32 - 1.
        start_column: index of the first column's random residues.
        word: gets bit 1 when an element lies outside [0, p), bit 4 when 16 candidates in a row
            were rejected.
    """
    data, matrix, key = data.contiguous(), matrix.contiguous(), key.contiguous()
    rows, inner = matrix.shape
    columns = ceil_div(data.numel(), blocks)
    out = torch.empty(rows, columns, dtype=torch.int32, device=data.device)
    if out.numel() == 0:
        return out
    tiles = tiles_for(rows)
    block, lead = divmod(start_column, 16)
    grid = (ceil_div(rows, tiles["ROWS"]) * ceil_div(lead + columns, tiles["COLUMNS"]),)
    with torch.cuda.device_of(out):
        for start in range(0, inner, SLAB):
            stop = min(start + SLAB, inner)
            some_blocks = max(0, min(stop, blocks) - start)
            some_random = stop - start - some_blocks
            first_random = max(0, start - blocks)
            some = slice(start, stop)
            digits, width = digits_of(matrix, False, some, some_blocks, tiles, modulus, word)
            lagrange_encode_kernel[grid](
                *(out, data, digits, key, word, data.numel(), columns, rows, blocks, start),
                *(some_blocks, first_random, some_random, width),
                *(signed32(block), lead, signed32(stream), domain_of(PADDING, modulus)),
                *(int(start > 0), modulus),
                **tiles,
                num_warps=8,
                num_stages=2,
            )
            digits.zero_()  # of a matrix that the caller may keep secret, as in a product
    return out


def lagrange_decode(
    rows: torch.Tensor, matrix: torch.Tensor, modulus: int, length: int, word: torch.Tensor
) -> torch.Tensor:
    """The product of a decoding matrix with share rows as one flat vector, int32 (length,).

    Args:
        rows: (threshold, columns) residues.
        matrix: (blocks, threshold) residues.
        modulus: 2^31 - 2^17 + 1, 2^31 - 2^19 + 1 or 2^31 - 1.
        length: elements to give back, at most blocks · columns.
        word: gets bit 1 when an element lies outside [0, p).
    """
    blocks, threshold = matrix.shape
    out = torch.zeros(length, dtype=torch.int32, device=rows.device)
    if length == 0 or threshold == 0:
        return out
    shape = (blocks, threshold, rows.shape[1])
    rows, matrix = rows.contiguous(), matrix.contiguous()
    product(out, matrix, rows, shape, modulus, word, out_transposed=True)
    return out
