"""Whole rounds of SwiftAgg+ through bytes, with every message kept, so that tests can measure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import oracles
from pyfed import FixedPoint, Key
from pyfed.errors import ProtocolError
from pyfed.secagg import Message, SwiftAgg
from pyfed.secagg.session import SEALING, SERVER, WORD
from secagg.rounds import client_secret, derived, exact_sum, replaced, some_updates
from secagg.swift_oracle import Row, Swift

PHASES = ("keys", "share", "upload", "recover")
Tamper = Callable[[Message], Message | None]
Boxes = tuple[tuple[int, tuple[bytes, ...]], ...]


def swift(
    clients: int = 9, privacy: int = 1, dropouts: int = 1, blocks: int = 2, **more: Any
) -> SwiftAgg:
    fixed = more.pop("fixed", None) or FixedPoint(
        clip=1.0, bits=16, clients=clients, max_weight=more.pop("max_weight", 9)
    )
    length = more.pop("length", 4)
    return SwiftAgg(clients, privacy, dropouts, blocks, length, fixed, **more)


def agreed_on(setting: tuple[Any, ...]) -> SwiftAgg:
    """The protocol of N, K, T, D, length and further arguments."""
    clients, blocks, privacy, dropouts, length, more = setting
    return swift(clients, privacy, dropouts, blocks, length=length, **more)


def oracle_of(agreed: SwiftAgg, tree: Any = "binary") -> Swift:
    p = agreed.parameters
    slack = 2 * p.errors + p.detect
    return Swift(
        p.field.modulus, p.clients, p.blocks, p.privacy, p.dropouts, slack=slack, tree=tree
    )


def encoded(agreed: SwiftAgg, update: torch.Tensor, weight: int, secret: bytes) -> list[int]:
    """What a client shares: its weighted update in residues, and its weight."""
    fixed, p = agreed.fixed, agreed.parameters.field.modulus
    steps = oracles.quantize(
        update.tolist(), fixed.scale, fixed.clip, p, derived(secret, "rounding")
    )
    return [*(step * weight % p for step in steps), weight]


@dataclass
class SwiftRound:
    """The parties of one round, driven to the end.

    Args:
        agreed: the protocol.
        drop: phase → clients that send nothing from it on; ``("recover", 2)``: from its step 2 on.
        tamper: sees every message of a client on its way; None in its place loses it.
        weights: None: 1, 2, … up to the maximum, and again.
        identities: under a malicious server.
        storage: under this key every party is saved and resumed before each of its calls.
        deaf: a client that refuses a message of the server's is silent; else the test fails.
    """

    agreed: SwiftAgg
    drop: Mapping[Any, Iterable[int]] = field(default_factory=dict)
    tamper: Tamper = lambda message: message
    weights: list[int] | None = None
    identities: list[Any] | None = None
    number: int = 0
    seed: int = 1
    storage: Key | None = None
    deaf: bool = False

    def __post_init__(self) -> None:
        p = self.agreed.parameters
        if self.weights is None:
            self.weights = [1 + i % p.max_weight for i in range(p.clients)]
        self.updates = some_updates(p.clients, p.length, self.seed)
        self.server = self.agreed.server(self.number, nonce=bytes(32))
        self.clients = [
            self.agreed.client(
                i,
                self.number,
                Key(client_secret(i, self.number)),
                identity=self.identities[i] if self.identities else None,
            )
            for i in range(p.clients)
        ]
        self.sent: list[Message] = []
        self.steps = 0

    def lost(self, client: int, phase: str, step: int) -> bool:
        order = [*self.agreed.phases, "done"]
        for when, clients in self.drop.items():
            name, first = (when, 0) if isinstance(when, str) else when
            at, now = order.index(name), order.index(phase)
            if client in set(clients) and (now > at or (now == at and step >= first)):
                return True
        return False

    def play(self, until: tuple[str, int] | None = None) -> SwiftRound:
        """Run to the end, or up to what clients send in ``until``, a phase and its step."""
        phase, step, inbox = "keys", 0, {}
        while phase != "done":
            for index, client in enumerate(self.clients):
                if self.lost(index, phase, step):
                    continue
                client = self.clients[index] = self._resumed(client, index)
                if phase == "keys":
                    messages = client.start(self.updates[index], self.weights[index])
                elif index in inbox:
                    messages = self._answered(client, inbox[index])
                else:
                    continue
                for message in messages:
                    changed = self.tamper(message)
                    if changed is not None:
                        self.sent.append(changed)
                        self.server.handle(self._carried(changed), index)
            if (phase, step) == until:
                return self
            self.server = self._resumed(self.server)
            self.down = {message.recipient: message for message in self.server.close_phase()}
            self.sent += self.down.values()
            inbox = self.down
            self.steps += 1
            step = step + 1 if self.server.phase == phase else 0
            phase = self.server.phase
        for index, message in inbox.items():
            if not self.lost(index, "recover", 10**6):
                self.clients[index].handle(self._carried(message), SERVER)
        return self

    def _answered(self, client: Any, message: Message) -> list[Message]:
        try:
            return list(client.handle(self._carried(message), SERVER))
        except ProtocolError:
            if not self.deaf:
                raise
            return []

    def _resumed(self, party: Any, index: int | None = None) -> Any:
        if self.storage is None:
            return party
        identity = self.identities[index] if self.identities and index is not None else None
        return self.agreed.resume(party.save(self.storage), self.storage, identity=identity)

    def _carried(self, message: Message) -> Message:
        return Message.from_bytes(message.to_bytes(), self.agreed.parameters)

    def check(self, included: Iterable[int]) -> None:
        """Everybody has the exact sum over exactly these clients."""
        result, members = self.server.result, set(included)
        assert result.included == members
        wanted = exact_sum(self.agreed, self.updates, self.weights, members, self.number)
        assert result.integers.tolist() == wanted
        assert result.total_weight == sum(self.weights[i] for i in members)
        for index, client in enumerate(self.clients):
            if index in members and client.phase == "done":
                assert client.result.integers.tolist() == wanted
                assert client.result.included == members

    def dealt(self) -> tuple[dict[int, list[int]], dict[int, list[Row]]]:
        """What each client shares and its shares, from its key, by the oracle."""
        p, oracle = self.agreed.parameters, oracle_of(self.agreed, self.agreed.parameters.parents)
        values, shares = {}, {}
        for i in range(p.clients):
            secret = client_secret(i, self.number)
            values[i] = encoded(self.agreed, self.updates[i], self.weights[i], secret)
            key = derived(secret, "padding")
            pads = [
                [
                    oracles.residue(key, c, p.field.modulus, row=t, purpose=oracles.PADDING)
                    for c in range(p.columns)
                ]
                for t in range(p.privacy)
            ]
            shares[i] = oracle.shares(values[i], pads)
        return values, shares

    # What crossed which link, counted on the messages themselves.

    def carried_words(self) -> list[tuple[int, int, int]]:
        """(from, to, residues) for every share, sum and row that was sent."""
        out = []
        for message in self.sent:
            if message.kind in ("Share", "Hop"):
                out += [(message.sender, to, box_words(box)) for to, box in message.boxes]
            elif message.kind == "Root":
                out.append((message.sender, SERVER, len(message.row) // WORD))
        return out

    def links(self) -> int:
        """Pairs of parties between which shares, sums or rows went."""
        return len({frozenset((a, b)) for a, b, _ in self.carried_words()})

    def sent_words(self, client: int) -> int:
        return sum(words for a, _, words in self.carried_words() if a == client)

    def server_words(self) -> list[int]:
        """The residues of each row that the server got."""
        return [words for _, b, words in self.carried_words() if b == SERVER]


def box_words(box: tuple[bytes, ...]) -> int:
    size = sum(len(segment) - SEALING for segment in box)
    assert size % WORD == 0
    return size // WORD


def random_drops(agreed: SwiftAgg, draw: random.Random) -> dict[Any, set[int]]:
    """Up to D clients, each lost in some phase, or in some step of the last one."""
    p = agreed.parameters
    drops: dict[Any, set[int]] = {}
    for client in draw.sample(range(p.clients), draw.randint(0, p.dropouts)):
        step = draw.randrange(p.layout.hops + 1)
        when: Any = draw.choice([*PHASES, ("recover", step)])
        drops.setdefault(when, set()).add(client)
    return drops


def included(agreed: SwiftAgg, drop: Mapping[Any, Iterable[int]]) -> set[int]:
    """Who is in the sum: all but those lost before they reported."""
    gone = {i for phase in PHASES[:3] for i in drop.get(phase, ())}
    return set(range(agreed.parameters.clients)) - gone


def damaged(boxes: Boxes, bad: set[int]) -> Boxes:
    """The boxes, with a changed byte in those for the clients of ``bad``."""
    return tuple(
        (to, (bytes([box[0][0] ^ 1]) + box[0][1:], *box[1:]) if to in bad else box)
        for to, box in boxes
    )


def with_bad_boxes(agreed: Any, bad: set[tuple[int, int]]) -> SwiftRound:
    """A round in which the share from a to b is damaged for (a, b) in ``bad``."""

    def tamper(message: Message) -> Message:
        if message.kind == "Share":
            victims = {b for a, b in bad if a == message.sender}
            return replaced(message, boxes=damaged(message.boxes, victims))
        if message.kind == "Report":
            assert message.complaints == tuple(sorted(a for a, b in bad if b == message.sender))
        return message

    return SwiftRound(agreed, tamper=tamper)
