"""SCFL's rounds: local steps, who must be in the coded sum, errors that change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coded_problems import KEY, problem
from pyfed.coded import SCFL, CodedDataset, best_alpha
from pyfed.errors import ArgumentError, DtypeError, PyfedError


def test_the_ridge_counts_once_for_each_local_step() -> None:
    """Alone, the server ends at the root of τλW + Σ_k g(W_k) = 0."""
    given, steps, ridge, lr = problem(clients=1, samples=50), 3, 4.0, 0.3
    scfl = SCFL("convex", (), lr=lr, alpha=0.0, ridge=ridge, local_steps=steps)
    coded = CodedDataset.encode(given.x[0], given.y[0], 40, KEY, noise_std=0.5)
    server = scfl.server(coded)
    for _ in range(400):
        server.step({})
    x, y = coded.x.double().numpy(), coded.y.double().numpy()
    hessian, right = x.T @ x / 40 - 0.25 * np.eye(3), x.T @ y / 40
    turn = np.eye(3) - lr / 50 * hessian
    powers = sum(np.linalg.matrix_power(turn, k) for k in range(steps))
    wanted = np.linalg.solve(steps * ridge * np.eye(3) + powers @ hessian, powers @ right)
    np.testing.assert_allclose(server.weight.numpy(), wanted, rtol=2e-4, atol=2e-5)


def test_errors_of_local_steps_add_up_in_the_variance_of_the_code() -> None:
    given, steps, p, rows = problem(clients=1, samples=20), 4, 0.5, 30
    scfl = SCFL("adaptive", [p], lr=1e-9, local_steps=steps)
    coded, (client,) = given.coded(scfl, rows), given.clients(scfl)
    server = scfl.server(coded, given.weight)
    update = client.update(given.weight)
    server.step({0: update})
    x, y, w = coded.x.double(), coded.y.double(), given.weight.double()
    residual = x @ w - y
    mean = x.T @ residual / rows
    spread, energy = residual.square().sum() / rows, x.square().sum() / rows
    v_s = float(spread * energy + mean.square().sum()) / rows
    v_c = (1 / p - 1) / p * float(update.double().square().sum())
    assert server.alpha == pytest.approx(best_alpha(steps**2 * v_s, v_c), rel=1e-5)
    assert abs(best_alpha(steps * v_s, v_c) - server.alpha) > 0.05


def test_every_local_step_draws_coded_rows_of_its_own() -> None:
    given, lr = problem(clients=1, samples=20), 1e-6
    scfl = SCFL("convex", (), lr=lr, alpha=0.0, batch=5, local_steps=2)
    coded = CodedDataset.encode(given.x[0], given.y[0], 30, KEY)
    server, zero = scfl.server(coded), torch.zeros(3, 2)
    drawn = [server.coded_gradient(zero, place).double() for place in range(4)]
    assert min(float((a - b).norm()) for a in drawn for b in drawn if a is not b) > 0.1
    first = server.step({}).double()
    second = server.step({}).double() - first
    for moved, wanted in ((first, drawn[0] + drawn[1]), (second, drawn[2] + drawn[3])):
        torch.testing.assert_close(-moved * 20 / lr, wanted, rtol=1e-4, atol=1e-4)


def test_alpha_is_the_share_of_the_clients_and_what_is_passed_comes_first() -> None:
    scfl = SCFL("convex", [0.5], alpha=0.75)
    code, update = torch.tensor([[8.0]]), torch.tensor([[1.0]])
    assert float(scfl.aggregate({}, code)) == 2
    assert float(scfl.aggregate({}, code, alpha=0.25)) == 6
    assert float(scfl.aggregate({0: update}, code, alpha=0.25)) == 6.5
    assert float(scfl.aggregate({0: update}, code, alpha=0)) == 8
    assert float(SCFL("complement", [0.5]).aggregate({0: update}, code, alpha=0.25)) == 9


@pytest.mark.parametrize(
    ("gradients", "code", "alpha", "error", "text"),
    [
        ({}, [[1.0]], 7.0, ArgumentError, "alpha is 7.0; it must be in .0, 1."),
        ({}, [[1.0]], -0.1, ArgumentError, "alpha is -0.1"),
        ({}, [[1.0]], math.nan, ArgumentError, "alpha is nan"),
        ({}, [[1.0]], "1", DtypeError, "alpha is str"),
        ({}, [[math.nan]], None, ArgumentError, "coded_gradient is not finite"),
        ({}, None, None, DtypeError, "coded_gradient is NoneType"),
        ([torch.ones(1, 1)], [[1.0]], None, DtypeError, "gradients is list; it must be a dict"),
    ],
)
def test_wrong_arguments_of_an_aggregate_are_refused(gradients, code, alpha, error, text) -> None:
    given = code if code is None else torch.tensor(code)
    with pytest.raises(error, match=text):
        SCFL("convex", [0.5]).aggregate(gradients, given, alpha)


@pytest.mark.parametrize("rule", ["convex", "adaptive"])
def test_a_coded_client_that_never_arrives_is_refused_where_it_would_count_for_less(
    rule: str,
) -> None:
    given = problem(clients=3, samples=20)
    coded = given.coded(SCFL(rule, [0.5] * 3), 30)
    text = "of 3 clients' sets, and arrival is of 2 clients; .* rule='complement' .* arrival=0"
    with pytest.raises(ArgumentError, match=text):
        SCFL(rule, [0.5, 0.9]).server(coded)
    if rule == "convex":
        assert SCFL(rule, [0.5, 0.9], alpha=0.0).server(coded)
    else:  # its α moves as soon as somebody arrives
        with pytest.raises(ArgumentError, match="alpha=0"):
            SCFL(rule, [0.5, 0.9], alpha=0.0).server(coded)
    assert SCFL(rule, (), alpha=0.0).server(coded)
    with pytest.raises(ArgumentError, match="arrival is of 0 clients"):
        SCFL(rule, (), alpha=0.5).server(coded)


def test_complement_makes_up_for_coded_clients_that_never_arrive() -> None:
    given = problem(clients=3, samples=20)
    coded = given.coded(SCFL("complement", [0.5, 0.9, 0.5]), 30)
    assert SCFL("complement", {0: 0.5}).server(coded).round == 0


@pytest.mark.parametrize("rule", ["complement", "convex", "adaptive"])
def test_a_coded_set_that_was_lost_is_told_of(rule: str) -> None:
    given = problem(clients=3, samples=20)
    scfl = SCFL(rule, [0.5] * 3)
    sets = [one.encode(30, KEY.derive("client", i)) for i, one in enumerate(given.clients(scfl))]
    text = "of 2 clients' sets, and arrival is of 3 clients; .* fresh key or stream, or drop it"
    with pytest.raises(ArgumentError, match=text):
        scfl.server(CodedDataset.total(sets[:2]))
    server = SCFL(rule, {0: 0.5, 1: 0.5}).server(CodedDataset.total(sets[:2]))
    assert server.step({}).shape == (3, 2)


def test_numbers_of_clients_may_be_numpys() -> None:
    given = problem(clients=2, samples=20)
    scfl = SCFL("convex", {np.int64(0): np.float64(0.5), np.int32(1): np.float32(0.25)})
    assert scfl.probabilities == {0: 0.5, 1: 0.25}
    coded, update = given.coded(scfl, 30), torch.ones(3, 2)
    moved = [scfl.server(coded).step({kind(1): update}) for kind in (int, np.int64, np.uint8)]
    assert torch.equal(moved[0], moved[1]) and torch.equal(moved[0], moved[2])
    assert type(scfl.client(np.int64(1), given.x[1], given.y[1]).index) is int
    with pytest.raises(DtypeError, match="a client is bool"):
        scfl.server(coded).step({np.bool_(True): update})


def state(server) -> tuple:
    return (
        *(server.weight.tolist(), server.round, server.alpha),
        *(server._v_arrivals, server._v_coded, server._first),
    )


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_round_that_ends_in_an_error_changes_nothing(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem(clients=2, samples=20)
    scfl = SCFL("adaptive", [0.5, 0.5])
    server = scfl.server(given.coded(scfl, 30), given.weight)
    for _ in range(rounds):
        server.step({0: torch.ones(3, 2)})
    before = state(server)
    with pytest.raises(PyfedError, match="W diverges"):
        server.step({0: torch.full((3, 2), 3e38)})
    assert state(server) == before

    def overflown(coded: float, arrivals: float) -> float:
        raise ArgumentError("best_alpha: arrivals is inf")

    with monkeypatch.context() as patched:
        patched.setattr("pyfed.coded.scfl_server.best_alpha", overflown)
        with pytest.raises(ArgumentError, match="arrivals is inf"):
            server.step({1: torch.ones(3, 2)})
    assert state(server) == before
    assert server.step({0: torch.ones(3, 2)}).isfinite().all()


def test_squares_that_float32_does_not_hold_do_not_stop_the_adaptive_rule() -> None:
    given = problem(clients=1, samples=20)
    huge = CodedDataset.encode(given.x[0], given.y[0] * 6e17, 30, KEY)
    server = SCFL("adaptive", [0.5]).server(huge)
    server.step({0: torch.full((3, 2), 1e18)})
    assert 0 < server.alpha < 1
