"""The discrete Gaussian: its tables, exact distances, comparison, addressing, bad input."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import flint
import mpmath
import numpy as np
import pytest
import torch

import discrete_oracles
import pyfed
from discrete_oracles import DIGITS
from pyfed import Key, native
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import discrete_gaussian
from pyfed.ops.discrete_tables import entries_of, recipe
from runs import Run, runs_of

KEY = Key(bytes(range(32)))
RUNS = pytest.mark.parametrize(("op", "run"), runs_of("discrete_gaussian"))


def some_sigmas(count: int) -> list[float]:
    """All sizes up to 2^20, and where the number of convolutions or a factor changes."""
    generator = np.random.default_rng(20)
    edges = [math.sqrt(3) * (1 + k * k) for k in (*range(2, 40), 500, 777, 778)]
    near = [edge * (1 + sign * 2**-52) for edge in edges for sign in (-1, 0, 1)]
    return [*near, *(2 ** generator.uniform(-4, 20, count)).tolist(), 11.0, 2.0**20]


@pytest.mark.parametrize("sigma", [1e-9, 0.05, 0.1, 0.3, 1.0, 2.75, 10.9, 11.0])
def test_table_entries_are_the_exact_tails_rounded(sigma: float) -> None:
    variance = Fraction(sigma) ** 2
    found = entries_of(variance)
    assert found == discrete_oracles.entries(variance)
    assert all(entry % 2 == 0 and 0 < entry < 2**96 for entry in found)
    assert sorted(found, reverse=True) == list(found)


def test_every_sigma_is_met_exactly_by_smooth_steps_from_a_base_with_a_short_table() -> None:
    for sigma in some_sigmas(300):
        factors, variance = discrete_oracles.factors(sigma)
        how = recipe(sigma)
        assert (list(how.factors), how.variance) == (factors, variance)
        assert variance * math.prod(1 + k * k for k in factors) == Fraction(sigma) ** 2
        assert variance <= 121
        assert len(factors) <= 3
        assert how.coefficients == discrete_oracles.coefficients(sigma)
        for k in reversed(factors):
            assert variance >= 3 * (1 + k * k)
            variance *= 1 + k * k
        # So that int32 holds every sum, with room.
        assert len(how.entries) <= 127
        assert len(how.entries) * sum(how.coefficients) <= 2**25


def base_law(entries: Iterable[int]) -> list[int]:
    """How many of the 2^96 words give each of -N … N."""
    bounds = [2**96, *entries, 0]
    upper = [(high - low) // 2 for high, low in itertools.pairwise(bounds[1:])]
    return [*upper[::-1], bounds[0] - bounds[1], *upper]


def law_of(entries: Iterable[int], coefficients: list[int]) -> tuple[list[int], int]:
    """The exact law of Σ_b c[b] · (base sample b): weights of -M … M, and bits of their sum."""
    base = base_law(entries)
    assert sum(base) == 2**96
    law = flint.fmpz_poly([1])
    for c in coefficients:
        spread = [0] * (c * (len(base) - 1) + 1)
        spread[::c] = base
        law *= flint.fmpz_poly(spread)
    weights = [int(w) for w in law.coeffs()]
    weights += [0] * (sum(coefficients) * (len(base) - 1) + 1 - len(weights))
    return weights, 96 * len(coefficients)


def distance(sigma: float, entries: Iterable[int], coefficients: list[int]) -> mpmath.mpf:
    """Statistical distance of all that can be sampled from the discrete Gaussian, tails included.

    Exact but for 10^-120 at most: both laws are compared in integers over one denominator.
    """
    weights, bits = law_of(entries, coefficients)
    with mpmath.workdps(DIGITS):
        whole = 2**bits
        exact = [
            int(mpmath.nint(c * whole)) for c in discrete_oracles.chances(Fraction(sigma) ** 2)
        ]
    middle = len(weights) // 2
    width = max(middle, len(exact) - 1)
    total = 0
    for x in range(-width, width + 1):
        ours = weights[middle + x] if abs(x) <= middle else 0
        total += abs(ours - (exact[abs(x)] if abs(x) < len(exact) else 0))
    return mpmath.mpf(total) / whole / 2


@pytest.mark.parametrize("sigma", [0.05, 0.25, 0.5, 1.0, 2.0, 4.6, 7.7, 10.99, 11.0])
def test_a_base_is_within_2_to_the_minus_88(sigma: float) -> None:
    how = recipe(sigma)
    assert how.coefficients == [1]
    assert distance(sigma, how.entries, [1]) < mpmath.mpf(2) ** -88


@pytest.mark.parametrize(
    ("sigma", "steps"),
    [(11.001, 1), (17.3205081, 1), (45.1, 1), (66.8, 1), (57.0, 2), (313.7, 2), (1755.0, 3)],
)
def test_what_is_sampled_is_within_2_to_the_minus_80(sigma: float, steps: int) -> None:
    """Convolved, rounded and cut off; the bound that is accounted for is 2^-64 and more."""
    how = recipe(sigma)
    assert len(how.factors) == steps
    assert distance(sigma, how.entries, how.coefficients) < mpmath.mpf(2) ** -80


def test_a_step_that_is_not_smooth_would_be_noticed() -> None:
    """With the factor 4 in place of 2 the law at σ = 12 is off by far more than 2^-64."""
    sigma = 12.0
    assert recipe(sigma).factors == (2,)
    entries = discrete_oracles.entries(Fraction(sigma) ** 2 / 17)
    assert distance(sigma, entries, [1, 4]) > mpmath.mpf(2) ** -40


def test_a_key_gives_the_first_integers_that_it_always_gave() -> None:
    """Frozen: other parties make the same noise."""
    assert discrete_gaussian(8, 3.0, KEY).tolist() == [-1, -2, -3, 3, 1, -2, 1, 0]
    assert discrete_gaussian(4, 1000.0, KEY, stream=9, start=2**35).tolist() == [
        -1221,
        286,
        -946,
        1641,
    ]


@RUNS
def test_any_range_is_that_part_of_the_whole(op: str, run: Run) -> None:
    generator = np.random.default_rng(20)
    slow = run.interpreted or run.backend == "reference"
    length = 70 if slow else 5000
    for sigma in (2.0,) if slow else (2.0, 40.0, 2.0**20):
        for first in (0, 11, 2**36 - length):
            whole = discrete_gaussian(length, sigma, KEY, stream=2, start=first)
            for _ in range(2 if slow else 40):
                low, high = sorted(generator.integers(0, length + 1, 2).tolist())
                with run.active():
                    part = discrete_gaussian(
                        high - low, sigma, KEY, 2, first + low, device=run.device
                    )
                assert torch.equal(part.cpu(), whole[low:high])


def test_keys_streams_and_places_give_different_integers() -> None:
    calls = [
        (KEY, 0, 0),
        (KEY, 1, 0),
        (KEY, 2**32 - 1, 0),
        (KEY, 0, 2**32),
        (KEY.derive("a"), 0, 0),
    ]
    drawn = [tuple(discrete_gaussian(40, 1e5, *call).tolist()) for call in calls]
    assert len(set(drawn)) == len(calls)
    assert max(Counter(x for one in drawn for x in one).values()) <= 2


def words_as_table(entries: list[int]) -> torch.Tensor:
    """As kernels take it: int32 (3, entries), highest words first."""
    words = [[entry >> shift & 0xFFFFFFFF for entry in entries] for shift in (64, 32, 0)]
    return torch.from_numpy(np.array(words, dtype=np.uint32).view(np.int32)).contiguous()


def hard_tables() -> list[list[int]]:
    """Tables whose entries are, or nearly are, the words that are held against them."""
    raw = KEY.reveal()
    near = {discrete_oracles.base_words(raw, i, n) for i in range(40) for n in range(2)}
    words = sorted(near, reverse=True)
    tables = [words[first : first + count] for first, count in ((0, 1), (3, 15), (0, 40), (9, 71))]
    many = sorted({w + near for w in words for near in (-(2**64), -1, 0, 1)}, reverse=True)
    for size in (15, 16, 31, 32, 63, 64, 127):  # about where a kernel's vectors are full
        tables.append([many[i * len(many) // size] for i in range(size)])
    for change in (1, -1, 2**32, -(2**32), 2**64, -(2**64)):
        tables.append([min(max(w + change, 0), 2**96 - 1) for w in words])
    tables.append([w >> 64 << 64 for w in words])
    tables.append([w | 2**64 - 1 for w in words])
    tables.append([2**96 - 1] * 60 + [2**96 - 2**64] * 5 + [2**95] * 5 + [2**64] * 7 + [1] * 50)
    return tables


@pytest.mark.parametrize(("op", "run"), runs_of("discrete_gaussian", oracle=True))
def test_words_are_compared_to_the_last_bit(op: str, run: Run) -> None:
    from pyfed.triton_kernels import discrete

    if run.backend == "reference":
        pytest.skip("takes no table")
    raw, scales, count = KEY.reveal(), [3, 1000], 40
    key, coefficients = KEY.words(), torch.tensor(scales, dtype=torch.int32)
    for entries in hard_tables()[:: 8 if run.interpreted else 1]:
        table, out = words_as_table(entries), torch.empty(count, dtype=torch.int32)
        with run.active():
            if run.backend == "triton":
                out = discrete.discrete_gaussian(key, table, coefficients, count, 0, 0)
            else:
                native.run(
                    *("discrete_gaussian", key.device, key, table, len(entries), coefficients),
                    *(len(scales), 0, count, 0, out),
                )
        wanted = [discrete_oracles.from_table(raw, i, entries, scales) for i in range(count)]
        assert out.tolist() == wanted


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"sigma": 0.0}, ArgumentError, r"sigma is 0.0; it must be in \(0, 2\^20\]"),
        ({"sigma": -1.0}, ArgumentError, "sigma is -1.0"),
        ({"sigma": float("nan")}, ArgumentError, "sigma is nan"),
        ({"sigma": float("inf")}, ArgumentError, "sigma is inf"),
        ({"sigma": 2.0**20 + 1}, ArgumentError, "sigma is 1048577.0"),
        ({"sigma": "3"}, DtypeError, "sigma is str; it must be a float"),
        ({"sigma": True}, DtypeError, "sigma is bool"),
        ({"sigma": torch.tensor(3.0)}, DtypeError, "sigma is Tensor"),
        ({"key": bytes(32)}, DtypeError, "key is bytes; it must be a pyfed.Key"),
        ({"count": -1}, ArgumentError, "count is -1"),
        ({"count": 2.0}, DtypeError, "count is float"),
        ({"stream": 2**32}, ArgumentError, "stream is 4294967296"),
        ({"start": -1}, ArgumentError, "start is -1"),
        ({"start": 2**36 - 4}, ArgumentError, r"start \+ count is 68719476737"),
        ({"device": "nowhere"}, ArgumentError, "device is 'nowhere'"),
        ({"device": 3}, DtypeError, "device is int"),
    ],
)
def test_bad_arguments_are_told_of(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    given: dict[str, Any] = {"count": 5, "sigma": 3.0, "key": KEY, **change}
    with pytest.raises(error, match=f"discrete_gaussian: {words}"):
        discrete_gaussian(**given)


def test_an_int_is_a_sigma_too() -> None:
    assert torch.equal(discrete_gaussian(50, 3, KEY), discrete_gaussian(50, 3.0, KEY))


def test_explain_names_the_kernel_that_runs() -> None:
    with pyfed.use_backend("reference"):
        assert "reference: runs" in discrete_gaussian.explain(5, 3.0, KEY)
