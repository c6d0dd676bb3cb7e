"""The baselines: ways with stragglers, and one-shot private statistics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from coded_problems import KEY, Problem, problem
from pyfed.coded import CodedDataset, CodedFedL, DelayModel, PrivateStatistics
from pyfed.coded.baselines import drop_stragglers, inverse_probability, wait_for_all
from pyfed.errors import ArgumentError, DtypeError, ThresholdError


def test_inverse_probability_is_unbiased_over_all_arrivals_and_dropping_is_not() -> None:
    given = problem(clients=6, samples=4)
    p = [0.1, 0.3, 0.5, 0.6, 0.9, 1.0]
    updates = [g.float() for g in given.gradients()]
    by_p, dropped = torch.zeros(3, 2).double(), torch.zeros(3, 2).double()
    for bits in itertools.product((0, 1), repeat=6):
        chance = math.prod(q if b else 1 - q for q, b in zip(p, bits, strict=True))
        arrived = {i: updates[i] for i, b in enumerate(bits) if b}
        if chance:
            by_p += chance * inverse_probability(arrived, p).double()
            dropped += chance * drop_stragglers(arrived, [4] * 6).double()
    torch.testing.assert_close(by_p, given.total(), rtol=1e-5, atol=1e-5)
    assert float((dropped - given.total()).norm()) > 0.1 * float(given.total().norm())


def test_dropping_weighs_by_samples_so_that_all_of_them_are_the_sum() -> None:
    updates = {0: torch.tensor([1.0]), 1: torch.tensor([6.0])}
    assert drop_stragglers(updates, [3, 9]).tolist() == [7.0]
    assert drop_stragglers({1: updates[1]}, {0: 3, 1: 9}).tolist() == [8.0]
    with pytest.raises(ArgumentError, match="gradients is empty"):
        drop_stragglers({}, [3])


def test_waiting_needs_everybody() -> None:
    updates = {0: torch.ones(1), 2: torch.ones(1)}
    with pytest.raises(ThresholdError, match="1 of 3 clients") as caught:
        wait_for_all(updates, range(3))
    assert caught.value.missing == (1,)
    assert wait_for_all(updates | {1: torch.ones(1)}, range(3)).tolist() == [3.0]


def test_wrong_probabilities_are_refused() -> None:
    for p in (0.0, 1.5, math.nan):
        with pytest.raises(ArgumentError, match="p of client 0 is"):
            inverse_probability({0: torch.ones(1)}, [p])
    with pytest.raises(ArgumentError, match="gradients is empty"):
        inverse_probability({}, [0.5])


ONE, PAIR = torch.ones(1), {0: torch.ones(1), 1: torch.ones(1)}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: drop_stragglers({3: ONE}, [1, 2]), ArgumentError, "client 3 sent .* in samples"),
        (lambda: drop_stragglers(PAIR, [0, 0]), ArgumentError, r"clients \[0, 1\] are 0; one that"),
        (lambda: drop_stragglers(PAIR, [1, -1]), ArgumentError, r"samples\[1\] is -1"),
        (lambda: drop_stragglers(PAIR, [1, 0.5]), DtypeError, r"samples\[1\] is float"),
        (lambda: drop_stragglers(PAIR, 2), DtypeError, "samples is int; it must be a sequence"),
        (lambda: drop_stragglers([ONE], [1]), DtypeError, "gradients is list; it must be a dict"),
        (lambda: drop_stragglers({0: [1.0]}, [1]), DtypeError, r"gradients\[0\] is list"),
        (
            lambda: drop_stragglers({0: ONE, 1: torch.ones(2)}, [1, 1]),
            ArgumentError,
            r"gradients\[1\] is torch.float32 of shape \(2,\) on cpu; another one .* shape \(1,\)",
        ),
        (lambda: wait_for_all({}, []), ArgumentError, "clients is empty"),
        (lambda: wait_for_all({}, 3), DtypeError, "clients is int"),
        (lambda: wait_for_all(PAIR, [0]), ArgumentError, "client 1 sent a gradient .* in clients"),
        (lambda: wait_for_all({0: ONE, 1: ONE.double()}, [0, 1]), ArgumentError, "is torch.float6"),
        (
            lambda: inverse_probability({3: ONE}, [0.1, 0.2]),
            ArgumentError,
            "client 3 sent a gradient and is not in arrival, which is of 2 clients",
        ),
        (lambda: inverse_probability({0: ONE}, {1: 0.5}), ArgumentError, "client 0 sent"),
        (lambda: inverse_probability({0: ONE}, 0.5), DtypeError, "arrival is float"),
        (
            lambda: inverse_probability({0: ONE * math.nan}, [0.1]),
            ArgumentError,
            r"gradients\[0\] is not finite",
        ),
    ],
)
def test_what_a_baseline_cannot_use_is_named(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_baselines_take_numpys_numbers() -> None:
    both = {np.int64(0): ONE, np.int64(1): ONE}
    assert drop_stragglers({np.int64(1): ONE}, np.array([3, 9])).item() == pytest.approx(12 / 9)
    assert wait_for_all(both, np.arange(2)).item() == 2
    assert inverse_probability(both, np.array([0.5, 0.25])).item() == 6


def scheme_of(given: Problem, rows: int) -> CodedFedL:
    slow = [DelayModel(0.01 * 5**i, 0.02, uplink=0.05, up_erasure=0.1) for i in range(4)]
    return CodedFedL(slow, [len(x) for x in given.x], rows, guard=False)


def test_loads_and_weights_of_codedfedl_cover_every_record_once_on_average() -> None:
    """Over all arrivals, p·(processed) and what the code holds add up to the whole gradient."""
    given = problem(clients=4, samples=12)
    scheme = scheme_of(given, 16)
    loads = scheme.allocation.loads
    assert len(set(loads)) > 1
    total = torch.zeros(3, 2).double()
    for i, (x, y) in enumerate(zip(given.x, given.y, strict=True)):
        weights = 1 - scheme.allocation.record_arrival(i)[:, None]  # squares of those in the code
        residual = x.double() @ given.weight.double() - y.double()
        total += x.double().T @ (weights * residual)
        if loads[i]:
            update = scheme.client(i, x, y).update(given.weight)
            total += scheme.scfl.probabilities[i] * update.double()
    torch.testing.assert_close(total, given.total(), rtol=1e-5, atol=1e-5)


def test_the_code_of_codedfedl_is_of_all_records_with_these_weights() -> None:
    given = problem(clients=4, samples=12)
    scheme = scheme_of(given, 16)
    made = scheme.encode(3, given.x[3], given.y[3], KEY)
    weights = (1 - scheme.allocation.record_arrival(3)).sqrt().float()[:, None]
    by_hand = CodedDataset.encode(weights * given.x[3], weights * given.y[3], 16, KEY)
    assert made.complement
    assert torch.allclose(made.x, by_hand.x, atol=1e-4)


def test_wrong_records_of_codedfedl_are_refused() -> None:
    given = problem(clients=4, samples=12)
    scheme = scheme_of(given, 16)
    x, y = given.x[0], given.y[0]
    with pytest.raises(ArgumentError, match="client 0 has 11 records; records says 12"):
        scheme.client(0, x[1:], y[1:])
    with pytest.raises(ArgumentError, match="index is 4"):
        scheme.encode(4, x, y, KEY)
    idle = CodedFedL([DelayModel(0.01), DelayModel(1e6)], [12, 12], 12)
    with pytest.raises(ArgumentError, match="client 1 has load 0"):
        idle.client(1, x, y)


def test_statistics_without_noise_give_the_ridge_solution() -> None:
    given = problem(clients=2, samples=30)
    parts = [
        PrivateStatistics.encode(x, y, 0.0, KEY.derive("client", i))
        for i, (x, y) in enumerate(zip(given.x, given.y, strict=True))
    ]
    x, y = torch.cat(given.x).double().numpy(), torch.cat(given.y).double().numpy()
    for ridge in (0.0, 2.5):
        wanted = np.linalg.solve(x.T @ x + ridge * np.eye(3), x.T @ y)
        np.testing.assert_allclose((parts[0] + parts[1]).solve(ridge), wanted, rtol=1e-5)
    np.testing.assert_allclose(
        (parts[0] + parts[1]).solve(), np.linalg.solve(x.T @ x, x.T @ y), 1e-5
    )


def test_noise_on_statistics_is_symmetric_of_the_stated_size_and_adds_up() -> None:
    x, y = torch.zeros(3, 150), torch.zeros(3, 2)
    one = PrivateStatistics.encode(x, y, 4.0, KEY.derive("a"))
    two = PrivateStatistics.encode(x, y, 3.0, KEY.derive("b"))
    both = one + two
    assert torch.equal(both.gram, both.gram.T)
    assert both.noise_variance == 25.0
    above = both.gram[tuple(torch.triu_indices(152, 152, 1))]
    assert float(above.std()) == pytest.approx(5.0 / math.sqrt(2), rel=0.05)
    assert float(both.gram.diagonal().std()) == pytest.approx(5.0, rel=0.3)
    norm = float(torch.linalg.eigvalsh(both.gram[:150, :150]).abs().max())
    most = 5.0 * (math.sqrt(300) + math.sqrt(2 * math.log(2 / 0.05)))  # what the ridge is made of
    assert 0.75 * most < norm < most


def test_a_record_moves_noisy_statistics_by_its_norm_squared_in_every_direction() -> None:
    """In units of the noise, τ on the diagonal and τ/√2 above it."""
    rng = np.random.default_rng(4)
    for z in (*rng.standard_normal((20, 5)), np.eye(5)[2], np.ones(5)):
        moved = np.outer(z, z)
        squared = (np.diag(moved) ** 2).sum() + 2 * (np.triu(moved, 1) ** 2).sum()
        assert squared == pytest.approx(float(z @ z) ** 2)


def test_statistics_of_one_key_are_not_added() -> None:
    x, y = torch.ones(3, 2), torch.zeros(3)
    one = PrivateStatistics.encode(x, y, 1.0, KEY)
    with pytest.raises(ArgumentError, match="noise of one key"):
        one + PrivateStatistics.encode(x, y, 1.0, KEY)
    total = one + PrivateStatistics.encode(x, y, 1.0, KEY.derive("other"))
    with pytest.raises(ArgumentError, match="noise of one key"):
        total + one


def test_the_ridge_of_noisy_statistics_keeps_the_solution_small() -> None:
    given = problem(clients=1, samples=200, features=20)
    one = PrivateStatistics.encode(given.x[0], given.y[0], 50.0, KEY)
    plain = PrivateStatistics.encode(given.x[0], given.y[0], 0.0, KEY).solve()
    assert float((one.solve() - plain).norm()) < float((one.solve(0.0) - plain).norm())


def test_wrong_statistics_are_refused() -> None:
    given = problem(clients=1)
    x, y = given.x[0], given.y[0]
    for bad, error, text in (
        ((x[1:], y, 1.0, KEY), ArgumentError, "x has 5 samples and y has 6"),
        ((x, y, -1.0, KEY), ArgumentError, "noise_std is -1.0"),
        ((x, y, 1.0, 5), DtypeError, "key is int"),
        ((x, y, 1.0, KEY, 0.1), ArgumentError, "6 of 6 records"),
        ((x * math.nan, y, 1.0, KEY), ArgumentError, "NaN or infinite"),
    ):
        with pytest.raises(error, match=text):
            PrivateStatistics.encode(*bad)
    clipped = PrivateStatistics.encode(x, y, 0.0, KEY, 0.1, "clip")
    assert float(clipped.gram.trace()) <= 6 * 0.01
    other = PrivateStatistics.encode(x[:, :2], y, 0.0, KEY)
    with pytest.raises(ArgumentError, match="do not add"):
        clipped + other
    with pytest.raises(TypeError):
        clipped + 1
    empty = PrivateStatistics.encode(torch.zeros(2, 2), torch.ones(2), 0.0, KEY)
    with pytest.raises(ArgumentError, match="singular with ridge = 0"):
        empty.solve(0.0)
