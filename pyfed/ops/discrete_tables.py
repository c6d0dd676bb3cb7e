"""Which base samples make a discrete Gaussian of a given parameter, and the base's exact table."""

from __future__ import annotations

import decimal
import functools
from dataclasses import dataclass
from fractions import Fraction

WORD_BITS = 32
WORDS = 3
"""Words of a base sample; their lowest bit is its sign, all of them are held against the table."""

BITS = WORDS * WORD_BITS
WIDEST = Fraction(11) ** 2
"""The largest variance of a base; its table has at most 127 entries."""

SMOOTH = 3
"""What s²/(1 + k²) is at least where two samples of variance s² become k·x1 + x2."""

_DIGITS = 80


@dataclass(frozen=True)
class Recipe:
    """How samples of the discrete Gaussian over the integers are made for one parameter.

    Args:
        factors: the k of every convolution, the last one first.
        variance: that of the base; times Π (1 + k²) it is σ², exactly.
        entries: of the base's table, see :func:`entries_of`.
    """

    factors: tuple[int, ...]
    variance: Fraction
    entries: tuple[int, ...]

    @property
    def coefficients(self) -> list[int]:
        """In x = Σ_b c[b] · (base sample b), c[b] is the product of the k at the set bits of b."""
        found = [1]
        for factor in self.factors:
            found += [factor * c for c in found]
        return found


def _factor(variance: Fraction) -> int:
    """The largest k for which two samples of variance s² / (1 + k²) are smooth enough."""
    k = 1
    while SMOOTH * (1 + (2 * k) ** 2) ** 2 <= variance:
        k *= 2
    step = k
    while step:
        if SMOOTH * (1 + (k + step) ** 2) ** 2 <= variance:
            k += step
        step //= 2
    return k


def entries_of(variance: Fraction) -> tuple[int, ...]:
    """The magnitude's tail as even 96-bit numbers: entry j is 2·round(2^95 · P(|x| > j)).

    A base sample of the words w, as one 96-bit number, is ±(how many entries are above w), and
    minus where w is odd. The table ends where entries become 0. The sums are of terms
    exp(-i²/2s²), each rounded correctly to 80 digits, down to 10^-75.
    """
    with decimal.localcontext(decimal.Context(prec=_DIGITS, traps=[])):
        rate = -decimal.Decimal(variance.denominator) / decimal.Decimal(2 * variance.numerator)
        terms = [decimal.Decimal(1) / 2]  # so that the tail beyond -1 is the whole
        while terms[-1] > decimal.Decimal("1e-75"):
            terms.append((rate * len(terms) ** 2).exp())
        tails = [decimal.Decimal(0)]
        for term in reversed(terms):
            tails.append(tails[-1] + term)
        whole = tails.pop()
        scale = decimal.Decimal(2) ** (BITS - 1)
        rounded = (int((tail / whole * scale).to_integral_value()) for tail in reversed(tails))
        return tuple(2 * tail for tail in rounded if tail)


@functools.lru_cache(maxsize=256)
def recipe(sigma: float) -> Recipe:
    """The recipe for a parameter in (0, 2^20]: at most three convolutions, 127 entries."""
    variance, factors = Fraction(sigma) ** 2, []
    while variance > WIDEST:
        factors.append(_factor(variance))
        variance /= 1 + factors[-1] ** 2
    return Recipe(tuple(factors), variance, entries_of(variance))
