"""Whether a coded set can be summed modulo a prime without loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyfed.errors import ArgumentError, DtypeError
from pyfed.fixed import FixedPoint

if TYPE_CHECKING:
    from pyfed.coded.dataset import CodedDataset


def expect_fits(op: str, coded: CodedDataset, fixed: object) -> None:
    """Raise unless a fixed-point form cuts no value off, and rounds none that is on a grid."""
    if not isinstance(fixed, FixedPoint):
        raise DtypeError(f"{op}: fixed is {type(fixed).__name__}; it must be a FixedPoint")
    largest = float(coded.vector().abs().max())
    if largest > fixed.clip:
        raise ArgumentError(
            f"{op}: a coded value is {largest:.6g}, above clip = {fixed.clip:.6g} of the "
            "fixed-point form, and would be cut off; raise clip"
        )
    if coded.grid and not (coded.grid * fixed.scale).is_integer():
        raise ArgumentError(
            f"{op}: grid is {coded.grid} and a fixed-point step 1/{fixed.scale:g}; with discrete "
            "noise the grid must be a multiple of the step: use more bits or a smaller clip"
        )
