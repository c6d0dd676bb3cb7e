"""Discrete Gaussian samplers that a user would write: exact one by one, or rounded normals."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch

from contests import Baseline

EXACT = "exact rejection, Python ints"
ROUNDED = "numpy normals, rounded"
ONE_BY_ONE = 300
"""Samples that the exact one is timed on; benchmarks of it have that size."""


def _bernoulli_exp(rate: Fraction) -> bool:
    """Succeed with probability exp(-rate), for any rate of 0 or more.

    Von Neumann's way: for a rate up to 1, the first k at which a Bernoulli(rate / k) fails is odd
    with that probability; larger rates are taken in steps of 1.
    """
    while rate > 1:
        if not _bernoulli_exp(Fraction(1)):
            return False
        rate -= 1
    k = 1
    while secrets.randbelow(rate.denominator * k) < rate.numerator:
        k += 1
    return k % 2 == 1


def _discrete_laplace(scale: int) -> int:
    """An x with probability proportional to exp(-|x| / scale)."""
    while True:
        low = secrets.randbelow(scale)
        if not _bernoulli_exp(Fraction(low, scale)):
            continue
        high = 0
        while _bernoulli_exp(Fraction(1)):
            high += 1
        magnitude, negative = low + scale * high, secrets.randbelow(2)
        if magnitude or not negative:
            return -magnitude if negative else magnitude


def exact_sample(sigma: float) -> int:
    """By rejection from a discrete Laplace, as Canonne, Kamath and Steinke (2020) have it."""
    variance, scale = Fraction(sigma) ** 2, math.floor(sigma) + 1
    while True:
        x = _discrete_laplace(scale)
        if _bernoulli_exp((abs(x) - variance / scale) ** 2 / (2 * variance)):
            return x


def _check(variance: float, count: int) -> Callable[[object, torch.Tensor], None]:
    def check(output: object, expected: torch.Tensor) -> None:
        values = np.asarray(output, dtype=np.float64)
        assert values.shape == tuple(expected.shape)
        assert abs(values.mean()) < 6 * math.sqrt(variance / count)
        assert abs((values**2).mean() / variance - 1) < 9 / math.sqrt(count)

    return check


def exact(sigma: float, count: int) -> Baseline:
    """One by one, with the operating system's random bits."""
    lacks = "its time tells of the samples; no addresses"
    return Baseline(
        lambda: [exact_sample(sigma) for _ in range(count)], _check(sigma**2, count), lacks=lacks
    )


def rounded(sigma: float, count: int) -> Baseline:
    """Normals of PCG64 and the ziggurat, rounded to integers."""
    generator = np.random.default_rng(20)

    def run() -> np.ndarray:
        return np.rint(generator.standard_normal(count) * sigma).astype(np.int32)

    lacks = "not the discrete Gaussian; not cryptographic; its time tells of the samples"
    return Baseline(run, _check(sigma**2 + 1 / 12, count), lacks=lacks)  # Sheppard's correction
