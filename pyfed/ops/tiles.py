"""How a matrix is cut into groups of equal size, and how many elements of each are pruned.

Every kind of group is a tile of the matrix: the layer is one tile, a row, a column and a block are
tiles, and N:M is a tile of 1 × M along a row, of which M - N elements are pruned.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError

ROUNDINGS = ("floor", "nearest", "ceil")


class Tiles(NamedTuple):
    """A matrix (rows, columns) in tiles of (tile_rows, tile_columns), k of each pruned."""

    rows: int
    columns: int
    tile_rows: int
    tile_columns: int
    k: int


def pruned_count(op: str, size: int, sparsity: object, rounding: str = "floor") -> int:
    """How many of ``size`` elements are pruned, in exact arithmetic.

    A float stands for the shortest decimal that denotes it, so 0.29 of 100 are 29, although the
    binary number is a little below 0.29.

    Args:
        op: what a message names.
        size: elements of a group.
        sparsity: float, int or Fraction from 0 to 1.
        rounding: ``"floor"``, ``"nearest"`` (halves go up) or ``"ceil"``.

    Raises:
        DtypeError: ``sparsity`` is no number.
        ArgumentError: it lies outside [0, 1], or there is no such rounding.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | Fraction):
        kind = type(sparsity).__name__
        raise DtypeError(f"{op}: sparsity is {kind}; it must be a float or a fractions.Fraction")
    if not 0 <= sparsity <= 1:
        raise ArgumentError(f"{op}: sparsity is {sparsity}; it must be from 0 to 1")
    _expect_rounding(op, rounding)
    exact = Fraction(repr(float(sparsity))) if isinstance(sparsity, float) else Fraction(sparsity)
    wanted = exact * size
    if rounding == "ceil":
        return -(-wanted.numerator // wanted.denominator)
    if rounding == "nearest":
        wanted += Fraction(1, 2)
    return wanted.numerator // wanted.denominator


def _expect_rounding(op: str, rounding: object) -> None:
    if rounding not in ROUNDINGS:
        choices = ", ".join(ROUNDINGS)
        raise ArgumentError(f"{op}: rounding is {rounding!r}; it must be one of {choices}")


def tiles(op: str, shape: tuple[int, ...], group: str, sparsity: object, rounding: str) -> Tiles:
    """The tiles of a tensor of such a shape, seen as the matrix (shape[0], all the rest).

    Args:
        op: what a message names.
        shape: of the tensor.
        group: ``"layer"``, ``"row"``, ``"column"``, ``"RxC"`` (blocks, such as ``"4x64"``) or
            ``"N:M"`` (N of every M consecutive elements of a row are kept, such as ``"2:4"``).
        sparsity: the part of each group that is pruned; for N:M it is 1 - N/M, or None.
        rounding: as for :func:`pruned_count`.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: there is no such group, it does not divide the matrix, or the sparsity is
            not in range or not that of N:M.
    """
    rows = shape[0] if shape else 1
    columns = 1
    for extent in shape[1:]:
        columns *= extent
    if not isinstance(group, str):
        raise DtypeError(f"{op}: group is {type(group).__name__}; it must be a str")
    if len(shape) < 2:  # one row
        rows, columns = 1, rows
        if group not in ("layer", "row") and ":" not in group:
            raise ArgumentError(
                f"{op}: shape is {shape}; group {group!r} needs a matrix, with 2 dimensions or more"
            )
    found = {"layer": (rows, columns), "row": (1, columns), "column": (rows, 1)}.get(group)
    pattern = re.fullmatch(r"(\d+)([:x])(\d+)", group)
    if found is None and pattern is None:
        raise ArgumentError(
            f"{op}: group is {group!r}; it must be layer, row, column, RxC such as 4x64, or N:M "
            "such as 2:4"
        )
    if found is None and pattern is not None:
        first, second = int(pattern[1]), int(pattern[3])
        if pattern[2] == ":":
            _expect_rounding(op, rounding)
            return _n_of_m(op, rows, columns, first, second, sparsity)
        if 0 in (first, second) or rows % first or columns % second:
            raise ArgumentError(
                f"{op}: group is {group!r}; it must divide the matrix of {rows} × {columns}"
            )
        found = first, second
    assert found is not None
    return Tiles(rows, columns, *found, pruned_count(op, found[0] * found[1], sparsity, rounding))


def _n_of_m(op: str, rows: int, columns: int, kept: int, of: int, sparsity: object) -> Tiles:
    """The tiles of the pattern ``kept``:``of``."""
    if not 0 < kept <= of:
        raise ArgumentError(f"{op}: group is '{kept}:{of}'; N must be from 1 to M in N:M")
    if columns % of:
        raise ArgumentError(
            f"{op}: group is '{kept}:{of}'; {of} must divide the {columns} elements of a row"
        )
    pruned = of - kept
    if sparsity is not None:
        asked = pruned_count(op, of, sparsity)
        if asked != pruned or pruned_count(op, of, sparsity, "ceil") != pruned:
            raise ArgumentError(
                f"{op}: sparsity is {sparsity}; group '{kept}:{of}' has {pruned}/{of}: give that, "
                "or None"
            )
    return Tiles(rows, columns, 1, of, pruned)


def expect_shape(op: str, shape: Any) -> tuple[int, ...]:
    """``shape`` as a tuple of ints; raises unless it is a sequence of non-negative ones."""
    if not isinstance(shape, tuple | list):  # a torch.Size is a tuple
        raise DtypeError(f"{op}: shape is {type(shape).__name__}; it must be a tuple of ints")
    for axis, extent in enumerate(shape):
        expect_int(op, f"shape[{axis}]", extent, 0, 2**40)
    return tuple(shape)


# Exact rationals are Python objects: the compiler takes what they give as a constant of the graph.
constant_tiles = torch.compiler.assume_constant_result(tiles)
