"""SwiftAgg+ with lost clients: at any moment the exact sum, or an error that names them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import pytest

from pyfed.errors import ThresholdError
from pyfed.secagg import Message
from secagg.swift_rounds import PHASES, SwiftRound, agreed_on, included, random_drops, swift


def every_moment(agreed: Any) -> list[Any]:
    return [*PHASES, *(("recover", step) for step in range(1, agreed.parameters.layout.hops))]


def test_any_client_may_be_lost_at_any_moment() -> None:
    for setting in ((8, 2, 1, 1, 2, {}), (7, 1, 1, 1, 1, {}), (9, 1, 1, 1, 1, {"tree": "chain"})):
        agreed = agreed_on(setting)
        for client, moment in itertools.product(range(setting[0]), every_moment(agreed)):
            run = SwiftRound(agreed, {moment: {client}}, seed=client).play()
            run.check(included(agreed, {moment: {client}}))


@pytest.mark.slow
@pytest.mark.parametrize("clients", range(3, 13))
@pytest.mark.parametrize("tree", ["chain", "binary"])
def test_any_client_may_be_lost_at_any_moment_up_to_twelve_clients(clients: int, tree: str) -> None:
    for blocks, privacy in itertools.product(range(1, 4), range(1, 3)):
        if blocks + privacy + 1 > clients or clients - 1 - privacy < 2:
            continue
        agreed = swift(clients, privacy, 1, blocks, tree=tree, length=3)
        for client, moment in itertools.product(range(clients), every_moment(agreed)):
            run = SwiftRound(agreed, {moment: {client}}, seed=client).play()
            run.check(included(agreed, {moment: {client}}))


def two_drops(clients: int, moments: Iterable[Any]) -> list[dict[Any, set[int]]]:
    drops = []
    for one, two in itertools.combinations(range(clients), 2):
        for first, second in itertools.product(moments, repeat=2):
            drop: dict[Any, set[int]] = {first: {one}}
            drop.setdefault(second, set()).add(two)
            drops.append(drop)
    return drops


def test_two_clients_may_be_lost_at_any_two_moments_some() -> None:
    agreed = swift(10, 1, 2, 2, length=3)
    drops = two_drops(10, every_moment(agreed))
    for seed, drop in enumerate(random.Random(4).sample(drops, 60)):
        SwiftRound(agreed, drop, seed=seed).play().check(included(agreed, drop))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clients", "blocks", "tree"),
    [
        (5, 1, "binary"),
        (8, 1, "chain"),
        (9, 1, "binary"),
        (10, 2, "binary"),
        (11, 2, "chain"),
        (12, 1, "chain"),
        (12, 1, "binary"),
        (12, 3, "binary"),
    ],
)
def test_two_clients_may_be_lost_at_any_two_moments(clients: int, blocks: int, tree: str) -> None:
    agreed = swift(clients, 1, 2, blocks, length=2, tree=tree)
    for seed, drop in enumerate(two_drops(clients, every_moment(agreed))):
        SwiftRound(agreed, drop, seed=seed).play().check(included(agreed, drop))


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))]
)
def test_random_losses_among_240_clients(seed: int) -> None:
    draw = random.Random(seed)
    blocks, privacy, dropouts = draw.randint(1, 12), draw.randint(1, 4), draw.randint(1, 12)
    agreed = swift(240, privacy, dropouts, blocks, length=5, tree=draw.choice(["chain", "binary"]))
    drop = random_drops(agreed, draw)
    SwiftRound(agreed, drop, seed=seed).play().check(included(agreed, drop))


@pytest.mark.parametrize("phase", PHASES[:3])
def test_more_losses_than_agreed_are_named_before_the_sum(phase: str) -> None:
    agreed = swift(8, 1, 1, 2)
    with pytest.raises(ThresholdError, match=r"missing are \[1, 6\]") as caught:
        SwiftRound(agreed, {phase: {6, 1}}).play()
    assert caught.value.missing == (1, 6)
    assert caught.value.needed == 7


def test_more_broken_columns_than_agreed_are_an_error_and_never_a_wrong_sum() -> None:
    """Losses after the barrier: an error when they break D + 1 columns, else the exact sum."""
    for setting in ((8, 2, 1, 1, 2, {}), (9, 1, 1, 1, 2, {"tree": "chain"}), (7, 1, 1, 1, 1, {})):
        agreed = agreed_on(setting)
        p = agreed.parameters
        moments = [("recover", step) for step in range(p.layout.hops)]
        for one, two in itertools.combinations(range(setting[0]), 2):
            for moment in moments:
                run = SwiftRound(agreed, {moment: {one, two}})
                acted = {  # who still had to hand on a sum
                    i
                    for i in (one, two)
                    if p.layout.seat(i)[1] < p.holders
                    and p.layout.heights[p.layout.seat(i)[0]] >= moment[1]
                }
                broken = {p.layout.seat(i)[1] for i in acted}
                if len(broken) <= p.dropouts:
                    run.play().check(range(setting[0]))
                    continue
                with pytest.raises(ThresholdError) as caught:
                    run.play()
                assert set(caught.value.missing) <= {one, two}
                assert len(caught.value.missing) > p.dropouts


def test_a_step_that_has_too_few_columns_may_be_closed_later() -> None:
    agreed = swift(8, 1, 1, 2)
    late: list[Message] = []

    def hold(message: Message) -> Message | None:
        if message.kind == "Hop" and message.sender in (5, 6):
            late.append(message)
            return None
        return message

    run = SwiftRound(agreed, tamper=hold)
    with pytest.raises(ThresholdError, match="recover"):
        run.play()
    assert run.server.waiting == {5, 6}
    for message in late:
        run.server.handle(message, message.sender)
    inbox = {m.recipient: m for m in run.server.close_phase()}
    for index, message in inbox.items():
        (row,) = run.clients[index].handle(message, -1)
        run.server.handle(row, index)
    run.server.close_phase()
    run.check(range(8))
