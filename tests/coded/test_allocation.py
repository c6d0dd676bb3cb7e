"""Loads and deadlines against grids over every load, and Lambert's function of scipy and mpmath."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import lambertw

import pyfed
from pyfed.coded import (
    CodedDataset,
    DelayModel,
    MeasuredDelays,
    allocate,
    best_load,
    expected_return,
    reliable_load,
)
from pyfed.keys import Key

MODELS = {
    "SCFL": DelayModel(0.02, downlink=0.3, uplink=0.7, up_erasure=0.4),
    "CFL": DelayModel(0.02, 0.03, 0.2, 0.2, 0.3, 0.3),
    "many peaks": DelayModel(0.02, 0.0005, 0.0, 0.4, 0.0, 0.45),
    "two links": DelayModel(0.01, 0.05, 0.15, 0.4, 0.5, 0.2),
    "no link": DelayModel(0.02, jitter=0.01),
    "jitter alone": DelayModel(0.0, jitter=0.04, uplink=0.1, up_erasure=0.2),
    "links alone": DelayModel(0.0, uplink=0.1, up_erasure=0.2),
    "measured": MeasuredDelays(
        [0.3, 0.5, 2.0, math.inf, 1.0, 0.1], [0.01, 0.013, 0.02, 0.01, 0.0, 0.07]
    ),
}
DEADLINES = (0.0, 0.05, 0.45, 1.0, 1.7, 3.3, 12.0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("deadline", DEADLINES)
def test_no_whole_load_returns_more(name: str, deadline: float) -> None:
    model = MODELS[name]
    for most in (0, 1, 30, 240):
        load, value = best_load(model, deadline, most)
        assert load == int(load) and 0 <= load <= most
        assert value == expected_return(model, deadline, load)
        every = [expected_return(model, deadline, other) for other in range(most + 1)]
        assert value >= max(every) * (1 - 1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("deadline", DEADLINES)
def test_no_load_on_a_fine_grid_returns_more(name: str, deadline: float) -> None:
    model = MODELS[name]
    load, value = best_load(model, deadline, 240, whole=False)
    assert 0 <= load <= 240 and value == expected_return(model, deadline, load)
    every = [expected_return(model, deadline, other) for other in np.linspace(0, 240, 6001)]
    assert value >= max(every) * (1 - 1e-12)
    assert value <= max(every) * 1.01 + 0.05  # it is a return, not a bound of one


def test_some_return_has_several_peaks_of_which_the_best_is_not_the_last() -> None:
    """Or the tests above would not tell a local search from ours."""
    model = MODELS["many peaks"]
    every = np.array([expected_return(model, 3.3, load) for load in range(241)])
    peaks = np.flatnonzero((every[1:-1] > every[:-2]) & (every[1:-1] > every[2:])) + 1
    assert len(peaks) >= 3
    assert every.argmax() not in (peaks[0], peaks[-1])


def test_random_models_have_no_better_load() -> None:
    rng = np.random.default_rng(4)
    for _ in range(150):
        links = rng.choice([0.0, 0.1, 0.25, 0.4], 2)
        erasures = rng.choice([0.0, 0.2, 0.7], 2)
        a, b = rng.choice([0.0, 0.003, 0.02]), rng.choice([0.0, 0.001, 0.02])
        model = DelayModel(float(a), float(b), *map(float, links), *map(float, erasures))
        deadline = float(rng.uniform(0, 5))
        _, value = best_load(model, deadline, 150)
        every = [expected_return(model, deadline, load) for load in range(151)]
        assert value >= max(every) * (1 - 1e-12)


def test_random_measured_rounds_have_no_better_load() -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        rounds = int(rng.integers(1, 30))
        transfer = np.round(rng.exponential(1, rounds), 1)
        costs = np.round(rng.exponential(0.02, rounds), 2)
        model = MeasuredDelays(transfer, costs)
        _, value = best_load(model, 2.0, 150)
        every = [expected_return(model, 2.0, load) for load in range(151)]
        assert value >= max(every) * (1 - 1e-12)


def test_a_load_that_a_rounding_hides_competes_as_what_it_is() -> None:
    # Six rounds have time for exactly 3 records, though time over cost is below 3 as floats; four
    # others have time for so many that no load but 3 returns 30 of ten rounds.
    deadline = 3 * 0.35
    assert deadline / 0.35 < 3
    costs = [deadline / load for load in (26.5, 13.5, 9.5, 7.5)] + [0.35] * 6
    assert best_load(MeasuredDelays([0.0] * 10, costs), deadline, 100) == (3.0, 3.0)


@pytest.mark.parametrize("ratio", [1e-9, 1e-4, 0.03, 1.0, 2.0, 40.0, 600.0])
def test_the_closed_form_is_that_of_lambert(ratio: float) -> None:
    a, b, left = 0.02 * ratio, 0.02, 1.5
    with mpmath.workdps(60):
        exact = -left / (b * (1 + mpmath.lambertw(-mpmath.exp(-1 - mpmath.mpf(a) / b), -1)))
    assert reliable_load(a, b, left) == pytest.approx(float(exact.real), rel=1e-6 * ratio**-0.5)
    if ratio >= 0.03:
        assert reliable_load(a, b, left) == pytest.approx(float(exact.real), rel=1e-12)
        scipys = -left / (b * (1 + lambertw(-math.exp(-1 - a / b), -1).real))
        assert reliable_load(a, b, left) == pytest.approx(scipys, rel=1e-9)


def test_a_closed_form_beyond_what_floats_hold_of_its_exponential() -> None:
    # e^(−1 − α) is 0 in float64; nearly all of the time then goes into compute, ℓ < s / a.
    load = reliable_load(per_record=1.0, jitter=1e-6, left=100.0)
    assert 99.99 < load < 100.0
    model = DelayModel(1.0, jitter=1e-6)
    assert expected_return(model, 100.0, load) >= max(
        expected_return(model, 100.0, other) for other in np.linspace(99.99, 100, 2001)
    )


def test_with_reliable_links_the_search_finds_the_closed_form() -> None:
    model = DelayModel(0.02, jitter=0.03, downlink=0.2, uplink=0.2)
    load, _ = best_load(model, 3.0, 10**6, whole=False)
    assert load == pytest.approx(reliable_load(0.02, 0.03, 2.6), rel=1e-9)


def fleet(rng: np.random.Generator, size: int) -> list[DelayModel]:
    models = []
    for _ in range(size):
        a, b = rng.uniform(0.001, 0.02), rng.choice([0.0, 0.01])
        models.append(DelayModel(float(a), float(b), 0.1, 0.1, 0.2, 0.2))
    return models


def test_the_deadline_is_the_first_at_which_all_records_come_back() -> None:
    rng = np.random.default_rng(6)
    for _ in range(12):
        models, records = fleet(rng, 4), rng.integers(0, 60, 4).tolist()
        records[0] += 5
        rows = int(rng.integers(1, sum(records)))
        found = allocate(models, records, rows)

        def total(deadline, models=models, records=records):
            return sum(
                max(expected_return(model, deadline, load) for load in range(count + 1))
                for model, count in zip(models, records, strict=True)
            )

        needed = sum(records) - rows
        assert sum(found.returns) >= needed
        assert total(found.deadline) == pytest.approx(sum(found.returns), rel=1e-12)
        for earlier in np.linspace(0, found.deadline * (1 - 1e-9), 25):
            assert total(float(earlier)) < needed
        assert found.redundancy == rows / sum(records)
        for part, load, p in zip(found.returns, found.loads, found.arrival, strict=True):
            assert part == pytest.approx(load * p)


def test_an_allocation_by_hand() -> None:
    # 10 records/s each; of 40 the code stands for 10: 30 = 2 · 10 · (t − 1).
    found = allocate([DelayModel(0.1, uplink=1.0)] * 2, [20, 20], rows=10, whole=False)
    assert found.deadline == pytest.approx(2.5, rel=1e-12)
    assert found.loads == pytest.approx((15.0, 15.0), rel=1e-12)
    assert found.arrival == [1.0, 1.0]


def test_numbers_of_records_may_be_numpys() -> None:
    models = fleet(np.random.default_rng(1), 3)
    wanted = allocate(models, [40, 30, 20], 25)
    found = allocate(models, np.array([40, 30, 20]), np.int64(25))
    assert found == wanted
    assert all(type(count) is int for count in (*found.records, found.rows))
    assert found.record_arrival(np.int64(1)).equal(wanted.record_arrival(1))
    assert best_load(models[0], 2.0, np.int32(30)) == best_load(models[0], 2.0, 30)


def test_more_coded_rows_never_make_a_round_longer() -> None:
    models = fleet(np.random.default_rng(1), 3)
    deadlines = [allocate(models, [40, 40, 40], rows).deadline for rows in range(1, 120, 13)]
    assert deadlines == sorted(deadlines, reverse=True)


def test_records_are_weighted_by_whether_they_are_processed() -> None:
    found = allocate([DelayModel(0.1, 0.05, uplink=0.2, up_erasure=0.3)] * 2, [8, 8], rows=6)
    p = found.record_arrival(1)
    load = int(found.loads[1])
    assert 0 < load < 8 and 0 < found.arrival[1] < 1
    assert p.tolist() == [found.arrival[1]] * load + [0.0] * (8 - load)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    key = Key(bytes(32))
    # A record that is never processed is in the code as a whole, others by √(1 − p).
    weights = torch.sqrt(1 - p).float()[:, None]
    with pyfed.use_backend("reference"):
        coded = CodedDataset.encode(x, y, 6, key, arrival=p)
        whole = CodedDataset.encode(x * weights, y * weights, 6, key)
    assert torch.allclose(coded.x, whole.x, atol=1e-5)


def test_measured_clients_that_are_lost_too_often_have_no_deadline() -> None:
    models = [MeasuredDelays([1.0, math.inf])] * 2
    assert allocate(models, [10, 10], rows=10).deadline == pytest.approx(1.0)
    with pytest.raises(ValueError, match="allocate: rows is 9; at no deadline do the 11 other"):
        allocate(models, [10, 10], rows=9)


GOOD = DelayModel(0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: allocate([GOOD], [1, 2], 1), ValueError, "allocate: records has 2 entries"),
        (lambda: allocate([], [], 1), ValueError, "allocate: records has 0 entries; it must"),
        (lambda: allocate([3], [5], 1), TypeError, "allocate: models holds a int; it must"),
        (lambda: allocate(GOOD, [5], 1), TypeError, "allocate: models is DelayModel; it must be a"),
        (lambda: allocate([GOOD], 5, 1), TypeError, "allocate: records is int; it must be a seq"),
        (lambda: allocate([GOOD], "5", 1), TypeError, "allocate: records is str"),
        (lambda: allocate([GOOD], np.array([5.0]), 1), TypeError, "allocate: records is float"),
        (lambda: expected_return(GOOD, 1.0, -5), ValueError, "expected_return: load is -5"),
        (lambda: allocate([GOOD], [-5], 1), ValueError, "allocate: records is -5"),
        (lambda: allocate([GOOD], [5.0], 1), TypeError, "allocate: records is float"),
        (lambda: allocate([GOOD], [5], 0), ValueError, "allocate: rows is 0; it must be in .1, 5."),
        (lambda: allocate([GOOD], [5], 5), ValueError, "allocate: rows is 5"),
        (lambda: allocate([GOOD], [0], 1), ValueError, "allocate: rows is 1"),
        (lambda: best_load(GOOD, -1.0, 5), ValueError, "best_load: deadline is -1.0"),
        (lambda: best_load(GOOD, 1.0, -5), ValueError, "best_load: most is -5"),
        (lambda: best_load(None, 1.0, 5), TypeError, "best_load: models holds a NoneType"),
        (lambda: expected_return(GOOD, math.nan, 5), ValueError, "deadline is nan"),
        (lambda: reliable_load(0.0, 1.0, 1.0), ValueError, "reliable_load: per_record is 0.0"),
        (lambda: reliable_load(1.0, 0.0, 1.0), ValueError, "reliable_load: jitter is 0.0"),
        (lambda: reliable_load(1.0, 1.0, -1.0), ValueError, "reliable_load: left is -1.0"),
        (lambda: allocate([GOOD], [5], 1).record_arrival(1), ValueError, "client is 1; it must be"),
        (
            lambda: allocate([GOOD, DelayModel(0.07)], [7, 7], 2, whole=False).record_arrival(0),
            ValueError,
            "record_arrival: the load of client 0 is .*; it must be whole",
        ),
    ],
)
def test_bad_input_is_named(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_every_pair_of_whole_loads_is_no_better_at_the_deadline() -> None:
    models = [DelayModel(0.05, 0.02, uplink=0.3, up_erasure=0.3), DelayModel(0.02, uplink=0.4)]
    found = allocate(models, [25, 25], rows=20)
    every = max(
        expected_return(models[0], found.deadline, one)
        + expected_return(models[1], found.deadline, two)
        for one, two in itertools.product(range(26), repeat=2)
    )
    assert sum(found.returns) >= every * (1 - 1e-12)
