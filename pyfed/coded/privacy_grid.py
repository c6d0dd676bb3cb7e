"""Discrete noise on a fine grid is almost the Gaussian noise that the curves are about: how near.

A release is M = g·(round(F/g) + D) for a vector F of n numbers, a grid g, and independent discrete
Gaussians D; the curves are of the ideal F + N, N ~ N(0, σ²·I). Rounding commutes with whole steps,
so g·(round(F/g) + round(N/g)) is the ideal one of a vector that is off by at most g/2 in each
number, rounded, which tells nothing more: it differs as Gaussians do whose means are √n·g/2 apart.
And D differs from round(N/g) in the logarithm of a probability by at most t where |N| ≤ 12σ. As the
roots of concentrated divergences add up, M and the (rounded) ideal are within

    μ = √n·(g/(2σ) + t),  so within (ε₁, δ₁) for ε₁ > μ²/2 and δ₁ = exp(−(ε₁ − μ²/2)² / (2μ²)),

and M is (ε + 2ε₁, e^ε₁·δ + (1 + e^(ε + ε₁))·δ₁)-private where the ideal is (ε, δ)-private. What the
sampler is off by, and what lies beyond 12σ, is added to δ₁.

Source: Bun and Steinke, TCC 2016 (arXiv 1605.02065), for concentrated divergences; Kairouz, Liu and
Steinke, ICML 2021 (arXiv 2102.06387), for sums of discrete Gaussians; the rest is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FINEST = 2.0**20
"""Steps in a standard deviation, at most: what the op ``discrete_gaussian`` makes."""
COARSEST = 4.0
"""Steps in a standard deviation, at least: below, rounding adds more than 1/192 of the variance."""
TAIL = 2.0**-79
"""What one sample is off by, 2^-80, and what lies beyond 12 standard deviations, 4e-33."""
_PARTS = (1e-6, 1e-9, 1e-12, 1e-18, 1e-30)


def fine_grid(noise_std: float) -> float:
    """The least power of two with at most 2^20 steps in a standard deviation."""
    mantissa, power = math.frexp(noise_std / FINEST)
    return math.ldexp(1.0, power - 1 if mantissa == 0.5 else power)


def sum_distance(variance: float, count: int) -> float:
    """How far the sum of discrete Gaussians is from one: 5·Σ_{k<count} exp(−2π²·variance·k/(k+1)).

    In the logarithm of a probability, for ``variance`` ≥ ¼ of each, in steps squared. Source:
    Kairouz, Liu and Steinke, ICML 2021, proposition 11.
    """
    rate, total = 2 * math.pi**2 * variance, 0.0
    for k in range(1, count):
        if k == 1000:  # the terms fall towards exp(−rate), and are no larger than this one
            return total + 5 * (count - k) * math.exp(-rate * k / (k + 1))
        total += 5 * math.exp(-rate * k / (k + 1))
    return total


def closeness(entries: int, steps: float, clients: int = 1) -> float:
    """μ of the module's head.

    A rounded Gaussian of s steps has the probability of a discrete one times 1 + (x² − 1)/(24 s²)
    at x standard deviations, and terms of s^-4: t is below 6/s² for |x| ≤ 12 and s ≥ 4, and grows
    by :func:`sum_distance` for a sum.

    Args:
        entries: n, numbers whose rounding may depend on a record.
        steps: σ/g of the sum.
        clients: how many noises of equal variance it is of.
    """
    t = 6 / steps**2 + sum_distance(steps * steps / clients, clients)
    return math.sqrt(entries) * (0.5 / steps + t)


def near_delta(ideal: Callable[[float], float], mu: float, tail: float, epsilon: float) -> float:
    """δ at ε of what is within μ of a release with the curve ``ideal``.

    Args:
        ideal: ε → δ.
        mu: of :func:`closeness`.
        tail: total variation that is not in μ.
        epsilon: ε ≥ 0.
    """
    half = mu * mu / 2
    # ε₁ = 0: by Pinsker's inequality both are within μ/2 in total variation.
    found = min(1.0, ideal(epsilon) + (1 + math.exp(min(epsilon, 700.0))) * (mu / 2 + tail))
    for part in _PARTS:  # what δ₁ may add to δ; each choice is a bound
        aside = math.log((1 + math.exp(min(epsilon, 700.0))) / part)
        near = half + mu * math.sqrt(2 * aside)
        if 2 * near > epsilon:
            continue
        off = part / (1 + math.exp(min(epsilon, 700.0))) + tail
        bound = math.exp(near) * ideal(epsilon - 2 * near)
        found = min(found, bound + (1 + math.exp(min(epsilon - near, 700.0))) * off)
    return found
