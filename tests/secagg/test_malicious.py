"""A server that may do anything: signatures, quorums, and what they refuse."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pyfed import Key
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg import Identity, LightSecAgg
from pyfed.secagg.common import Commit, Quorum
from pyfed.secagg.session import SERVER
from secagg.journeys import Event, Journey, Scene
from secagg.rounds import refuse, replaced
from secagg.scenes import fixed_point, lightsecagg, malicious_scenes, ring

MALICIOUS = pytest.mark.parametrize("scene", malicious_scenes(), ids=lambda scene: scene.name)
COUNT = 6


def until(scene: Scene, kind: str, **more: Any) -> Journey:
    """A round up to where messages of this kind lie in the clients' mail."""
    journey = Journey(scene, **more)
    while not any(
        journey.read(d).kind == kind for letters in journey.mail.values() for d in letters
    ):
        assert journey.server.phase != "done"
        journey.take_turn()
    return journey


def mail_of(journey: Journey, client: int, kind: str) -> Any:
    (found,) = (m for m in map(journey.read, journey.mail[client]) if m.kind == kind)
    return found


def commit_of(journey: Journey, client: int) -> Commit:
    """The Commit that a client has sent in a round."""
    for event, sent in zip(journey.events, journey.sent, strict=True):
        for message in map(journey.read, sent):
            if event.party == client and isinstance(message, Commit):
                return message
    raise AssertionError("no Commit")


def hostile_quorums(scene: Scene, journey: Journey) -> list[tuple[Quorum, str]]:
    """Quorums for client 2 that lack something, with the reason for which each is refused."""
    genuine = mail_of(journey, 2, "Quorum")
    p, signatures = scene.protocol.parameters, genuine.signatures
    assert len(signatures) >= p.enough
    other_round, other_session = (
        until(scene, "Quorum", **m) for m in ({"round": 1}, {"secret": 1})
    )
    impostor = Identity(Key(bytes(32)))
    forged = impostor.signed(commit_of(journey, 0)).signature
    elsewhere = scene.identities[0].signed(replaced(commit_of(journey, 0), digest=bytes(32)))

    def first(signature: bytes) -> Quorum:
        changed: Quorum = replaced(genuine, signatures=((0, signature), *signatures[1:]))
        return changed

    return [
        (replaced(genuine, signatures=signatures[: p.enough - 1]), "must name at least"),
        (replaced(genuine, signatures=()), "must name at least"),
        (replaced(genuine, signatures=(signatures[0],) * p.enough), "name nobody twice"),
        (replaced(genuine, signatures=signatures[::-1]), "sorted"),
        (first(forged), "false signature of client 0"),
        (first(bytes(64)), "false signature of client 0"),
        (first(signatures[1][1]), "false signature of client 0"),
        (first(elsewhere.signature), "false signature of client 0"),
        (first(mail_of(other_round, 2, "Quorum").signatures[0][1]), "false signature"),
        (first(mail_of(other_session, 2, "Quorum").signatures[0][1]), "false signature"),
        (mail_of(other_round, 2, "Quorum"), "of round 1"),
        (mail_of(other_session, 2, "Quorum"), "another session"),
        (replaced(genuine, signatures=((0, b""), *signatures[1:])), "64 bytes"),
    ]


@MALICIOUS
def test_only_a_genuine_quorum_is_answered(scene: Scene) -> None:
    journey = until(scene, "Quorum")
    for quorum, text in hostile_quorums(scene, journey):
        refuse(journey.parties[2], quorum, SERVER, text)
    journey.run()


