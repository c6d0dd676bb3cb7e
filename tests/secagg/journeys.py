"""A round of any protocol as a row of events, so that a test can stand between any two of them.

An event is one call of one party: ``start``, ``handle`` of bytes that came, or ``close_phase``. A
*hook* sees each event before it happens and may let it happen, twice, later, changed, or never; it
may also kill the party and resume it from a snapshot. What the parties sent is kept as bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pyfed import Key
from pyfed.errors import DecodeError, ProtocolError, ThresholdError
from pyfed.secagg import Message
from pyfed.secagg.session import SERVER
from secagg.rounds import client_secret

STORAGE = bytes(range(100, 132))
"""The key under which snapshots are kept."""


@dataclass(frozen=True)
class Event:
    """One call of one party.

    Args:
        turn: how often the server had closed a phase before.
        party: who acts; -1 is the server.
        source: whom the engine takes the message to be from; the party itself when it acts alone.
        data: the message; None means ``start`` of a client, ``close_phase`` of the server.
    """

    turn: int
    party: int
    source: int
    data: bytes | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """A protocol, what its clients put in, and what must come out.

    Args:
        name: of the test's case.
        protocol: built once; parties keep nothing in it.
        inputs: for each client the arguments of ``start``.
        check: raises unless a journey that has ended has the exact result.
        retrained: other arguments of ``start`` than the given ones.
        identities: for each client its Ed25519 identity; none under a curious server.
        losses: how many clients may be lost.
        keeps: whether clients keep secrets for the next round.
    """

    name: str
    protocol: Any
    inputs: Sequence[tuple[Any, ...]]
    check: Callable[[Journey], None]
    retrained: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    identities: Sequence[Any] = ()
    losses: int = 1
    keeps: bool = False

    @property
    def clients(self) -> int:
        return int(self.protocol.parameters.clients)

    def make_client(self, index: int, round_: int, journal: Any = None, secret: int = 0) -> Any:
        """A client with the key that it has in every journey with this ``secret``."""
        more = {"identity": self.identities[index]} if self.identities else {}
        key = Key(hashlib.sha256(client_secret(index, round_) + bytes([secret])).digest())
        client = self.protocol.client(index, round_, key, journal, **more)
        key.wipe()
        return client

    def on_device(self, device: str) -> Scene:
        """The same with all updates on a device."""
        inputs = [
            tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments)
            for arguments in self.inputs
        ]
        return replace(self, inputs=inputs)


@contextlib.contextmanager
def storage_key() -> Iterator[Key]:
    """The key under which snapshots are kept, and which leaves nothing behind."""
    key = Key(STORAGE)
    try:
        yield key
    finally:
        key.wipe()


class Ledger:
    """A journal in memory, for tests in which no process dies."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def record(self, kind: str, digest: bytes) -> None:
        if self.entries.setdefault(kind, digest) != digest:
            raise ProtocolError(f"the journal already has another {kind}: this round is burnt")


Hook = Callable[["Journey", Event], list[bytes]]
Order = Callable[[list[Event]], Iterable[Event]]


