"""The discrete Gaussian with Python integers and mpmath, and nothing of the library."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import mpmath

import oracles

NOISE = 4  # the purpose
DIGITS = 150


@functools.cache
def weights(variance: Fraction) -> tuple[mpmath.mpf, ...]:
    """exp(-x² / 2·variance) for x = 0, 1, …, to where they are below 10^-150."""
    with mpmath.workdps(DIGITS):
        rate = mpmath.mpf(variance.denominator) / (2 * variance.numerator)
        last = int(math.sqrt(2 * 350 * float(variance))) + 2
        # Each from the one before it, by exp(-rate·(2x + 1)).
        found, ratio, square = [mpmath.mpf(1)], mpmath.exp(-rate), mpmath.exp(-2 * rate)
        for _ in range(last):
            found.append(found[-1] * ratio)
            ratio *= square
        return tuple(found)


def chances(variance: Fraction) -> list[mpmath.mpf]:
    """P(x) for x = 0, 1, … of the discrete Gaussian; what lies beyond is below 10^-149."""
    with mpmath.workdps(DIGITS):
        terms = weights(variance)
        whole = terms[0] + 2 * mpmath.fsum(terms[1:])
        return [term / whole for term in terms]


def tails(variance: Fraction) -> list[mpmath.mpf]:
    """P(|x| > j), from j = 0 on."""
    with mpmath.workdps(DIGITS):
        found = [mpmath.mpf(0)]
        for chance in reversed(chances(variance)[1:]):
            found.append(found[-1] + 2 * chance)
        return found[:0:-1]


def factors(sigma: float) -> tuple[list[int], Fraction]:
    """While the variance v is above 121: the largest k with v ≥ 3·(1 + k²)², and v / (1 + k²)."""
    variance, found = Fraction(sigma) ** 2, []
    while variance > 121:
        whole = math.isqrt(variance.numerator // (3 * variance.denominator))  # ≥ 1 + k²
        found.append(math.isqrt(whole - 1))
        variance /= 1 + found[-1] ** 2
    return found, variance


def coefficients(sigma: float) -> list[int]:
    """Of base sample b: the product of the factors at the set bits of b."""
    ks = factors(sigma)[0]
    return [math.prod(k for bit, k in enumerate(ks) if b >> bit & 1) for b in range(1 << len(ks))]


@functools.cache
def entries(variance: Fraction) -> tuple[int, ...]:
    """2·round(2^95 · P(|x| > j)) for all j for which that is not 0."""
    with mpmath.workdps(DIGITS):
        rounded = [int(mpmath.nint(mpmath.ldexp(tail, 95))) for tail in tails(variance)]
    return tuple(2 * tail for tail in rounded if tail)


def magnitude(words: int, table: Sequence[int]) -> int:
    """How many entries lie above the words."""
    return sum(words < entry for entry in table)


def base_words(key: bytes, index: int, number: int, stream: int = 0) -> int:
    """The 96 bits of a base sample: a word each of attempts 1 + 3·number, …, highest first."""
    found = 0
    for attempt in range(1 + 3 * number, 4 + 3 * number):
        nonce = NOISE << 24 | attempt
        found = found << 32 | oracles.word(key, index, stream=stream, domain=nonce)
    return found


def from_table(
    key: bytes, index: int, table: Sequence[int], scales: Sequence[int], stream: int = 0
) -> int:
    """Σ_b scales[b] · (base sample b)."""
    total = 0
    for number, scale in enumerate(scales):
        words = base_words(key, index, number, stream)
        total += scale * (1 - 2 * (words & 1)) * magnitude(words, table)
    return total


def sample(key: bytes, index: int, sigma: float, stream: int = 0) -> int:
    """Integer ``index`` of a stream."""
    return from_table(key, index, entries(factors(sigma)[1]), coefficients(sigma), stream)