@MALICIOUS
def test_without_the_check_of_signatures_forged_quorums_are_answered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard taken out: a server could then ask for any set of survivors."""
    journey = until(scene, "Quorum")
    quorum, *_ = (q for q, text in hostile_quorums(scene, journey) if "of client 0" in text)
    monkeypatch.setattr("pyfed.secagg.quorum.is_signed", lambda *rest: True)
    journey.parties[2].handle(quorum, SERVER)
    assert journey.parties[2].phase == "recover"


@MALICIOUS
def test_a_quorum_names_survivors_only(scene: Scene) -> None:
    """Client 5 is lost before its upload, so its signature on the set counts for nothing."""
    journey = until(scene, "Quorum", lost=frozenset({(2, 5)}))
    genuine = mail_of(journey, 2, "Quorum")
    signed = scene.identities[5].signed(replaced(commit_of(journey, 0), sender=5))
    entries = tuple(sorted((*genuine.signatures, (5, signed.signature))))
    more = replaced(genuine, signatures=entries)
    refuse(journey.parties[2], more, SERVER, "names client 5, no survivor")
    journey.run()


@MALICIOUS
def test_the_server_takes_signed_messages_only(scene: Scene) -> None:
    def hook(journey: Journey, event: Event) -> list[bytes]:
        if event.party == SERVER and event.data is not None and event.source == 1:
            message = journey.read(event.data)
            for other in (scene.identities[2], Identity(Key(bytes(32)))):
                refuse(journey.server, other.signed(message), 1, "is not signed by the pinned")
            refuse(journey.server, replaced(message, signature=bytes(64)), 1, "is not signed")
            refuse(journey.server, replaced(message, signature=b""), 1, "64 bytes")
            if isinstance(message, Commit):
                changed = scene.identities[1].signed(replaced(message, digest=bytes(32)))
                refuse(journey.server, changed, 1, "Commit is to other survivors")
        return journey.perform(event)

    Journey(scene, hook=hook).run()


@MALICIOUS
def test_every_message_of_a_client_is_signed_by_its_identity_over_all_its_fields(
    scene: Scene,
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    journey = Journey(scene).run()
    kinds = set()
    for event in journey.events:
        if event.party != SERVER or event.data is None:
            continue
        message = journey.read(event.data)
        public = Ed25519PublicKey.from_public_bytes(scene.protocol.identities[event.source])
        bare = replaced(message, signature=b"").to_bytes()
        public.verify(message.signature, b"pyfed/v1/sign" + hashlib.sha256(bare[:-16]).digest())
        kinds.add(message.kind)
    assert {"Hello", "Commit"} < kinds


def test_a_client_does_not_answer_a_set_that_leaves_it_out() -> None:
    for mode in ("curious", "malicious"):
        journey = until(lightsecagg(mode), "Survivors")
        genuine = mail_of(journey, 2, "Survivors")
        without = replaced(genuine, survivors=(0, 1, 3, 4, 5))
        refuse(journey.parties[2], without, SERVER, "leave this client out")
        journey.run()


def made(**change: Any) -> LightSecAgg:
    numbers = {"clients": COUNT, "privacy": 1, "dropouts": 2, "length": 2} | change
    pinned = [identity.public for identity in ring("malicious", COUNT)]
    given = {"server": "malicious", "identities": pinned} | change
    return LightSecAgg(**(numbers | given), fixed=fixed_point(COUNT))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"identities": None}, (DtypeError, ArgumentError), "identities"),
        ({"identities": b"x" * 32}, DtypeError, "must be a list"),
        ({"identities": [bytes(32)] * 5}, ArgumentError, "5 identities are given"),
        ({"identities": [bytes(31)] * 6}, ArgumentError, r"identities\[0\] must be 32 bytes"),
        ({"identities": [bytes(32)] * 6}, ArgumentError, "given to two clients"),
        ({"server": "curious"}, ArgumentError, "used with server='malicious' only"),
        ({"server": "honest"}, ArgumentError, "must be one of"),
        ({"privacy": 2}, ArgumentError, "clients > 2·dropouts"),
    ],
)
def test_protocols_that_cannot_hold_off_a_malicious_server_are_refused(
    change: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        made(**change)


def test_two_quorums_always_share_an_honest_client() -> None:
    """N > 2D + T is the least: 2(N - D) signatures of N clients, of whom T sign both sets."""
    for clients in range(4, 12):
        for dropouts in range(4):
            for privacy in range(1, 5):
                honest = clients - privacy
                both = 2 * (clients - dropouts) > honest + 2 * privacy
                assert both == (clients > 2 * dropouts + privacy)


def test_clients_need_the_identity_that_is_pinned() -> None:
    agreed, identities = made(), ring("malicious", COUNT)
    with pytest.raises(DtypeError, match="needs an Identity"):
        agreed.client(0, 0)
    with pytest.raises(ArgumentError, match="not the one pinned for client 0"):
        agreed.client(0, 0, identity=identities[1])
    with pytest.raises(ArgumentError, match="used with server='malicious' only"):
        lightsecagg("curious").protocol.client(0, 0, identity=identities[0])
