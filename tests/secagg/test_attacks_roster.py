"""A server that lies about keys: the man in the middle, and a roster for each client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from pyfed import Key
from pyfed.errors import ProtocolError
from pyfed.secagg.channel import ChannelKey, Peers
from pyfed.secagg.messages import Inbox, Share, Upload
from pyfed.secagg.session import SERVER, Member, Parameters
from secagg.attacks import centred, data_of, minus, secret_of, words
from secagg.journeys import Journey, Scene
from secagg.rounds import replaced
from secagg.scenes import MODES, lightsecagg
from secagg.test_malicious import mail_of, until

VICTIM = 2


@dataclass
class Middleman:
    """A server that stands, with keys of its own, in the place of everybody but the victim."""

    journey: Journey
    own: dict[int, ChannelKey] = field(default_factory=dict)

    @property
    def scene(self) -> Scene:
        return self.journey.scene

    @property
    def others(self) -> list[int]:
        return [i for i in range(self.scene.clients) if i != VICTIM]

    def roster(self) -> Any:
        """The victim's Roster with the other clients' keys replaced."""
        genuine = mail_of(self.journey, VICTIM, "Roster")
        self.own = {i: ChannelKey(Key(bytes([i + 1]) * 32)) for i in self.others}
        members = tuple(
            Member(i, self.own[i].public if i in self.own else keys, signing)
            for i, keys, signing in genuine.roster
        )
        session = self.scene.protocol.parameters.session(members, genuine.nonce)
        self.victims_key = members[VICTIM].channel_key
        return replaced(genuine, roster=members, session=session)

    def peers(self, number: int, session: bytes) -> Peers:
        """What client ``number`` would share with the victim, if it held the server's key."""
        publics = {VICTIM: self.victims_key}
        nonces = Key(bytes(32))
        return Peers(self.own[number], number, publics, session, self.journey.round, nonces)

    def shares(self, share: Share) -> dict[int, list[int]]:
        """The rows in the victim's boxes, by recipient."""
        rows = {}
        for to, box in share.boxes:
            out = bytearray(4 * self.scene.protocol.parameters.columns)
            peers = self.peers(to, share.session)
            assert peers.open_into(VICTIM, "share", "Share", box, memoryview(out))
            rows[to] = words(bytes(out))
        return rows

    def inbox(self, share: Share) -> Inbox:
        """Shares of zeros in everybody's name, so that the victim goes on."""
        nothing = memoryview(bytearray(4 * self.scene.protocol.parameters.columns))
        boxes = tuple(
            (i, self.peers(i, share.session).seal(VICTIM, "share", "Share", nothing))
            for i in self.others
        )
        return Inbox(
            session=share.session,
            round=self.journey.round,
            sender=SERVER,
            recipient=VICTIM,
            dealers=tuple(range(self.scene.clients)),
            boxes=boxes,
        )


def between(mode: str) -> tuple[Journey, list[int]]:
    """The victim's update, if the victim takes the server's keys for those of its peers."""
    scene = lightsecagg(mode)
    journey = Journey(scene)
    journey.take_turn()
    middle, victim = Middleman(journey), journey.parties[VICTIM]
    (share,) = victim.handle(middle.roster(), SERVER)
    rows = middle.shares(share)
    (upload,) = victim.handle(middle.inbox(share), SERVER)
    assert isinstance(upload, Upload) and upload.complaints == ()
    p = scene.protocol.parameters
    mask = data_of(dict(list(rows.items())[: p.blocks + p.privacy]), scene, p.width)
    modulus = p.field.modulus
    return journey, centred(minus(words(upload.masked), mask, modulus), modulus)


def test_a_man_in_the_middle_reads_an_update_under_a_server_that_is_trusted_not_to() -> None:
    journey, stolen = between("curious")
    assert stolen == secret_of(journey, VICTIM)


def test_pinned_identities_stop_the_man_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProtocolError, match="client 0 that its pinned identity has not signed"):
        between("malicious")
    monkeypatch.setattr("pyfed.secagg.client.Client._expect_pinned", lambda *rest: None)
    journey, stolen = between("malicious")
    assert stolen == secret_of(journey, VICTIM)


def two_rosters(mode: str, monkeypatch: pytest.MonkeyPatch | None = None) -> set[tuple[int, ...]]:
    """Client 5 is hidden from clients 0 to 2, whose shares the others then get; complaints."""
    scene = lightsecagg(mode)
    if monkeypatch is not None:  # the session hash without the roster: the guard taken out
        bare = Parameters.session
        monkeypatch.setattr(
            Parameters, "session", lambda self, roster, nonce: bare(self, (), nonce)
        )
    journey = Journey(scene)
    journey.take_turn()
    shares: dict[int, Share] = {}
    for i in range(scene.clients):
        genuine = mail_of(journey, i, "Roster")
        if i < 3:
            fewer = genuine.roster[:5]
            session = scene.protocol.parameters.session(fewer, genuine.nonce)
            signatures = genuine.signatures[:5]
            genuine = replaced(genuine, roster=fewer, session=session, signatures=signatures)
        (share,) = journey.parties[i].handle(genuine, SERVER)
        shares[i] = share
    found = set()
    for i in (3, 4):
        dealers = (0, 1, 2, 3, 4)
        boxes = tuple((d, dict(shares[d].boxes)[i]) for d in dealers if d != i)
        own = shares[i]
        inbox = Inbox(
            session=own.session, round=0, sender=SERVER, recipient=i, dealers=dealers, boxes=boxes
        )
        (upload,) = journey.parties[i].handle(inbox, SERVER)
        found.add(upload.complaints)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_clients_with_different_rosters_cannot_open_boxes_of_the_others(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_rosters(mode) == {(0, 1, 2)}
    assert two_rosters(mode, monkeypatch) == {()}


@pytest.mark.parametrize("mode", MODES)
def test_a_key_counts_once_whatever_its_unused_bit_is(mode: str) -> None:
    """X25519 ignores the top bit, and reduces modulo 2^255 - 19: one key could have four names."""
    journey = Journey(lightsecagg(mode))
    events = journey.clients_act()
    first, second = (journey.read(e.data) for e in events[:2] if e.data)
    journey.happen(events[0])
    for other in (first.channel_key, flipped(first.channel_key)):
        hostile = replaced(second, channel_key=other)
        if mode == "malicious":
            hostile = journey.scene.identities[1].signed(hostile)
        with pytest.raises(ProtocolError, match=r"repeats another|canonical"):
            journey.server.handle(hostile, 1)
    for event in events[1:]:
        journey.happen(event)
    journey = until(lightsecagg(mode), "Roster")
    genuine = mail_of(journey, 3, "Roster")
    (_, first_key, _), (_, _, signing), *rest = genuine.roster
    for twice in (first_key, flipped(first_key)):
        members = (genuine.roster[0], Member(1, twice, signing), *rest)
        session = journey.scene.protocol.parameters.session(members, genuine.nonce)
        hostile = replaced(genuine, roster=members, session=session)
        with pytest.raises(ProtocolError):
            journey.parties[3].handle(hostile, SERVER)


def flipped(key: bytes) -> bytes:
    return key[:31] + bytes([key[31] ^ 0x80])
