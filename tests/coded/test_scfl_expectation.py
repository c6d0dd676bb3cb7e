"""What SCFL's aggregates are expected to be: by all arrivals, all G and all noise, and by χ²."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from coded_problems import KEY, KINDS, Problem, problem, sketch_with
from pyfed.coded import SCFL, CodedDataset, gradient_covariance

RULES = ("complement", "convex", "adaptive")


def patterns(arrival: list[float]) -> list[tuple[float, set[int]]]:
    """Every set of clients that may arrive, with its probability."""
    found = []
    for bits in itertools.product((False, True), repeat=len(arrival)):
        chance = math.prod(p if b else 1 - p for p, b in zip(arrival, bits, strict=True))
        found.append((chance, {i for i, b in enumerate(bits) if b}))
    return found


def moved(scfl: SCFL, coded: CodedDataset, given: Problem, arrived: set[int]) -> torch.Tensor:
    """The aggregate that one step used, from how W moved."""
    server = scfl.server(coded, given.weight)
    clients = given.clients(scfl)
    new = server.step({i: clients[i].update(given.weight) for i in arrived})
    return (given.weight - new).double() * coded.samples / scfl.lr


@pytest.mark.parametrize("rule", RULES)
def test_over_all_arrivals_matrices_and_noises_the_aggregate_is_the_gradient(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact: 2^N arrivals, 2^4 sign matrices and 2^3 noises of mean 0 and variance σ²."""
    given = problem(clients=2, samples=2, features=2, outputs=1)
    arrival, sigma = [0.3, 0.8], 1.5
    scfl = SCFL(rule, arrival, alpha=0.7, guard=False)
    clients = given.clients(scfl)
    total = torch.zeros(2, 1, dtype=torch.float64)
    signs = [torch.tensor(s).double() for s in itertools.product((-1.0, 1.0), repeat=4)]
    noises = [torch.tensor(s).double() for s in itertools.product((-1.0, 1.0), repeat=3)]
    for matrix, noise in itertools.product(signs, noises):
        sets = []
        for i, client in enumerate(clients):
            own = matrix[2 * i : 2 * i + 2].reshape(1, 2)
            # The variances of the clients' noise add up; here the first alone has any.
            sketch_with(monkeypatch, own, noise.reshape(1, 3) if i == 0 else None)
            key = KEY.derive("client", i)
            std = sigma if i == 0 else 0.0
            sets.append(client.encode(1, key, "rademacher", noise_std=std, noise="gaussian"))
        coded = CodedDataset.total(sets)
        for chance, arrived in patterns(arrival):
            total += chance * moved(scfl, coded, given, arrived) / (len(signs) * len(noises))
    torch.testing.assert_close(total, given.total(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rule", RULES)
def test_over_all_1024_arrivals_of_ten_clients_their_part_is_p_times_or_all_of_it(
    rule: str,
) -> None:
    given = problem(clients=10, samples=3, features=2, outputs=1)
    arrival = [0.05, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6, 0.8, 0.95, 1.0]
    scfl, gradients = SCFL(rule, arrival, alpha=0.6), given.gradients()
    coded, updates = torch.tensor([[3.0], [-4.0]]), [g.float() for g in gradients]
    total = torch.zeros(2, 1, dtype=torch.float64)
    for chance, arrived in patterns(arrival):
        total += chance * scfl.aggregate({i: updates[i] for i in arrived}, coded).double()
    if rule == "complement":
        wanted = sum(p * g for p, g in zip(arrival, gradients, strict=True)) + coded
    else:
        wanted = 0.6 * given.total() + 0.4 * coded
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["complement", "convex"])
def test_coded_gradients_have_the_mean_and_the_covariance_that_are_known(
    rule: str, kind: str
) -> None:
    """With t = mean − truth, R·tᵀCov⁻¹t ~ χ²: one false alarm in 10^6."""
    given, rows, repeats = problem(clients=2, samples=6), 20, 200
    arrival, sigma = [0.2, 0.7], 2.0
    scfl = SCFL(rule, arrival, guard=False)
    clients = given.clients(scfl)
    weights = [math.sqrt(1 - p) if rule == "complement" else 1.0 for p in arrival]
    x = torch.cat([w * own for w, own in zip(weights, given.x, strict=True)])
    y = torch.cat([w * own for w, own in zip(weights, given.y, strict=True)])
    total = torch.zeros(3, 2, dtype=torch.float64)
    for number in range(repeats):
        keys = [KEY.derive("run", number, i) for i in range(2)]
        std = sigma / math.sqrt(2)
        sets = [one.encode(rows, key, kind, std) for one, key in zip(clients, keys, strict=True)]
        server = scfl.server(CodedDataset.total(sets), given.weight)
        total += server.coded_gradient().double() / repeats
    truth = x.double().T @ (x.double() @ given.weight.double() - y.double())
    covariance = gradient_covariance(x, y, given.weight, rows, sigma, kind).reshape(6, 6)
    away = (total - truth).reshape(6)
    statistic = repeats * float(away @ torch.linalg.solve(covariance, away))
    assert stats.chi2.sf(statistic, 6) > 1e-6
    # The same test finds the make-up term missing: it is sharp enough to mean something.
    wrong = away + sigma**2 * given.weight.double().reshape(6)
    missed = repeats * float(wrong @ torch.linalg.solve(covariance, wrong))
    assert stats.chi2.sf(missed, 6) < 1e-6


def test_a_mini_batch_of_coded_rows_is_unbiased_for_all_of_them() -> None:
    given = problem(clients=1, samples=8)
    coded = CodedDataset.encode(given.x[0], given.y[0], 5, KEY, noise_std=0.5)
    scfl = SCFL("convex", [1.0], guard=False)
    whole = scfl.server(coded, given.weight).coded_gradient().double()
    server = SCFL("convex", [1.0], guard=False, batch=2).server(coded, given.weight)
    repeats = 4000
    drawn = torch.stack([server.coded_gradient(place=i) for i in range(repeats)]).double()
    pairs = [list(pair) for pair in itertools.combinations(range(5), 2)]
    x, y, w = coded.x.double(), coded.y.double(), given.weight.double()
    every = torch.stack([x[p].T @ (x[p] @ w - y[p]) / 2 - 0.25 * w for p in pairs])
    torch.testing.assert_close(every.mean(0), whole, rtol=1e-5, atol=1e-5)
    # Each of the ten pairs is drawn as often as the others.
    which = (drawn[:, None] - every).abs().flatten(2).amax(2).argmin(1)
    assert stats.chisquare(torch.bincount(which, minlength=10).numpy()).pvalue > 1e-6
    assert float((drawn - every[which]).abs().max()) < 1e-4


def test_a_mini_batch_of_a_client_is_unbiased_for_its_gradient() -> None:
    given = problem(clients=1, samples=4)
    scfl = SCFL("convex", [1.0], client_batch=3)
    client = scfl.client(0, given.x[0], given.y[0])
    seen = {}
    for number in range(200):
        update = client.update(given.weight, number)
        seen[tuple(update.flatten().mul(1000).round().tolist())] = update.double()
    assert len(seen) == 4  # the batches of three records of four
    mean = torch.stack(list(seen.values())).mean(0)
    torch.testing.assert_close(mean, given.total(), rtol=1e-5, atol=1e-5)


def test_periodic_averaging_is_unbiased_to_first_order_in_the_step_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over all sign matrices: the bias of two steps is the step size times what H̃² is off."""
    given = problem(clients=1, samples=4, features=2, outputs=1)
    x, y, w = given.x[0].double(), given.y[0].double(), given.weight.double()
    biases = []
    for lr in (0.02, 0.04):
        scfl = SCFL("convex", [1.0], alpha=0.0, lr=lr, local_steps=2, guard=False)
        total = torch.zeros(2, 1, dtype=torch.float64)
        for signs in itertools.product((-1.0, 1.0), repeat=8):
            sketch_with(monkeypatch, torch.tensor(signs).reshape(2, 4))
            coded = CodedDataset.encode(given.x[0], given.y[0], 2, KEY, "rademacher")
            total += moved(scfl, coded, given, set()) / 2**8
        first = x.T @ (x @ w - y)
        there = w - lr / 4 * first
        biases.append(total - first - x.T @ (x @ there - y))
    assert float(biases[0].norm()) > 1e-3
    torch.testing.assert_close(biases[1], 2 * biases[0], rtol=0.02, atol=1e-4)


def test_alpha_of_a_round_does_not_depend_on_who_arrives_in_it() -> None:
    given = problem(clients=3, samples=5)
    scfl = SCFL("adaptive", [0.5, 0.5, 0.9], alpha=0.3)
    coded, clients = given.coded(scfl, 20), given.clients(scfl)
    used, after = set(), set()
    for _, arrived in patterns([0.5] * 3):
        server = scfl.server(coded, given.weight)
        server.step({i: clients[i].update(given.weight) for i in {0, 1, 2}})
        used.add(server.alpha)
        server.step({i: clients[i].update(server.weight) for i in arrived})
        after.add(server.alpha)
    assert len(used) == 1
    assert len(after) == 8
