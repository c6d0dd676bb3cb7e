"""Normals from words: near the exact transform, the oracle's bits, and normal in law."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import special

import sketch_oracles
from pyfed.ops import normal
from pyfed.ops.dropout import philox_reference

WORDS = 2**32
EDGES = [0, 1, 2, 2**23, 2**24, 2**24 + 1, 2**29, 2**30, 2**31, 3 * 2**29, 3 * 2**30, 7 * 2**29]
AROUND = [(edge + near) % WORDS for edge in (*EDGES, 0) for near in (-1, 0, 1)]
HALF_ROOTS = [round(math.sqrt(0.5) * 2**e) + near for e in range(9, 33) for near in (-200, 0, 200)]


def pairs(count: int, seed: int = 0) -> torch.Tensor:
    """Words of Philox, int64 (count,), with those at the edges in front."""
    block = torch.arange(count // 4)
    zero = torch.zeros_like(block)
    words = torch.stack(philox_reference((block, zero, zero, zero), torch.tensor([seed, 5])), 1)
    return words.flatten()


def edge_words() -> torch.Tensor:
    first = torch.tensor([*AROUND, *HALF_ROOTS])
    return torch.cartesian_prod(first, torch.tensor(AROUND)).flatten()


def test_every_bit_is_the_oracles() -> None:
    """Also where a quadrant, an exponent or a rounding ends."""
    for words in (edge_words(), pairs(400_000)):
        got = normal.normal_pairs(words).view(-1, 2)
        both = words.view(-1, 2).numpy().astype(np.uint64)
        wanted = np.stack(sketch_oracles.normals(both[:, 0], both[:, 1]), axis=1)
        assert np.array_equal(got.numpy().view(np.int32), wanted.view(np.int32))


def ulps(got: torch.Tensor, exact: list[mpmath.mpf]) -> float:
    """The greatest error in units of the exact number's last float32 digit."""
    spaces = np.spacing(np.abs([np.float32(value) for value in exact]))
    errors = [abs(mpmath.mpf(g) - e) for g, e in zip(got.tolist(), exact, strict=True)]
    return float(max(error / float(space) for error, space in zip(errors, spaces, strict=True)))


def test_a_radius_is_within_two_units_of_its_last_digit() -> None:
    words = torch.cat([torch.tensor([*AROUND, *HALF_ROOTS]), pairs(3000)])
    words = words[(words | 1).to(torch.float32) < WORDS]  # there the radius is 0
    u = [mpmath.mpf(int(v)) / WORDS for v in (words | 1).to(torch.float32).tolist()]
    exact = [mpmath.sqrt(-2 * mpmath.log(value)) for value in u]
    assert ulps(normal.radius(words), exact) < 2
    assert normal.radius(torch.tensor([WORDS - 1])).item() == 0
    assert normal.radius(torch.tensor([0])).item() == pytest.approx(math.sqrt(64 * math.log(2)))


def test_a_direction_is_within_2_to_minus_23_and_near_0_within_two_units() -> None:
    words = torch.cat([torch.tensor(AROUND), pairs(3000)])
    angles = [2 * mpmath.pi * int(word) / WORDS for word in words]
    for got, function in zip(normal.direction(words), (mpmath.cos, mpmath.sin), strict=True):
        exact = [function(angle) for angle in angles]
        error = max(abs(mpmath.mpf(g) - e) for g, e in zip(got.tolist(), exact, strict=True))
        assert error < 2.0**-23
    small = torch.cat([torch.arange(1, 1000), WORDS - torch.arange(1, 1000)])
    signed = [2 * mpmath.pi * int(w if w < 2**31 else w - WORDS) / WORDS for w in small]
    assert ulps(normal.direction(small)[1], [mpmath.sin(angle) for angle in signed]) < 2


def test_quadrants_turn_without_an_error_of_their_own() -> None:
    """A quarter turn swaps the bits of cosine and sine, and changes a sign."""
    words = pairs(4000)
    x, y = normal.direction(words)
    turned_x, turned_y = normal.direction((words + 2**30) % WORDS)
    assert torch.equal(turned_x, -y)
    assert torch.equal(turned_y, x)


@pytest.mark.parametrize(
    ("coefficients", "low", "high", "exact", "bound"),
    [
        (normal.LN, math.sqrt(0.5) - 1, math.sqrt(2) - 1, "ln", 7e-9),
        (normal.SIN, 0.0, (math.pi / 4) ** 2, "sin", 7e-9),
        (normal.COS, 0.0, (math.pi / 4) ** 2, "cos", 1e-9),
    ],
)
def test_polynomials_are_as_near_as_is_written(
    coefficients: tuple[float, ...], low: float, high: float, exact: str, bound: float
) -> None:
    """Their relative error in exact arithmetic, of the whole function."""
    with mpmath.workdps(40):
        for step in range(1, 400):
            x = mpmath.mpf(low) + (mpmath.mpf(high) - low) * step / 400
            p = mpmath.polyval([*map(mpmath.mpf, coefficients[::-1])], x)
            if exact == "ln":
                got, wanted = x - x**2 / 2 + x**3 * p, mpmath.log(1 + x)
            else:
                a = mpmath.sqrt(x)
                got = a + a**3 * p if exact == "sin" else 1 - x / 2 + x**2 * p
                wanted = mpmath.sin(a) if exact == "sin" else mpmath.cos(a)
            assert abs(got / wanted - 1) < bound


def anderson_darling(values: torch.Tensor) -> float:
    """A² of the hypothesis that the values are standard normal."""
    x = np.sort(values.double().numpy())
    n, terms = len(x), special.log_ndtr(x) + special.log_ndtr(-x[::-1])
    return float(-n - ((2 * np.arange(1, n + 1) - 1) * terms).sum() / n)


NORMALS = normal.normal_pairs(pairs(4_000_000, seed=9))


def test_they_are_normal() -> None:
    """A² above 6 has probability 0.001; moments to 5 standard deviations."""
    assert anderson_darling(NORMALS[:1_000_000]) < 6
    assert anderson_darling(NORMALS[0::2]) < 6
    assert anderson_darling(NORMALS[1::2]) < 6
    n, x = len(NORMALS), NORMALS.double()
    for power, mean in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        variance = math.prod(range(1, 2 * power, 2)) - mean**2  # E x^2k = (2k - 1)!!
        assert abs((x**power).mean().item() - mean) < 5 * math.sqrt(variance / n), power


def test_tails_are_as_heavy_as_they_must_be() -> None:
    """Counts beyond 3, 4 and 4.5, on each side, are Poisson to 5 standard deviations."""
    for limit in (3.0, 4.0, 4.5):
        expected = len(NORMALS) * special.ndtr(-limit)
        for side in (NORMALS, -NORMALS):
            assert abs(int((side > limit).sum()) - expected) < 5 * math.sqrt(expected), limit
    assert NORMALS.abs().max() < 6.67
    assert normal.radius(torch.tensor([0, 1])).max() > 6.66


def test_the_two_of_a_pair_have_nothing_in_common() -> None:
    x, y = NORMALS[0::2].double(), NORMALS[1::2].double()
    for one, other, variance in (
        *((x, y, 1), (x[1:], x[:-1], 1), (y[1:], x[:-1], 1), (x**2 - 1, y**2 - 1, 4)),
        *((x, y**2 - 1, 2), (x[1:] ** 2 - 1, x[:-1] ** 2 - 1, 4)),
    ):
        assert abs((one * other).mean().item()) < 5 * math.sqrt(variance / len(one))
