"""The functions of privacy: inverse to one another, composed, as published, on bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import pyfed
from coded.privacy_ways import PUBLIC, WAYS
from pyfed.coded import privacy
from pyfed.coded.privacy import Release
from pyfed.coded.privacy_curves import least, renyi_epsilon, renyi_orders, secret_renyi


@pytest.mark.parametrize(
    ("rows", "epsilon", "exact", "renyi", "public"),
    [
        (1000, 1, "88.6", "96.8", "13918"),
        (1000, 4, "26.3", "28.3", "1169"),
        (1000, 8, "14.9", "15.9", "360"),
        (5000, 4, "56.1", "60.3", "5845"),
    ],
)
def test_required_noise_is_that_of_the_published_condition(
    rows: int, epsilon: float, exact: str, renyi: str, public: str
) -> None:
    """The published γ counts σ² alone where the record itself adds C²: γ = σ²/C² + 1."""
    sigma = privacy.noise(rows, epsilon=epsilon, delta=1e-5, record_norm=1.0)
    assert f"{sigma**2 + 1:.1f}" == exact

    def holds(gamma: float) -> bool:
        orders = renyi_orders(gamma)
        return renyi_epsilon(orders, secret_renyi(rows, 1 / (gamma - 1), orders), 1e-5) <= epsilon

    bounded = least(holds, 2.0, 1e4)
    assert bounded is not None
    assert f"{bounded:.1f}" == renyi
    assert (
        f"{privacy.noise(rows, epsilon=epsilon, delta=1e-5, record_norm=1.0, **PUBLIC) ** 2:.0f}"
        == public
    )


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_noise_epsilon_and_delta_are_inverse(way: dict, delta: float) -> None:
    for epsilon in (0.3, 1.0, 5.0):
        sigma = privacy.noise(500, epsilon=epsilon, delta=delta, record_norm=2.0, **way)
        assert sigma == np.float32(sigma)
        assert privacy.delta(500, noise_std=sigma, record_norm=2.0, epsilon=epsilon, **way) <= delta
        below = float(np.nextafter(np.float32(sigma), np.float32(0)))
        assert privacy.delta(
            500, noise_std=below, record_norm=2.0, epsilon=epsilon, **way
        ) > delta * (1 - 1e-6)
        found = privacy.epsilon(500, noise_std=sigma, record_norm=2.0, delta=delta, **way)
        assert found == pytest.approx(epsilon, rel=1e-5, abs=0)
        assert privacy.delta(
            500, noise_std=sigma, record_norm=2.0, epsilon=found, **way
        ) <= delta * (1 + 1e-8)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_privacy_is_monotone(way: dict) -> None:
    def curve(rows: int, noise: float, norm: float, delta: float) -> float:
        given = {**way, "min_eigenvalue": 3.0 * norm**2} if "min_eigenvalue" in way else way
        return privacy.epsilon(rows, noise_std=noise, record_norm=norm, delta=delta, **given)

    base = (300, 20.0, 1.0, 1e-6)
    for position, steps in enumerate(
        [(300, 900, 2700), (80.0, 40.0, 20.0), (1.0, 1.5, 2.0), (1e-3, 1e-6, 1e-9)]
    ):
        if position == 0 and "column_norm" in way:
            continue
        values = [curve(*(*base[:position], step, *base[position + 1 :])) for step in steps]
        assert all(a < b for a, b in itertools.pairwise(values)), (position, values)
    deltas = [
        privacy.delta(300, noise_std=20.0, record_norm=1.0, epsilon=epsilon, **way)
        for epsilon in (0.0, 0.01, 0.5, 3.0)
    ]
    assert all(a > b or max(a, b) < 1e-15 for a, b in itertools.pairwise(deltas))


def test_only_the_ratio_of_noise_to_norm_counts() -> None:
    assert privacy.epsilon(100, noise_std=5.0, record_norm=1.0, delta=1e-5) == pytest.approx(
        privacy.epsilon(100, noise_std=5e3, record_norm=1e3, delta=1e-5), rel=1e-12, abs=0
    )


def test_large_least_eigenvalue_stands_in_for_noise() -> None:
    """By σ² + max(λ, C²) alone: 24 + 4 · 1 is as much as 0 + 28."""
    a = privacy.epsilon(100, noise_std=math.sqrt(24.0), record_norm=2.0, delta=1e-5)
    assert (
        privacy.epsilon(
            100, noise_std=math.sqrt(24.0), record_norm=2.0, delta=1e-5, min_eigenvalue=4.0
        )
        == a
    )
    assert privacy.epsilon(
        100, noise_std=0.0, record_norm=2.0, delta=1e-5, min_eigenvalue=28.0
    ) == pytest.approx(a, rel=1e-12, abs=0)
    assert (
        privacy.noise(100, epsilon=a * 1.001, delta=1e-5, record_norm=2.0, min_eigenvalue=28.0)
        == 0.0
    )
    assert (
        privacy.noise(100, epsilon=a * 0.999, delta=1e-5, record_norm=2.0, min_eigenvalue=28.0)
        > 0.0
    )


def test_more_than_the_whole_delta_needs_no_epsilon() -> None:
    assert privacy.epsilon(10, noise_std=1e4, record_norm=1.0, delta=0.01) == 0.0
    assert privacy.epsilon(10, noise_std=1e4, record_norm=1.0, delta=0.01, **PUBLIC) == 0.0


def test_secrecy_of_a_gaussian_matrix_is_worth_noise() -> None:
    for rows, low, high in ((1000, 144, 160), (5000, 250, 400)):
        ratio = (
            privacy.noise(rows, epsilon=1, delta=1e-5, record_norm=1, **PUBLIC)
            / privacy.noise(rows, epsilon=1, delta=1e-5, record_norm=1)
        ) ** 2
        assert low < ratio < high


def test_equal_secret_releases_compose_by_rows() -> None:
    one, two = Release(400, 9.0, 1.0), Release(600, 18.0, 2.0)
    together = privacy.composed_epsilon([one, two], 1e-5)
    assert together == pytest.approx(
        privacy.epsilon(1000, noise_std=9.0, record_norm=1.0, delta=1e-5), rel=1e-9, abs=0
    )
    assert privacy.composed_delta([one, two], 1.0) == pytest.approx(
        privacy.delta(1000, noise_std=9.0, record_norm=1.0, epsilon=1.0), rel=1e-9, abs=0
    )


def test_public_releases_compose_by_squares() -> None:
    given = [
        Release(400, 40.0, 1.0, **PUBLIC),
        Release(100, 30.0, 1.0, secret=False, column_norm=15.0),
    ]
    joint = math.hypot(20 / 40, 15 / 30)
    assert privacy.composed_epsilon(given, 1e-5) == pytest.approx(
        privacy.epsilon(1, noise_std=1 / joint, record_norm=1.0, delta=1e-5, **PUBLIC),
        rel=1e-9,
        abs=0,
    )


def test_mixed_releases_lie_between_the_worst_part_and_the_sum_of_parts() -> None:
    given = [
        Release(400, 9.0, 1.0),
        Release(400, 12.0, 1.0),
        Release(400, 60.0, 1.0, **PUBLIC),
        Release(400, 60.0, 1.0, **PUBLIC, columns=3),
    ]
    before = given[0].epsilon(1e-5)
    for count in (2, 3, 4):
        some = given[:count]
        together = privacy.composed_epsilon(some, 1e-5)
        assert together > max(before, *(release.epsilon(1e-5) for release in some))
        before = together
        assert together < sum(release.epsilon(1e-5 / count) for release in some)
        assert privacy.composed_delta(some, together) == pytest.approx(1e-5, rel=1e-6, abs=0)


@pytest.mark.parametrize(("rows", "samples"), [(3, 1), (70, 5000), (700, 3)])
def test_column_norm_is_that_of_the_matrix(
    rows: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyfed.coded.privacy_public._BLOCK", 32 * min(samples, 4096))
    key = pyfed.Key(bytes(range(32)))
    whole = pyfed.ops.sketch_block((0, rows), (0, samples), key, "gaussian", (rows, samples), 5)
    norm = privacy.column_norm(rows, samples, key, stream=5)
    assert norm == pytest.approx(float(whole.double().norm(dim=0).max()), rel=1e-12, abs=0)
    assert norm == privacy.column_norm(rows, samples, pyfed.ops.sketch_seed(key), stream=5)


@pytest.mark.parametrize("kind", ["rademacher", "countsketch"])
def test_columns_of_the_op_do_not_exceed_the_norm_accounted_for(kind: str) -> None:
    for rows in (1, 3, 5, 1000):
        block = pyfed.ops.sketch_block((0, rows), (0, 40), pyfed.Key(bytes(32)), kind, (rows, 40))
        exact = max(math.fsum(e * e for e in column) for column in block.T.tolist())
        assert Release(rows, 1.0, 1.0, secret=False, kind=kind).ratio >= math.sqrt(exact)


def test_statistics_noise_is_for_what_a_record_adds_in_units_of_the_noise() -> None:
    record = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    moved = torch.outer(record, record)
    change = math.sqrt(float(moved.diagonal().square().sum() + 2 * moved.triu(1).square().sum()))
    tau = privacy.statistics_noise(epsilon=1.0, delta=1e-5, record_norm=5.0)
    assert change == pytest.approx(25.0)
    assert privacy.epsilon(
        1, noise_std=tau, record_norm=25.0, delta=1e-5, **PUBLIC
    ) == pytest.approx(1.0, rel=1e-6, abs=0)