@dataclass
class Journey:
    """The parties of one round of a scene, and everything that they sent.

    Args:
        scene: what is played.
        round: number of the round.
        journals: client → journal.
        secret: another number gives the clients other keys, and the session another nonce.
        hook: what stands between an event and its party; it calls :meth:`perform`.
        order: the order in which the server gets the messages of a turn.
        lost: (turn, client): the client does nothing from that turn on.
        server_options: further arguments of the protocol's ``server``.
    """

    scene: Scene
    round: int = 0
    journals: dict[int, Any] = field(default_factory=dict)
    secret: int = 0
    hook: Hook | None = None
    order: Order = list
    lost: frozenset[tuple[int, int]] = frozenset()
    server_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scene = self.scene
        nonce = bytes([self.secret]) * 32
        server = scene.protocol.server(self.round, nonce=nonce, **self.server_options)
        self.parties: dict[int, Any] = {SERVER: server}
        for i in range(scene.clients):
            self.parties[i] = scene.make_client(i, self.round, self.journals.get(i), self.secret)
        self.turn = 0
        self.events: list[Event] = []
        self.sent: list[list[bytes]] = []
        self.mail: dict[int, list[bytes]] = {}

    @property
    def server(self) -> Any:
        return self.parties[SERVER]

    @property
    def included(self) -> frozenset[int]:
        """The clients that the server has settled on."""
        server = self.server
        known = server.included if hasattr(server, "included") else server.result.included
        return frozenset(known)

    @property
    def clients(self) -> list[Any]:
        return [self.parties[i] for i in range(self.scene.clients)]

    def gone(self, client: int) -> bool:
        return any(turn <= self.turn and who == client for turn, who in self.lost)

    def read(self, data: bytes) -> Message:
        return Message.from_bytes(data, self.scene.protocol.parameters)

    def perform(self, event: Event) -> list[bytes]:
        """Let an event happen; gives the bytes that the party sends."""
        party = self.parties[event.party]
        if event.data is not None:
            messages = party.handle(self.read(event.data), event.source)
        elif event.party == SERVER:
            messages = party.close_phase()
        else:
            messages = party.start(*self.scene.inputs[event.party])
        return [message.to_bytes() for message in messages]

    def happen(self, event: Event) -> list[bytes]:
        out = self.perform(event) if self.hook is None else self.hook(self, event)
        self.events.append(event)
        self.sent.append(out)
        return out

    def clients_act(self) -> list[Event]:
        """Every client that is left acts; gives the server's events, in the order asked for."""
        to_server = []
        for i in range(self.scene.clients):
            if self.gone(i):
                continue
            letters = [None] if self.turn == 0 else self.mail.get(i, [])
            for letter in letters:
                source = i if letter is None else SERVER
                sent = self.happen(Event(self.turn, i, source, letter))
                to_server += [Event(self.turn, SERVER, i, data) for data in sent]
        self.mail = {}
        return list(self.order(to_server))

    def deliver(self, data: bytes) -> None:
        """Put a message of the server into the mail of its recipient."""
        self.mail.setdefault(self.read(data).recipient, []).append(data)

    def take_turn(self) -> None:
        """The clients act, the server collects, and closes its phase."""
        for event in self.clients_act():
            self.happen(event)
        for data in self.happen(Event(self.turn, SERVER, SERVER)):
            self.deliver(data)
        self.turn += 1

    def run(self) -> Journey:
        """Play the round to its end, and check what came out of it."""
        while self.server.phase != "done":
            self.take_turn()
        self.clients_act()  # the result
        self.scene.check(self)
        return self

    def saved(self, party: int) -> bytes:
        """A snapshot of a party."""
        with storage_key() as key:
            return bytes(self.parties[party].save(key))

    def revive(self, party: int, snapshot: bytes | None = None) -> None:
        """The process of a party is killed, and a new one resumes a snapshot (None: of now)."""
        self.parties[party] = self.resumed(party, snapshot or self.saved(party))

    def resumed(self, party: int, snapshot: bytes, key: Key | None = None) -> Any:
        """A party out of a snapshot, with the journal and the identity of that party."""
        more: dict[str, Any] = {}
        if party != SERVER:
            more["journal"] = self.journals.get(party)
            if self.scene.identities:
                more["identity"] = self.scene.identities[party]
        with storage_key() as own:
            return self.scene.protocol.resume(snapshot, key or own, **more)


def letters(scene: Scene, **more: Any) -> list[Event]:
    """Every message of an undisturbed round, as the event in which it is delivered."""
    journey = Journey(scene, **more).run()
    return [event for event in journey.events if event.data is not None]


def with_data(event: Event, data: bytes, source: int | None = None) -> Event:
    return replace(event, data=data, source=event.source if source is None else source)


def absorb(journey: Journey, event: Event) -> list[bytes]:
    """Let an event happen; a client that refuses it, or cannot decode, is lost with it."""
    try:
        return journey.perform(event)
    except (ProtocolError, ThresholdError, DecodeError) as error:
        if event.data is None or not (event.party >= 0 or isinstance(error, ProtocolError)):
            raise
        return []
