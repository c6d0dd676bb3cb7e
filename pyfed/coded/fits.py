"""Whether a coded set can be summed modulo a prime without loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyfed.errors import ArgumentError, DtypeError
from pyfed.fixed import FixedPoint

if TYPE_CHECKING:
    from pyfed.coded.dataset import CodedDataset


STEPS = 16
"""Fixed-point steps in a standard deviation of continuous noise, at least: 1/1024 of its variance
is what unbiased rounding adds at most."""


def expect_fits(op: str, coded: CodedDataset, fixed: object, nearest: bool = False) -> None:
    """Raise unless a fixed-point form cuts no value off, and rounds none that is on a grid.

    Continuous noise needs rounding that is fine and unbiased: rounding to the nearest step would
    undo the noise of every client whose own is less than a step.
    """
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
            "noise the grid must be a multiple of the step: encode with grid=1/scale, or use more "
            "bits or a smaller clip"
        )
    if coded.noise_variance == 0 or coded.grid:
        return
    if nearest:
        raise ArgumentError(
            f"{op}: key is None; rounding to nearest would undo continuous noise: pass a key"
        )
    own = coded.noise_std / math.sqrt(coded.clients)
    if own * fixed.scale < STEPS:
        raise ArgumentError(
            f"{op}: a client's noise_std is {own:.4g} and a fixed-point step 1/{fixed.scale:g}; "
            f"it must be at most 1/{STEPS} of the noise: use more bits or a smaller clip"
        )
