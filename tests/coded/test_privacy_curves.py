"""The curve of a secret G against mpmath, scipy, dp-accounting, sampled losses and an attack."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from scipy.stats import beta, chi2

from pyfed.coded import privacy
from pyfed.coded.privacy import Release
from pyfed.coded.privacy_curves import (
    renyi_delta,
    renyi_epsilon,
    renyi_orders,
    secret_delta,
    secret_deltas,
    secret_renyi,
)

GAMMAS = [1.05, 2.0, 28.3, 88.6, 1e4]


def tail(rows: int, x: mp.mpf, upper: bool) -> mp.mpf:
    """P(χ² ≥ x), or ≤ x, with so many degrees of freedom, to the precision of mpmath."""
    half = mp.mpf(x) / 2
    if rows % 2 or rows < 20:
        ends = (half, mp.inf) if upper else (0, half)
        return mp.gammainc(mp.mpf(rows) / 2, *ends, regularized=True)
    # Even k: a Poisson variable N of mean x/2 has N < k/2, or N ≥ k/2. Terms away from k/2 − 1.
    j = rows // 2 - 1
    term, total = mp.exp(j * mp.log(half) - half - mp.loggamma(j + 1)), mp.mpf(0)
    if not upper:
        j += 1
        term = term * half / j
    while term > total * mp.mpf(10) ** -mp.mp.dps and j >= 0:
        total += term
        factor = j / half if upper else half / (j + 1)
        term, j = term * factor, j + (-1 if upper else 1)
    return total


def deltas_by_mpmath(rows: int, gamma: float, epsilon: float) -> tuple[mp.mpf, mp.mpf]:
    """The two differences of χ² tails, as they stand in the literature on Gaussian pairs."""
    r, e = 1 - 1 / mp.mpf(gamma), mp.mpf(epsilon)
    drift = -mp.mpf(rows) / 2 * mp.log(r)
    s, other = 2 * (e + drift) / (1 / r - 1), 2 * (drift - e) / (1 / r - 1)
    forward = tail(rows, s, True) - mp.exp(e) * tail(rows, s / r, True)
    if other <= 0:
        return forward, mp.mpf(0)
    back = tail(rows, other / r, False) - mp.exp(e) * tail(rows, other, False)
    return forward, back


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 101, 1000, 100_000])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_secret_curve_is_that_of_mpmath_down_to_its_far_tails(rows: int, gamma: float) -> None:
    release = Release(rows, math.sqrt(gamma - 1), 1.0)
    with mp.workdps(80):
        for delta in (0.3, 1e-2, 1e-5, 1e-12, 1e-40):
            epsilon = release.epsilon(delta)
            if epsilon == 0:
                assert max(deltas_by_mpmath(rows, gamma, 0)) <= delta
                continue
            exact = deltas_by_mpmath(rows, gamma, epsilon)
            assert float(max(exact)) == pytest.approx(delta, rel=1e-9, abs=0)
            assert release.delta(epsilon) <= delta
            if delta > 1e-13:  # the way back may have a far smaller one
                found = secret_deltas(rows, 1 / (gamma - 1), epsilon)
                assert found == pytest.approx([float(part) for part in exact], rel=1e-9, abs=0)


@pytest.mark.parametrize("rows", [1, 2, 50, 4000])
@pytest.mark.parametrize("gamma", [1.5, 4.0, 60.0])
def test_secret_curve_is_that_of_scipy_where_nothing_cancels(rows: int, gamma: float) -> None:
    r, drift = 1 - 1 / gamma, -rows / 2 * math.log1p(-1 / gamma)
    for epsilon in (0.1, 1.0, 10.0):
        s, other = (2 * (part) / (1 / r - 1) for part in (epsilon + drift, drift - epsilon))
        forward = chi2.sf(s, rows) - math.exp(epsilon + chi2.logsf(s / r, rows))
        back = chi2.cdf(other / r, rows) - math.exp(epsilon + chi2.logcdf(other, rows))
        expected = max(forward, back if other > 0 else 0.0)
        found = secret_delta(rows, 1 / (gamma - 1), epsilon)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("rows", [1, 30, 1000, 100_000])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_secret_curve_lies_under_its_renyi_bound(rows: int, gamma: float) -> None:
    ratio = 1 / (gamma - 1)
    orders = renyi_orders(1 + 1 / ratio)
    curve = secret_renyi(rows, ratio, orders)
    for epsilon in (0.0, 0.1, 1.0, 5.0, 30.0):
        assert secret_delta(rows, ratio, epsilon) <= renyi_delta(orders, curve, epsilon)
    for delta in (1e-2, 1e-5, 1e-12):
        assert Release(rows, math.sqrt(gamma - 1), 1.0).epsilon(delta) <= renyi_epsilon(
            orders, curve, delta
        )


@pytest.mark.parametrize(("rows", "gamma"), [(1, 1.5), (20, 6.0), (1000, 88.6)])
def test_secret_curve_agrees_with_sampled_losses(rows: int, gamma: float) -> None:
    rng = np.random.default_rng(rows)
    r = 1 - 1 / gamma
    release = Release(rows, math.sqrt(gamma - 1), 1.0)
    norms = rng.chisquare(rows, 400_000)
    for delta in (0.1, 1e-2, 1e-3):
        epsilon = release.epsilon(delta)
        # ln N(0, 1)^k / N(0, r)^k at ‖y‖² = T under the first, and its negative under the second
        forward = rows / 2 * math.log(r) + (1 / r - 1) / 2 * norms
        back = -rows / 2 * math.log(r) - (1 / r - 1) / 2 * r * norms
        means, errors = [], []
        for losses in (forward, back):
            excess = np.maximum(0, -np.expm1(epsilon - losses))
            means.append(excess.mean())
            errors.append(excess.std() / math.sqrt(len(excess)))
        worst = int(np.argmax(means))
        assert abs(means[worst] - delta) < 5 * errors[worst]


def test_no_data_set_tells_more_than_the_curve_assumes() -> None:
    """The leverage xᵀ(σ²I + Σ of others)⁻¹x of every record is at most the ratio accounted for."""
    rng = np.random.default_rng(1)
    for trial in range(300):
        samples, columns = rng.integers(1, 12), rng.integers(1, 6)
        x = rng.standard_normal((samples, columns)) * np.geomspace(1, 10, columns) ** (trial % 3)
        norm = float(np.linalg.norm(x, axis=1).max())
        sigma = float(rng.uniform(0.05, 3)) * norm
        floor = max(0.0, float(np.linalg.eigvalsh(x.T @ x)[0]) * (1 - 1e-9))
        bounds = [Release(1, sigma, norm, min_eigenvalue=low).ratio for low in (0.0, floor)]
        for j in range(samples):
            others = np.delete(x, j, 0)
            gram = others.T @ others + sigma**2 * np.eye(columns)
            q = x[j] @ np.linalg.solve(gram, x[j])
            assert q <= min(bounds) * (1 + 1e-9)
    alone = 2.0**2 / 3.0**2
    assert Release(1, 3.0, 2.0).ratio == pytest.approx(alone, rel=1e-15, abs=0)
    spread = 2.0 * np.eye(3).repeat(5, axis=0)  # XᵀX = 20·I
    gram = spread[1:].T @ spread[1:] + 9 * np.eye(3)
    assert Release(1, 3.0, 2.0, min_eigenvalue=20.0).ratio == pytest.approx(
        spread[0] @ np.linalg.solve(gram, spread[0]), rel=1e-12, abs=0
    )


def attacked(
    given: np.ndarray, other: np.ndarray, rows: int, sigma: float, delta: float, seed: int
) -> float:
    """ε that a likelihood-ratio attack proves at δ, wrong with chance 4e-4, by the better way."""
    rng, runs, columns = np.random.default_rng(seed), 600_000, given.shape[1]
    covariances = [x.T @ x + sigma**2 * np.eye(columns) for x in (given, other)]
    contrast = np.linalg.inv(covariances[1]) - np.linalg.inv(covariances[0])
    losses = []
    for x in (given, other):
        parts = []
        for _ in range(50):
            g = rng.standard_normal((runs // 50 * rows, len(x)))
            released = g @ x + sigma * rng.standard_normal((len(g), columns))
            quadratic = ((released @ contrast) * released).sum(1)
            parts.append(quadratic.reshape(-1, rows).sum(1) / 2)
        losses.append(np.concatenate(parts))
    best = 0.0
    for p, q in (losses, (-losses[1], -losses[0])):
        half = runs // 2
        tried = np.quantile(p[:half], np.linspace(0.5, 0.985, 60))
        gains = [((p[:half] > t).mean() - delta) / max((q[:half] > t).mean(), 1e-3) for t in tried]
        threshold = tried[int(np.argmax(gains))]  # chosen on one half, judged on the other
        hits, false = ((losses[half:] > threshold).sum() for losses in (p, q))
        low = beta.ppf(1e-4, hits, half - hits + 1)
        high = beta.ppf(1 - 1e-4, false + 1, half - false)
        best = max(best, math.log(max(low - delta, 1e-9) / high))
    return best


@pytest.mark.parametrize(
    ("rows", "sigma", "delta"), [(1, 1.0, 1e-2), (4, 1.2, 1e-2), (12, 1.7, 2e-2)]
)
def test_attack_never_beats_the_exact_curve_and_comes_near(
    rows: int, sigma: float, delta: float
) -> None:
    orthogonal = np.eye(3)  # every record of norm 1, XᵀX = I: the worst that a data set can be
    zeroed = np.diag([0.0, 1.0, 1.0])
    exact = privacy.epsilon(rows, noise_std=sigma, record_norm=1.0, delta=delta)
    proven = attacked(orthogonal, zeroed, rows, sigma, delta, seed=rows)
    assert 0.8 * exact < proven <= exact
    # Where other records lie in the same direction, less can be proven, and λ accounts for it.
    shared = np.concatenate([orthogonal, orthogonal])
    less = attacked(shared, shared[1:], rows, sigma, delta, seed=rows)
    floor = privacy.epsilon(rows, noise_std=sigma, record_norm=1.0, delta=delta, min_eigenvalue=2.0)
    assert less <= floor < exact


@pytest.mark.parametrize("rows", [1, 50])
@pytest.mark.parametrize("gamma", [1.2, 3.0, 40.0])
def test_renyi_curve_is_the_integral_of_the_worse_direction(rows: int, gamma: float) -> None:
    r = 1 - 1 / mp.mpf(gamma)

    def divergence(alpha: float, p: mp.mpf, q: mp.mpf) -> mp.mpf:
        def integrand(x: mp.mpf) -> mp.mpf:
            logs = -(x**2) / 2 * (alpha / p + (1 - alpha) / q)
            return mp.exp(logs) / mp.sqrt(2 * mp.pi * p**alpha * q ** (1 - alpha))

        return mp.log(2 * mp.quad(integrand, [0, 1, 4, mp.inf])) / (alpha - 1)

    for part in (0.05, 0.4, 0.9):
        order = 1 + part * (gamma - 1)
        found = Release(rows, math.sqrt(gamma - 1), 1.0).renyi(order)
        exact = [rows * divergence(order, *pair) for pair in ((1, r), (r, 1))]
        assert found == pytest.approx(float(max(exact)), rel=1e-9, abs=0)
        published = rows / (2 * (order - 1))
        published *= order * math.log(1 - 1 / gamma) - math.log(1 - order / gamma)
        assert found == pytest.approx(published, rel=1e-9, abs=0)
    assert Release(rows, math.sqrt(gamma - 1), 1.0).renyi(gamma * 1.001) == math.inf


def test_renyi_curve_keeps_its_digits_where_the_noise_is_large() -> None:
    with mp.workdps(60):
        for gamma in (1e3, 1e6, 1e9):
            for order in (1.0001, 2.0, 60.0):
                a, g = mp.mpf(order), 1 + mp.mpf(gamma - 1)
                exact = 500 / (a - 1) * (a * mp.log(1 - 1 / g) - mp.log(1 - a / g))
                found = secret_renyi(1000, 1 / (gamma - 1), np.array([order]))[0]
                assert found == pytest.approx(float(exact), rel=1e-9, abs=0)


def test_conversion_of_renyi_curves_is_that_of_dp_accounting() -> None:
    from dp_accounting.rdp import rdp_privacy_accountant

    orders = renyi_orders(27.0)
    curve = secret_renyi(1000, 1 / 26.0, orders)
    for delta in (1e-2, 1e-5, 1e-10):
        expected, _ = rdp_privacy_accountant.compute_epsilon(orders, curve, delta)
        assert renyi_epsilon(orders, curve, delta) == pytest.approx(expected, rel=1e-12, abs=0)
        assert renyi_delta(orders, curve, expected) == pytest.approx(delta, rel=1e-9, abs=0)
