"""What a roster makes a client of SecAgg+ compute: nothing before it is checked, and one row."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from pyfed.secagg import secaggplus_client
from pyfed.secagg.common import Roster
from pyfed.secagg.graph import neighbours
from pyfed.secagg.session import SERVER
from secagg.journeys import Journey
from secagg.plus_rounds import scene
from secagg.rounds import refuse, replaced


def rosters(mode: str) -> tuple[Journey, list[Roster]]:
    """A round in which the server sends its rosters."""
    journey = Journey(scene(10, 1, 2, mode))
    for event in journey.clients_act():
        journey.happen(event)
    return journey, journey.server.close_phase()  # type: ignore[return-value]


def changed(journey: Journey, message: Roster, change: dict[str, Any]) -> Roster:
    """Another roster, with the session that it has."""
    new: Any = replaced(message, **change)
    session = journey.scene.protocol.parameters.session(new.roster, new.nonce)
    return replaced(new, session=session)


CHANGES = {
    "does not hold this client's own key": lambda m: {
        "roster": (*m.roster[:3], *m.roster[4:]),
        "signatures": m.signatures[:-1],
    },
    "it must name at least 8": lambda m: {
        "roster": m.roster[:7],
        "signatures": m.signatures[:7],
    },
    "keys of client 0 that its pinned identity has not signed": lambda m: {
        "signatures": (bytes(64), *m.signatures[1:]),
    },
}


@pytest.mark.parametrize("text", CHANGES)
def test_the_graph_of_a_roster_that_is_refused_is_not_made(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey, sent = rosters("malicious")
    asked: list[Any] = []

    def watched(*given: Any) -> tuple[int, ...]:
        asked.append(given)
        return neighbours(*given)

    monkeypatch.setattr(secaggplus_client, "neighbours", watched)
    client = journey.parties[3]
    refuse(client, changed(journey, sent[3], CHANGES[text](sent[3])), SERVER, text)
    assert asked == []
    assert [message.kind for message in client.handle(sent[3], SERVER)] == ["Share"]
    assert len(asked) == 1


@pytest.mark.parametrize("degree", [32, 4095])
def test_a_client_of_a_large_round_keeps_its_own_neighbours_alone(degree: int) -> None:
    members = tuple(range(4096))
    neighbours(b"another large session of 32 byte", members, degree, 77)  # imports, if any
    tracemalloc.start()
    try:
        found = neighbours(b"some large session of 32 bytes..", members, degree, 77)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == degree and 77 not in found
    assert most < 2**20  # all rows of the complete graph take 134 MB
