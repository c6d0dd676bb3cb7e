"""Hostile messages in every phase of every protocol: refused without a trace, or harmless."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from pyfed.errors import DecodeError, ProtocolError, ThresholdError
from pyfed.secagg import Message
from secagg.fuzz import Fuzzer
from secagg.journeys import SERVER, Event, Journey, Scene, absorb, letters
from secagg.rounds import state
from secagg.scenes import EVERY, every_scene, masked_residues

OWN_INPUT = {"Upload"}
"""Messages in which a client says what its update is: another one gives another exact sum."""


@functools.cache
def genuine(scene: Scene) -> list[bytes]:
    """Messages of this scene: of this session, another round and another session."""
    rounds: tuple[dict[str, Any], ...] = ({}, {"round": 1}, {"secret": 1})
    return [event.data for more in rounds for event in letters(scene, **more) if event.data]


@functools.cache
def foreign(scene: Scene) -> list[bytes]:
    """Messages of the other protocols and modes."""
    others = [other for other in every_scene() if other.name != scene.name]
    return [event.data for other in others for event in letters(other) if event.data]


def fuzzer(scene: Scene, seed: int) -> Fuzzer:
    rng = random.Random(seed)
    strangers = foreign(scene)
    pool = [*genuine(scene), *rng.sample(strangers, min(40, len(strangers)))]
    return Fuzzer(seed, pool, scene.clients, scene.protocol.parameters.field.modulus)


def strike(journey: Journey, who: int, data: bytes, source: int) -> tuple[str, Message | None]:
    """Give a party hostile bytes; it takes them, closes, or is as it was.

    Returns:
        ``unread``, ``refused``, ``closed`` or ``taken``, and the message if there is one.
    """
    try:
        message = journey.read(data)
    except ProtocolError:
        return "unread", None
    party = journey.parties[who]
    before = state(party)
    try:
        party.handle(message, source)
    except (ProtocolError, ThresholdError, DecodeError) as error:
        if party.phase == "closed":
            assert "closed" in str(error) or "burnt" in str(error), error
            return "closed", message
        assert state(party) == before, f"{message.kind} changed {who}: {error}"
        if isinstance(error, ProtocolError):
            assert error.phase in (*journey.scene.protocol.phases, "done", "")
        else:
            assert message.kind == "Answers"
        return "refused", message
    return "taken", message


def bombard(scene: Scene, seed: int, each: int) -> Counter[str]:
    """A round in which every party gets so many hostile messages before each genuine one."""
    made, told = fuzzer(scene, seed), Counter[str]()

    def hook(journey: Journey, event: Event) -> list[bytes]:
        snapshot = None
        for _ in range(each):
            data = made.hostile(event.data or made.rng.choice(made.pool))
            if snapshot is None and started(journey, event.party):
                snapshot = journey.saved(event.party)
            outcome, _ = strike(journey, event.party, data, made.source(event.source))
            told[outcome] += 1
            if outcome in ("taken", "closed"):
                assert snapshot is not None
                journey.revive(event.party, snapshot)
        return journey.perform(event)

    Journey(scene, hook=hook).run()
    return told


def started(journey: Journey, who: int) -> bool:
    return who == SERVER or journey.turn > 0


def with_one_taken(scene: Scene, seed: int, attempts: int = 60) -> str:
    """A round in which one hostile message takes the place of a genuine one; how it ended."""
    made = fuzzer(scene, seed)
    target = made.rng.randrange(1, len(genuine(scene)) // 3)  # of one of three rounds
    seen, taken = 0, list[tuple[Event, Message]]()

    def hook(journey: Journey, event: Event) -> list[bytes]:
        nonlocal seen
        if taken and event.party == taken[0][0].party and event.turn == taken[0][0].turn:
            return absorb(journey, event)
        if event.data is None or taken:
            return absorb(journey, event)
        seen += 1
        if seen < target:
            return journey.perform(event)
        snapshot = journey.saved(event.party)
        for _ in range(attempts):
            data = made.hostile(event.data)
            outcome, message = strike(journey, event.party, data, event.source)
            if outcome == "taken":
                assert message is not None
                journey.revive(event.party, snapshot)
                taken.append((event, message))
                sent = journey.parties[event.party].handle(message, event.source)
                return [m.to_bytes() for m in sent]
            if outcome == "closed":
                journey.revive(event.party, snapshot)
        return journey.perform(event)

    journey = Journey(scene, hook=hook)
    try:
        while journey.server.phase != "done":
            journey.take_turn()
    except (ThresholdError, DecodeError) as error:
        return type(error).__name__
    if taken and taken[0][1].kind in OWN_INPUT:
        event, message = taken[0]
        assert event.data is not None
        was, now = (masked_residues(m) for m in (journey.read(event.data), message))
        if was != now:
            return "another input"
    scene.check(journey)
    return "exact" if taken else "none taken"


@EVERY
def test_hostile_messages_change_nothing_and_the_round_ends_right(scene: Scene) -> None:
    told = bombard(scene, seed=5, each=6)
    assert told["refused"] > 10 and told["unread"] > 50
    assert sum(told.values()) >= 300  # 8 scenes: well above 1,000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@EVERY
def test_many_hostile_messages_change_nothing_and_rounds_end_right(scene: Scene, seed: int) -> None:
    each = -(-1_300 // len(Journey(scene).run().events))
    assert sum(bombard(scene, 100 + seed, each).values()) >= 1_300


@EVERY
def test_a_round_that_takes_a_hostile_message_has_no_wrong_sum(scene: Scene) -> None:
    ends = Counter(with_one_taken(scene, seed) for seed in range(3))
    assert sum(ends.values()) == 3


@pytest.mark.slow
@EVERY
def test_many_rounds_that_take_a_hostile_message_have_no_wrong_sum(scene: Scene) -> None:
    ends = Counter(with_one_taken(scene, seed) for seed in range(1_000, 1_150))
    assert ends["exact"] > 30


def misplaced(journey: Journey, who: int, strangers: Sequence[bytes], source: int) -> None:
    for data in strangers:
        outcome, message = strike(journey, who, data, source)
        assert outcome in ("unread", "refused"), (outcome, message and message.kind)


@EVERY
def test_messages_of_other_rounds_sessions_protocols_and_modes_are_refused(scene: Scene) -> None:
    rng = random.Random(3)
    other_round, other_session = (letters(scene, **m) for m in ({"round": 1}, {"secret": 1}))
    strangers = foreign(scene)

    def hook(journey: Journey, event: Event) -> list[bytes]:
        if started(journey, event.party):
            same_place = [
                e.data
                for e in (*other_round, *other_session)
                if e.data and (e.turn, e.party, e.source) == (event.turn, event.party, event.source)
            ]
            kind = event.data and journey.read(event.data).kind
            if kind in ("Hello", "Roster"):  # before there is a session, another key is as good
                same_place = [d for d in same_place if journey.read(d).round != journey.round]
            misplaced(journey, event.party, same_place, event.source)
            misplaced(
                journey, event.party, rng.sample(strangers, min(4, len(strangers))), event.source
            )
        return journey.perform(event)

    Journey(scene, hook=hook).run()


@EVERY
def test_every_earlier_message_again_is_refused_or_answered_with_the_same_bytes(
    scene: Scene,
) -> None:
    past: list[Event] = []
    said: set[bytes] = set()

    def hook(journey: Journey, event: Event) -> list[bytes]:
        sent = journey.perform(event)
        said.update(sent)
        if event.data is not None:
            past.append(event)
            party = journey.parties[event.party]
            for letter in past:
                if letter.party != event.party or letter.data is None:
                    continue
                before = state(party)
                try:
                    again = party.handle(journey.read(letter.data), letter.source)
                except ProtocolError:
                    assert party.phase != "closed"
                else:
                    assert said.issuperset(message.to_bytes() for message in again)
                assert state(party) == before
        return sent

    Journey(scene, hook=hook).run()


@pytest.mark.parametrize("seed", range(3))
@EVERY
def test_the_order_of_arrival_changes_no_bit(scene: Scene, seed: int) -> None:
    rng = random.Random(seed)
    shuffled = Journey(scene, order=lambda events: rng.sample(events, len(events))).run()
    straight = Journey(scene).run()
    server = [e.data for e in straight.events if e.party >= 0]
    assert [e.data for e in shuffled.events if e.party >= 0] == server


def with_a_late_message(scene: Scene, turn: int) -> Journey:
    """A round in which client 1's messages of a turn come after the phase was closed."""
    late: list[Event] = []

    def hook(journey: Journey, event: Event) -> list[bytes]:
        if event.turn == turn and (event.party, event.source) == (SERVER, 1):
            late.append(event)
            return []
        if event.turn == turn + 1 and event.party == SERVER and event.data is None:
            before = state(journey.server)
            for letter in late:
                with pytest.raises(ProtocolError):
                    journey.perform(letter)
            assert state(journey.server) == before
        return absorb(journey, event)

    return Journey(scene, hook=hook).run()


@EVERY
def test_messages_that_come_after_their_phase_are_refused(scene: Scene) -> None:
    for turn in range(Journey(scene).run().turn):
        included = with_a_late_message(scene, turn).included
        assert included >= set(range(scene.clients)) - {1}
