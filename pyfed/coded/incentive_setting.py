"""What a mechanism is designed for: types of clients and their shares, what noise and money cost.

Every mechanism comes down to one problem. With unit costs c_k ≥ 0 that do not fall with k,

    minimise over ε_k in [low, high]:  loss(S) + price · N · Σ_k q_k c_k ε_k,
    S = N · Σ_k q_k σ²(ε_k),

whose parts are coupled through the scalar S alone: given the marginal loss κ = loss'(S), each ε_k
solves −σ²'(ε_k) = price · c_k / κ by itself. So :meth:`Setting.solve` looks for one root κ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyfed.coded.extras import scipy
from pyfed.coded.records import expect_positive
from pyfed.errors import ArgumentError, DtypeError

Vector = NDArray[np.float64]
Curve = Callable[[float], float]

_STEP = 1e-4
"""Relative step of a slope: its error, about 1e-8, enters the cost squared."""
_NEAR = 3 * _STEP
"""How far about a root the best is looked for: a kink is smoothed over one step."""
_NEGLIGIBLE = 1e-15
_LEAST_SHARE = 1e-12  # virtual types divide by shares
_SAMPLES = 65
_SLACK = 1e-6
"""Relative rise of a slope that passes for the rounding of a curve that is found numerically."""


@dataclass(frozen=True)
class Setting:
    """A checked setting; see :func:`pyfed.coded.incentive.contract` for the arguments.

    Args:
        types: θ_k, float64 (types,), ascending.
        shares: q_k, float64 (types,), with sum 1.
        loss: of the total noise S.
        clients: N.
        price: what one unit of reward costs in units of loss.
        noise: ε → σ²(ε).
        bounds: least and greatest ε.
    """

    types: Vector
    shares: Vector
    loss: Curve
    clients: float
    price: float
    noise: Curve
    bounds: tuple[float, float]

    def variances(self, privacy: Vector) -> Vector:
        """σ²(ε_k), float64 (types,), for ε_k of that shape."""
        return np.array([self.noise(float(epsilon)) for epsilon in privacy])

    def total_noise(self, privacy: Vector) -> float:
        """S = N · Σ q_k σ²(ε_k)."""
        return self.clients * float(self.shares @ self.variances(privacy))

    @property
    def slopes(self) -> tuple[float, float]:
        """The least and the greatest −σ²'(ε), at the greatest and the least ε; both above 0."""
        greatest, least = (-_slope(self.noise, epsilon, self.bounds) for epsilon in self.bounds)
        return max(least, greatest * _NEGLIGIBLE), greatest

    def response(self, slope: float, *, rough: bool = False) -> float:
        """The ε in bounds at which σ²(ε) + slope · ε is least, so where −σ²'(ε) = slope.

        Args:
            slope: above 0.
            rough: whether a relative error of 1e-4 at a kink of σ² does no harm.
        """
        near = _root(lambda x: -_slope(self.noise, x, self.bounds) - slope, *self.bounds)
        if rough:
            return near
        low, high = max(near * (1 - _NEAR), self.bounds[0]), min(near * (1 + _NEAR), self.bounds[1])
        return _least(lambda x: self.noise(x) + slope * x, low, near, high)

    def solve(self, unit_costs: Vector) -> Vector:
        """The ε_k, float64 (types,), of the problem above.

        Args:
            unit_costs: c_k, float64 (types,), positive and not falling with k.
        """
        low, high = self.bounds
        extent = self.clients * self.noise(high), self.clients * self.noise(low)
        weights = self.price * self.clients * self.shares * unit_costs

        def privacy(marginal: float, rough: bool = False) -> Vector:
            slopes = self.price / marginal * unit_costs
            found = {slope: self.response(slope, rough=rough) for slope in set(slopes)}
            return np.array([found[slope] for slope in slopes])

        def excess(marginal: float) -> float:
            # Falls as κ rises: S falls with κ, and loss' does not rise where S falls.
            total = self.total_noise(privacy(marginal, rough=True))
            return _slope(self.loss, total, extent) - marginal

        greatest = _slope(self.loss, extent[1], extent)
        least = max(_slope(self.loss, extent[0], extent), greatest * _NEGLIGIBLE)
        marginal = _root(excess, min(least, greatest), greatest)
        # Where the noise has straight pieces ε(κ) jumps, and the best lies within the jump; where
        # the loss has a kink its slope was smoothed. The cost is convex between the two sides.
        lower, middle, upper = (privacy(marginal * (1 + by)) for by in (-_NEAR, 0.0, _NEAR))

        def cost(part: float) -> float:
            between = lower + part * (upper - lower)
            return self.loss(self.total_noise(between)) + float(weights @ between)

        part = _least(cost, 0.0, 0.5, 1.0)
        found = lower + part * (upper - lower)
        straight = self.loss(self.total_noise(middle)) + float(weights @ middle)
        return found if cost(part) < straight else middle


def _root(falling: Curve, low: float, high: float) -> float:
    """Where a falling function crosses 0 in [low, high], 0 < low; the nearer end if nowhere."""
    if falling(low) <= 0:
        return low
    if falling(high) >= 0:
        return high
    ratio = math.log(high / low)

    def at(part: float) -> float:
        # The ends are exact: on the way through a logarithm the sign could change.
        return low if part == 0 else high if part == 1 else low * math.exp(part * ratio)

    return at(scipy("optimize").brentq(lambda part: falling(at(part)), 0.0, 1.0, xtol=1e-12))


def _least(convex: Curve, low: float, near: float, high: float) -> float:
    """Where a convex function is least in [low, high]; ``near`` unless some point is better."""
    found = scipy("optimize").minimize_scalar(
        convex, bounds=(low, high), method="bounded", options={"xatol": 1e-10 * high}
    )
    return min((near, float(found.x), low, high), key=convex)


