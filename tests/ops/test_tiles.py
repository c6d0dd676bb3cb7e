"""How many are pruned of a group, exactly; and which groups a tensor can be cut into."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
import torch

import mask_oracles as oracles
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import mask_prune_, mask_select
from pyfed.ops.tiles import Tiles, pruned_count, tiles

ROUNDINGS = ("floor", "nearest", "ceil")
COUNTS = torch.zeros(24, dtype=torch.uint8)


def pruned(shape: tuple[int, ...], sparsity: object, group: str = "layer", **how: object) -> int:
    counts = torch.zeros(math.prod(shape), dtype=torch.uint8)
    return int(mask_select(counts, shape, sparsity, group, "index", **how).sum())  # type: ignore[arg-type]


def test_a_float_means_the_decimal_that_it_prints_as() -> None:
    """0.29 · 100 in binary is 28.999…; all percents of 100 and of 1000 are exact."""
    assert math.floor(0.29 * 100) == 28
    assert pruned((100,), 0.29) == pruned((100,), 0.29, rounding="ceil") == 29
    for percent in range(101):
        for rounding in ROUNDINGS:
            assert pruned_count("op", 100, percent / 100, rounding) == percent
            assert (
                pruned_count("op", 1000, float(f"0.{percent:02}" if percent < 100 else 1), rounding)
                == 10 * percent
            )


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_counts_of_pruned_equal_exact_rationals(rounding: str) -> None:
    sparsities: list[float | Fraction | int] = [
        *(0, 1, 0.0, 1.0, 0.1, 0.5, 0.7, 1 / 3, 2 / 3, 0.1 + 0.2, 1e-300, 5e-324, 1 - 2**-53),
        *(
            Fraction(1, 3),
            Fraction(2, 3),
            Fraction(1, 2),
            Fraction(99, 100),
            Fraction(0),
            Fraction(1),
        ),
    ]
    for sparsity in sparsities:
        for size in (0, 1, 2, 3, 4, 7, 100, 576, 11_008, 4096 * 11_008, 2**40):
            wanted = oracles.pruned(size, sparsity, rounding)
            assert pruned_count("op", size, sparsity, rounding) == wanted, (sparsity, size)


def test_halves_go_up_when_rounded_to_nearest() -> None:
    wanted = {1: 1, 3: 2, 5: 3, 7: 4, 9: 5}
    assert {n: pruned((n,), 0.5, rounding="nearest") for n in wanted} == wanted
    assert pruned((9,), 0.5) == 4
    assert pruned((9,), 0.5, rounding="ceil") == 5


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, 2, -1, float("nan"), float("inf"), Fraction(4, 3)])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity: object) -> None:
    weight = torch.ones(24)
    for call in (
        lambda: mask_select(COUNTS, (24,), sparsity),  # type: ignore[arg-type]
        lambda: mask_prune_(weight, COUNTS, sparsity),  # type: ignore[arg-type]
        lambda: mask_select(COUNTS, (6, 4), sparsity, "2:4"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ArgumentError, match=r"sparsity is .*; it must be from 0 to 1"):
            call()
    assert weight.eq(1).all()


@pytest.mark.parametrize("sparsity", [None, True, "0.5", torch.tensor(0.5), 1j])
def test_a_sparsity_that_is_no_number_is_refused(sparsity: object) -> None:
    kind = type(sparsity).__name__
    with pytest.raises(DtypeError, match=f"sparsity is {kind}; it must be a float or"):
        mask_select(COUNTS, (24,), sparsity)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", ["layer", "2:4"])
def test_a_rounding_that_is_not_there_is_refused(group: str) -> None:
    with pytest.raises(
        ArgumentError, match="rounding is 'up'; it must be one of floor, nearest, ce"
    ):
        mask_select(COUNTS, (6, 4), 0.5, group, rounding="up")


@pytest.mark.parametrize(
    ("shape", "group", "wanted"),
    [
        ((6, 4), "layer", (6, 4, 6, 4, 12)),
        ((6, 4), "row", (6, 4, 1, 4, 2)),
        ((6, 4), "column", (6, 4, 6, 1, 3)),
        ((6, 4), "3x2", (6, 4, 3, 2, 3)),
        ((6, 4), "1x1", (6, 4, 1, 1, 0)),
        ((6, 4), "1:4", (6, 4, 1, 4, 3)),
        ((6, 4), "4:4", (6, 4, 1, 4, 0)),
        ((6, 2, 2), "row", (6, 4, 1, 4, 2)),
        ((6, 2, 1, 2), "2x4", (6, 4, 2, 4, 4)),
        ((24,), "row", (1, 24, 1, 24, 12)),
        ((24,), "layer", (1, 24, 1, 24, 12)),
        ((24,), "2:8", (1, 24, 1, 8, 6)),
        ((), "layer", (1, 1, 1, 1, 0)),
    ],
)
def test_every_group_is_a_tile_of_the_matrix(
    shape: tuple[int, ...], group: str, wanted: tuple[int, ...]
) -> None:
    sparsity = None if ":" in group else 0.5
    assert tiles("op", shape, group, sparsity, "floor") == Tiles(*wanted)


@pytest.mark.parametrize("group", ["0:4", "5:4", "2:0", "0:0"])
def test_an_illegal_pattern_is_refused(group: str) -> None:
    with pytest.raises(ArgumentError, match=rf"group is '{group}'; N must be from 1 to M in N:M"):
        mask_select(COUNTS, (6, 4), None, group)


def test_a_group_that_does_not_divide_the_matrix_is_refused() -> None:
    for group in ("4x2", "3x3", "0x4", "6x0", "7x4", "6x5"):
        text = rf"group is '{group}'; it must divide the matrix of 6 × 4"
        with pytest.raises(ArgumentError, match=text):
            mask_select(COUNTS, (6, 4), 0.5, group)
    with pytest.raises(
        ArgumentError, match="group is '2:3'; 3 must divide the 4 elements of a row"
    ):
        mask_select(COUNTS, (6, 4), None, "2:3")
    with pytest.raises(ArgumentError, match="16 must divide the 4 elements"):
        mask_select(COUNTS, (6, 4), None, "2:16")


def test_a_sparsity_that_a_pattern_does_not_have_is_refused() -> None:
    for sparsity in (0.3, 0.25, 0.51, 0, 1, Fraction(3, 8)):
        shown = re.escape(str(sparsity))
        with pytest.raises(ArgumentError, match=rf"sparsity is {shown}; group '2:4' has 2/4"):
            mask_select(COUNTS, (6, 4), sparsity, "2:4")
    for sparsity in (None, 0.5, Fraction(1, 2)):
        assert int(mask_select(COUNTS, (6, 4), sparsity, "2:4").sum()) == 12


@pytest.mark.parametrize(
    "group", ["", "rows", "4", "4x", "x4", "4:", "2x4x8", "-2:4", "2 :4", "2.0:4"]
)
def test_an_unknown_group_is_refused_with_the_choices(group: str) -> None:
    with pytest.raises(
        ArgumentError, match="it must be layer, row, column, RxC such as 4x64, or N:M"
    ):
        mask_select(COUNTS, (6, 4), 0.5, group)


def test_wrong_shapes_and_groups_are_refused_by_name() -> None:
    for group in ("column", "2x2"):
        with pytest.raises(
            ArgumentError, match=rf"shape is \(24,\); group '{group}' needs a matrix"
        ):
            mask_select(COUNTS, (24,), 0.5, group)
    with pytest.raises(DtypeError, match="group is int; it must be a str"):
        mask_select(COUNTS, (6, 4), 0.5, 4)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="shape is int; it must be a tuple of ints"):
        mask_select(COUNTS, 24, 0.5)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"shape\[1\] is float; it must be an int"):
        mask_select(COUNTS, (6, 4.0), 0.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"shape\[0\] is -6; it must be in"):
        mask_select(COUNTS, (-6, -4), 0.5)
