"""Attacks on SecAgg+: both secrets of one client, split views, other dealers; and what stays."""

from __future__ import annotations

import pytest

from pyfed import Key
from pyfed.errors import ProtocolError
from pyfed.secagg import secaggplus
from pyfed.secagg.common import Quorum
from pyfed.secagg.digests import fingerprint
from pyfed.secagg.secaggplus_client import SecAggPlusClient
from pyfed.secagg.secaggplus_messages import settled_session
from pyfed.secagg.session import SERVER
from secagg.attacks import minus, secret_of, sent_by, words
from secagg.canaries import alive as alive_keys
from secagg.canaries import watch_keys
from secagg.journeys import Journey, Ledger
from secagg.plus_oracle import Plus, revealed
from secagg.plus_rounds import EVERYBODY, WITHOUT, alive, scene, uploaded
from secagg.rounds import refuse, replaced
from secagg.scenes import round_key


@pytest.mark.parametrize("first", [EVERYBODY, WITHOUT])
@pytest.mark.parametrize("mode", ["curious", "malicious"])
def test_no_client_answers_that_another_is_alive_and_then_that_it_is_dead(
    mode: str, first: tuple[int, ...]
) -> None:
    journey = uploaded(scene(6, 1, 2, mode))
    client = journey.parties[4]
    (answer,) = client.handle(alive(journey, 4, first), SERVER)
    assert answer.kind == ("Unmask" if mode == "curious" else "Commit")
    assert client.handle(alive(journey, 4, first), SERVER) == [answer]  # the same bytes again
    second = WITHOUT if first == EVERYBODY else EVERYBODY
    with pytest.raises(ProtocolError, match="a second set of survivors came"):
        client.handle(alive(journey, 4, second), SERVER)
    assert client.phase == "closed"
    assert not client._held.any() and client._pair_keys == {}


def both_secrets(journey: Journey, clients: list[int]) -> list[int]:
    """Client 2's update, by clients that are asked twice because they came back from a crash."""
    seeds, keys = {}, {}
    for client in clients:
        snapshot = journey.saved(client)
        for survivors, part, into in ((EVERYBODY, "seeds", seeds), (WITHOUT, "keys", keys)):
            journey.revive(client, snapshot)
            (answer,) = journey.parties[client].handle(alive(journey, client, survivors), SERVER)
            row = journey.server._graph[2].index(client)
            into[row] = words(dict(getattr(answer, part))[2])
    oracle = Plus(journey, sent_by(journey, 0, "Share").session)
    degree = journey.scene.protocol.parameters.degree
    assert revealed(seeds, degree) == oracle.seeds[2]
    assert revealed(keys, degree) == oracle.privates[2]
    value = words(sent_by(journey, 2, "Upload").masked)
    value = minus(value, oracle.mask(oracle.seeds[2]), oracle.p)
    for peer in journey.server._graph[2]:
        mask = oracle.mask(oracle.pair_key(2, peer))
        sign = 1 if peer > 2 else -1
        value = minus(value, [sign * m for m in mask], oracle.p)
    return value


def test_clients_that_answer_twice_would_give_an_update_away() -> None:
    journey = uploaded(scene(6, 1, 2))
    p = journey.scene.protocol.parameters.field.modulus
    secret = [value % p for value in secret_of(journey, 2)]
    assert both_secrets(journey, [0, 1]) == secret  # the threshold is 2


@pytest.mark.parametrize("mode", ["curious", "malicious"])
def test_a_journal_keeps_a_client_that_came_back_from_answering_twice(mode: str) -> None:
    journals = {client: Ledger() for client in range(6)}
    journey = uploaded(scene(6, 1, 2, mode), journals)
    snapshot = journey.saved(1)
    (answer,) = journey.parties[1].handle(alive(journey, 1, EVERYBODY), SERVER)
    journey.revive(1, snapshot)
    assert journey.parties[1].handle(alive(journey, 1, EVERYBODY), SERVER) == [answer]
    journey.revive(1, snapshot)
    with pytest.raises(ProtocolError, match="burnt"):
        journey.parties[1].handle(alive(journey, 1, WITHOUT), SERVER)
    assert journey.parties[1].phase == "closed"


@pytest.mark.parametrize(
    ("survivors", "text"),
    [
        ((0, 1, 2, 3, 5), "leave this client out"),
        ((1, 3, 4), "names 3 clients; it must name at least 4"),
        ((0, 1, 2, 4, 4, 5), "sorted, and name nobody twice"),
        ((0, 1, 2, 4, 3, 5), "sorted, and name nobody twice"),
        ((0, 1, 2, 3, 4, 6), "each of survivors must be an integer in"),
    ],
)
def test_a_set_of_survivors_that_cannot_be_is_refused(
    survivors: tuple[int, ...], text: str
) -> None:
    journey = uploaded(scene(6, 1, 2))
    good = alive(journey, 4, EVERYBODY)
    refuse(journey.parties[4], replaced(good, survivors=survivors), SERVER, text)


def test_a_survivor_that_has_dealt_nothing_is_refused() -> None:
    journey = Journey(scene(6, 1, 2), lost=frozenset({(1, 5)}))
    journey.take_turn()
    journey.take_turn()
    journey.clients_act()
    message = alive(journey, 4, EVERYBODY)
    refuse(journey.parties[4], message, SERVER, "a client that has dealt no shares")


