"""Calls of the mask kernels' launchers that between them take every kernel, form and rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from pyfed.triton_kernels import counts, masks, means, prune, selection

KEY = torch.zeros(8, dtype=torch.int32)
WORD = torch.zeros(1, dtype=torch.int32)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = {  # (rows, columns, tile_rows, tile_columns), by the way that they take
    "pattern": (8, 8, 1, 4),
    "tiny": (8, 32, 1, 32),
    "many": (600, 1000, 1, 1000),
    "whole": (40, 40, 40, 40),
    "blocks": (64, 64, 32, 32),
}


def bits(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def select(way: str, ties: int, wide: bool, dtype: torch.dtype = torch.float32) -> None:
    """A selection; ties by 0 index, 1 random, 2 magnitude, 3 score."""
    rows, columns, *_ = SHAPES[way]
    votes = torch.zeros(rows, columns, dtype=torch.int32 if wide else torch.uint8)
    tie = torch.zeros(rows, columns, dtype=dtype) if ties >= 2 else None
    shape = [rows, columns]
    selection.mask_select(votes, tie, KEY, shape, *SHAPES[way], 1, ties, 0, WORD)


def pruned(dtype: torch.dtype, factors: bool) -> None:
    votes, weight = bits(4, 8), torch.zeros(4, 8, dtype=dtype)
    scale = torch.ones(3) if factors else None
    prune.mask_prune_(weight, votes, None, None, scale, 4, 8, 1, 4, 1, 0, 0, WORD)


def mean(dtype: torch.dtype, form: int, weighted: bool, denominator: int) -> None:
    """A mean of 2 clients over 1040 elements: 0 dense, 1 packed, 2 rectangles, 3 indices."""
    length = 1040
    total = 2 * length if form == 0 else 7
    values = torch.zeros(2, length, dtype=dtype) if form == 0 else torch.zeros(total, dtype=dtype)
    places = [None, None, torch.zeros(2, 4), torch.zeros(total)][form]
    starts = [None, torch.zeros(2, 3), torch.zeros(2), torch.zeros(3)][form]
    places, starts = (None if t is None else t.to(torch.int64) for t in (places, starts))
    weights = torch.ones(2, dtype=torch.int32) if weighted else None
    server = torch.zeros(length, dtype=dtype) if weighted else None
    held = bits(2, 130) if form == 1 or (form == 0 and weighted) else None
    means.masked_mean(
        *(values, held, places, starts, weights, server, 2, length, [length], 26),
        *(form, denominator, 1, WORD),
    )


CALLS: tuple[Callable[[], object], ...] = (
    *(lambda s=s: masks.mask_pack(torch.zeros(s, dtype=torch.bool)) for s in (9, (2, 9), (2, 999))),
    *(
        lambda s=s: masks.mask_unpack(bits(*s), s[-1] * 8 - 1, WORD)
        for s in ((1,), (2, 2), (2, 99))
    ),
    *(lambda s=s: masks.mask_popcount(bits(*s), s[-1] * 8, WORD) for s in ((1,), (2, 2), (2, 99))),
    *(
        lambda c=c, w=w: counts.mask_count(bits(c, w), 8 * w, WORD)
        for c, w in itertools.product((3, 256), (3, 4))
    ),
    *(lambda w=w: counts.mask_add(bits(2, w), bits(3, w), 8 * w, 3, WORD) for w in (3, 4)),
    *(
        lambda p=p, w=w: counts.mask_totals(bits(p, w), 8 * w, WORD)
        for p, w in itertools.product((3, 16), (3, 4))
    ),
    *(lambda way=way: select(way, 0, False) for way in SHAPES),
    *(lambda way=way: select(way, 3, True) for way in SHAPES),
    *(lambda way=way: select(way, 1, True) for way in ("pattern", "whole")),
    *(lambda way=way: select(way, 2, False, torch.float16) for way in ("many", "whole")),
    *(lambda d=d, f=f: pruned(d, f) for d, f in itertools.product(FLOATS, (True, False))),
    *(
        lambda d=d, form=form, w=w: mean(d, form, w, 0 if w else 1)
        for (form, w), d in zip(
            itertools.product(range(4), (True, False)), itertools.cycle(FLOATS), strict=False
        )
    ),
)
