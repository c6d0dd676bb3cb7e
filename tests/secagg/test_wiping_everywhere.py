"""No secret outlives its use, in any protocol: after a round, after close, and after an error."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from pyfed.errors import ProtocolError, PyfedError
from secagg.canaries import Canaries, alive, watch_keys
from secagg.journeys import SERVER, Event, Journey, Scene
from secagg.scenes import EVERY

pytestmark = pytest.mark.usefixtures("same_chance")


def close(party: Any) -> None:
    """Close a party, and give up what it would keep for the next round."""
    with contextlib.suppress(ProtocolError):  # it has not started, or is closed already
        if hasattr(type(party), "setup"):
            party.setup.wipe()
    party.close()


def close_all(journey: Journey) -> None:
    for party in journey.parties.values():
        close(party)


@EVERY
def test_nothing_is_left_when_a_round_has_ended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = watch_keys(monkeypatch)
    most = 0

    def hook(journey: Journey, event: Event) -> list[bytes]:
        nonlocal most
        sent = journey.perform(event)
        if event.party != SERVER:
            most = max(most, len(canaries.left()))
        return sent

    with Canaries() as canaries:
        journey = Journey(scene, hook=hook).run()
        assert all(client.phase == "done" for client in journey.clients)
        assert scene.keeps or canaries.left() == set()
        close_all(journey)
    assert most > 10  # they are seen while they are needed
    assert canaries.left() == set()
    assert len(made) > 3 * scene.clients
    assert alive(made) == []


@EVERY
def test_nothing_is_left_when_parties_are_closed_in_any_phase(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = Journey(scene).run().turn
    made = watch_keys(monkeypatch)
    for turns in range(last):
        for half in (False, True):
            with Canaries() as canaries:
                journey = Journey(scene)
                for _ in range(turns):
                    journey.take_turn()
                if half:
                    for event in journey.clients_act():
                        journey.happen(event)
                close_all(journey)
            assert canaries.left() == set(), (turns, half)
            assert alive(made) == [], (turns, half)
            assert all(party.phase == "closed" for party in journey.parties.values())


def calls_of(scene: Scene) -> int:
    """How many pyfed ops a round has."""
    with Canaries() as canaries:
        Journey(scene).run()
    return canaries.calls


@EVERY
def test_nothing_is_left_when_any_op_fails_for_want_of_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = calls_of(scene)
    made = watch_keys(monkeypatch)
    for fail_at in range(0, count, max(1, count // 25)):
        with Canaries(fail_at) as canaries:
            journey = Journey(scene)
            with contextlib.suppress(MemoryError, PyfedError):
                journey.run()
            close_all(journey)
        assert canaries.calls > fail_at
        assert canaries.left() == set(), fail_at
        assert alive(made) == [], fail_at


@EVERY
def test_a_party_that_was_resumed_leaves_nothing_either(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the one that was killed, when it is closed: snapshots are made of copies."""
    made = watch_keys(monkeypatch)
    killed = []

    def hook(journey: Journey, event: Event) -> list[bytes]:
        sent = journey.perform(event)
        killed.append(journey.parties[event.party])
        journey.revive(event.party)
        return sent

    with Canaries() as canaries:
        journey = Journey(scene, hook=hook).run()
        for party in (*killed, *journey.parties.values()):
            close(party)
    assert canaries.left() == set()
    assert alive(made) == []


@pytest.mark.gpu
@EVERY
def test_nothing_is_left_on_cuda(scene: Scene) -> None:
    there = scene.on_device("cuda")
    with Canaries() as canaries:
        journey = Journey(there, server_options={"device": "cuda"}).run()
        torch.cuda.synchronize()
        close_all(journey)
    assert any(tensor.is_cuda for tensor in canaries.tensors.values())
    assert canaries.left("cuda") == set()
    assert canaries.left() == set()
