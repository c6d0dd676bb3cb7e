"""Predictions against releases that are drawn and solved with numpy; the choices; bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pyfed.coded import gradient_covariance, plan, privacy
from pyfed.coded.planner import LARGEST_PERTURBATION
from pyfed.coded.planner_law import RidgeLaw
from pyfed.errors import ArgumentError, DtypeError


def problem(samples: int = 120, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (samples, 4) of uneven columns and labels (samples, 2) with uneven residuals."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, 4)) * np.array([1.0, 0.7, 0.5, 0.3])
    y = x @ rng.standard_normal((4, 2)) + rng.standard_normal((samples, 2)) * np.abs(x[:, :1])
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def matrix(rng: np.random.Generator, kind: str, rows: int, samples: int) -> np.ndarray:
    if kind == "gaussian":
        return rng.standard_normal((rows, samples))
    if kind == "rademacher":
        return rng.choice([-1.0, 1.0], (rows, samples))
    g = np.zeros((rows, samples))
    g[rng.integers(0, rows, samples), np.arange(samples)] = rng.choice([-1.0, 1.0], samples)
    return g * math.sqrt(rows)


def excess(x: np.ndarray, y: np.ndarray, solution: np.ndarray) -> float:
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    return float((np.square(x @ solution - y).sum() - np.square(x @ best - y).sum()) / 2 / len(x))


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "countsketch"])
@pytest.mark.parametrize(("sigma", "ridge"), [(0.0, 0.0), (1.5, 4.0), (3.0, 30.0)])
def test_coded_prediction_is_what_drawn_releases_cost(
    kind: str, sigma: float, ridge: float
) -> None:
    rng, rows, draws = np.random.default_rng(7), 1000, 1200
    features, labels = problem()
    law = RidgeLaw(features, labels, 1.0)
    assert law.coded_perturbation(ridge, rows, sigma) < 0.35
    x, y = features.double().numpy(), labels.double().numpy()
    seen = []
    for _ in range(draws):
        g = matrix(rng, kind, rows, len(x))
        coded_x = g @ x + sigma * rng.standard_normal((rows, 4))
        coded_y = g @ y + sigma * rng.standard_normal((rows, 2))
        hessian = coded_x.T @ coded_x / rows + (ridge - sigma**2) * np.eye(4)
        seen.append(excess(x, y, np.linalg.solve(hessian, coded_x.T @ coded_y / rows)))
    predicted = law.coded(ridge, rows, sigma, kind)
    error = np.std(seen) / math.sqrt(draws)
    assert abs(np.mean(seen) - predicted) < 4 * error + 0.04 * predicted
    assert error < 0.04 * predicted


@pytest.mark.parametrize(("tau", "ridge"), [(1.0, 1.0), (4.0, 25.0)])
def test_prediction_for_statistics_is_what_drawn_releases_cost(tau: float, ridge: float) -> None:
    rng, draws = np.random.default_rng(8), 20_000
    features, labels = problem()
    law = RidgeLaw(features, labels, 1.0)
    assert law.statistics_perturbation(ridge, tau) < 0.5
    x, y = features.double().numpy(), labels.double().numpy()
    seen = []
    for _ in range(draws):
        square = tau * rng.standard_normal((6, 6)) / 2
        gram = np.block([x, y]).T @ np.block([x, y]) + square + square.T  # τ, and τ/√2 beside
        seen.append(excess(x, y, np.linalg.solve(gram[:4, :4] + ridge * np.eye(4), gram[:4, 4:])))
    predicted = law.statistics(ridge, tau)
    error = np.std(seen) / math.sqrt(draws)
    assert abs(np.mean(seen) - predicted) < 4 * error + 0.04 * predicted
    assert error < 0.04 * predicted


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_law_is_the_covariance_of_the_gradient_at_the_ridge_solution(kind: str) -> None:
    x, y = problem()
    wide = x.double()
    for sigma, ridge in ((0.0, 0.0), (2.0, 5.0)):
        gram = wide.T @ wide
        inverse = torch.linalg.inv(gram + ridge * torch.eye(4, dtype=torch.float64))
        solution = (inverse @ wide.T @ y.double()).float()
        covariance = gradient_covariance(x, y, solution, 700, sigma, kind)  # type: ignore[arg-type]
        m = inverse @ gram @ inverse
        expected = float(torch.einsum("kl,kala->", m, covariance)) / 2 / len(x)
        law = RidgeLaw(x, y, 1.0)
        found = law.coded(ridge, 700, sigma, kind) - law.bias(ridge)
        assert found == pytest.approx(expected, rel=1e-4, abs=0)


def test_perturbation_is_near_the_fall_of_the_least_eigenvalue() -> None:
    """Of columns of much the same size; where they differ the estimate is on the safe side."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((120, 12)) * np.linspace(1, 0.7, 12)
    law = RidgeLaw(torch.tensor(x, dtype=torch.float32), torch.zeros(120, 1), 1.0)
    gram = x.T @ x
    for sigma, ridge, tau in ((0.0, 0.0, 3.0), (2.0, 10.0, 8.0)):
        root = np.linalg.inv(np.linalg.cholesky(gram + ridge * np.eye(12)))
        drawn: list[list[float]] = [[], []]
        for _ in range(300):
            coded = rng.standard_normal((200, 120)) @ x + sigma * rng.standard_normal((200, 12))
            square = tau * rng.standard_normal((12, 12)) / 2
            changes = (
                coded.T @ coded / 200 - sigma**2 * np.eye(12) - gram,
                square + square.T,
            )
            for falls, change in zip(drawn, changes, strict=True):
                falls.append(-np.linalg.eigvalsh(root @ change @ root.T)[0])
        for falls, found in zip(
            drawn,
            (law.coded_perturbation(ridge, 200, sigma), law.statistics_perturbation(ridge, tau)),
            strict=True,
        ):
            assert 0.9 * np.mean(falls) < found < 1.6 * np.mean(falls), (np.mean(falls), found)


