"""Bounds of mutual information against integrated divergences and channels of known capacity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2

from pyfed.coded.privacy import (
    Release,
    distinguishing,
    entry_information,
    mutual_information,
)
from pyfed.errors import ArgumentError, DtypeError

PUBLIC = {"secret": False, "kind": "rademacher"}


@pytest.mark.parametrize(("rows", "sigma"), [(1, 1.0), (40, 2.5), (1000, 5.0)])
def test_secret_bound_is_the_divergence_from_the_release_without_the_record(
    rows: int, sigma: float
) -> None:
    """Along the record the variances are 1 + q and 1; the loss is linear in χ² of the first."""
    q = 1 / sigma**2
    mean = quad(
        lambda t: chi2.pdf(t, rows) * (q * t / 2 - rows / 2 * math.log1p(q)),
        0,
        np.inf if rows == 1 else 5 * rows + 100,
        epsabs=1e-12,
        limit=500,
        points=None if rows == 1 else [rows],
    )[0]
    assert mutual_information(Release(rows, sigma, 1.0)) == pytest.approx(mean, rel=1e-6, abs=0)


def test_secret_bound_is_that_of_the_published_gamma() -> None:
    gamma, rows = 28.0, 1000
    published = rows / 2 * (math.log(1 - 1 / gamma) + 1 / (gamma - 1))
    found = mutual_information(Release(rows, math.sqrt(gamma - 1), 1.0))
    assert found == pytest.approx(published, rel=1e-9, abs=0)
    assert round(found, 2) == 0.33


@pytest.mark.parametrize("features", [1, 3, 8])
def test_public_bound_is_reached_by_a_gaussian_record(features: int) -> None:
    rng = np.random.default_rng(features)
    column = rng.choice([-1.0, 1.0], 6)
    sigma, norm = 2.0, 1.5
    # vec(g·xᵀ) with x ~ N(0, C²/d · I): the log-determinant of signal and noise over noise
    signal = np.kron(np.outer(column, column), np.eye(features)) * norm**2 / features
    exact = np.linalg.slogdet(np.eye(6 * features) + signal / sigma**2)[1] / 2
    release = Release(6, sigma, norm, **PUBLIC)
    assert mutual_information(release, features) == pytest.approx(exact, rel=1e-12, abs=0)
    entry = entry_information(6, sigma, norm)
    assert entry == pytest.approx(0.5 * math.log1p(6 * norm**2 / sigma**2), rel=1e-12, abs=0)
    assert mutual_information(release, features) >= entry * (1 - 1e-12)
    assert entry_information(6, sigma, norm, column_norm=1.0) < entry


@pytest.mark.parametrize("release", [Release(20, 6.0, 1.0), Release(9, 12.0, 1.0, **PUBLIC)])
def test_total_variation_is_below_what_information_gives(release: Release) -> None:
    """δ at ε = 0 is the total variation, which two equally likely records show."""
    nats = mutual_information(release, columns=None if release.secret else 1)
    assert release.delta(0.0) <= distinguishing(nats) < 1


def test_information_says_nothing_where_the_exact_curve_does() -> None:
    release = Release(1000, math.sqrt(25.3), 1.0)
    assert release.epsilon(1e-5) < 4.01
    assert distinguishing(mutual_information(release)) > 0.8


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_bad_values_are_refused(bad: float) -> None:
    with pytest.raises(ArgumentError, match="nats"):
        distinguishing(bad)
    for place, name in enumerate(("noise_std", "largest", "column_norm")):
        given = [1.0, 1.0, 1.0]
        given[place] = bad
        with pytest.raises(ArgumentError, match=name):
            entry_information(5, *given)
    with pytest.raises(ArgumentError, match="rows"):
        entry_information(0, 1.0, 1.0)
    with pytest.raises(DtypeError, match="columns"):
        mutual_information(Release(3, 1.0, 1.0, **PUBLIC))
    with pytest.raises(ArgumentError, match="columns"):
        mutual_information(Release(3, 1.0, 1.0, **PUBLIC), columns=0)
