"""Attacks on LightSecAgg that work once a guard is gone, and do not while it is there."""

from __future__ import annotations

from typing import Any

import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg import FileJournal
from pyfed.secagg.common import Quorum
from pyfed.secagg.messages import Survivors
from pyfed.secagg.session import SERVER, survivors_digest
from secagg.attacks import centred, data_of, minus, secret_of, sent_by, value_at, words
from secagg.journeys import Event, Journey, with_data
from secagg.rounds import replaced
from secagg.scenes import lightsecagg

SMALL = {"clients": 6, "privacy": 2, "dropouts": 1, "detect": 2, "length": 3}  # K = 1, R = 3
WIDTH = 4
VICTIM, ALONE, COLLUDERS = 0, 1, (4, 5)


def held_rows(journey: Journey, client: int) -> list[list[int]]:
    """The shares that a client holds, by dealer."""
    rows: list[list[int]] = journey.parties[client]._held.tolist()
    return rows


class SplitView:
    """A server that leaves the victim out of the sum for all clients but one."""

    def __init__(self) -> None:
        self.known: dict[int, list[int]] = {}

    def __call__(self, journey: Journey, event: Event) -> list[bytes]:
        if event.party == SERVER or event.data is None:
            return journey.perform(event)
        message = journey.read(event.data)
        if isinstance(message, Survivors):
            if event.party in COLLUDERS:  # they tell the server the victim's shares
                self.known[event.party] = held_rows(journey, event.party)[VICTIM]
            if event.party not in (VICTIM, ALONE):
                without = tuple(i for i in message.survivors if i != VICTIM)
                event = with_data(event, replaced(message, survivors=without).to_bytes())
        return journey.perform(event)


def solved(journey: Journey, view: SplitView) -> list[int]:
    """The victim's update, out of one answer of each client and what the colluders hold."""
    scene = journey.scene
    p = scene.protocol.fixed.field.modulus
    without = {i: words(sent_by(journey, i, "Answer").row) for i in (2, 3, 4, 5)}
    there = value_at(without, ALONE, scene)  # the sum without the victim, at one client's point
    own = minus(words(sent_by(journey, ALONE, "Answer").row), there, p)
    mask = data_of({ALONE: own, **view.known}, scene, WIDTH)
    return centred(minus(words(sent_by(journey, VICTIM, "Upload").masked), mask, p), p)


def test_a_split_view_uncovers_an_update_under_a_curious_server_that_deviates() -> None:
    """Why ``server="malicious"`` exists: no client answers twice, and yet the server solves."""
    view = SplitView()
    journey = Journey(lightsecagg("curious", **SMALL), hook=view)
    for _ in range(3):
        journey.take_turn()
    journey.clients_act()
    assert solved(journey, view) == secret_of(journey, VICTIM)


class SplitQuorums:
    """The same under signatures: the server has each set signed by whom it can, and asks."""

    def __init__(self, journey: Journey) -> None:
        self.journey, self.view = journey, SplitView()
        scene = journey.scene
        everybody = tuple(range(scene.clients))
        self.sets = {True: everybody, False: everybody[1:]}  # with the victim, and without
        self.signatures: dict[bool, dict[int, bytes]] = {True: {}, False: {}}

    def asked(self, client: int) -> bool:
        return client in (VICTIM, ALONE)

    def collect(self) -> None:
        """Every client commits to the set that it is shown; colluders commit to both."""
        for i, letters in self.journey.mail.items():
            (genuine,) = map(self.journey.read, letters)
            if i in COLLUDERS:
                self.view.known[i] = held_rows(self.journey, i)[VICTIM]
            whole = self.asked(i)
            shown = replaced(genuine, survivors=self.sets[whole])
            (commit,) = self.journey.parties[i].handle(shown, SERVER)
            self.signatures[whole][i] = commit.signature
            if i in COLLUDERS:
                other = replaced(commit, digest=survivors_digest(self.sets[not whole]))
                signed = self.journey.scene.identities[i].signed(other)
                self.signatures[not whole][i] = signed.signature

    def answers(self) -> None:
        """Every client is shown the signatures on its set, and answers if they suffice."""
        for i in range(self.journey.scene.clients):
            if i == VICTIM:
                continue
            party = self.journey.parties[i]
            quorum = Quorum(
                **{**party._envelope(i), "sender": SERVER},
                signatures=tuple(sorted(self.signatures[self.asked(i)].items())),
            )
            event = Event(self.journey.turn, i, SERVER, quorum.to_bytes())
            self.journey.happen(event)


