"""The random graph of SecAgg+, and the exact tails from which degree and threshold follow."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import scipy.stats
import torch

from pyfed.errors import ArgumentError
from pyfed.secagg import graph
from pyfed.secagg.graph import (
    Setting,
    hypergeometric_tail,
    neighbourhoods,
    neighbours,
    plan,
    rare_count,
    rare_count_floor,
    ring_order,
)
from secagg.plus_oracle import shuffled

SESSION = bytes(range(32))
FROZEN = [9, 2, 8, 7, 4, 3, 0, 5, 1, 6]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 257])
def test_the_ring_is_the_shuffle_of_the_oracle(count: int) -> None:
    assert ring_order(SESSION, count) == shuffled(SESSION, count)
    assert sorted(ring_order(SESSION, count)) == list(range(count))


def test_the_graph_of_a_session_is_frozen() -> None:
    assert ring_order(SESSION, 10) == FROZEN
    assert neighbourhoods(SESSION, tuple(range(10)), 4)[FROZEN[0]] == tuple(
        sorted(FROZEN[i] for i in (8, 9, 1, 2))
    )


def test_every_order_has_the_same_chance() -> None:
    draws = 2400
    counts = Counter(tuple(ring_order(bytes(28) + i.to_bytes(4, "big"), 4)) for i in range(draws))
    assert len(counts) == 24
    statistic, level = scipy.stats.chisquare(list(counts.values()))
    assert level > 1e-6, statistic


def test_a_word_beyond_the_last_whole_multiple_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 2^32 = 3 · 1431655765 + 1: the last word alone would give place 0 once more than the others.
    words = [-1, 2, 0]  # for bound 3: passed over, then place 2; for bound 2: place 0

    def given(key: Any, count: int, start: int) -> torch.Tensor:
        return torch.tensor(words[start : start + count], dtype=torch.int32)

    monkeypatch.setattr(graph, "random_words", given)
    assert ring_order(SESSION, 3) == [1, 0, 2]


@pytest.mark.parametrize(("count", "degree"), [(9, 2), (10, 4), (40, 12), (41, 12)])
def test_a_neighbourhood_is_the_same_from_both_sides_and_has_the_degree(
    count: int, degree: int
) -> None:
    members = tuple(range(3, 3 + 2 * count, 2))  # numbers with gaps, as after drops
    joined = neighbourhoods(SESSION, members, degree)
    assert tuple(sorted(joined)) == members
    for member, near in joined.items():
        assert len(near) == degree
        assert (
            near
            == tuple(sorted(set(near) - {member}))
            == neighbours(SESSION, members, degree, member)
        )
        assert all(member in joined[other] for other in near)
    assert joined != neighbourhoods(bytes(32), members, degree)


@pytest.mark.parametrize("degree", [4, 5, 9])
def test_a_small_roster_is_joined_completely(degree: int) -> None:
    members = (0, 2, 3, 7, 9)
    joined = neighbourhoods(SESSION, members, degree)
    assert joined == {m: tuple(o for o in members if o != m) for m in members}
    assert neighbours(SESSION, members, degree, 3) == (0, 2, 7, 9)


def test_tails_equal_enumeration() -> None:
    for population, marked, draws in itertools.product(range(1, 7), range(7), range(7)):
        if max(marked, draws) > population:
            continue
        hits = [
            sum(member < marked for member in drawn)
            for drawn in itertools.combinations(range(population), draws)
        ]
        for least in range(-1, 8):
            wanted = Fraction(sum(hit >= least for hit in hits), len(hits))
            assert hypergeometric_tail(population, marked, draws, least) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_tails_equal_scipy(seed: int) -> None:
    rng = random.Random(seed)
    population = rng.randint(10, 4000)
    marked, draws = rng.randint(0, population // 3), rng.randint(1, population // 2)
    for least in range(0, draws, max(1, draws // 7)):
        ours = hypergeometric_tail(population, marked, draws, least)
        theirs = scipy.stats.hypergeom.sf(least - 1, population, marked, draws)
        assert math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-280)


def test_a_rare_count_is_the_first_below_the_bound_and_its_floor_not_above() -> None:
    rng = random.Random(3)
    for _ in range(400):
        population = rng.randint(1, 90)
        marked, draws = rng.randint(0, population), rng.randint(0, population)
        bits = rng.randint(0, 70)
        found = rare_count(population, marked, draws, Fraction(1, 2**bits))
        tails = [hypergeometric_tail(population, marked, draws, m) for m in range(draws + 2)]
        assert found == next(m for m, tail in enumerate(tails) if tail * 2**bits <= 1)
        assert rare_count_floor(population, marked, draws, -bits) <= found


SETTINGS = [
    Setting(clients, privacy, dropouts, spare, server)
    for clients, privacy, dropouts, spare in [
        *((10, 1, 0, 0), (10, 2, 2, 1), (20, 1, 1, 0), (60, 3, 3, 2), (100, 5, 5, 0)),
        *((100, 20, 10, 4), (400, 20, 20, 0), (1000, 50, 50, 0)),
    ]
    for server in ("curious", "malicious")
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_smaller_degree_and_no_smaller_threshold_would_serve(setting: Setting) -> None:
    degree, threshold = plan(setting)
    assert not setting.misses(degree, threshold)
    assert setting.misses(degree, threshold - 1) or threshold == 1
    for smaller in range(2, min(degree, setting.fewest - 1), 2):
        least = setting.least_threshold(smaller)  # below it secrets are not kept,
        assert (
            least == 1
            or setting.opened(smaller, least - 1)
            > Fraction(1, 2 ** graph.PRIVACY_BITS[setting.server])
            or setting.split(smaller, least - 1)
            > Fraction(1, 2 ** graph.PRIVACY_BITS[setting.server])
        )
        assert least > smaller or setting.misses(smaller, least)  # and from it on rounds fail


def test_bounds_are_the_tails_that_they_are_said_to_be() -> None:
    def tail(population: int, marked: int, draws: int, least: int) -> float:
        return float(scipy.stats.hypergeom.sf(least - 1, population, marked, draws))

    curious, malicious = (Setting(1000, 50, 40, 3, mode) for mode in ("curious", "malicious"))
    opened = 1000 * tail(959, 50, 34, 19)  # in the smallest roster corrupt members weigh most
    assert math.isclose(curious.opened(34, 19), opened, rel_tol=1e-9)
    split = 1000 * 999 / 2 * scipy.stats.hypergeom.pmf(34, 1000, 90, 34)
    assert math.isclose(curious.split(34, 19), split, rel_tol=1e-6)
    assert math.isclose(malicious.split(34, 25), 1000 * tail(959, 50, 17, 8), rel_tol=1e-9)
    failed = 1000 * tail(999, 40, 34, 34 - 19 - 3 + 1)
    assert math.isclose(curious.failed(34, 19), failed, rel_tol=1e-9)


def test_degrees_are_of_the_order_that_the_paper_reports() -> None:
    for clients in (1000, 10_000):
        setting = Setting(clients, clients // 20, clients // 20, 0, "curious")
        degree, threshold = plan(setting)
        assert degree < 100
        assert degree / 2 < threshold < degree
    assert plan(Setting(1000, 50, 50, 0, "curious")) == (30, 17)
    assert plan(Setting(4096, 204, 204, 0, "malicious")) == (130, 104)
    growth = [plan(Setting(n, n // 10, n // 10, 0, "curious"))[0] for n in (500, 1000, 2000, 4000)]
    assert growth == sorted(growth) and growth[-1] < growth[0] + 12  # logarithmic


@pytest.mark.parametrize("clients", range(3, 13))
def test_a_small_session_always_has_a_graph(clients: int) -> None:
    for privacy in range(1, clients - 1):
        for dropouts in range(clients - privacy - 1):
            degree, threshold = plan(Setting(clients, privacy, dropouts, 0, "curious"))
            if degree == clients - 1:
                assert privacy < threshold <= clients - 1 - dropouts
            else:
                assert degree % 2 == 0 and degree <= clients - dropouts - 2


@pytest.mark.parametrize(
    ("degree", "threshold", "words"),
    [
        (7, None, "degree is 7; it must be even and from 2 to clients - dropouts - 2 = 93"),
        (94, None, "or clients - 1 = 99"),
        (98, None, "or clients - 1 = 99"),
        (4, None, "neighbours reach the threshold is 2\\^-[0-9.]+; it must be at most 2\\^-40"),
        (12, 5, "corrupt neighbours reach the threshold is 2\\^-9.4; it must be at most 2\\^-40"),
        (12, 9, "too few neighbours are left is 2\\^-[0-9.]+; it must be at most 2\\^-20"),
        (12, 13, "a threshold is from 1 to degree = 12"),
        (99, 5, "corrupt neighbours reach the threshold is 1; it must be at most 2\\^-40"),
        (99, 95, "too few neighbours are left is 1"),
        (None, 99, "degree 99 with threshold 99 .* privacy=5, dropouts=5"),
    ],
)
def test_numbers_that_miss_the_bounds_are_refused_with_them(
    degree: int | None, threshold: int | None, words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        plan(Setting(100, 5, 5, 0, "curious"), degree, threshold)


def test_given_numbers_that_serve_are_kept() -> None:
    setting = Setting(100, 5, 5, 0, "curious")
    assert plan(setting, 20) == (20, setting.least_threshold(20))
    assert plan(setting, 20, 8) == (20, 8)
    assert plan(setting, threshold=8)[1] == 8
    assert plan(setting, 99, 94) == (99, 94)
    with pytest.raises(ArgumentError, match="sum of a part is seen is 2"):
        plan(Setting(100, 1, 60, 0, "curious"), 38, 2)