def test_a_server_that_shows_no_quorum_gets_no_share() -> None:
    journey = uploaded(scene(6, 1, 2, "malicious"))
    (commit,) = journey.parties[4].handle(alive(journey, 4, EVERYBODY), SERVER)
    assert commit.kind == "Commit"
    assert journey.parties[4]._held.any()  # still here, and not sent


def test_the_dealers_are_part_of_the_session_from_the_inbox_on() -> None:
    journey = uploaded(scene(6, 1, 2))
    before = sent_by(journey, 0, "Share").session
    after = sent_by(journey, 0, "Upload").session
    assert after == settled_session(before, EVERYBODY) != before
    assert settled_session(before, WITHOUT) not in (before, after)
    other = replaced(alive(journey, 4, EVERYBODY), session=settled_session(before, WITHOUT))
    refuse(journey.parties[4], other, SERVER, "of another session")


def lonely(monkeypatch: pytest.MonkeyPatch) -> tuple[Journey, int]:
    """A malicious server shows client 0 dealers among whom it has no neighbour.

    The degree is below the number of drops, as in large sessions, where planned numbers allow it.
    """
    monkeypatch.setattr(secaggplus, "plan", lambda *given: (4, 3))
    journey = Journey(scene(15, 1, 5, "malicious"))
    journey.take_turn()
    for event in journey.clients_act():
        journey.happen(event)
    server, victim = journey.server, 0
    journey.turn += 1
    for message in server.close_phase():
        if message.recipient == victim:
            left = tuple(d for d in message.dealers if d not in server._graph[victim])
            message = replaced(message, dealers=left, boxes=())
        journey.deliver(message.to_bytes())
    for event in journey.clients_act():
        if event.source != victim:
            journey.happen(event)
    return journey, victim


def test_a_client_that_masks_with_other_dealers_is_not_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journey, victim = lonely(monkeypatch)
    server = journey.server
    upload = sent_by(journey, victim, "Upload")
    with pytest.raises(ProtocolError, match="of another session"):
        server.handle(upload, victim)  # an honest server would not even take it
    server._pledges[victim] = upload.pledge
    for peer in server._graph[victim]:
        message = alive(journey, peer, tuple(range(15)))
        refuse(journey.parties[peer], message, SERVER, "client 0, which has not pledged")
        bare = replaced(message, pledges=())
        refuse(journey.parties[peer], bare, SERVER, "Alive must hold 4 pledges")


def test_without_pledges_it_would_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    journey, victim = lonely(monkeypatch)
    monkeypatch.setattr(SecAggPlusClient, "_expect_pledges", lambda self, message: None)
    server, everybody = journey.server, tuple(range(15))
    upload = sent_by(journey, victim, "Upload")
    server._pledges[victim] = upload.pledge
    commits = {}
    for client in range(1, 15):
        (commit,) = journey.parties[client].handle(alive(journey, client, everybody), SERVER)
        commits[client] = commit.signature
    rows = {}
    for peer in server._graph[victim]:
        quorum = Quorum(**server._envelope(peer), signatures=tuple(sorted(commits.items())))
        (answer,) = journey.parties[peer].handle(quorum, SERVER)
        rows[server._graph[victim].index(peer)] = words(dict(answer.seeds)[victim])
    oracle = Plus(journey, sent_by(journey, 1, "Share").session)
    seed = revealed(dict(list(rows.items())[:3]), 4)
    found = minus(words(upload.masked), oracle.mask(seed), oracle.p)
    assert found == [value % oracle.p for value in secret_of(journey, victim)]


def test_an_upload_with_a_false_pledge_is_refused() -> None:
    journey = Journey(scene(6, 1, 2, "malicious"))
    journey.take_turn()
    journey.take_turn()
    events = {event.source: journey.read(event.data or b"") for event in journey.clients_act()}
    first, second = events[1], events[2]
    forged = replaced(first, pledge=second.pledge, signature=b"")  # type: ignore[attr-defined]
    signed = journey.scene.identities[1].signed(forged)
    refuse(journey.server, signed, 1, "Upload has a false pledge")
    assert journey.server.handle(first, 1) == []


def test_what_is_released_is_in_the_journal() -> None:
    journals = {client: Ledger() for client in range(6)}
    journey = Journey(scene(6, 1, 2), journals=journals).run()
    upload = sent_by(journey, 3, "Upload").masked
    assert set(journals[3].entries) == {"roster", "upload", "answer"}
    own = Key(round_key(3, 0, 0)).derive("journal")
    assert journals[3].entries["upload"] == fingerprint(own, upload)


def test_secrets_are_overwritten_as_soon_as_they_have_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = watch_keys(monkeypatch)
    journey = Journey(scene(6, 1, 2), lost=frozenset({(2, 5)}))
    journey.take_turn()
    client = journey.parties[0]
    journey.take_turn()
    values = client._values  # still the plain update
    journey.take_turn()
    assert not values.any() and client._root.reveal() == bytes(32)
    held, pairs = client._held, list(client._pair_keys.values())
    assert held.any() and len(alive_keys(pairs)) == 5  # for the shares and keys that are asked for
    journey.take_turn()
    assert not held.any() and not alive_keys(pairs)
    server = journey.server
    assert server._uploads == {} and server._pairs == {}
    assert not any(rows.any() for rows in server._rows.values())
    journey.clients_act()
    for party in journey.parties.values():
        party.close()
    assert not alive_keys(made)
