"""The CUDA kernels that select and prune, run on the CPU; see ``emulate.h``.

Tiles are chosen by path: those of one thread, of one block, of many blocks, and strips of columns.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agreement import SparseBytes, agree, broken, reference, shifted
from cases import KEY
from pyfed.errors import ArgumentError
from pyfed.ops.random import SELECTION, domain, words_reference
from pyfed.ops.selection import CHUNK, selected
from pyfed.ops.selection_arguments import INDEX, MAGNITUDE, RANDOM, SCORE

WORDS = KEY.words()
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EVERY_KIND = pytest.mark.parametrize("kind", FLOATS, ids=("float32", "float16", "bfloat16"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def vote(size: int, level: int, wide: bool) -> torch.Tensor:
    """Counts of which many are equal; wide ones need both bytes, and have both extremes."""
    counts = torch.randint(0, level, (size,))
    if not wide:
        return counts.to(torch.uint8)
    counts *= 300
    counts[::17], counts[5::17] = 65_535, 0
    return counts.to(torch.int32)


def tie_values(rows: int, columns: int, kind: torch.dtype) -> torch.Tensor:
    """Floats of which many are equal, with zeros of both signs."""
    values = torch.randn(rows, columns).mul(4).round().div(4)
    values.view(-1)[::7] = -0.0
    return values.to(kind)


def select_and_prune(
    emulated: Any,
    matrix: tuple[int, int],
    tile: tuple[int, int],
    k: int,
    ties: int,
    wide: bool,
    kind: torch.dtype = torch.float32,
    level: int = 6,
    moved: bool = False,
) -> None:
    rows, columns = matrix
    counts, score = vote(rows * columns, level, wide), tie_values(rows, columns, kind)
    weight = torch.randn(rows, columns).mul(2).round().div(2).to(kind)
    if moved:
        counts, score, weight = shifted(counts), shifted(score), shifted(weight)
    key = WORDS if ties == RANDOM else None
    tie = score if ties in (MAGNITUDE, SCORE) else None
    layout = (rows, columns, *tile, k, ties, 2**32 - 1)
    agree(emulated, "mask_select", counts, tie, key, [rows, columns], *layout)
    tie = score if ties == SCORE else None
    most = int(counts.max())
    for factors in (None, torch.arange(most, -1, -1).to(torch.float32) / max(most, 1)):
        agree(emulated, "mask_prune_", weight, counts, tie, key, factors, *layout)


TILES = (  # (tiles down, across), tile
    *(((2, 3), (1, 1)), ((3, 40), (1, 2)), ((5, 33), (1, 4)), ((5, 9), (1, 8)), ((3, 3), (1, 16))),
    *(((3, 5), (1, 3)), ((2, 3), (1, 32)), ((2, 3), (4, 4)), ((3, 2), (2, 3)), ((1, 1), (5, 5))),
    *(((2, 3), (1, 64)), ((3, 1), (1, 100)), ((1, 1), (1, 300)), ((2, 2), (8, 8))),
    *(((1, 5), (40, 1)), ((1, 32), (100, 1)), ((2, 33), (300, 1)), ((1, 70), (33, 1))),
    *(((3, 1), (40, 1)), ((2, 2), (33, 2)), ((1, 2), (64, 80)), ((2, 1), (70, 63))),
)
EVERY_TILE = pytest.mark.parametrize("count, tile", TILES, ids=str)
EVERY_TIE = pytest.mark.parametrize("ties", [INDEX, RANDOM, MAGNITUDE, SCORE])


@EVERY_TIE
@pytest.mark.parametrize("wide", [False, True], ids=("uint8", "int32"))
@EVERY_TILE
def test_tiles_of_any_shape(
    emulated: Any, count: tuple[int, int], tile: tuple[int, int], wide: bool, ties: int
) -> None:
    matrix, size = (count[0] * tile[0], count[1] * tile[1]), tile[0] * tile[1]
    for k, level in ((0, 6), (size, 6), (size // 2, 1), ((size + 1) // 2, 5), (size - 1, 60)):
        for moved in (False, True):
            kind = FLOATS[(k + ties + moved) % 3]
            select_and_prune(emulated, matrix, tile, k, ties, wide, kind, level, moved)


LONG = (  # matrix, tile: more elements than one block takes, at any alignment
    *(((1, 33_000), (1, 33_000)), ((2, 40_001), (1, 40_001)), ((70, 1001), (70, 1001))),
    *(((400, 200), (200, 200)), ((1, 4 * CHUNK), (1, 4 * CHUNK)), ((CHUNK + 9, 2), (CHUNK + 9, 1))),
)
WHOLE = (  # as many as it takes
    *(((3, CHUNK - 1), (1, CHUNK - 1)), ((2, CHUNK), (1, CHUNK)), ((128, 512), (128, 256))),
)


@EVERY_TIE
@pytest.mark.parametrize("wide", [False, True], ids=("uint8", "int32"))
@pytest.mark.parametrize("matrix, tile", (*LONG, *WHOLE), ids=str)
def test_tiles_of_any_length(
    emulated: Any, matrix: tuple[int, int], tile: tuple[int, int], wide: bool, ties: int
) -> None:
    size = tile[0] * tile[1]
    select_and_prune(emulated, matrix, tile, size // 2, ties, wide, FLOATS[ties % 3])
    select_and_prune(emulated, matrix, tile, size - 5, ties, not wide, FLOATS[ties - 1], 1, True)


def test_nothing_and_all_of_long_tiles(emulated: Any) -> None:
    for k in (0, 1, 40_000):
        select_and_prune(emulated, (2, 40_000), (1, 40_000), k, INDEX, False, level=2)


def test_ties_by_index_end_in_any_chunk(emulated: Any) -> None:
    # All counts are equal: the first k elements, whichever block has the last of them.
    counts = torch.full((3 * CHUNK,), 7, dtype=torch.uint8)
    for k in (1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 4096, 3 * CHUNK - 1):
        args = (counts, None, None, [3 * CHUNK], 1, 3 * CHUNK, 1, 3 * CHUNK, k, INDEX, 0)
        for backwards in (False, True):
            got = emulated("mask_select", *args, backwards=backwards)
            assert bool(got[:k].all()) and not bool(got[k:].any())


@EVERY_KIND
def test_keys_of_all_floats_are_in_order(emulated: Any, kind: torch.dtype) -> None:
    # Every finite number of 16 bits, or as many of 32: the k-th lowest needs every digit.
    words = torch.randperm(2**16).to(torch.int32)
    if kind == torch.float32:
        values = (words * 65_521).view(torch.float32)
    else:
        values = words.to(torch.int16).view(kind)
    values = torch.where(torch.isfinite(values), values, torch.zeros_like(values)).view(1, -1)
    counts = torch.zeros(2**16, dtype=torch.uint8)
    for ties in (MAGNITUDE, SCORE):
        for k in (1, 12_345, 2**15, 2**16 - 1):
            layout = (1, 2**16, 1, 2**16, k, ties, 0)
            agree(emulated, "mask_select", counts, values, None, [1, 2**16], *layout)


@EVERY_KIND
@pytest.mark.parametrize("matrix, tile", [((1, 40_000), (1, 40_000)), ((4, 96), (1, 96))], ids=str)
@pytest.mark.parametrize("where", [0, 17, -1])
def test_bad_votes_are_told_of(
    emulated: Any, matrix: tuple[int, int], tile: tuple[int, int], where: int, kind: torch.dtype
) -> None:
    size = matrix[0] * matrix[1]
    counts = torch.arange(size, dtype=torch.int32).remainder_(50)
    values = tie_values(*matrix, kind)
    for k in (0, 10, tile[1]):  # also where no tie is looked at
        layout = (*matrix, *tile, k)
        for bad in (-1, 65_536, -(2**31), 2**31 - 1):
            wrong = broken(counts, where, bad)
            with pytest.raises(ArgumentError, match="a count or a weight lies outside"):
                emulated("mask_select", wrong, None, None, matrix, *layout, INDEX, 0)
        factors = torch.ones(50)
        agree(emulated, "mask_prune_", values, counts, None, None, factors, *layout, INDEX, 0)
        wrong = broken(counts, where, 50)
        for given in (wrong, wrong.to(torch.uint8)):
            with pytest.raises(ArgumentError, match="a count or a weight lies outside"):
                emulated("mask_prune_", values, given, None, None, factors, *layout, INDEX, 0)
        for bad in (float("nan"), float("inf"), -float("inf")):
            wrong, weight = broken(values, where, bad), values.clone()
            with pytest.raises(ArgumentError, match="NaN or infinite"):
                emulated("mask_select", counts, wrong, None, matrix, *layout, SCORE, 0)
            with pytest.raises(ArgumentError, match="NaN or infinite"):
                emulated("mask_prune_", weight, counts, wrong, None, None, *layout, SCORE, 0)
            with pytest.raises(ArgumentError, match="NaN or infinite"):
                emulated("mask_prune_", wrong, counts, None, None, None, *layout, INDEX, 0)


def test_scratch_that_is_too_small_is_refused(emulated: Any) -> None:
    counts = torch.zeros(2 * CHUNK, dtype=torch.uint8)
    out = torch.zeros(2 * CHUNK, dtype=torch.bool)
    layout = (1, 2 * CHUNK, 1, 2 * CHUNK, 5, 0, 0)
    votes = (counts.data_ptr(), 0, None, 0, None)
    with pytest.raises(RuntimeError, match="too little scratch"):
        emulated.launch("mask_select", *votes, *layout, None, 0, out.data_ptr())
    assert emulated.control.launches == 0


def test_more_than_2_to_31_elements(emulated: Any) -> None:
    # Only the last blocks of each grid run. The last elements, some whole tiles, lie inside them.
    count, tail, stream = 2**31 + 64 * 1024, 96, 9
    emulated.control.last_blocks = 3
    votes, out, scratch = SparseBytes(count), SparseBytes(count), SparseBytes(count)
    last = torch.randint(0, 3, (tail,), dtype=torch.uint8)
    votes.bytes[-tail:] = last
    keys = words_reference(WORDS, count - tail, tail, [0, stream, domain(SELECTION)])
    for rows, columns, tile, k in (
        *((count // 4, 4, (1, 4), 2), (count // 6, 6, (1, 6), 2), (count // 48, 48, (1, 48), 20)),
        *((1, count, (1, count), 0), (96, count // 96, (96, 1), 0)),
    ):
        assert rows * columns == count
        layout = (rows, columns, *tile, k, RANDOM, stream, scratch.at, count // 8)
        out.bytes[-tail:] = 90
        pointers = (votes.at, 0, None, 0, WORDS.data_ptr())
        assert emulated.launch("mask_select", *pointers, *layout, out.at) == 0
        wanted = torch.zeros(tail, dtype=torch.bool)
        if k:
            wanted = selected(last, keys, tail // tile[1], tile[1], *tile, k)
        assert torch.equal(out.bytes[-tail:], wanted.view(torch.uint8))


def test_launchers_give_the_device_back(emulated: Any) -> None:
    args = (
        "mask_select",
        vote(40_000, 3, False),
        None,
        None,
        [40_000],
        1,
        40_000,
        1,
        40_000,
        9,
        0,
        0,
    )
    emulated.device = 1
    assert torch.equal(emulated(*args), reference(*args))
    assert emulated.current_device == 0
    emulated.control.fail = 1
    with pytest.raises(RuntimeError, match="CUDA: an error"):
        emulated(*args)
    assert emulated.current_device == 0
