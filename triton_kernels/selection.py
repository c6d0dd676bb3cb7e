"""Exact selection by votes in Triton: a search for the k-th order of each group, digit by digit.

A histogram of 256 bins finds 8 bits of it; the next one looks only at what shares them. Elements
below that order are pruned, and of those at it the first ones by index. Three ways, by the groups:
up to 32 elements are ranked against one another in registers; many groups take a program each; few
groups take many programs each, whose histograms meet in torch (on a few numbers, without waiting).

Memory beside the output: 4 bytes an element for the words of random ties; 1/16 byte for the
histograms of few groups; and for narrow groups, such as columns, a copy of counts, keys and mask
with each group in one piece, since reading one by lines touches 32 bytes for each of its counts.
"""

import torch
import triton
import triton.language as tl

from .common import ceil_div
from .digits import group_kernel, histogram_kernel, mark_kernel
from .order import LAYOUT, RANDOM, order_at, origin, report_votes
from .random import SELECTION, random_words

TINY = 32  # elements of a group that are ranked by comparison
MANY = 512  # groups that fill a device with one program each
NARROW = 32  # columns of a group below which it is copied
BLOCK = 1024
CHUNK = 16 * BLOCK  # elements of a program when groups are few
EXPONENTS = {torch.float32: 0x7F800000, torch.float16: 0x7C00, torch.bfloat16: 0x7F80}

Matrix = tuple[int, int, int, int]
"""rows, columns, tile_rows, tile_columns: a matrix, and the groups that it is cut into."""