def _slope(curve: Curve, x: float, bounds: tuple[float, float]) -> float:
    """The difference quotient about ``x``, from points within bounds alone."""
    left, right = max(x * (1 - _STEP), bounds[0]), min(x * (1 + _STEP), bounds[1])
    if left >= right:  # x = 0, the total of noise that vanishes at the greatest ε
        right = 1e-12 * bounds[1]
    return (curve(right) - curve(left)) / (right - left)


def expect_setting(
    op: str,
    types: Sequence[float],
    shares: Sequence[float],
    loss: float | Curve,
    clients: float,
    price: float,
    noise: Curve,
    bounds: tuple[float, float],
) -> Setting:
    """The arguments as a :class:`Setting`; raises, in the name of ``op``, what is wrong."""
    theta = _vector(op, "types", types)
    if theta[0] <= 0 or np.any(np.diff(theta) <= 0):
        raise ArgumentError(
            f"{op}: types is {_shown(theta)}; it must be positive and strictly ascending"
        )
    q = expect_shares(op, shares, len(theta), least=_LEAST_SHARE)
    count, cost = expect_positive(op, "clients", clients), expect_positive(op, "price", price)
    low, high = expect_bounds(op, bounds)
    if not callable(noise):
        raise DtypeError(f"{op}: noise is {type(noise).__name__}; it must be a function of ε")
    points = np.geomspace(low, high, _SAMPLES)
    variances = _curve(op, "noise", noise, points)
    if variances[-1] < 0 or np.any(np.diff(variances) > 0) or variances[0] <= variances[-1]:
        raise ArgumentError(
            f"{op}: noise goes from {variances[0]:g} at ε = {low:g} to {variances[-1]:g} at "
            f"ε = {high:g}; it must be non-negative and fall with ε"
        )
    _expect_convex(op, "noise", points, variances)
    if not callable(loss):
        weight = expect_positive(op, "loss", loss)
        return Setting(theta, q, lambda total: weight * total, count, cost, noise, (low, high))
    least, greatest = count * variances[-1], count * variances[0]
    fractions = np.geomspace(1e-9, 1, _SAMPLES)  # close together where noise is low
    totals = np.append(least, least + (greatest - least) * fractions)
    losses = _curve(op, "loss", loss, totals)
    if np.any(np.diff(losses) < 0) or losses[0] >= losses[-1]:
        raise ArgumentError(
            f"{op}: loss goes from {losses[0]:g} at a total noise of {totals[0]:g} to "
            f"{losses[-1]:g} at {totals[-1]:g}; it must rise"
        )
    _expect_convex(op, "loss", totals, losses)
    return Setting(theta, q, loss, count, cost, noise, (low, high))


def expect_shares(op: str, shares: Sequence[float], count: int, least: float = 0.0) -> Vector:
    """The shares as float64 (types,); raises unless they are at least ``least`` with sum 1."""
    q = _vector(op, "shares", shares)
    if len(q) != count:
        raise ArgumentError(
            f"{op}: shares has {len(q)} entries; it must have one for each of {count} types"
        )
    if np.any(q < least) or abs(float(q.sum()) - 1) > 1e-9:
        wanted = "positive" if least else "non-negative"
        raise ArgumentError(f"{op}: shares is {_shown(q)}; it must be {wanted}, with sum 1")
    return q


def _vector(op: str, name: str, values: Sequence[float]) -> Vector:
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DtypeError(f"{op}: {name} is {values!r}; it must be a sequence of floats") from None
    if found.ndim != 1 or not len(found) or not np.all(np.isfinite(found)):
        raise ArgumentError(
            f"{op}: {name} is {values!r}; it must be one or more finite numbers in a row"
        )
    return found


def expect_bounds(op: str, bounds: object) -> tuple[float, float]:
    """The bounds as two floats; raises unless they are (least ε, greatest ε)."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise DtypeError(f"{op}: bounds is {bounds!r}; it must be (least ε, greatest ε)")
    low, high = (expect_positive(op, "bounds", bound) for bound in bounds)
    if low >= high:
        raise ArgumentError(f"{op}: bounds is {bounds!r}; it must be (least ε, greatest ε)")
    return low, high


def _curve(op: str, name: str, curve: Curve, points: Vector) -> Vector:
    """The curve's values, float64 of the points' shape; raises unless they are finite."""
    values = np.array([float(curve(float(point))) for point in points])
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ArgumentError(
            f"{op}: {name} is {values[bad[0]]} at {points[bad[0]]:g}; it must be finite"
        )
    return values


def _expect_convex(op: str, name: str, points: Vector, values: Vector) -> None:
    slopes = np.diff(values) / np.diff(points)
    falls = slopes[:-1] - slopes[1:]
    # Beside the slope's own size, a difference of values is known to some ulps of these alone.
    rounding = 1e-13 * np.abs(values[1:-1]) / np.minimum(np.diff(points)[:-1], np.diff(points)[1:])
    bad = np.flatnonzero(falls > _SLACK * np.abs(slopes[:-1]) + rounding)
    if len(bad):
        raise ArgumentError(
            f"{op}: {name} is not convex about {points[bad[0] + 1]:.9g}: its slope falls from "
            f"{slopes[bad[0]]:.9g} to {slopes[bad[0] + 1]:.9g}; it must be convex, or the "
            "conditions of first order would not tell its least cost (if it is, compute it in "
            "float64: float32, as of tensors, is too rough to tell)"
        )


def _shown(values: Vector) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
