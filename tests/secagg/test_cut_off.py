"""Steps that memory or an interrupt cuts off: the party is closed, and no sum is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyfed.errors import ProtocolError
from pyfed.secagg import secaggplus_client, secaggplus_server
from secagg.canaries import alive
from secagg.journeys import Event, Journey, Scene
from secagg.plus_rounds import scene as plus
from secagg.rounds import Round, protocol, refuse
from secagg.scenes import EVERY

PLACES = 12
"""Ops of a round that fail, each in a round of its own."""


class Failing(TorchDispatchMode):
    """One op of torch or pyfed, counted from 0, raises an error."""

    def __init__(self, at: int, error: type[Exception] = MemoryError) -> None:
        super().__init__()
        self.at, self.calls, self.error = at, 0, error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise self.error("an op fails")
        return func(*args, **(kwargs or {}))


def tried_again(journey: Journey, event: Event) -> list[bytes]:
    """Let an event happen; what is cut off is tried again, as an engine might."""
    try:
        return journey.perform(event)
    except (MemoryError, TimeoutError):
        party = journey.parties[event.party]
        assert party.phase == "closed"
        with pytest.raises(ProtocolError, match="the round is closed"):
            journey.perform(event)
        raise


@EVERY
def test_a_step_that_is_cut_off_closes_the_party(scene: Scene) -> None:
    Journey(scene).run()  # matrices of the code are made once
    with Failing(-1) as undisturbed:
        journey = Journey(scene)
        first = undisturbed.calls
        while journey.server.phase != "done":
            journey.take_turn()
    count = undisturbed.calls - first
    for number, place in enumerate(range(0, count, count // PLACES)):
        error = (MemoryError, TimeoutError)[number % 2]  # one is an OSError, but no journal's
        with Failing(first + place, error):
            journey = Journey(scene, hook=tried_again)
            with pytest.raises(error):
                journey.run()


def test_keys_that_survivors_told_are_not_taken_for_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead dealer that shared rubbish is uncovered by told keys, which are wiped once used."""
    original, honest = secaggplus_client.SecAggPlusClient._dealt_boxes, secaggplus_server.summed

    def dealt(self: Any, peers: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            if self._number == 2:
                inner.setattr(secaggplus_client, "secret_words", lambda key: [1] * 9)
            return original(self, peers)

    def fail(*given: Any) -> torch.Tensor:
        monkeypatch.setattr(secaggplus_server, "summed", honest)
        raise MemoryError("no memory")

    monkeypatch.setattr(secaggplus_client.SecAggPlusClient, "_dealt_boxes", dealt)
    Journey(plus(6, 1, 1), lost=frozenset({(2, 2)})).run()
    monkeypatch.setattr(secaggplus_server, "summed", fail)
    with pytest.raises(MemoryError):
        Journey(plus(6, 1, 1), lost=frozenset({(2, 2)}), hook=tried_again).run()


def test_an_interrupt_closes_and_a_refusal_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Round(protocol())
    run.send("keys")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        run.server.handle(run.upwards[0])
    refuse(run.server, run.upwards[0], 1, "names sender 0, but came from 1")
    assert run.server.phase == "keys"

    def interrupt(message: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.server, "_on_hello", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.server.handle(run.upwards[0], 0)
    refuse(run.server, run.upwards[0], 0, "the round is closed")


def test_a_party_is_closed_even_where_it_could_not_be_wiped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Round(protocol())

    def fail() -> None:
        raise MemoryError("no memory")

    for party in (run.server, run.clients[0]):
        monkeypatch.setattr(party, "_wipe", fail)
        with pytest.raises(MemoryError):
            party.close()
        assert party.phase == "closed"


def test_poll_of_a_closed_server_does_not_wait_for_ever() -> None:
    run = Round(protocol())
    run.server.close()
    with pytest.raises(ProtocolError, match="the round is closed"):
        run.server.poll()


@EVERY
def test_what_is_made_in_inference_mode_is_wiped_outside_of_it(scene: Scene) -> None:
    with torch.inference_mode():
        journey = Journey(scene)
        journey.take_turn()
        parties = [*journey.parties.values(), journey.resumed(0, journey.saved(0))]
    for party in parties:
        party.close()
        assert party.phase == "closed"
    assert alive([client._root for client in parties[1:]]) == []
