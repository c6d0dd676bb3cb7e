"""What discrete noise on a grid costs beside ideal noise, against exact probabilities."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

from pyfed.coded import privacy
from pyfed.coded.privacy import Release
from pyfed.coded.privacy_grid import closeness, fine_grid, sum_distance
from pyfed.errors import ArgumentError

PUBLIC = {"secret": False, "kind": "rademacher"}


def test_fine_grid_is_the_least_power_of_two_of_which_noise_is_at_most_a_million() -> None:
    for sigma in (1.0, 1.0000001, 3.7, 4.0, 1e-20, 1e20, 0.7):
        grid = fine_grid(sigma)
        assert math.frexp(grid)[0] == 0.5
        assert 2**19 < sigma / grid <= 2**20


@pytest.mark.parametrize("steps", [4.0, 5.5, 64.0, 2.0**20])
def test_rounded_normals_are_as_near_to_discrete_ones_as_accounted_for(steps: float) -> None:
    with mp.workdps(60):
        whole = steps * mp.sqrt(2 * mp.pi) * mp.jtheta(3, 0, mp.exp(-2 * mp.pi**2 * steps**2))
        far = mp.mpf(0)
        for x in {0, 1, 2, *(round(steps * part) for part in (0.5, 1, 2, 4, 8, 11, 11.9))}:
            low, high = ((x - mp.mpf(1) / 2) / steps, (x + mp.mpf(1) / 2) / steps)
            rounded = (mp.erfc(low / mp.sqrt(2)) - mp.erfc(high / mp.sqrt(2))) / 2
            discrete = mp.exp(-(mp.mpf(x) ** 2) / (2 * mp.mpf(steps) ** 2)) / whole
            far = max(far, abs(mp.log(rounded / discrete)))
        bound = 6 / steps**2
        assert closeness(1, steps) == pytest.approx(0.5 / steps + bound, rel=1e-12)
        assert bound / 2 < far < bound


def test_sums_of_discrete_noises_are_as_near_to_one_as_accounted_for() -> None:
    for sigma, count in ((0.5, 2), (0.5, 5), (0.8, 3), (1.0, 2)):
        with mp.workdps(60):
            mass = [mp.exp(-mp.mpf(x * x) / (2 * mp.mpf(sigma) ** 2)) for x in range(-40, 41)]
            own = [one / mp.fsum(mass) for one in mass]
            summed = own
            for _ in range(count - 1):
                summed = [
                    mp.fsum(
                        summed[i - j] * own[j]
                        for j in range(max(0, i - len(summed) + 1), min(i, 80) + 1)
                    )
                    for i in range(len(summed) + 80)
                ]
            wide = count * mp.mpf(sigma) ** 2
            law = [mp.exp(-mp.mpf(x * x) / (2 * wide)) for x in range(-200, 201)]
            middle, reach = len(summed) // 2, round(9 * sigma * math.sqrt(count)) + 1
            far = max(
                abs(mp.log(summed[middle + x] * mp.fsum(law) / law[200 + x]))
                for x in range(reach + 1)
            )
        bound = sum_distance(sigma * sigma, count)
        assert far <= bound * (1 + 1e-12)
        assert count > 2 or far > bound / 20  # for two it is about as large as that


def test_distances_of_sums_of_very_many_noises_are_bounded_from_above() -> None:
    terms = [5 * math.exp(-2 * math.pi**2 * 0.3 * k / (k + 1)) for k in range(1, 5000)]
    assert math.fsum(terms) <= sum_distance(0.3, 5000) <= 1.01 * math.fsum(terms)
    assert sum_distance(16.0, 10**6) < 1e-60


def discrete(steps: float) -> np.ndarray:
    """Probabilities of the discrete Gaussian from −12 to 12 standard deviations."""
    x = np.arange(-math.ceil(12 * steps), math.ceil(12 * steps) + 1)
    weights = np.exp(-(x**2) / (2 * steps**2))
    return weights / weights.sum()


def law_of_a_secret_row(record: float, noise_std: float, grid: float) -> np.ndarray:
    """P(round(g·record/grid) + D), g normal: by the probabilities of the rounded product."""
    reach = math.ceil(9 * abs(record) / grid) + 1
    edges = (np.arange(-reach, reach + 2) - 0.5) * grid
    if record == 0:
        product = np.zeros(2 * reach + 1)
        product[reach] = 1.0
    else:
        upper = np.array([0.5 * math.erfc(-e / abs(record) / math.sqrt(2)) for e in edges])
        product = np.diff(upper)
    return np.convolve(product, discrete(noise_std / grid))


def exact_delta(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    """Max over both directions of Σ (p − e^ε q)₊, of arrays with one middle."""
    size = max(len(p), len(q))
    p, q = (np.pad(v, (size - len(v)) // 2) for v in (p, q))
    return float(max(np.maximum(0, a - math.exp(epsilon) * b).sum() for a, b in ((p, q), (q, p))))


@pytest.mark.parametrize("steps", [4.0, 64.0, 1024.0])
@pytest.mark.parametrize("noise_std", [0.7, 2.0])
def test_no_record_under_a_secret_row_is_told_by_more_than_the_bound(
    noise_std: float, steps: float
) -> None:
    """One row, one column, one record of norm 1 against none: all probabilities are known."""
    grid = 2.0 ** math.floor(math.log2(noise_std / steps))
    release = Release(1, noise_std, 1.0, columns=1, grid=grid)
    ideal = Release(1, noise_std, 1.0)
    there, away = (law_of_a_secret_row(record, noise_std, grid) for record in (1.0, 0.0))
    for epsilon in (0.05, 0.3, 1.0, 2.0):
        exact = exact_delta(there, away, epsilon)
        assert exact <= release.delta(epsilon)
        assert exact == pytest.approx(ideal.delta(epsilon), rel=3 / steps, abs=2 / steps**2)
    if steps > 1000:  # a fine grid costs little
        assert release.epsilon(1e-3) == pytest.approx(ideal.epsilon(1e-3), rel=0.02)


@pytest.mark.parametrize(("noise_std", "moved"), [(4.0, 1.5), (9.0, 3.2), (20.0, 14.7)])
def test_no_shift_under_a_public_row_is_told_by_more_than_the_bound(
    noise_std: float, moved: float
) -> None:
    """Whatever else is in the entry, and however both are rounded."""
    release = Release(1, noise_std, moved, **PUBLIC, columns=1, grid=1.0)
    noise = discrete(noise_std)
    for other in np.linspace(0, 1, 11):
        steps = round(other + moved) - round(other)
        p, q = np.pad(noise, (0, steps)), np.pad(noise, (steps, 0))
        for epsilon in (0.1, 0.5, 1.0, 2.0):
            assert exact_delta(p, q, epsilon) <= release.delta(epsilon)


def test_finest_grid_costs_about_a_percent_of_epsilon() -> None:
    for way in ({}, PUBLIC):
        for epsilon in (0.5, 2.0, 8.0):
            given = {"epsilon": epsilon, "delta": 1e-5, "record_norm": 1.0}
            sigma = privacy.noise(1000, **given, **way)
            counted = privacy.epsilon(
                1000, noise_std=sigma, record_norm=1.0, delta=1e-5, columns=785, **way
            )
            assert epsilon < counted < 1.02 * epsilon + 0.005


def test_record_reaches_one_row_of_a_countsketch_and_all_of_the_others() -> None:
    for kind, entries in (("countsketch", 4), ("rademacher", 4 * 9)):
        release = Release(9, 7.0, 2.0, secret=False, kind=kind, columns=4, grid=0.5)
        assert release.entries == entries
        assert release.off == (closeness(entries, 14.0), entries * 2.0**-79)
    many = Release(9, 70.0, 2.0, **PUBLIC, columns=4, grid=0.5, clients=25)
    assert many.off == (closeness(36, 140.0, 25), 25 * 36 * 2.0**-79)


def test_sampling_of_discrete_noise_takes_its_part_of_delta() -> None:
    release = Release(1000, 200.0, 1.0, **PUBLIC, columns=500)
    distance = 1000 * 500 * 2.0**-79
    assert release.delta(40.0) >= math.exp(39.9) * distance
    with pytest.raises(ArgumentError, match="larger delta"):
        Release(1000, 1.0, 1.0, **PUBLIC, columns=500).epsilon(1e-9)


def test_statistics_noise_on_a_grid_is_a_little_more_than_ideal() -> None:
    given = {"epsilon": 2.0, "delta": 1e-6, "record_norm": 1.5}
    ideal = privacy.statistics_noise(**given)
    for columns, clients in ((5, 1), (510, 1), (510, 20)):
        found = privacy.statistics_noise(**given, columns=columns, clients=clients)
        assert ideal < found < 1.003 * ideal
    with pytest.raises(ArgumentError, match="columns is 0"):
        privacy.statistics_noise(**given, columns=0)
    with pytest.raises(ArgumentError, match="clients is 0"):
        privacy.statistics_noise(**given, columns=3, clients=0)


def test_less_noise_than_a_given_grid_allows_is_not_chosen() -> None:
    given = {"epsilon": 20.0, "delta": 0.5, "record_norm": 1.0, "columns": 1, "grid": 1.0}
    assert privacy.noise(1, **given) == pytest.approx(4.0)
    assert privacy.noise(1, **given, clients=25) == pytest.approx(20.0)
    with pytest.raises(ArgumentError, match="no noise up to"):
        privacy.noise(10**6, **{**given, "epsilon": 1e-3, "delta": 1e-9, "grid": 2.0**-30})
