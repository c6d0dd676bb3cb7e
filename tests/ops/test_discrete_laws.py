"""Samples of the discrete Gaussian against its exact probabilities; keys are fixed."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.stats

import discrete_oracles
from pyfed import Key
from pyfed.ops import discrete_gaussian

KEY = Key(bytes(range(32)))
FALSE_ALARM = 1e-6


def samples(count: int, sigma: float, stream: int) -> np.ndarray:
    return discrete_gaussian(count, sigma, KEY, stream=stream).numpy()


def bins_of(sigma: float, least: float) -> list[tuple[int, int, float]]:
    """Ranges low … high - 1 of integers with their exact chance, each at least ``least``."""
    chances = [float(c) for c in discrete_oracles.chances(Fraction(sigma) ** 2)]
    found, low, total = [], -(len(chances) - 1), 0.0
    for x in range(low, len(chances)):
        total += chances[abs(x)]
        if total >= least:
            found.append((low, x + 1, total))
            low, total = x + 1, 0.0
    start, _, last = found.pop()
    return [*found, (start, len(chances), last + total)]


@pytest.mark.parametrize("sigma", [0.35, 0.5, 1.0, 3.0, 10.9, 12.0, 60.0, 450.0, 2345.0])
def test_samples_have_the_exact_probabilities(sigma: float) -> None:
    count = 1 << 20
    drawn = np.sort(samples(count, sigma, stream=3))
    bins = bins_of(sigma, max(20 / count, 1 / 2000))
    edges = np.searchsorted(drawn, [low for low, _, _ in bins])
    observed = np.diff([*edges, count])
    level = scipy.stats.chisquare(observed, [count * chance for _, _, chance in bins]).pvalue
    assert level > FALSE_ALARM
    assert level < 1 - FALSE_ALARM  # nor too even


@pytest.mark.parametrize("sigma", [300.0, 2.0**15, 2.0**20])
def test_wide_samples_are_normal_in_every_slice(sigma: float) -> None:
    """The chance of low … high is that of low - ½ … high + ½ to 1e-6 of it at least."""
    count, slices = 1 << 20, 500
    drawn = samples(count, sigma, stream=4)
    edges = np.rint(scipy.stats.norm.ppf(np.arange(1, slices) / slices) * sigma)
    observed = np.diff([0, *np.searchsorted(np.sort(drawn), edges), count])
    below = scipy.stats.norm.cdf((edges - 0.5) / sigma)
    expected = np.diff([0, *below, 1]) * count
    assert scipy.stats.chisquare(observed, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("sigma", [1.0, 9.0, 40.0, 2.0**20])
def test_low_bits_are_as_likely_as_they_must_be(sigma: float) -> None:
    """Residues modulo 8, which a wrong factor or a coarse grid would shift."""
    drawn = samples(1 << 20, sigma, stream=5)
    if sigma > 100:  # even to 2^-1000
        expected = np.full(8, 1 / 8)
    else:
        expected = np.zeros(8)
        for x, chance in enumerate(discrete_oracles.chances(Fraction(sigma) ** 2)):
            expected[x % 8] += float(chance) / (1 + (x == 0))
            expected[-x % 8] += float(chance) / (1 + (x == 0))
    observed = np.bincount(drawn % 8, minlength=8)
    level = scipy.stats.chisquare(observed, expected / expected.sum() * len(drawn)).pvalue
    assert level > FALSE_ALARM


@pytest.mark.parametrize("sigma", [1.0, 5.0, 30.0, 900.0])
def test_tails_are_as_heavy_as_they_must_be(sigma: float) -> None:
    count = 1 << 22
    drawn = np.abs(samples(count, sigma, stream=6))
    chances = discrete_oracles.chances(Fraction(sigma) ** 2)
    for far in (2.0, 3.0, 4.0, 4.7):
        chance = float(2 * mpmath.fsum(chances[math.ceil(far * sigma) :]))
        found = int((drawn >= far * sigma).sum())
        assert scipy.stats.binomtest(found, count, chance).pvalue > FALSE_ALARM


@pytest.mark.parametrize("sigma", [0.7, 4.0, 100.0, 2.0**20])
def test_mean_variance_and_correlations(sigma: float) -> None:
    count = 1 << 20
    x = samples(count, sigma, stream=7).astype(np.float64)
    limit = -scipy.stats.norm.ppf(FALSE_ALARM / 2)
    if sigma < 100:
        chances = discrete_oracles.chances(Fraction(sigma) ** 2)
        variance, fourth = (
            float(2 * mpmath.fsum(c * n**power for n, c in enumerate(chances))) for power in (2, 4)
        )
    else:
        variance, fourth = sigma**2, 3 * sigma**4
    assert abs(x.mean()) < limit * math.sqrt(variance / count)
    assert abs((x**2).mean() - variance) < limit * math.sqrt((fourth - variance**2) / count)
    assert abs(np.sign(x).sum()) < limit * math.sqrt(np.count_nonzero(x))
    other = samples(count, sigma, stream=8).astype(np.float64)
    for y in (np.roll(x, 1), np.roll(x, 16), np.roll(x, 256), other):
        assert abs((x * y).mean()) < limit * variance / math.sqrt(count)
