"""Deadlines of phases, with a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pyfed.errors import ArgumentError, DtypeError, ProtocolError, ThresholdError
from secagg.journeys import SERVER, Event, Journey, Scene, absorb
from secagg.rounds import state
from secagg.scenes import EVERY, lightsecagg

SECONDS = 10.0


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Timed:
    """A journey whose server closes phases by ``poll`` alone.

    Args:
        scene: what is played.
        late: clients whose messages of ``turn`` do not come in time.
        turn: the turn in which they are late.
    """

    scene: Scene
    late: tuple[int, ...] = ()
    turn: int = 0
    clock: Clock = field(default_factory=Clock)
    held_back: list[Event] = field(default_factory=list)
    waits: int = 0

    def journey(self) -> Journey:
        deadlines = dict.fromkeys(self.scene.protocol.phases, SECONDS)
        options = {"deadlines": deadlines, "clock": self.clock}
        return Journey(self.scene, hook=self, server_options=options)

    def __call__(self, journey: Journey, event: Event) -> list[bytes]:
        if event.party in self.late:
            return absorb(journey, event)  # it may get a result that it has not followed
        if event.party != SERVER:
            return journey.perform(event)
        if event.data is None:
            return self.polled(journey)
        if event.turn == self.turn and event.source in self.late:
            self.held_back.append(event)
            return []
        sent = journey.perform(event)
        if journey.server.waiting:
            assert journey.server.poll() == []  # others may still come
        return sent

    def polled(self, journey: Journey) -> list[bytes]:
        """The end of a phase: at once when all have answered, else at the deadline."""
        server = journey.server
        assert server.remaining == SECONDS
        if server.waiting:
            phase, before = server.phase, state(server)
            for step in (0.0, SECONDS / 2, SECONDS / 2 - 0.001):
                self.clock.now += step
                assert server.poll() == []
                assert server.phase == phase and state(server) == before
            self.clock.now += 0.001
            self.waits += 1
        data = [message.to_bytes() for message in server.poll()]
        for event in self.held_back:
            if event.turn == journey.turn:
                before = state(server)
                with pytest.raises(ProtocolError):
                    journey.perform(event)
                assert state(server) == before
        return data


@EVERY
def test_a_phase_is_closed_as_soon_as_everybody_has_answered(scene: Scene) -> None:
    timed = Timed(scene)
    journey = timed.journey().run()
    assert timed.waits == 0 and timed.clock.now == 100.0
    assert journey.server.remaining is None and journey.server.poll() == []


@EVERY
def test_at_the_deadline_the_round_goes_on_without_those_who_are_late(scene: Scene) -> None:
    for turn in range(Journey(scene).run().turn):
        timed = Timed(scene, late=(1,), turn=turn)
        timed.journey().run()  # checks the exact sum
        if any(event.source == 1 for event in timed.held_back):
            assert timed.waits >= 1


@EVERY
def test_a_deadline_with_too_few_answers_is_an_error_and_the_phase_stays_open(
    scene: Scene,
) -> None:
    late = tuple(range(scene.losses + 1))
    timed = Timed(scene, late)
    journey = timed.journey()
    with pytest.raises(ThresholdError) as caught:
        journey.take_turn()
    assert caught.value.missing == late
    assert caught.value.needed == scene.clients - scene.losses
    server, phase = journey.server, journey.server.phase
    with pytest.raises(ThresholdError):
        server.poll()
    for event in timed.held_back:
        journey.perform(event)
    assert server.phase == phase
    for message in server.poll():
        journey.deliver(message.to_bytes())
    journey.turn, timed.late = 1, ()
    journey.run()


def test_without_a_deadline_a_server_waits_for_everybody() -> None:
    scene = lightsecagg("curious")
    clock = Clock()
    journey = Journey(scene, server_options={"clock": clock, "deadlines": {"share": 5.0}})
    journey.clients_act()
    clock.now += 1e9
    assert journey.server.remaining is None
    assert journey.server.poll() == []


@pytest.mark.parametrize(
    ("deadlines", "error", "text"),
    [
        ({"hop": 1.0}, ArgumentError, "names the phase 'hop'"),
        ({"keys": -1.0}, ArgumentError, "must be at least 0"),
        ({"keys": float("nan")}, ArgumentError, "must be at least 0"),
        ({"keys": "1"}, DtypeError, "must be seconds"),
        ({"keys": True}, DtypeError, "must be seconds"),
        (5.0, DtypeError, "must map phases"),
    ],
)
def test_deadlines_that_are_none_are_refused(
    deadlines: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        lightsecagg("curious").protocol.server(0, deadlines=deadlines)


def test_a_clock_must_be_a_function() -> None:
    with pytest.raises(DtypeError, match="clock"):
        lightsecagg("curious").protocol.server(0, clock=5.0)
