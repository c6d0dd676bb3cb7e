"""The noise that a client needs for a privacy, as a curve that mechanisms can be designed on."""

from __future__ import annotations

import functools
import math

import numpy as np

from pyfed.coded.extras import scipy
from pyfed.coded.incentive_setting import Curve, expect_bounds
from pyfed.errors import ArgumentError

BOUNDS = (1e-2, 1e2)
_KNOTS_PER_FOLD = 7  # for each factor of e in ε: interpolation errs by less than 1e-6


def noise_curve(
    rows: int = 1000,
    record_norm: float = 1.0,
    delta: float = 1e-5,
    secret: bool = True,
    kind: str = "gaussian",
    bounds: tuple[float, float] = BOUNDS,
) -> Curve:
    """σ²(ε) of a client's coded data set, from :func:`pyfed.coded.privacy.noise`.

    It is the least variance with which that set is (ε, δ)-differentially private by itself, so
    that a client need not rely on the noise of others. It is found at some values of ε and
    interpolated between their logarithms by a cubic spline.

    Args:
        rows: c, of the coded data set.
        record_norm: C, the greatest Euclidean norm of a record.
        delta: δ in (0, 1).
        secret: whether G is secret.
        kind: the law of G.
        bounds: least and greatest ε that will be asked for.

    Returns:
        the function.

    Raises:
        ArgumentError: a number is out of its range; the function itself, when ε is out of bounds.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import incentive
    >>> curve = incentive.noise_curve(rows=1000)
    >>> round(curve(1.0), 2), round(curve(4.0), 2)
    (87.61, 25.26)
    """
    return _curve(rows, record_norm, delta, secret, kind, expect_bounds("noise_curve", bounds))


@functools.lru_cache(maxsize=64)
def _curve(
    rows: int,
    record_norm: float,
    delta: float,
    secret: bool,
    kind: str,
    bounds: tuple[float, float],
) -> Curve:
    from pyfed.coded import privacy

    low, high = bounds
    knots = np.geomspace(low, high, 8 + round(_KNOTS_PER_FOLD * math.log(high / low)))
    stds = [
        privacy.noise(
            rows,
            epsilon=float(epsilon),
            delta=delta,
            record_norm=record_norm,
            secret=secret,
            kind=kind,
        )
        for epsilon in knots
    ]
    spline = scipy("interpolate").CubicSpline(np.log(knots), 2 * np.log(stds))

    def curve(epsilon: float) -> float:
        if not low <= epsilon <= high:
            raise ArgumentError(
                f"noise_curve: ε is {epsilon:g}; it must be within the curve's bounds "
                f"({low:g}, {high:g})"
            )
        return math.exp(float(spline(math.log(epsilon))))

    return curve
