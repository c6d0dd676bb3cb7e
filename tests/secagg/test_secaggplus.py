"""Whole rounds of SecAgg+: exact sums, clients lost in any phase, encodings, traffic."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from typing import Any

import pytest
import torch

import pyfed
from pyfed import MERSENNE31, FixedPoint, Key
from pyfed.errors import ArgumentError, DtypeError, ThresholdError
from pyfed.lanes import VoteLanes
from pyfed.secagg import SecAggPlus, simulate
from secagg.journeys import Journey, Scene
from secagg.rounds import SECRET, exact_sum, some_updates
from secagg.scenes import fixed_point, summing, told

MODES = ("curious", "malicious")


@functools.cache
def scene(clients: int, privacy: int, dropouts: int, length: int, **more: Any) -> Scene:
    mode = more.pop("mode", "curious")
    fixed = more.pop("fixed", None) or fixed_point(clients)
    more |= told(mode, clients)
    agreed = SecAggPlus(clients, privacy, dropouts, length, fixed, **more)
    return summing("SecAggPlus", agreed, dropouts)


def lose(drops: dict[int, set[int]]) -> frozenset[tuple[int, int]]:
    """Turn → clients, as a journey takes them."""
    return frozenset((turn, client) for turn, clients in drops.items() for client in clients)


def included(journey: Journey) -> list[int]:
    return sorted(journey.server.result.included)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("clients", "privacy", "dropouts", "length", "more", "degree"),
    [
        (3, 1, 0, 1, {}, 2),
        (3, 1, 0, 0, {}, 2),
        (5, 1, 1, 4, {}, 4),
        (6, 1, 2, 33, {}, 5),
        (9, 2, 2, 8, {"errors": 1, "detect": 1}, 8),
        (10, 1, 0, 3, {"degree": 4}, 4),
        (20, 2, 2, 5, {"degree": 14, "threshold": 10}, 14),
    ],
)
def test_sums_equal_python_integers(
    mode: str,
    clients: int,
    privacy: int,
    dropouts: int,
    length: int,
    more: dict[str, Any],
    degree: int,
) -> None:
    played = Journey(scene(clients, privacy, dropouts, length, mode=mode, **more)).run()
    assert included(played) == list(range(clients))
    assert played.scene.protocol.parameters.degree == degree
    assert all(client.phase == "done" for client in played.clients)


def test_the_other_field_and_a_late_round_are_exact() -> None:
    fixed = FixedPoint(clip=0.75, bits=20, clients=6, max_weight=9, field=MERSENNE31)
    setting = scene(6, 2, 1, 9, fixed=fixed)
    assert included(Journey(setting, round=2**64 - 1, lost=lose({2: {4}})).run()) == [0, 1, 2, 3, 5]


def test_a_tiny_field_of_updates_is_exact() -> None:
    fixed = VoteLanes(clients=3, field=pyfed.Field("tiny", 5))
    protocol = SecAggPlus(3, 1, 0, 6, fixed)
    votes = [torch.tensor([1, 1, 0, 0, 1, 0], dtype=torch.bool)] * 2 + [torch.ones(6).bool()]
    assert simulate(protocol, votes).integers.tolist() == [3, 3, 1, 1, 3, 1]


def test_votes_in_lanes_are_counted() -> None:
    rng = random.Random(4)
    votes = [torch.tensor([rng.random() < 0.5 for _ in range(29)]) for _ in range(7)]
    protocol = SecAggPlus(7, 1, 2, 29, VoteLanes(clients=7))
    result = simulate(protocol, votes, drop={"share": {0}, "upload": {3}})
    counts = [sum(int(votes[i][j]) for i in (1, 2, 4, 5, 6)) for j in range(29)]
    assert result.integers.tolist() == counts


def test_weights_and_the_mean() -> None:
    protocol = SecAggPlus(5, 1, 1, 3, fixed_point(5))
    updates = some_updates(5, 3)
    result = simulate(protocol, updates, [9, 0, 3, 1, 7], {"upload": {0}}, Key(SECRET))
    assert result.total_weight == 11
    wanted = exact_sum(protocol, updates, [9, 0, 3, 1, 7], [1, 2, 3, 4])
    assert result.integers.tolist() == wanted
    assert torch.equal(result.mean, result.sum / 11)


@pytest.mark.parametrize("mode", MODES)
def test_any_client_may_be_lost_in_any_phase(mode: str) -> None:
    setting = scene(5, 1, 1, 4, mode=mode)
    for turn, client in itertools.product(range(len(setting.protocol.phases)), range(5)):
        played = Journey(setting, lost=lose({turn: {client}})).run()
        assert included(played) == [i for i in range(5) if turn > 2 or i != client]


def pairs(setting: Scene) -> None:
    turns = range(len(setting.protocol.phases))
    for one, two in itertools.combinations(range(setting.clients), 2):
        for first, second in itertools.product(turns, turns):
            played = Journey(setting, lost=frozenset({(first, one), (second, two)})).run()
            outside = {c for turn, c in ((first, one), (second, two)) if turn <= 2}
            assert included(played) == sorted(set(range(setting.clients)) - outside)


def test_any_two_clients_may_be_lost_in_any_two_phases() -> None:
    pairs(scene(6, 1, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clients", [7, 8, 9, 10])
def test_any_two_clients_of_more_may_be_lost_in_any_two_phases(clients: int, mode: str) -> None:
    pairs(scene(clients, 1, 2, 2, mode=mode, degree=clients - 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(2))
def test_a_hundred_clients_on_a_sparse_graph_lose_any_five(seed: int, mode: str) -> None:
    setting = scene(100, 5, 5, 6, mode=mode)
    degree = setting.protocol.parameters.degree
    assert degree == {"curious": 12, "malicious": 22}[mode]
    rng = random.Random(seed)
    turns = len(setting.protocol.phases)
    drops = {(rng.randrange(turns), client) for client in rng.sample(range(100), 5)}
    played = Journey(setting, secret=seed, lost=frozenset(drops)).run()
    assert included(played) == sorted(set(range(100)) - {c for turn, c in drops if turn <= 2})


@pytest.mark.slow
def test_a_hundred_clients_lose_any_five_many_times() -> None:
    updates, rng = some_updates(100, 2), random.Random(9)
    protocol = SecAggPlus(100, 5, 5, 2, fixed_point(100))
    for _ in range(60):
        drop: dict[str, set[int]] = {}
        for client in rng.sample(range(100), 5):
            drop.setdefault(rng.choice(protocol.phases), set()).add(client)
        result = simulate(protocol, updates, drop=drop, key=Key(SECRET))
        assert result.integers.tolist() == exact_sum(protocol, updates, [1] * 100, result.included)


@pytest.mark.parametrize("phase", ["keys", "share", "upload", "recover"])
def test_too_many_lost_clients_are_named(phase: str) -> None:
    protocol = SecAggPlus(6, 2, 1, 3, fixed_point(6))
    with pytest.raises(ThresholdError, match=r"missing are \[1, 4\]") as caught:
        simulate(protocol, some_updates(6, 3), drop={phase: {4, 1}})
    assert (caught.value.missing, caught.value.needed) == ((1, 4), 5)


def test_traffic_beside_upload_and_roster_depends_on_the_degree_alone() -> None:
    sizes: dict[int, Counter[str]] = {}
    for clients in (30, 60):
        setting = scene(clients, 1, 0, 4, degree=6, threshold=2)
        played = Journey(setting).run()
        sent: Counter[str] = Counter()
        for event, letters in zip(played.events, played.sent, strict=True):
            if event.party >= 0:
                for data in letters:
                    sent[played.read(data).kind] = max(sent[played.read(data).kind], len(data))
        sizes[clients] = sent
    assert set(sizes[30]) == {"Hello", "Share", "Upload", "Unmask"}
    for kind, size in sizes[30].items():
        assert abs(sizes[60][kind] - size) <= 8  # numbers of clients take a byte more or less
    assert sizes[30]["Share"] < 200 + 6 * 112
    assert sizes[30]["Unmask"] < 200 + 6 * 44


def test_numbers_that_do_not_fit_are_refused() -> None:
    fixed = fixed_point(100)
    for change, words in [
        ({"clients": 2}, "clients is 2; it must be in \\[3, 4097\\)"),
        ({"clients": 4097}, "clients is 4097"),
        ({"privacy": 0}, "privacy is 0"),
        ({"dropouts": -1}, "dropouts is -1"),
        ({"privacy": 95}, "it must be at least 2, or the colluders"),
        ({"errors": -1}, "errors is -1"),
        ({"detect": 90}, "degree 99 .* too few neighbours"),
        ({"length": -1}, "length is -1"),
        ({"clients": 101}, "fixed is made for sums of 100 clients and clients is 101"),
        ({"degree": 4}, "degree 4 with threshold 4 .* 2\\^-[0-9.]+; it must be at most 2\\^-40"),
        ({"threshold": 2}, "it must be at most 2\\^-40"),
        ({"server": "kind"}, "server is 'kind'"),
        ({"server": "malicious"}, "0 identities are given and clients is 100"),
        ({"server": "malicious", "dropouts": 48}, "clients > 2·dropouts \\+ privacy"),
    ]:
        numbers = {"clients": 100, "privacy": 5, "dropouts": 5, "length": 3, "fixed": fixed}
        with pytest.raises(ArgumentError, match=words):
            SecAggPlus(**{**numbers, **change})  # type: ignore[arg-type]
    for change in ({"fixed": 16}, {"degree": 4.0}, {"threshold": "2"}, {"privacy": True}):
        numbers = {"clients": 100, "privacy": 5, "dropouts": 5, "length": 3, "fixed": fixed}
        with pytest.raises(DtypeError):
            SecAggPlus(**{**numbers, **change})  # type: ignore[arg-type]


def test_degree_and_threshold_are_part_of_the_session() -> None:
    one, two, three = (
        SecAggPlus(10, 1, 1, 3, fixed_point(10), degree=9, threshold=t) for t in (2, 3, 3)
    )
    assert one.parameters.digest() != two.parameters.digest() == three.parameters.digest()
    assert "degree=9, threshold=2" in repr(one)


@pytest.mark.gpu
def test_updates_on_the_gpu_give_the_same_sum() -> None:
    protocol = SecAggPlus(6, 1, 2, 1000, fixed_point(6))
    updates = some_updates(6, 1000)
    drop = {"share": {1}, "upload": {4}}
    here = simulate(protocol, updates, drop=drop, key=Key(SECRET))
    there = simulate(protocol, [u.cuda() for u in updates], drop=drop, key=Key(SECRET))
    assert here.integers.tolist() == there.integers.tolist()
    assert here.traffic == there.traffic