def test_samples_weigh_the_records_that_are_given() -> None:
    x, y = problem()
    tripled = plan(x.repeat(3, 1), y.repeat(3, 1), 900, [2.0], 1e-5, 12.0)
    weighed = plan(x, y, 900, [2.0], 1e-5, 12.0, samples=3 * len(x))
    for way in ("coded", "statistics"):
        a, b = getattr(tripled.rows[0], way), getattr(weighed.rows[0], way)
        assert a.noise_std == b.noise_std
        assert a.ridge == pytest.approx(b.ridge, rel=1e-9, abs=0)
        assert a.excess == pytest.approx(b.excess, rel=1e-6, abs=0)
    assert tripled.loss == pytest.approx(weighed.loss, rel=1e-6, abs=0)


@pytest.mark.parametrize("secret", [True, False])
@pytest.mark.parametrize("kind", ["gaussian", "countsketch"])
def test_table_has_the_noise_of_privacy_and_falls_with_epsilon(secret: bool, kind: str) -> None:
    if secret and kind != "gaussian":
        return
    x, y = problem(400)
    column = 60.0 if kind == "gaussian" and not secret else None
    found = plan(
        x, y, 2000, [0.5, 2, 8, math.inf], 1e-6, 12.0, kind, secret, samples=10**6,
        column_norm=column,
    )  # fmt: skip
    for row in found.rows[:-1]:
        assert row.coded.noise_std == privacy.noise(
            2000,
            epsilon=row.epsilon,
            delta=1e-6,
            record_norm=12.0,
            secret=secret,
            kind=kind,
            column_norm=column,
            columns=x.shape[1] + y.shape[1],
        )
        assert row.statistics.noise_std == privacy.statistics_noise(
            epsilon=row.epsilon, delta=1e-6, record_norm=12.0, columns=x.shape[1] + y.shape[1]
        )
    assert found.rows[-1].coded.noise_std == found.rows[-1].statistics.noise_std == 0
    for way in ("coded", "statistics"):
        choices = [getattr(row, way) for row in found.rows]
        assert all(a.excess > b.excess for a, b in itertools.pairwise(choices))
        assert all(0 < c.perturbation <= LARGEST_PERTURBATION for c in choices[:-1])
    assert found.rows[-1].statistics.excess < 1e-9 * found.loss
    lines = str(found).splitlines()
    assert len(lines) == 2 + 4
    assert len({len(line) for line in lines[1:]}) == 1


