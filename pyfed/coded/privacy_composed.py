"""Independent releases about the same records, taken together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pyfed.coded.privacy_curves import (
    Vector,
    composed_curve,
    renyi_delta,
    renyi_epsilon,
    renyi_orders,
)
from pyfed.coded.privacy_grid import near_delta
from pyfed.coded.privacy_release import Release
from pyfed.errors import ArgumentError


def curve_of(releases: Sequence[Release], orders: Vector) -> Vector:
    """The sum of their Rényi curves, of ideal noise: float64 (orders,)."""
    secret = [(release.rows, release.ratio) for release in releases if release.secret]
    return composed_curve(orders, secret, sum(r.ratio**2 for r in releases if not r.secret))


def orders_of(releases: Sequence[Release]) -> Vector:
    """Orders at which their curves are finite, to minimise over."""
    return renyi_orders(min((1 + 1 / r.ratio for r in releases if r.secret), default=math.inf))


def merged(releases: Sequence[Release]) -> tuple[Release, ...]:
    """Fewest releases with ideal noise that together tell as much about a record."""
    rows: dict[float, int] = {}
    for release in releases:
        if release.secret:
            rows[release.ratio] = rows.get(release.ratio, 0) + release.rows
    found = [Release(count, math.sqrt(1 / ratio), 1.0) for ratio, count in rows.items()]
    squared = sum(release.ratio**2 for release in releases if not release.secret)
    if squared:
        found.append(Release(1, 1.0, math.sqrt(squared), secret=False, kind="rademacher"))
    return tuple(found)


def composed_delta(releases: Sequence[Release], epsilon: float) -> float:
    """δ at ε of independent releases together; exact or a bound, as ``composed_epsilon`` says."""
    ideal = merged(releases)
    if len(ideal) == 1:
        curve: Callable[[float], float] = ideal[0].delta
    else:
        orders = orders_of(ideal)
        divergences = curve_of(ideal, orders)

        def curve(epsilon: float) -> float:
            return renyi_delta(orders, divergences, epsilon)

    mu = math.sqrt(sum(release.off[0] ** 2 for release in releases))
    tail = sum(release.off[1] for release in releases)
    return near_delta(curve, mu, tail, epsilon) if mu > 0 else curve(epsilon)


def composed_epsilon(releases: Sequence[Release], delta: float) -> float:
    """ε at δ of independent releases together."""
    ideal = merged(releases)
    orders = orders_of(ideal)
    if len(ideal) == 1:
        low = ideal[0].epsilon(delta)
    else:
        low = renyi_epsilon(orders, curve_of(ideal, orders), delta)
    if all(release.columns is None for release in releases):
        return low
    # The bound falls with ε until what the sampler is off by, times e^ε, outgrows δ.
    high = low * 1.001 + 1e-6
    while composed_delta(releases, high) > delta:
        high = high * 1.02 + 1e-6
        if high > 4 * low + 100:
            raise ArgumentError(
                f"privacy.epsilon: delta is {delta}; with this noise and grid no epsilon gives it: "
                "use more noise, a finer grid or a larger delta"
            )
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if composed_delta(releases, middle) <= delta else (middle, high)
    return high
