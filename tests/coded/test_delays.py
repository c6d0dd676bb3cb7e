"""Delays: closed forms against simulation and integrals; estimates against the definition."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binomtest, kstest

from pyfed.coded import ArrivalEstimate, DelayModel, MeasuredDelays, arrival_probabilities
from pyfed.errors import ArgumentError

MODELS = {
    "SCFL": DelayModel(0.02, downlink=0.3, uplink=0.7, up_erasure=0.4),
    "CFL": DelayModel(0.02, 0.03, 0.2, 0.2, 0.3, 0.3),
    "two links": DelayModel(0.01, 0.05, 0.15, 0.4, 0.5, 0.2),
    "equal links, other erasures": DelayModel(0.01, 0.01, 0.25, 0.25, 0.6, 0.1),
    "no link": DelayModel(0.02, jitter=0.01),
    "jitter alone": DelayModel(0.0, jitter=0.04, uplink=0.1),
    "lost almost always": DelayModel(0.0, 0.01, 0.05, 0.02, 0.9, 0.95),
    "measured": MeasuredDelays([0.3, 0.5, 2.0, math.inf, 1.0], [0.01, 0.01, 0.02, 0.01, 0.0]),
}


@pytest.mark.parametrize("name", MODELS)
def test_simulated_arrivals_are_as_likely_as_the_closed_form_says(name: str) -> None:
    model, count = MODELS[name], 100_000
    for load in (0, 1, 35):
        times = model.sample(load, count, seed=load)
        for deadline in (0.05, 0.5, 1.1, 1.9, 4.0):
            p = model.probability(deadline, load)
            arrived = int((times <= deadline).sum())
            # A few dozen tests in all; together they raise a false alarm with 1e-6 · 120.
            assert binomtest(arrived, count, p).pvalue >= 1e-6, (load, deadline, arrived / count)


def test_simulation_would_notice_a_probability_that_is_off_by_a_hundredth() -> None:
    model = MODELS["CFL"]
    arrived = int((model.sample(35, 400_000, seed=1) <= 1.9).sum())
    p = model.probability(1.9, 35)
    for wrong in (p - 0.01, p + 0.01):
        assert binomtest(arrived, 400_000, wrong).pvalue < 1e-6


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in ("SCFL", "lost almost always", "measured")]
)
def test_the_closed_form_is_the_integral_over_the_compute(name: str) -> None:
    model = MODELS[name]
    for load, deadline in itertools.product((1, 20, 35), (0.3, 1.1, 2.7)):

        def in_time(extra, load=load, deadline=deadline):
            """P(links take at most what is left when the exponential part is ``extra``)."""
            left = deadline - load * model.per_record - extra
            total, down = 0.0, 1
            while left - down * model.downlink >= -1e-13 and down <= 400:
                rest = left - down * model.downlink
                ups = math.floor(rest / model.uplink + 1e-12) if model.uplink else math.inf
                sent = 1 - model.up_erasure**ups
                if model.downlink == 0:
                    return sent
                total += (1 - model.down_erasure) * model.down_erasure ** (down - 1) * sent
                down += 1
            return total

        mean = load * model.jitter
        slack = deadline - load * model.per_record
        if slack <= 0:
            assert model.probability(deadline, load) == 0
            continue
        steps = sorted(
            {
                slack - down * model.downlink - up * model.uplink
                for down in range(1, 60)
                for up in range(1, 140)
            }
        )
        cuts = [0.0, *(step for step in steps if 0 < step < slack), slack]
        found = sum(
            in_time((low + high) / 2) * (math.exp(-low / mean) - math.exp(-high / mean))
            for low, high in itertools.pairwise(cuts)
        )
        assert model.probability(deadline, load) == pytest.approx(found, rel=1e-9, abs=1e-13)


def test_without_links_the_closed_form_is_the_shifted_exponential() -> None:
    model = MODELS["no link"]
    density = quad(lambda x: math.exp(-(x - 0.7) / 0.35) / 0.35, 0.7, 1.3)[0]
    assert model.probability(1.3, load=35) == pytest.approx(density, rel=1e-12)


def test_deterministic_compute_gives_the_formula_of_scfl() -> None:
    model = MODELS["SCFL"]
    for load, deadline in itertools.product(range(0, 60, 7), np.arange(0, 6, 0.13)):
        rest = Fraction(deadline) - Fraction(load) * Fraction(0.02) - Fraction(0.3)
        attempts = max(rest // Fraction(0.7), 0)
        expected = 1 - 0.4**attempts
        assert model.probability(float(deadline), load) == pytest.approx(expected, abs=1e-15)


def test_a_deadline_that_is_met_to_the_bit_counts_as_the_samples_do() -> None:
    model = DelayModel(0.1, downlink=0.1, uplink=0.2, up_erasure=0.5)
    for load in range(20):
        for deadline in np.unique(model.sample(load, 300, seed=load)):
            p = model.probability(float(deadline), load)
            before = model.probability(float(np.nextafter(deadline, 0)), load)
            assert p > before


@pytest.mark.parametrize("name", ["SCFL", "CFL", "two links", "no link"])
def test_samples_have_the_mean_and_the_law(name: str) -> None:
    model = MODELS[name]
    times = model.sample(35, 200_000, seed=3)
    assert abs(times.mean() - model.mean(35)) <= 5 * times.std() / math.sqrt(len(times))
    if model.jitter:
        law = np.vectorize(lambda t: model.probability(t, 35))
        assert kstest(times[:2000], law).pvalue >= 1e-6


def test_probability_rises_with_the_deadline_and_falls_with_the_load() -> None:
    for model in MODELS.values():
        by_time = [model.probability(t, 20) for t in np.linspace(0, 40, 60)]
        assert min(np.diff(by_time)) >= -1e-14  # sums of many terms, each rounded
        by_load = [model.probability(2.0, load) for load in range(120)]
        assert max(np.diff(by_load)) <= 1e-14
        assert model is MODELS["measured"] or by_time[-1] > 0.99


def test_a_seed_or_a_generator_fixes_the_samples() -> None:
    for model in MODELS.values():
        one = model.sample(5, 10, seed=7)
        assert np.array_equal(one, model.sample(5, 10, np.random.default_rng(7)))
        assert not np.array_equal(one, model.sample(5, 10, seed=8))
        generator = np.random.default_rng(7)
        assert not np.array_equal(model.sample(5, 10, generator), model.sample(5, 10, generator))


def test_clients_without_load_never_arrive() -> None:
    models = [MODELS["CFL"], MODELS["measured"], MODELS["CFL"]]
    found = arrival_probabilities(models, 2.0, [35, 10, 0])
    assert found == [models[0].probability(2.0, 35), 0.6, 0.0]


def test_measured_rounds_count_in_parts_and_lost_ones_never_come() -> None:
    model = MODELS["measured"]
    assert model.probability(1e9, 0) == 0.8
    assert model.probability(1.0, 50) == pytest.approx(0.6)  # 0.8, 1.0 and 1.0, to the bit
    assert model.mean(1) == math.inf
    assert set(model.sample(100, 1000, seed=0)) == {1.3, 1.5, 4.0, math.inf, 1.0}


def test_too_many_outcomes_are_refused() -> None:
    model = DelayModel(0.0, 0.0, 1e-4, 2e-4, 0.99, 0.995)
    with pytest.raises(ValueError, match=r"deadline is 100; within it \d+ · \d+ numbers"):
        model.probability(100.0, 1)


@pytest.mark.parametrize("downlink", [0.0, 1e-3, 2e-3])
def test_more_outcomes_than_memory_holds_are_refused_before_they_are_made(downlink: float) -> None:
    model = DelayModel(0.0, downlink=downlink, uplink=1e-3, up_erasure=1 - 1e-9)
    with pytest.raises(ArgumentError, match=r"DelayModel: deadline is 1e\+08; .* shorter deadline"):
        model.probability(1e8, 1)
    both = DelayModel(0.0, 0.0, 1e-3, 1e-3, 1 - 1e-5, 1 - 1e-5)  # 40,000 on either link: 1.6e9
    with pytest.raises(ArgumentError, match="numbers of transmissions are likely"):
        both.probability(40.0, 1)
    assert 0 < both.probability(3.0, 1) < 1


def test_measured_delays_say_what_they_hold() -> None:
    assert repr(MeasuredDelays([0.5, 2.0, math.inf])) == (
        "MeasuredDelays(3 rounds, of 0.5 to 2 s, 1 of them lost)"
    )
    assert repr(MeasuredDelays([math.inf])) == "MeasuredDelays(1 rounds, 1 of them lost)"


def test_numpys_numbers_are_numbers() -> None:
    model = MODELS["CFL"]
    wanted = arrival_probabilities([model] * 2, 3.0, [3, 5])
    for kind in (np.int64, np.float32):
        loads = np.array([3, 5], dtype=kind)
        assert arrival_probabilities([model] * 2, np.float64(3.0), loads) == wanted
        assert model.probability(kind(3), loads[1]) == wanted[1]
    seen = [model.sample(load, size, seed) for load, size, seed in ((3, 4, 5), np.array([3, 4, 5]))]
    assert (seen[0] == seen[1]).all()
    plain, numpys = ArrivalEstimate(3), ArrivalEstimate(3)
    plain.record([0, 2], 1.0)
    numpys.record(np.flatnonzero(np.array([True, False, True])), np.float64(1.0))
    assert plain.probabilities == numpys.probabilities
    assert all(type(p) is float for p in numpys.probabilities)


def test_counted_estimates_are_the_counts() -> None:
    rng = np.random.default_rng(2)
    estimate = ArrivalEstimate(clients=3, prior=0.25, confidence=4)
    assert estimate.probabilities == [0.25] * 3
    counts = np.zeros(3)
    for clock in range(200):
        present = np.flatnonzero(rng.random(3) < [0.1, 0.5, 1.0]).tolist()
        counts[present] += 1
        estimate.record(present, clock / 7)
    assert estimate.rounds == 200
    assert estimate.probabilities == pytest.approx((counts + 1) / 204)


def test_moving_averages_weigh_rounds_by_their_age() -> None:
    rng = np.random.default_rng(2)
    estimate = ArrivalEstimate(clients=2, half_life=5.0, confidence=1)
    clocks = np.cumsum(rng.exponential(2.0, 50))
    arrived = rng.random((50, 2)) < 0.5
    for clock, row in zip(clocks.tolist(), arrived, strict=True):
        estimate.record(np.flatnonzero(row).tolist(), clock)
    weights = 0.5 ** ((clocks[-1] - clocks) / 5.0)
    assert estimate.rounds == pytest.approx(weights.sum())
    assert estimate.probabilities == pytest.approx((weights @ arrived + 0.5) / (weights.sum() + 1))


def test_a_moving_average_follows_a_client_that_becomes_slow() -> None:
    counted, moving = ArrivalEstimate(1), ArrivalEstimate(1, half_life=10.0)
    for clock in range(400):
        for estimate in (counted, moving):
            estimate.record([0] if clock < 200 else [], clock)
    assert counted.probabilities[0] == pytest.approx(0.5, abs=0.01)
    assert moving.probabilities[0] < 0.07


@pytest.mark.parametrize(
    ("arrived", "clock", "error", "message"),
    [
        ([0], 4.9, ValueError, "record: clock is 4.9; it must be at least 5, that of the round"),
        ([0], math.nan, ValueError, "record: clock is nan; it must be finite"),
        ([0], "5", TypeError, "record: clock is str"),
        ([2], 6.0, ValueError, "record: a client in arrived is 2; it must be in .0, 2."),
        ([0, 0], 6.0, ValueError, "record: arrived is .0, 0.; it must name a client once"),
        ([0.5], 6.0, TypeError, "record: a client in arrived is float"),
        (np.array([True]), 6.0, TypeError, "record: a client in arrived is bool"),
        (0, 6.0, TypeError, "record: arrived is int; it must be a list"),
    ],
)
def test_what_is_refused_changes_no_estimate(arrived, clock, error, message) -> None:
    estimate = ArrivalEstimate(2, half_life=3.0)
    estimate.record([1], 5.0)
    before = estimate.probabilities, estimate.rounds
    with pytest.raises(error, match=message):
        estimate.record(arrived, clock)
    assert (estimate.probabilities, estimate.rounds) == before
    estimate.record([0], 5.0)  # a clock that stands still is none that goes back


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DelayModel(-1.0), ValueError, "DelayModel: per_record is -1.0; it must be at"),
        (lambda: DelayModel(math.inf), ValueError, "DelayModel: per_record is inf"),
        (lambda: DelayModel("1"), TypeError, "DelayModel: per_record is str"),
        (lambda: DelayModel(1.0, jitter=-0.1), ValueError, "DelayModel: jitter is -0.1"),
        (lambda: DelayModel(1.0, uplink=math.nan), ValueError, "DelayModel: uplink is nan"),
        (lambda: DelayModel(1.0, up_erasure=1.0), ValueError, "up_erasure is 1.0; it must be in"),
        (lambda: DelayModel(1.0, down_erasure=-0.1), ValueError, "down_erasure is -0.1"),
        (lambda: MeasuredDelays([]), ValueError, "MeasuredDelays: transfer is"),
        (lambda: MeasuredDelays([1.0, -1.0]), ValueError, "MeasuredDelays: transfer is"),
        (lambda: MeasuredDelays([math.nan]), ValueError, "MeasuredDelays: transfer is"),
        (lambda: MeasuredDelays("ab"), TypeError, "MeasuredDelays: transfer is str"),
        (lambda: MeasuredDelays([1.0], [math.inf]), ValueError, "per_record is .* or infinite"),
        (lambda: MeasuredDelays([1.0], [1.0, 2.0]), ValueError, "per_record has 2 rounds; it must"),
        (lambda: MODELS["CFL"].probability(-1.0, 1), ValueError, "probability: deadline is -1.0"),
        (lambda: MODELS["CFL"].probability(1.0, -1), ValueError, "probability: load is -1"),
        (lambda: MODELS["measured"].probability(math.nan, 1), ValueError, "deadline is nan"),
        (lambda: MODELS["CFL"].sample(1, -1, 0), ValueError, "sample: count is -1"),
        (lambda: MODELS["CFL"].sample(1, 2.0, 0), TypeError, "sample: count is float"),
        (lambda: MODELS["CFL"].sample(1, 2, "0"), TypeError, "sample: seed is str; it must be"),
        (lambda: MODELS["measured"].sample(1, 2, -1), ValueError, "sample: seed is -1"),
        (lambda: arrival_probabilities([3], 1.0, [1]), TypeError, "models holds a int; it must"),
        (lambda: arrival_probabilities([], 1.0, [1]), ValueError, "loads has 1 entries"),
        (lambda: arrival_probabilities(MODELS["CFL"], 1.0, [1]), TypeError, "models is DelayModel"),
        (lambda: arrival_probabilities([MODELS["CFL"]], 2.0, 100), TypeError, "loads is int; it"),
        (lambda: arrival_probabilities([MODELS["CFL"]], 2.0, [-1]), ValueError, "loads is -1"),
        (lambda: arrival_probabilities([MODELS["CFL"]], -2.0, [0]), ValueError, "deadline is -2"),
        (lambda: ArrivalEstimate(0), ValueError, "ArrivalEstimate: clients is 0"),
        (lambda: ArrivalEstimate(1, half_life=0.0), ValueError, "half_life is 0.0"),
        (lambda: ArrivalEstimate(1, prior=0.0), ValueError, "prior is 0.0"),
        (lambda: ArrivalEstimate(1, confidence=0), ValueError, "confidence is 0"),
    ],
)
def test_bad_input_is_named(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
