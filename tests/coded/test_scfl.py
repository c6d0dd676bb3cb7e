"""SCFL's server and clients: where descent ends, the guard, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coded_problems import KEY, coded_of, problem
from pyfed.coded import (
    SCFL,
    CodedDataset,
    arrival_variance,
    best_alpha,
    coded_solution,
    extreme_eigenvalues,
    gradient_variance,
)
from pyfed.errors import ArgumentError, DtypeError, PyfedError


def a_set(
    rows: int = 60, noise_std: float = 0.7, features: int = 6, arrival: float | None = None
) -> CodedDataset:
    given = problem(clients=1, samples=50, features=features)
    return CodedDataset.encode(
        given.x[0], given.y[0], rows, KEY, noise_std=noise_std, arrival=arrival
    )


def hessian(coded: CodedDataset) -> np.ndarray:
    """X̃ᵀX̃/c − σ²I in float64."""
    x = coded.x.double().numpy()
    return x.T @ x / coded.rows - coded.noise_variance * np.eye(coded.features)


@pytest.mark.parametrize("rule", ["complement", "convex", "adaptive"])
@pytest.mark.parametrize("ridge", [0.0, 4.0])
def test_descent_on_the_coded_set_alone_ends_at_the_closed_form(rule: str, ridge: float) -> None:
    coded = a_set(arrival=0.0 if rule == "complement" else None)
    server = SCFL(rule, (), lr=0.5, alpha=0.0, ridge=ridge).server(coded)
    for _ in range(300):
        server.step({})
    inner = hessian(coded) + ridge * np.eye(6)
    wanted = np.linalg.solve(inner, coded.x.double().numpy().T @ coded.y.double().numpy() / 60)
    np.testing.assert_allclose(server.weight.numpy(), wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(coded_solution(coded, ridge).numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert server.round == 300


def test_clients_that_always_arrive_lead_to_the_solution_of_their_data() -> None:
    given = problem(clients=3, samples=20)
    scfl = SCFL("convex", [1.0] * 3, alpha=1.0)
    clients = given.clients(scfl)
    server = scfl.server(given.coded(scfl, 40))
    for _ in range(300):
        server.step({i: one.update(server.weight) for i, one in enumerate(clients)})
    x, y = torch.cat(given.x).double().numpy(), torch.cat(given.y).double().numpy()
    np.testing.assert_allclose(server.weight, np.linalg.lstsq(x, y)[0], rtol=1e-4, atol=1e-5)


def test_a_ball_keeps_w_inside() -> None:
    server = SCFL("convex", (), lr=0.3, alpha=0.0, radius=0.01).server(a_set())
    for _ in range(20):
        assert float(server.step({}).norm()) <= 0.01 * (1 + 1e-6)


@pytest.mark.parametrize(("rows", "features"), [(5, 9), (9, 9), (30, 9), (200, 64), (70, 64)])
def test_lanczos_bounds_the_spectrum_closely(rows: int, features: int) -> None:
    for sigma in (0.0, 0.1, 3.0):
        coded = a_set(rows, sigma, features)
        low, high = extreme_eigenvalues(coded)
        values = np.linalg.eigvalsh(hessian(coded))
        assert low <= values[0] + 1e-6 * high
        assert low >= (-1e-12 if sigma == 0 else values[0] - 0.02 * sigma**2 - 1e-6 * high)
        assert values[-1] - 1e-9 * high <= high <= 1.03 * values[-1] + 1e-9
    with pytest.raises(DtypeError, match="coded is Tensor"):
        extreme_eigenvalues(coded.x)


def test_lanczos_ends_early_where_few_directions_are_there() -> None:
    x = torch.zeros(12, 50)
    x[:, :2] = torch.eye(12)[:, :2] * 3
    assert extreme_eigenvalues(coded_of(x, torch.zeros(12, 1)))[1] == pytest.approx(
        9 / 12, rel=1e-6
    )


@pytest.mark.parametrize("rule", ["complement", "convex", "adaptive"])
@pytest.mark.parametrize(("rows", "sigma"), [(4, 0.5), (8, 3.0), (40, 6.0)])
def test_the_guard_refuses_what_diverges_and_lets_pass_what_it_says_to_do(
    rule: str, rows: int, sigma: float
) -> None:
    coded = a_set(rows, sigma, arrival=0.0 if rule == "complement" else None)
    share = 0.4 if rule == "convex" else 1.0
    least = share * np.linalg.eigvalsh(hessian(coded))[0]
    assert least < 0
    with pytest.raises(ArgumentError, match=r"W would diverge: .* use ridge ≥ .* less noise"):
        SCFL(rule, [0.5], alpha=0.6, lr=0.1).server(coded)
    start = torch.randn(6, 2)  # from 0 no full batch reaches a direction that is in no row
    unguarded = SCFL(rule, [0.5], alpha=0.6, lr=1.0, guard=False).server(coded, start)
    with pytest.raises(PyfedError, match="W diverges: in round"):
        for _ in range(40_000):
            unguarded.step({})
    assert bool(torch.isfinite(unguarded.weight).all())
    server = SCFL(rule, [0.5], alpha=0.6, ridge="least", lr=0.1).server(coded)
    assert -least <= server.ridge <= -1.03 * least + 0.03 * sigma**2
    norms = [float(server.step({}).norm()) for _ in range(2000)]
    assert norms[-1] < 1e6 * max(norms[0], 1e-6)


def test_a_step_that_is_too_long_is_refused_with_the_longest_that_is_not() -> None:
    coded = a_set(noise_std=0.0)
    top = np.linalg.eigvalsh(hessian(coded))[-1]
    with pytest.raises(ArgumentError, match=r"lr is 9.* use lr < ") as caught:
        SCFL("convex", (), lr=9.0, alpha=0.0).server(coded)
    longest = float(str(caught.value).rsplit("< ", 1)[1])
    assert 0.97 * 2 * coded.samples / top <= longest <= (1 + 1e-5) * 2 * coded.samples / top
    with pytest.raises(ArgumentError, match="use lr < "):
        SCFL("convex", (), lr=1.01 * longest, alpha=0.0).server(coded)
    server = SCFL("convex", (), lr=0.99 * longest, alpha=0.0).server(coded)
    for _ in range(3000):
        server.step({})
    assert torch.allclose(server.weight, coded_solution(coded), atol=1e-3)


def test_divergence_by_the_clients_is_told_and_w_stays() -> None:
    given = problem(clients=1, samples=50)
    scfl = SCFL("convex", [1.0], alpha=1.0, lr=5.0)
    client = scfl.client(0, given.x[0], given.y[0])
    server = scfl.server(CodedDataset.encode(given.x[0], given.y[0], 30, KEY))
    with pytest.raises(PyfedError, match="use a smaller lr"):
        for _ in range(500):
            server.step({0: client.update(server.weight)})
    before = server.weight.clone()
    with pytest.raises(PyfedError):
        server.step({0: client.update(server.weight)})
    assert torch.equal(server.weight, before)


def test_adaptive_alpha_comes_near_the_best_one() -> None:
    given = problem(clients=3, samples=40)
    arrival = [0.3, 0.6, 0.9]
    scfl = SCFL("adaptive", arrival, lr=1e-9, decay=0.999)
    clients = given.clients(scfl)
    each = 0.5 / math.sqrt(3)
    server = scfl.server(given.coded(scfl, 3000, noise_std=each), given.weight)
    updates = [one.update(given.weight) for one in clients]
    make = np.random.default_rng(3)
    for _ in range(4000):
        server.step({i: updates[i] for i in range(3) if make.random() < arrival[i]})
    v_s = gradient_variance(torch.cat(given.x), torch.cat(given.y), given.weight, 3000, 0.5)
    wanted = best_alpha(v_s, arrival_variance(updates, arrival))
    assert server.alpha == pytest.approx(wanted, rel=0.1)


def test_nobody_at_all_leaves_alpha_as_it_is() -> None:
    server = SCFL("adaptive", [0.5], alpha=0.25).server(a_set())
    server.step({})
    assert server.alpha == 0.25


def test_several_steps_of_a_client_are_the_sum_of_its_gradients_on_the_way() -> None:
    given = problem(clients=1, samples=10)
    scfl = SCFL("convex", [0.5], local_steps=3, lr=0.3)
    update = scfl.client(0, given.x[0], given.y[0]).update(given.weight).double()
    x, y, w, total = given.x[0].double(), given.y[0].double(), given.weight.double(), 0.0
    for _ in range(3):
        g = x.T @ (x @ w - y)
        total, w = total + g, w - 0.3 / 10 * g
    assert torch.allclose(update, total, rtol=1e-4)


def test_a_set_that_was_coded_for_the_other_rule_is_refused() -> None:
    with pytest.raises(ArgumentError, match="encode with arrival=p for 'complement'"):
        SCFL("complement").server(a_set())
    with pytest.raises(ArgumentError, match="has weights of √"):
        SCFL("convex").server(a_set(arrival=0.5))


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"rule": "mean"}, ArgumentError, "rule is 'mean'"),
        ({"arrival": [0.5, 0.0]}, ArgumentError, r"arrival\[1\] is 0.0; .* in \(0, 1\]"),
        ({"arrival": [1.1]}, ArgumentError, r"arrival\[0\] is 1.1"),
        ({"arrival": [math.nan]}, ArgumentError, r"arrival\[0\] is nan"),
        ({"arrival": {3: -0.1}}, ArgumentError, r"arrival\[3\] is -0.1"),
        ({"arrival": {-3: 0.1}}, ArgumentError, "a client in arrival is -3"),
        ({"arrival": 0.5}, DtypeError, "arrival is float"),
        ({"arrival": ["x"]}, DtypeError, r"arrival\[0\] is str"),
        ({"lr": 0.0}, ArgumentError, "lr is 0.0"),
        ({"ridge": -1.0}, ArgumentError, "ridge is -1.0"),
        ({"ridge": "most"}, DtypeError, "ridge is str"),
        ({"alpha": 1.5}, ArgumentError, "alpha is 1.5"),
        ({"decay": 1.0}, ArgumentError, "decay is 1.0"),
        ({"batch": 0}, ArgumentError, "batch is 0"),
        ({"client_batch": 0}, ArgumentError, "client_batch is 0"),
        ({"local_steps": 0}, ArgumentError, "local_steps is 0"),
        ({"radius": 0.0}, ArgumentError, "radius is 0.0"),
    ],
)
def test_wrong_settings_are_refused(more: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SCFL(**more)


def test_arrivals_may_be_a_list_a_tensor_or_a_dict() -> None:
    wanted = {0: 0.25, 1: 1.0}
    for given in ([0.25, 1], (0.25, 1), torch.tensor([0.25, 1]), np.array([0.25, 1]), wanted):
        assert SCFL(arrival=given).probabilities == wanted


def test_wrong_updates_are_refused_and_change_nothing() -> None:
    scfl = SCFL("convex", {0: 0.5, 2: 0.5}, alpha=0.5)
    more = problem(clients=1, samples=50, features=6, seed=2)
    other = CodedDataset.encode(more.x[0], more.y[0], 60, KEY.derive("client", 2), noise_std=0.7)
    server = scfl.server(a_set() + other)
    server.step({0: torch.ones(6, 2)})
    before, good = server.weight.clone(), torch.ones(6, 2)
    for gradients, error, text in (
        ({1: good}, ArgumentError, "client 1 has no probability"),
        ({"0": good}, DtypeError, "a client is str"),
        ([good], DtypeError, "gradients is list; it must be a dict"),
        ({0: good.double()}, DtypeError, r"gradients\[0\] is torch.float64"),
        ({0: good.tolist()}, DtypeError, r"gradients\[0\] is list"),
        ({2: good[1:]}, ArgumentError, r"gradients\[2\] has shape \(5, 2\)"),
        ({2: good * math.nan}, ArgumentError, r"gradients\[2\] is not finite"),
    ):
        with pytest.raises(error, match=text):
            server.step(gradients)
    assert torch.equal(server.weight, before)
    assert server.round == 1


def test_wrong_arguments_of_clients_and_servers_are_refused() -> None:
    scfl, coded = SCFL("convex", [0.5], client_batch=4, batch=99), a_set()
    x, y = torch.ones(5, 6), torch.ones(5, 2)
    with pytest.raises(ArgumentError, match="batch is 99; the coded set has 60 rows"):
        scfl.server(coded)
    with pytest.raises(ArgumentError, match="client 1 has no probability"):
        scfl.client(1, x, y)
    with pytest.raises(ArgumentError, match="client_batch is 4, and client 0 has 3 records"):
        scfl.client(0, x[:3], y[:3])
    client = scfl.client(0, x, y)
    with pytest.raises(ArgumentError, match=r"weight has shape \(2, 6\); it must be \(6, 2\)"):
        client.update(torch.ones(2, 6))
    with pytest.raises(ArgumentError, match="round is -1"):
        client.update(torch.ones(6, 2), -1)
    with pytest.raises(ArgumentError, match=r"weight has shape \(2, 6\)"):
        SCFL("convex", [0.5]).server(coded, torch.ones(2, 6))
    with pytest.raises(DtypeError, match="coded is Tensor"):
        SCFL("convex").server(x)
    with pytest.raises(ArgumentError, match="raise ridge, now 0, by more than"):
        coded_solution(a_set(4, 1.0))


def test_a_first_gradient_that_overflows_is_told_of() -> None:
    server = SCFL("convex", [0.5], alpha=1.0).server(a_set())
    with pytest.raises(PyfedError, match="in round 0 the gradient has norm inf"):
        server.step({0: torch.full((6, 2), 3e38)})
    assert not bool(server.weight.any())
