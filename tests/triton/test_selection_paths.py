"""Interpreted Triton kernels that select and prune equal the reference, bit for bit.

Sizes are patched so that small matrices take each of the ways. Each test counts its cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from matching import DEVICES, FLOATS, check_equal, floats_of, word_of
from pyfed import Key
from pyfed.checks import BAD_COUNT, NOT_FINITE
from pyfed.ops import mask_prune_, mask_select
from pyfed.triton_kernels import prune, selection

KEY = Key(bytes(range(32)))

pytestmark = pytest.mark.parametrize("device", DEVICES)


TINY = (  # shape, group: groups of at most 32 elements
    *(((1, 1), "layer"), ((7, 3), "layer"), ((6, 5), "row"), ((5, 4), "column"), ((12,), "layer")),
    *(((8, 8), "2:4"), ((3, 12), "1:3"), ((4, 7), "7:7"), ((8, 64), "1x32"), ((8, 12), "4x3")),
    *(((2, 3, 5), "layer"), ((32, 3), "column"), ((260, 4), "1:2"), ((31,), "row")),
    *(((5, 30), "3:15"), ((6, 16), "2x16"), ((16, 6), "16x2"), ((257, 2), "row")),
)
LARGE = (  # whole, in one piece each, by lines, and narrow
    *(((35, 3), "layer"), ((290,), "layer"), ((2, 5, 7), "row"), ((33, 2), "column")),
    *(((3, 70), "3x35"), ((8, 80), "8x40"), ((2, 96), "2x48"), ((25, 6), "25x2")),
)


def votes_of(shape: tuple[int, ...], wide: bool, device: str) -> torch.Tensor:
    """Few different counts, so that there are ties; wide ones from 0 to 65,535."""
    found = torch.randint(0, 4, shape, device=device)
    return (found * 21845).to(torch.int32) if wide else (found * 85).to(torch.uint8)


def selections(matrices: Sequence[Any], device: str) -> Iterable[dict[str, Any]]:
    """Arguments of selecting ops on such matrices, by every rule, for both types of counts."""
    rules = [
        *itertools.product(("index", "magnitude", "score"), (False, True), matrices),
        *itertools.product(("random",), (False, True), matrices[::2]),  # slow when interpreted
    ]
    for number, (ties, wide, (shape, group)) in enumerate(rules):
        sparsity = (0.3, 0.5, 0, 1, 0.77)[number % 5]
        dtype = FLOATS[number % 3]
        yield {
            "counts": votes_of(shape, wide, device).view(shape if number % 2 else -1),
            "sparsity": None if ":" in group else sparsity,
            "group": group,
            "ties": ties,
            "weight": floats_of(shape, dtype, device),
            "score": floats_of(shape, FLOATS[number // 3 % 3], device),
            "key": KEY,
            "stream": (0, 2**32 - 1 - number)[number % 2],
            "rounding": ("floor", "nearest", "ceil")[number % 3],
        }


@pytest.fixture
def large_groups_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes groups above 32 elements as few, in chunks of two blocks, or as many, one a program."""

    def take(way: str) -> None:
        monkeypatch.setattr(selection, "BLOCK", 128)
        monkeypatch.setattr(selection, "CHUNK", 256)
        monkeypatch.setattr(selection, "MANY", {"few": 512, "many": 1}[way])

    return take


def test_mask_select(device: str, large_groups_as: Callable[[str], None]) -> None:
    count = 0
    for way, matrices in (("few", TINY + LARGE), ("many", LARGE[::3])):
        large_groups_as(way)
        cases = [
            partial(mask_select, shape=given["weight"].shape, **given)
            for given in selections(matrices, device)
        ]
        for group in ("layer", "row", "40x3"):
            votes = votes_of((9, 40), False, device).t()
            cases.append(partial(mask_select, votes, (40, 9), 0.5, group))
        cases.append(partial(mask_select, votes_of((0, 3), False, device), (0, 3), 0.5, "row"))
        count += check_equal(cases)
    assert count >= 200


def pruned(given: dict[str, Any], clients: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    weight = given["weight"].clone(memory_format=torch.preserve_format)
    rest = {name: value for name, value in given.items() if name != "weight"}
    mask = mask_prune_(weight, clients=clients, **rest)
    return weight, mask


def test_mask_prune(device: str, large_groups_as: Callable[[str], None]) -> None:
    count = 0
    for way, matrices in (("few", TINY + LARGE), ("many", LARGE[::3])):
        large_groups_as(way)
        cases = []
        for number, given in enumerate(selections(matrices, device)):
            most = 65535 if given["counts"].dtype == torch.int32 else 255
            cases.append(partial(pruned, given, None if number % 3 == 0 else most))
        for dtype, clients in itertools.product(FLOATS, (None, 255)):  # weights with gaps
            weight = floats_of((9, 40), dtype, device).t()
            given = {"weight": weight, "counts": votes_of((40, 9), False, device), "sparsity": 0.5}
            cases.append(partial(pruned, given, clients))
        count += check_equal(cases)
    assert count >= 200


def test_selection_with_its_own_sizes(device: str) -> None:
    """Chunks of 16 blocks, beyond one."""
    votes = votes_of((127, 133), False, device)
    cases = [
        partial(mask_select, votes, (127, 133), 0.5, group, "index") for group in ("layer", "127x7")
    ]
    assert check_equal(cases) == 2


@pytest.mark.parametrize(
    ("shape", "tile", "way", "dtype"),
    [
        ((8, 8), (1, 4), "few", torch.float16),
        ((3, 40), (1, 40), "many", torch.float32),
        ((12, 12), (12, 12), "few", torch.bfloat16),
    ],
)
def test_bad_votes_are_reported_and_change_no_weight(
    device: str,
    shape: tuple[int, int],
    tile: tuple[int, int],
    way: str,
    dtype: torch.dtype,
    large_groups_as: Callable[[str], None],
) -> None:
    large_groups_as(way)
    numbers = (*shape, *tile, 2)
    votes, floats = votes_of(shape, True, device), floats_of(shape, dtype, device)
    weight = torch.ones_like(floats)
    word = word_of(device)

    def select(ties: int) -> int:
        word.zero_()
        tie = floats if ties else None
        selection.mask_select(votes, tie, None, list(shape), *numbers, ties, 0, word)
        return int(word.item())

    def prune_(ties: int, factors: torch.Tensor | None = None) -> int:
        word.zero_()
        before, tie = weight.clone(), floats if ties == 3 else None
        prune.mask_prune_(weight, votes, tie, None, factors, *numbers, ties, 0, word)
        assert torch.equal(weight.view(torch.uint8), before.view(torch.uint8))
        return int(word.item())

    for bad in (-1, 65536):
        votes[-1, -1] = bad
        assert select(0) == BAD_COUNT
        assert prune_(0) == BAD_COUNT
    votes[-1, -1] = 5
    assert select(3) == 0
    assert prune_(0, torch.ones(5, device=device)) == BAD_COUNT  # at most 4 voted
    for bad_float in (float("nan"), -float("inf")):
        floats[-1, -1] = bad_float
        assert select(2) == NOT_FINITE
        assert select(3) == NOT_FINITE
        assert prune_(3) == NOT_FINITE
        floats[-1, -1] = 0
        weight[-1, -1] = bad_float
        assert prune_(0) == NOT_FINITE
        assert prune_(2) == NOT_FINITE
        weight[-1, -1] = 1