def test_a_split_view_gets_no_quorum_and_works_when_quorums_may_be_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journey = Journey(lightsecagg("malicious", **SMALL))
    for _ in range(3):
        journey.take_turn()
    split = SplitQuorums(journey)
    split.collect()
    assert max(map(len, split.signatures.values())) < journey.scene.protocol.parameters.enough
    for _ in range(2):
        with pytest.raises(ProtocolError, match="Quorum names 4 clients; it must name at least 5"):
            split.answers()
    monkeypatch.setattr("pyfed.secagg.client.Client._expect_enough", lambda *rest: None)
    split.answers()
    assert solved(journey, split.view) == secret_of(journey, VICTIM)


def started_again(journey: Journey, client: int, journal: Any, more: float = 0.0) -> Any:
    """A client that lost all but its round key and its journal, with an update changed by so much.

    It has been given the messages of the round up to its Inbox, and no further.
    """
    update, weight = journey.scene.inputs[client]
    again = journey.scene.make_client(client, journey.round, journal, journey.secret)
    again.start(update + more, weight)
    return again


def inbound(journey: Journey, client: int, kind: str) -> Any:
    (found,) = (
        journey.read(e.data)
        for e in journey.events
        if e.party == client and e.data and journey.read(e.data).kind == kind
    )
    return found


def uploads_of_two_updates(journals: dict[int, Any]) -> tuple[Journey, list[int]]:
    """Difference of the victim's uploads when it is trained again under the same round key."""
    scene = lightsecagg("curious", **SMALL)
    journey = Journey(scene, journals=journals).run()
    again = started_again(journey, VICTIM, journals.get(VICTIM), more=0.125)
    again.handle(inbound(journey, VICTIM, "Roster"), SERVER)
    (second,) = again.handle(inbound(journey, VICTIM, "Inbox"), SERVER)
    p = scene.protocol.fixed.field.modulus
    first = words(sent_by(journey, VICTIM, "Upload").masked)
    return journey, centred(minus(words(second.masked), first, p), p)


def test_one_mask_over_two_updates_gives_their_difference_and_a_journal_stops_it(
    tmp_path: Any,
) -> None:
    journey, difference = uploads_of_two_updates({})
    update, weight = journey.scene.inputs[VICTIM]
    scale = journey.scene.protocol.fixed.scale
    moved = (update + 0.125).clamp(-1, 1) - update.clamp(-1, 1)
    assert any(difference[:-1]) and difference[-1] == 0
    for told, wanted in zip(difference, moved.tolist(), strict=False):
        assert abs(told - wanted * weight * scale) <= weight  # each rounding moves one step
    with pytest.raises(ProtocolError, match="another upload: this round is burnt"):
        uploads_of_two_updates({VICTIM: FileJournal(tmp_path / "journal")})


def rolled_back(journals: dict[int, Any]) -> tuple[Journey, list[int]]:
    """Every client answers for all, is set back to an older snapshot, and asked for less."""
    older: dict[int, bytes] = {}

    def hook(journey: Journey, event: Event) -> list[bytes]:
        if event.data and journey.read(event.data).kind == "Survivors":
            older[event.party] = journey.saved(event.party)
        return journey.perform(event)

    scene = lightsecagg("curious", **SMALL)
    journey = Journey(scene, journals=journals, hook=hook).run()
    rows = {i: words(sent_by(journey, i, "Answer").row) for i in range(1, 6)}
    p, fewer = scene.protocol.fixed.field.modulus, {}
    for i in rows:
        journey.revive(i, older[i])
        genuine = inbound(journey, i, "Survivors")
        asked = replaced(genuine, survivors=(1, 2, 3, 4, 5))
        (answer,) = journey.parties[i].handle(asked, SERVER)
        fewer[i] = words(answer.row)
    mask = minus(data_of(rows, scene, WIDTH), data_of(fewer, scene, WIDTH), p)
    masked = words(sent_by(journey, VICTIM, "Upload").masked)
    return journey, centred(minus(masked, mask, p), p)


def test_older_snapshots_that_answer_again_uncover_an_update_and_journals_stop_it(
    tmp_path: Any,
) -> None:
    journey, leaked = rolled_back({})
    assert leaked == secret_of(journey, VICTIM)
    journals = {i: FileJournal(tmp_path / str(i)) for i in range(6)}
    with pytest.raises(ProtocolError, match="another answer: this round is burnt"):
        rolled_back(journals)
