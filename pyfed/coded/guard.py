"""What a round without clients does to W in each direction of the spectrum, and whether W grows.

With s = lr/m, the share q of the coded part, τ local steps and x an eigenvalue of the corrected
Hessian, the coded part moves W by q·((1 − s·x)^τ − 1) and the ridge by −s·τ·λ:

    W ← (1 − q + q·(1 − s·x)^τ − s·τ·λ)·W + a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_HALVINGS = 60


@dataclass(frozen=True)
class RoundMap:
    """The factor of a round, over all of the spectrum.

    Args:
        low: a lower bound of the spectrum.
        high: an upper bound of it.
        least: the smallest share q that the coded part may have.
        most: the largest one.
        steps: τ.
    """

    low: float
    high: float
    least: float
    most: float
    steps: int

    def least_ridge(self, step: float) -> float:
        """The least λ with which no direction grows: q·((1 − s·low)^τ − 1) = s·τ·λ.

        Infinite when floats do not hold it. As s·τ becomes small it is −q·low.

        Args:
            step: s.
        """
        growth = _scaled(self.most, _power_less_one(step * self.low, self.steps))
        return max(0.0, growth) / (step * self.steps)

    def too_long(self, step: float, ridge: float) -> bool:
        """Whether a direction overshoots by as much as it is away, or more.

        Args:
            step: s.
            ridge: λ.
        """
        pull = step * self.steps * ridge
        left, right = step * self.low, step * self.high
        # An odd power falls all the way; an even one is least where s·x = 1, and rises behind.
        lowest = right if self.steps % 2 else max(left, min(1.0, right))
        sink = -_scaled(self.least, _power_less_one(lowest, self.steps))
        behind = _scaled(self.least, _power_less_one(right, self.steps)) if right > 2 else 0.0
        return sink + pull >= 2 or behind > pull

    def longest(self, step: float, ridge: float | None) -> float:
        """The longest step below ``step`` with which W does not grow; 0 when there is none.

        Args:
            step: one with which it does.
            ridge: λ; None: the least that serves the step.
        """

        def good(one: float) -> bool:
            needed = self.least_ridge(one)
            chosen = needed if ridge is None else ridge
            return chosen >= needed and not self.too_long(one, chosen)

        low, high = 0.0, step
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if good(middle) else (low, middle)
        return low


def _power_less_one(x: float, steps: int) -> float:
    """(1 − x)^τ − 1, precise for small x; infinite where floats end."""
    try:
        if x < 1:
            return math.expm1(steps * math.log1p(-x))
        size = math.exp(steps * math.log(x - 1)) if x > 1 else 0.0
    except OverflowError:
        size = math.inf
        if x < 1:
            return size
    return (-size if steps % 2 else size) - 1


def _scaled(share: float, value: float) -> float:
    """The product, where 0 · ∞ is 0."""
    return share * value if share else 0.0
