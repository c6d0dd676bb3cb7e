"""Contracts against searches that know nothing of virtual types: grids, and linear programs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linprog

from pyfed.coded import incentive
from pyfed.coded.incentive import Menu

Curve = Callable[[float], float]

NOISES: dict[str, Curve] = {
    "1/ε": lambda e: 1 / e,
    "1/ε²": lambda e: e**-2,
    "1 + 3/ε²": lambda e: 1 + 3 / e**2,
    "kinked": lambda e: max(40 - 12 * e, 10 - 2 * e, 5 - 0.5 * e, 0.1 / e),
}
LOSSES: dict[str, float | Curve] = {
    "2·S": 2.0,
    "S²/50": lambda s: s * s / 50,
    "S + (S/9)³": lambda s: s + (s / 9) ** 3,
    "above 12": lambda s: 0.01 * s + np.maximum(0.0, s - 12.0),
}
KINKS = [3.0, 10 / 3]
"""Of the kinked noise: many a best ε lies on one of them, which a grid would miss."""
BOUNDS = (0.3, 20.0)
MECHANISMS = (incentive.first_best, incentive.contract, incentive.stackelberg, incentive.uniform)


def cheapest_rewards(types: np.ndarray, privacy: np.ndarray) -> np.ndarray:
    """The least rewards (…, types) under all K² + K constraints; infinite where there are none.

    R_i ≥ θ_i ε_i and R_i ≥ R_j + θ_i (ε_i − ε_j) are differences, so that raising rewards to what
    is broken ends at the least of them, after at most K rounds if there are any.
    """
    rewards = types * privacy
    steps = types[:, None] * (privacy[..., :, None] - privacy[..., None, :])
    for _ in range(len(types)):
        rewards = (rewards[..., None, :] + steps).max(-1)
    again = (rewards[..., None, :] + steps).max(-1)
    return np.where((again > rewards + 1e-9).any(-1, keepdims=True), np.inf, rewards)


def searched(types, shares, loss, clients, price, noise, rounds: int = 12) -> float:
    """The least cost over a grid of ε for each type, which is narrowed round by round."""
    types, shares = np.array(types), np.array(shares)
    points = {1: 400, 2: 60, 3: 20, 4: 9}[len(types)]
    low, high = np.full(len(types), BOUNDS[0]), np.full(len(types), BOUNDS[1])
    best = np.inf
    for _ in range(rounds):
        axes = [
            np.append(np.geomspace(*ends, points), KINKS) for ends in zip(low, high, strict=True)
        ]
        grids = []
        for cuts in itertools.product([0, 1], repeat=len(types) - 1):
            # Menus with equal neighbours are on no grid whose axes differ, so they get their own.
            pool = np.cumsum([0, *cuts])
            leaders = [axes[list(pool).index(p)] for p in range(pool[-1] + 1)]
            grids.append(np.array(list(itertools.product(*leaders)))[:, pool])
        grid = np.concatenate(grids)
        values, places = np.unique(grid, return_inverse=True)
        variances = np.array([noise(value) for value in values])[places].reshape(grid.shape)
        totals = clients * variances @ shares
        losses = loss(totals) if callable(loss) else loss * totals
        costs = losses + price * clients * cheapest_rewards(types, grid) @ shares
        if costs.min() < best:
            best, middle = costs.min(), grid[costs.argmin()]
        width = np.array([axis[3] / axis[0] for axis in axes])
        low, high = np.maximum(middle / width, BOUNDS[0]), np.minimum(middle * width, BOUNDS[1])
    return float(best)


def expect_constraints(menu: Menu, incentives: bool = True) -> None:
    """All K rationality and, where asked for, all K² incentive constraints, one by one."""
    size = len(menu.types)
    slack = 1e-9 * menu.rewards.max()
    for k in range(size):
        own = menu.rewards[k] - menu.types[k] * menu.privacy[k]
        assert own >= -slack
        for j in range(size if incentives else 0):
            assert own >= menu.rewards[j] - menu.types[k] * menu.privacy[j] - slack
    assert menu.individually_rational
    assert not incentives or menu.incentive_compatible


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_menu_on_a_grid_is_cheaper_than_the_contract(size: int, loss: str, noise: str) -> None:
    types = [1.0, 1.3, 2.9, 4.0][:size]
    shares = np.array([0.1, 0.5, 0.1, 0.3][:size]) / sum([0.1, 0.5, 0.1, 0.3][:size])
    case = types, shares, LOSSES[loss], 3.0, 0.4, NOISES[noise]
    menu = incentive.contract(*case[:3], clients=3.0, price=0.4, noise=case[5], bounds=BOUNDS)
    found = searched(*case)
    assert menu.cost <= found * (1 + 1e-7)
    assert found <= menu.cost * (1 + 2e-3)


def test_the_least_rewards_are_those_of_a_linear_program() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        size = int(rng.integers(1, 6))
        types = np.sort(rng.uniform(0.5, 4, size))
        shares = rng.dirichlet(np.full(size, 1.0)) * 0.9 + 0.1 / size
        noise = rng.choice(list(NOISES.values()))
        menu = incentive.contract(types, shares, 3.0, noise=noise, bounds=BOUNDS)
        rows = [-np.eye(size)[k] for k in range(size)]
        limits = [-types[k] * menu.privacy[k] for k in range(size)]
        for k, j in itertools.permutations(range(size), 2):
            rows.append(np.eye(size)[j] - np.eye(size)[k])
            limits.append(types[k] * (menu.privacy[j] - menu.privacy[k]))
        program = linprog(shares, A_ub=np.array(rows), b_ub=np.array(limits) + 1e-12)
        assert program.status == 0
        assert menu.payments == pytest.approx(program.fun, rel=1e-8)


def random_settings(count: int):
    rng = np.random.default_rng(11)
    for _ in range(count):
        size = int(rng.integers(1, 7))
        types = np.cumsum(rng.lognormal(-1, 1, size)) * rng.lognormal()
        shares = rng.dirichlet(np.full(size, 0.7)) * 0.99 + 0.01 / size
        power, floor = rng.uniform(0.5, 3), rng.choice([0.0, 1.0])
        bend, weight = rng.uniform(1, 3), rng.lognormal()
        straight = rng.random() < 0.3
        options = {
            "clients": float(rng.integers(1, 200)),
            "price": float(rng.lognormal(-1, 2)),
            "noise": lambda e, power=power, floor=floor: floor + e**-power,
            "bounds": (0.02, 60.0),
        }
        loss = weight if straight else lambda s, bend=bend, weight=weight: weight * s**bend
        yield (types, shares, loss), options


def test_costs_are_in_order_and_all_constraints_hold_in_random_settings() -> None:
    ironed = 0
    for given, options in random_settings(220):
        best, menu, posted, pooled = (make(*given, **options) for make in MECHANISMS)
        slack = 1 + 1e-9
        assert best.cost <= menu.cost * slack
        assert menu.cost <= posted.cost * slack
        assert menu.cost <= pooled.cost * slack
        expect_constraints(best, incentives=False)
        for made in (menu, posted, pooled):
            expect_constraints(made)
            assert np.all(np.diff(made.privacy) <= 0)
            assert made.surplus >= -1e-9 * made.payments
            assert best.social_cost <= made.social_cost * slack
        virtual = given[0] + np.diff(given[0], prepend=given[0][0]) * (
            (np.cumsum(given[1]) - given[1]) / given[1]
        )
        ironed += bool(np.any(np.diff(virtual) < 0))
    assert ironed >= 50  # so that both cases were met


def test_where_virtual_types_fall_neighbours_have_one_item() -> None:
    # c = (1, 2 + 0.55/0.05, 3 + 0.6/0.4): the second is dearer than the third.
    shares = [0.55, 0.05, 0.4]
    menu = incentive.contract([1.0, 2.0, 3.0], shares, 50.0, noise=NOISES["1/ε²"], bounds=BOUNDS)
    pooled = (0.05 * 13 + 0.4 * 4.5) / 0.45
    expected = np.cbrt(2 * 50 / np.array([1.0, pooled, pooled]))  # 50 · 2/ε³ = c
    assert menu.privacy == pytest.approx(expected, rel=1e-7)
    assert menu.privacy[1] == menu.privacy[2]
    assert menu.rewards[1] == pytest.approx(menu.rewards[2], rel=1e-12)
    expect_constraints(menu)
    assert menu.cost <= searched([1.0, 2.0, 3.0], shares, 50.0, 1, 1, NOISES["1/ε²"]) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], [1, 2, 3]),
        ([3, 2, 1], [1, 1, 1], [2, 2, 2]),
        ([1, 5, 3, 4], [1, 1, 1, 2], [1, 4, 4, 4]),
        ([4, 1, 6, 2], [1, 3, 1, 3], [1.75, 1.75, 3, 3]),
        ([2, 9, 8, 1], [1, 1, 1, 6], [2, 2.875, 2.875, 2.875]),
        ([7, 7, 7], [1, 2, 3], [7, 7, 7]),
    ],
)
def test_ironing_gives_the_nearest_sequence_that_does_not_fall(values, weights, expected) -> None:
    found = incentive._iron(np.array(values, float), np.array(weights, float))
    assert found == pytest.approx(np.array(expected, float))


def test_a_contract_by_hand() -> None:
    # σ² = 1/ε, loss 9 S: ε = 3/√c with c = (1, 2 + 0.5/0.5).
    menu = incentive.contract([1.0, 2.0], [0.5, 0.5], 9.0, noise=NOISES["1/ε"])
    assert menu.privacy == pytest.approx([3, np.sqrt(3)], rel=1e-8)
    assert menu.rewards == pytest.approx([3 + np.sqrt(3), 2 * np.sqrt(3)], rel=1e-8)
    assert menu.noise == pytest.approx([1 / 3, 1 / np.sqrt(3)], rel=1e-8)
    assert menu.utilities == pytest.approx(
        np.array([[np.sqrt(3), np.sqrt(3)], [np.sqrt(3) - 3, 0]]), rel=1e-7, abs=1e-12
    )
    assert menu.cost == pytest.approx(menu.loss + menu.payments)


def test_with_one_type_every_mechanism_reaches_the_first_best() -> None:
    menus = [make([1.7], [1.0], 9.0, clients=4, noise=NOISES["1/ε²"]) for make in MECHANISMS]
    for menu in menus[1:]:
        assert menu.cost == pytest.approx(menus[0].cost, rel=1e-9)
        assert menu.privacy == pytest.approx(menus[0].privacy, rel=1e-4)


def test_no_posted_price_is_cheaper_than_the_stackelberg_price() -> None:
    rng = np.random.default_rng(3)
    prices = np.geomspace(1e-4, 1e5, 40_000)[:, None]
    for _ in range(25):
        size = int(rng.integers(1, 7))
        types, shares = np.cumsum(rng.lognormal(-1, 1.5, size)), rng.dirichlet(np.ones(size))
        weight, power = rng.lognormal(0, 2), rng.choice([1.0, 2.0, 5.0])
        menu = incentive.stackelberg(
            types,
            shares,
            lambda s, weight=weight, power=power: weight * s**power,
            noise=NOISES["1/ε²"],
            bounds=BOUNDS,
        )
        chosen = np.clip(np.cbrt(2 * prices / types), *BOUNDS)  # where 2 r / ε³ = θ
        fee = types[-1] * chosen[:, -1] + prices[:, 0] / chosen[:, -1] ** 2
        rewards = fee[:, None] - prices / chosen**2
        costs = weight * (chosen**-2.0 @ shares) ** power + rewards @ shares
        assert menu.cost <= costs.min() * (1 + 1e-9)
        assert menu.cost == pytest.approx(costs.min(), rel=1e-6)


@pytest.mark.parametrize("noise", NOISES)
def test_what_clients_answer_to_the_posted_price_is_best_for_them(noise: str) -> None:
    types = np.array([1.0, 1.4, 3.0])
    menu = incentive.stackelberg(types, [0.3, 0.3, 0.4], 4.0, noise=NOISES[noise], bounds=BOUNDS)
    fee = menu.rewards + menu.unit_price * menu.noise
    assert np.ptp(fee) <= 1e-9 * fee.max()
    for epsilon in np.geomspace(*BOUNDS, 5000):
        offered = fee[0] - menu.unit_price * NOISES[noise](epsilon) - types * epsilon
        assert np.all(offered <= np.diag(menu.utilities) + 1e-9 * fee.max())


def test_bounds_bind_where_the_best_lies_outside() -> None:
    given = [1.0, 2.0], [0.5, 0.5]
    for make in MECHANISMS:
        cheap = make(*given, 1e-7, noise=NOISES["1/ε"], bounds=BOUNDS)
        dear = make(*given, 1e7, noise=NOISES["1/ε"], bounds=BOUNDS)
        assert cheap.privacy.tolist() == [BOUNDS[0]] * 2
        assert dear.privacy.tolist() == [BOUNDS[1]] * 2


def test_noise_that_vanishes_at_the_greatest_privacy_loss_is_served() -> None:
    menu = incentive.contract(
        [1.0, 2.0], [0.5, 0.5], lambda s: s * s, noise=lambda e: (20 - e) ** 2, bounds=BOUNDS
    )
    assert np.all(np.isfinite(menu.rewards))
    found = searched([1.0, 2.0], [0.5, 0.5], lambda s: s * s, 1, 1, lambda e: (20 - e) ** 2)
    assert menu.cost <= found * (1 + 1e-7)


def test_other_shares_change_the_totals_and_no_item() -> None:
    menu = incentive.contract([1.0, 2.0], [0.5, 0.5], 9.0, clients=10, noise=NOISES["1/ε"])
    other = menu.under([1.0, 0.0])
    assert other.privacy is menu.privacy and other.rewards is menu.rewards
    assert other.payments == pytest.approx(10 * menu.rewards[0])
    assert other.total_noise == pytest.approx(10 / menu.privacy[0])
    assert menu.under([0.5, 0.5]).cost == menu.cost
    assert (
        other.cost >= incentive.first_best([1.0], [1.0], 9.0, clients=10, noise=NOISES["1/ε"]).cost
    )


def test_first_best_is_not_incentive_compatible_and_the_table_says_so() -> None:
    given = [1.0, 2.0], [0.5, 0.5], 9.0
    best, menu = (make(*given, noise=NOISES["1/ε"]) for make in MECHANISMS[:2])
    assert best.individually_rational and not best.incentive_compatible
    assert str(best).endswith("not incentive compatible")
    assert "not" not in str(menu)
    assert [line.split()[-1] for line in incentive.compare(best, menu).splitlines()[1:]] == [
        "no",
        "yes",
    ]