@triton.jit(do_not_specialize=[*LAYOUT, "counts", "tie", "k", "groups"])
def tiny_kernel(
    out,  # uint8 (rows, columns), as counts and tie
    counts,
    tie,
    word,
    columns: tl.int64,
    tile_rows: tl.int64,
    tile_columns: tl.int64,
    most: tl.int32,
    k: tl.int64,
    groups: tl.int64,
    TIES: tl.constexpr,
    EXPONENT: tl.constexpr,
    SIZE: tl.constexpr,  # of a group, rounded up to a power of two
    GROUPS: tl.constexpr,
):
    """Some groups of at most 32 elements: an element's rank is how many come before it."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    element = tl.arange(0, SIZE)
    line = element // tile_columns.to(tl.int32)
    local = line * columns + (element - line * tile_columns)
    offset = origin(group, columns, tile_rows, tile_columns)[:, None] + local[None, :]
    inside = (group < groups)[:, None] & (element < tile_rows * tile_columns)[None, :]
    order, bad_count, bad_float = order_at(counts, tie, offset, inside, False, most, TIES, EXPONENT)
    unique = order.to(tl.int64) * 32 + element[None, :]  # below 2^53
    unique = tl.where(inside, unique, 9223372036854775807)
    rank = tl.sum((unique[:, None, :] < unique[:, :, None]).to(tl.int32), 2)
    tl.store(out + offset, (rank < k).to(tl.uint8), mask=inside)
    report_votes(word, inside, bad_count, bad_float)


def mask_select(
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    shape: list[int],
    rows: int,
    columns: int,
    tile_rows: int,
    tile_columns: int,
    k: int,
    ties: int,
    stream: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """The first k elements of every group, by votes, then by tie key, then by index: bool (shape).

    Args:
        counts: uint8 or int32, rows · columns in all.
        tie: float32, float16 or bfloat16, as many; for ties by magnitude or score.
        key: int32 (8,), for random ties.
        shape: of the result.
        rows: of the matrix.
        columns: of the matrix.
        tile_rows: of a group.
        tile_columns: of a group.
        k: how many of each group.
        ties: 0 by index, 1 random, 2 by magnitude, 3 by score.
        stream: of the key, from 0 to 2^32 - 1.
        word: gets bit 32 when a count lies outside [0, 65535], bit 2 when a float is not finite.
    """
    matrix = rows, columns, tile_rows, tile_columns
    if ties == RANDOM.value and key is not None:
        tie = random_words(key, rows * columns, stream, 0, SELECTION)
    return select(counts, tie, matrix, k, ties, 65535, word).view(shape)


def select(
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    matrix: Matrix,
    k: int,
    ties: int,
    most: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """What to prune: bool (rows · columns,).

    Args:
        counts: uint8 or int32, rows · columns in all.
        tie: floats, or int32 random words, as many; None for ties by index.
        matrix: rows, columns, and those of a group.
        k: how many of each group.
        ties: as for :func:`mask_select`.
        most: the largest count allowed.
        word: as for :func:`mask_select`.
    """
    rows, columns, tile_rows, tile_columns = matrix
    total = rows * columns
    if total == 0:
        return torch.empty(0, dtype=torch.bool, device=counts.device)
    rule = {"TIES": ties, "EXPONENT": 0 if tie is None else EXPONENTS.get(tie.dtype, 0)}
    counts = counts.reshape(-1)
    if tie is not None:
        tie = tie.reshape(-1).view(torch.int32 if tie.element_size() == 4 else torch.int16)
    down, across, size = rows // tile_rows, columns // tile_columns, tile_rows * tile_columns
    narrow = tile_columns < min(NARROW, columns) and size > TINY
    if narrow:
        lines = (down, tile_rows, across, tile_columns)
        counts = counts.view(lines).transpose(1, 2).reshape(-1)
        tie = None if tie is None else tie.view(lines).transpose(1, 2).reshape(-1)
        matrix = down * across, size, 1, size
    votes = (counts.contiguous(), None if tie is None else tie.contiguous())
    marked = torch.empty(total, dtype=torch.bool, device=counts.device)
    with torch.cuda.device_of(marked):
        _mark(marked.view(torch.uint8), votes, matrix, k, most, word, rule)
    if narrow:
        pieces = (down, across, tile_rows, tile_columns)
        marked = marked.view(pieces).transpose(1, 2).reshape(-1)
    return marked


def _mark(
    out: torch.Tensor,
    votes: tuple[torch.Tensor, torch.Tensor | None],
    matrix: Matrix,
    k: int,
    most: int,
    word: torch.Tensor,
    rule: dict[str, int],
) -> None:
    """Mark in ``out`` what to prune, in the way that suits the groups."""
    rows, columns, tile_rows, tile_columns = matrix
    size = tile_rows * tile_columns
    groups = rows * columns // size
    numbers = (columns, tile_rows, tile_columns, most)
    if size <= TINY:
        rounded = triton.next_power_of_2(size)
        some = min(512 // rounded, 4096 // rounded**2)  # elements, and comparisons, of a program
        tiny_kernel[(ceil_div(groups, some),)](
            *(out, *votes, word, *numbers, k, groups),
            **{**rule, "SIZE": rounded, "GROUPS": some},
        )
        return
    digits = 1 if votes[0].dtype == torch.uint8 else 2  # bytes of an order
    digits += 0 if votes[1] is None else votes[1].element_size()
    if groups >= MANY:
        block = min(BLOCK, max(128, triton.next_power_of_2(size)))
        group_kernel[(groups,)](
            *(out, *votes, word, *numbers, k), **{**rule, "DIGITS": digits, "BLOCK": block}
        )
        return
    chunks = ceil_div(size, CHUNK)
    grid = (groups * chunks,)
    rule = {**rule, "WHOLE": groups == 1, "CHUNK": CHUNK, "BLOCK": BLOCK}
    prefix = torch.zeros(groups, dtype=torch.int64, device=out.device)
    wanted = torch.full((groups, 1), k, dtype=torch.int64, device=out.device)
    bins = torch.empty(groups, chunks, 256, dtype=torch.int32, device=out.device)
    for shift in range(8 * digits - 8, -1, -8):
        histogram_kernel[grid](bins, *votes, prefix, *numbers, shift, **rule)
        found = bins.sum(1)  # int64
        upto = found.cumsum(1)
        digit = (upto >= wanted).to(torch.int8).argmax(1, keepdim=True)  # the first such
        wanted = wanted - (upto - found).gather(1, digit)
        prefix = prefix * 256 + digit[:, 0]
    equal = bins.gather(2, digit[:, :, None].expand(-1, chunks, 1))[:, :, 0].to(torch.int64)
    wanted = wanted - (equal.cumsum(1) - equal)
    mark_kernel[grid](out, *votes, word, prefix, wanted, *numbers, **rule)
