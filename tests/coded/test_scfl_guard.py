"""The guard of SCFL against what a round really does to W, with one local step and with many."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coded_problems import KEY
from pyfed.coded import SCFL, CodedDataset
from pyfed.coded.guard import RoundMap
from pyfed.errors import ArgumentError

FEATURES = 20


def a_set(sigma: float, rule: str = "complement", samples: int = 200) -> CodedDataset:
    """15 rows of records of norm about 1; all labels are 0, so that a round is linear in W."""
    make = torch.Generator().manual_seed(1)
    x = torch.randn(samples, FEATURES, generator=make) * FEATURES**-0.5
    y = torch.zeros(samples, FEATURES)
    arrival = 0.0 if rule == "complement" else None
    coded = CodedDataset.encode(x, y, 15, KEY, noise_std=sigma, arrival=arrival)
    return coded.replaced(coded.x, torch.zeros_like(coded.y))


def radius(coded: CodedDataset, **settings) -> float:
    """The spectral radius of a round without clients, from how the server moves unit vectors."""
    scfl = SCFL(**({"arrival": [0.5]} | settings), guard=False)
    turned = scfl.server(coded, torch.eye(FEATURES)).step({}).double().numpy()
    return float(np.abs(np.linalg.eigvals(turned)).max())


@pytest.mark.parametrize("rule", ["complement", "convex", "adaptive"])
@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("local_steps", [1, 5, 10])
def test_the_least_ridge_keeps_w_bounded_and_less_does_not(
    rule: str, sigma: float, local_steps: int
) -> None:
    coded = a_set(sigma, rule)
    settings = {"rule": rule, "local_steps": local_steps, "alpha": 0.4 if rule == "convex" else 0}
    server = SCFL(arrival=[0.5], ridge="least", **settings).server(coded)
    assert radius(coded, ridge=server.ridge, **settings) <= 1
    assert radius(coded, ridge=0.97 * server.ridge, **settings) > 1
    with pytest.raises(ArgumentError, match=r"near -.* use ridge ≥ .* or ridge='least', less"):
        SCFL(arrival=[0.5], ridge=0.97 * server.ridge, **settings).server(coded)
    assert SCFL(arrival=[0.5], ridge=1.01 * server.ridge, **settings).server(coded)


def test_where_no_ridge_helps_the_longest_step_is_named() -> None:
    coded, settings = a_set(8.0), {"local_steps": 10, "arrival": [0.5]}
    assert radius(coded, ridge=64.064, local_steps=10) > 12
    with pytest.raises(ArgumentError, match=r"take fewer local_steps, or use lr < ") as caught:
        SCFL(ridge="least", **settings).server(coded)
    longest = float(str(caught.value).rsplit("< ", 1)[1])
    with pytest.raises(ArgumentError, match="no ridge makes up for it as lr is 1 with 10 local"):
        SCFL(ridge=64.064, **settings).server(coded)
    with pytest.raises(ArgumentError, match="use lr < "):
        SCFL(ridge="least", lr=1.01 * longest, **settings).server(coded)
    server = SCFL(ridge="least", lr=0.99 * longest, **settings).server(coded)
    assert radius(coded, ridge=server.ridge, lr=0.99 * longest, local_steps=10) <= 1


@pytest.mark.parametrize("guard", [True, False])
def test_growth_beyond_what_floats_hold_is_refused_too(guard: bool) -> None:
    with pytest.raises(ArgumentError, match="W would diverge: lr is 1 with 1000000 local steps"):
        SCFL(ridge="least", local_steps=10**6, guard=guard).server(a_set(3.0))


def test_without_noise_many_local_steps_take_no_ridge() -> None:
    server = SCFL(ridge="least", local_steps=1000).server(a_set(0.0))
    assert server.ridge == 0


def grown(turn: RoundMap, step: float, ridge: float) -> float:
    """The largest |factor| of a round over a grid of the spectrum, at the largest share."""
    x = np.linspace(turn.low, turn.high, 20_001)
    factor = 1 - turn.most + turn.most * (1 - step * x) ** turn.steps - step * turn.steps * ridge
    return float(np.abs(factor).max())


def test_a_step_is_good_exactly_where_no_direction_of_the_spectrum_grows() -> None:
    make = np.random.default_rng(1)
    good = 0
    for _ in range(600):
        low, high = -make.choice([0.0, 0.1, 2.0]), make.uniform(0.5, 30)
        share, steps = make.choice([0.3, 1.0]), int(make.choice([1, 2, 3, 4, 9]))
        turn = RoundMap(low, high, share, share, steps)
        step, ridge = 10 ** make.uniform(-2, 0.3), make.choice([0.0, 0.11, 3.0, 9.0])
        most = grown(turn, step, ridge)
        if abs(most - 1) < 1e-3:
            ridge += 1e-3 if ridge else 0  # beside the edge; at 0 the edge is allowed
            most = grown(turn, step, ridge)
        accepted = ridge >= turn.least_ridge(step) and not turn.too_long(step, ridge)
        assert accepted == (most <= 1 + 1e-12), (turn, step, ridge)
        good += accepted
        if not accepted and ridge >= -share * low:
            longest = turn.longest(step, ridge)
            assert 0.999 * longest == pytest.approx(0, abs=1e-12) or (
                grown(turn, 0.999 * longest, ridge) <= 1 + 1e-9
            )
            assert grown(turn, 1.002 * longest, ridge) > 1 or longest == 0
    assert 100 < good < 500


def test_the_rest_of_a_share_stays_where_it_is() -> None:
    turn = RoundMap(-4.0, 10.0, 0.25, 0.25, 3)
    wanted = 0.25 * ((1 + 0.1 * 4) ** 3 - 1) / (0.1 * 3)
    assert turn.least_ridge(0.1) == pytest.approx(wanted, rel=1e-12)
    assert RoundMap(-4.0, 10.0, 0.0, 0.0, 10**9).least_ridge(5.0) == 0
    assert math.isinf(RoundMap(-4.0, 10.0, 0.0, 1.0, 10**9).least_ridge(5.0))