def test_ridge_is_the_best_of_those_offered() -> None:
    x, y = problem()
    given = (1.0, 40.0, 200.0, 1e4)
    chosen = plan(x, y, 3000, [4.0], 1e-5, 12.0, ridges=given, samples=12_000).rows[0].coded
    law = RidgeLaw(x, y, 100.0)
    costs = {
        ridge: law.coded(ridge, 3000, chosen.noise_std, "gaussian")
        for ridge in given
        if law.coded_perturbation(ridge, 3000, chosen.noise_std) <= LARGEST_PERTURBATION
    }
    assert chosen.excess == pytest.approx(min(costs.values()), rel=1e-12, abs=0)
    assert costs[chosen.ridge] == min(costs.values())


def test_columns_that_are_zero_cost_nothing() -> None:
    x, y = problem()
    padded = torch.cat([x, torch.zeros(len(x), 1)], 1)
    law = RidgeLaw(padded, y, 1.0)
    assert law.coded(0.0, 500, 0.0, "gaussian") == pytest.approx(
        RidgeLaw(x, y, 1.0).coded(0.0, 500, 0.0, "gaussian"), rel=1e-6, abs=0
    )
    assert law.statistics_perturbation(0.0, 1.0) == math.inf


BAD = [
    ({"rows": 0}, "rows"),
    ({"epsilons": [1.0, 0.0]}, r"epsilons\[1\]"),
    ({"epsilons": [math.nan]}, r"epsilons\[0\]"),
    ({"epsilons": [-math.inf]}, r"epsilons\[0\]"),
    ({"delta": 0.0}, "delta"),
    ({"delta": math.nan}, "delta"),
    ({"record_norm": 0.0}, "record_norm"),
    ({"record_norm": math.nan}, "record_norm"),
    ({"record_norm": 0.5}, "greatest norm"),
    ({"kind": "rademacher"}, "secrecy"),
    ({"kind": "fourier", "epsilons": [math.inf]}, "kind"),
    ({"secret": False}, "column_norm"),
    ({"samples": 0}, "samples"),
    ({"ridges": []}, "ridges"),
    ({"ridges": [-1.0]}, r"ridges\[0\]"),
    ({"ridges": [0.0]}, "Hessian"),
    ({"rows": 1, "ridges": [1e-3], "epsilons": [math.inf]}, "Hessian"),
    ({"x": torch.zeros(120, 4)}, "zero everywhere"),
    ({"x": torch.full((120, 4), math.nan)}, "NaN"),
    ({"y": torch.zeros(119, 2)}, "match"),
]


@pytest.mark.parametrize(("change", "named"), BAD, ids=lambda part: str(part)[:40])
def test_bad_arguments_are_refused_by_name(change: dict, named: str) -> None:
    x, y = problem()
    given = {
        "x": x, "y": y, "rows": 500, "epsilons": [1.0], "delta": 1e-5, "record_norm": 12.0, **change
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=named):
        plan(**given)  # type: ignore[arg-type]


def test_wrong_types_are_refused() -> None:
    x, y = problem()
    with pytest.raises(DtypeError, match="x"):
        plan(x.double(), y, 500, [1.0], 1e-5, 12.0)
    with pytest.raises(DtypeError, match="epsilons"):
        plan(x, y, 500, ["1"], 1e-5, 12.0)  # type: ignore[list-item]
