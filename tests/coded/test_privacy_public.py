"""The curves of a public G against mpmath, dp-accounting and exact probabilities."""

from __future__ import annotations

import math

import mpmath as mp
import pytest

from pyfed.coded import privacy
from pyfed.coded.privacy_public import gaussian_delta

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
            assert privacy.epsilon(
                900, noise_std=50.0, record_norm=1.5, delta=delta, **way
            ) == pytest.approx(expected, rel=1e-9, abs=0)
            sigma = get_sigma_gaussian(2.0, delta) * column * 1.5
            assert privacy.noise(
                900, epsilon=2.0, delta=delta, record_norm=1.5, **way
            ) == pytest.approx(sigma, rel=2e-7, abs=0)
