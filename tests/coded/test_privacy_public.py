"""The curves of a public G against mpmath, dp-accounting and exact probabilities."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

from pyfed.coded import privacy
from pyfed.coded.privacy import Release
from pyfed.coded.privacy_public import gaussian_delta, sum_distance

PUBLIC = {"secret": False, "kind": "rademacher"}


@pytest.mark.parametrize("ratio", [1e-12, 1e-7, 9e-3, 1.1e-2, 0.3, 3.0, 40.0])
def test_public_curve_is_that_of_mpmath(ratio: float) -> None:
    with mp.workdps(120):
        mu = mp.mpf(ratio)
        for far in (0.0, 0.5, 3.0, 7.5, 30.0):
            epsilon = max(0.0, ratio * (far + ratio / 2))
            e = mp.mpf(epsilon)
            exact = mp.ncdf(mu / 2 - e / mu) - mp.exp(e) * mp.ncdf(-mu / 2 - e / mu)
            assert gaussian_delta(ratio, epsilon) == pytest.approx(float(exact), rel=3e-10, abs=0)


def test_public_curve_is_that_of_dp_accounting() -> None:
    from dp_accounting import get_epsilon_gaussian, get_sigma_gaussian

    for way, column in (
        (PUBLIC, math.sqrt(900)),
        ({"secret": False, "kind": "countsketch"}, math.sqrt(900)),
        ({"secret": False, "column_norm": 37.5}, 37.5),
    ):
        for delta in (1e-2, 1e-5, 1e-12):
            expected = get_epsilon_gaussian(50.0 / (column * 1.5), delta)
            assert privacy.epsilon(900, 50.0, 1.5, delta, **way) == pytest.approx(
                expected, rel=1e-9, abs=0
            )
            sigma = get_sigma_gaussian(2.0, delta) * column * 1.5
            assert privacy.noise(900, 2.0, delta, 1.5, **way) == pytest.approx(
                sigma, rel=2e-7, abs=0
            )


@pytest.mark.parametrize(("sigma", "shift"), [(4.0, 1), (9.0, 3), (20.0, 15)])
def test_discrete_bound_lies_above_the_exact_probabilities(sigma: float, shift: int) -> None:
    """One entry, grid 1, C = shift − 1: rounding may make it ``shift``."""
    release = Release(1, sigma, max(shift - 1, 1e-9), **PUBLIC, grid=1.0, columns=1)
    x = np.arange(-60 * int(sigma), 60 * int(sigma) + 1)
    weights = np.exp(-(x**2) / (2 * sigma**2))
    p = weights / weights.sum()
    q = np.exp(-((x - shift) ** 2) / (2 * sigma**2)) / weights.sum()
    for epsilon in (0.1, 0.5, 1.0, 2.0):
        exact = float(np.maximum(0, p - math.exp(epsilon) * q).sum())
        assert exact <= release.delta(epsilon)
        if 1e-12 < exact < 1.5e-2:
            assert epsilon <= release.epsilon(exact) < 1.3 * epsilon
        assert release.epsilon(release.delta(epsilon)) == pytest.approx(epsilon, rel=1e-6, abs=0)


def test_rounded_values_of_neighbours_differ_by_no_more_than_accounted_for() -> None:
    rng = np.random.default_rng(2)
    for grid in (1.0, 0.25, 2.0**-9):
        for _ in range(200):
            a, change = rng.standard_normal((2, 30))
            change *= 2.0 / np.linalg.norm(change)
            moved = np.linalg.norm(np.rint((a + change) / grid) - np.rint(a / grid))
            release = Release(30, 1.0, 2.0 / math.sqrt(30), **PUBLIC, grid=grid, columns=1)
            assert moved * grid <= release.ratio


def test_record_reaches_one_row_of_a_countsketch_and_all_of_the_others() -> None:
    way = {"secret": False, "grid": 0.5, "columns": 4}
    for kind, entries in (("countsketch", 4), ("rademacher", 4 * 9)):
        expected = (3 * 2.0 + 0.5 * math.sqrt(entries)) / 7.0
        assert Release(9, 7.0, 2.0, kind=kind, **way).ratio == pytest.approx(
            expected, rel=1e-12, abs=0
        )


def test_sums_of_discrete_noises_are_as_near_to_one_as_accounted_for() -> None:
    for sigma, count in ((0.5, 2), (0.5, 5), (0.8, 3), (1.0, 7)):
        reach = round(9 * sigma * math.sqrt(count)) + 1
        with mp.workdps(60):
            mass = [mp.exp(-mp.mpf(x * x) / (2 * mp.mpf(sigma) ** 2)) for x in range(-70, 71)]
            own = [one / mp.fsum(mass) for one in mass]
            summed = own
            for _ in range(count - 1):
                summed = [
                    mp.fsum(
                        summed[i - j] * own[j]
                        for j in range(max(0, i - len(summed) + 1), min(i, len(own) - 1) + 1)
                    )
                    for i in range(len(summed) + len(own) - 1)
                ]
            middle = len(summed) // 2
            wide = count * mp.mpf(sigma) ** 2
            law = [mp.exp(-mp.mpf(x * x) / (2 * wide)) for x in range(-200, 201)]
            far = max(
                abs(mp.log(summed[middle + x] * mp.fsum(law) / law[200 + x]))
                for x in range(reach + 1)
            )
            bound = sum_distance(sigma * sigma, count)
            assert far <= bound * (1 + 1e-12)
            assert count > 2 or far > bound / 20  # for two it is about as large as that


def test_discrete_noise_of_many_clients_costs_what_their_sum_is_off() -> None:
    way = {**PUBLIC, "grid": 1.0, "columns": 10}
    one = Release(100, 20.0, 1.0, **way)
    many = Release(100, 20.0, 1.0, **way, clients=400)  # each has as much as the grid
    off = sum_distance(1.0, 400)
    assert off == pytest.approx(
        5 * math.fsum(math.exp(-2 * math.pi**2 * k / (k + 1)) for k in range(1, 400)), rel=1e-12
    )
    assert many.ratio == pytest.approx(one.ratio + 2 * off * math.sqrt(1000), rel=1e-12)
    assert many.distance == 400 * one.distance
    exact = 5 * math.fsum(math.exp(-2 * math.pi**2 * 0.3 * k / (k + 1)) for k in range(1, 5000))
    assert exact <= sum_distance(0.3, 5000) <= 1.01 * exact
    sigma = privacy.noise(100, 2.0, 1e-5, 1.0, **way, clients=400)
    assert Release(100, sigma, 1.0, **way, clients=400).delta(2.0) <= 1e-5
    assert privacy.noise(100, 30.0, 0.5, 1.0, **way, clients=400) >= 10.0  # half a grid for each


def test_sampling_of_discrete_noise_takes_its_part_of_delta() -> None:
    release = Release(1000, 200.0, 1.0, **PUBLIC, grid=2.0**-4, columns=500)
    distance = 1000 * 500 * 2.0**-80
    assert release.delta(40.0) == pytest.approx((1 + math.exp(40.0)) * distance, rel=1e-6, abs=0)
