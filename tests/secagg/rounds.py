"""A round that a test drives message by message, and the answers it must come to."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import oracles
from pyfed import FixedPoint, Key
from pyfed.errors import ProtocolError
from pyfed.secagg import LightSecAgg, Message
from pyfed.secagg.channel import ChannelKey, Peers

SECRET = bytes(range(32))
PHASES = ("keys", "share", "upload", "recover")


def protocol(
    clients: int = 5, privacy: int = 1, dropouts: int = 1, length: int = 4, **more: Any
) -> LightSecAgg:
    fixed = more.pop("fixed", None) or FixedPoint(
        clip=1.0, bits=16, clients=clients, max_weight=more.pop("max_weight", 9)
    )
    return LightSecAgg(
        clients=clients, privacy=privacy, dropouts=dropouts, length=length, fixed=fixed, **more
    )


def some_updates(count: int, length: int, seed: int = 1) -> list[torch.Tensor]:
    """Vectors in [-1.25, 1.25], so that some coordinates are clipped."""
    rng = random.Random(seed)
    return [torch.tensor([rng.uniform(-1.25, 1.25) for _ in range(length)]) for _ in range(count)]


def derived(secret: bytes, label: str, *numbers: int) -> bytes:
    """Key.derive, by the HKDF of another library."""
    packed = len(label.encode()).to_bytes(4, "little") + label.encode()
    info = packed + b"".join(n.to_bytes(8, "little") for n in numbers)
    return HKDF(algorithm=SHA256(), length=32, salt=b"pyfed/v1", info=info).derive(secret)


def client_secret(index: int, number: int = 0, secret: bytes = SECRET) -> bytes:
    """The round key that a simulation derives for a client."""
    return derived(secret, "client", number, index)


def exact_sum(
    agreed: LightSecAgg,
    updates: Sequence[torch.Tensor],
    weights: Sequence[int],
    included: Iterable[int],
    number: int = 0,
) -> list[int]:
    """Σ w·x in steps with Python integers, rounded as each client's own key says."""
    p, fixed = agreed.parameters, agreed.fixed
    total = [0] * p.length
    for client in included:
        key = derived(client_secret(client, number), "rounding")
        values = updates[client].tolist()
        residues = oracles.quantize(values, fixed.scale, fixed.clip, p.field.modulus, key)
        for i, residue in enumerate(residues):
            total[i] += weights[client] * oracles.centred(residue, p.field.modulus)
    return total


def state(value: Any) -> Any:
    """Everything that a party holds, copied deep, in a form that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Key):
        return value.reveal()
    if isinstance(value, ChannelKey):
        return value.public
    if isinstance(value, Peers):
        return state(vars(value))
    if isinstance(value, dict):
        return {key: state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [state(item) for item in value]
    if hasattr(value, "_parameters"):  # a party; the protocol itself never changes
        kept = {key: item for key, item in vars(value).items() if key != "_protocol"}
        return state(kept)
    return frozenset(value) if isinstance(value, set) else value


class Round:
    """The parties of one round, and the messages that are on their way.

    Args:
        agreed: the protocol.
        number: of the round.
        journals: client → journal.
    """

    def __init__(
        self, agreed: LightSecAgg, number: int = 0, journals: dict[int, Any] | None = None
    ) -> None:
        count = agreed.parameters.clients
        self.agreed = agreed
        self.weights = [1 + i % agreed.parameters.max_weight for i in range(count)]
        self.updates = some_updates(count, agreed.parameters.length)
        self.server = agreed.server(number, nonce=bytes(32))
        self.clients = [
            agreed.client(i, number, Key(client_secret(i, number)), (journals or {}).get(i))
            for i in range(count)
        ]
        self.upwards: dict[int, Message] = {}
        self.downwards: dict[int, Message] = {}

    def send(self, phase: str, lost: Iterable[int] = ()) -> dict[int, Message]:
        """Each client's message of a phase, not yet handed to the server."""
        self.upwards = {}
        for i, client in enumerate(self.clients):
            if i in lost:
                continue
            if phase == "keys":
                (self.upwards[i],) = client.start(self.updates[i], self.weights[i])
            elif i in self.downwards:
                (self.upwards[i],) = client.handle(self.downwards[i], -1)
        return self.upwards

    def collect(self) -> None:
        """Hand the messages to the server."""
        for i, message in self.upwards.items():
            assert self.server.handle(message, i) == []

    def close(self) -> dict[int, Message]:
        """The server's messages at the end of its phase."""
        self.downwards = {m.recipient: m for m in self.server.close_phase()}
        return self.downwards

    def play(self, until: str, lost: Iterable[int] = ()) -> None:
        """Run all phases before ``until`` without trouble, then the sending of that one."""
        for phase in PHASES:
            self.send(phase, lost)
            if phase == until:
                return
            self.collect()
            self.close()

    def finish(self) -> None:
        """Go on from messages that are under way, and check the sum against Python integers."""
        phase = self.server.phase
        while True:
            self.collect()
            self.close()
            if phase == "recover":
                break
            phase = PHASES[PHASES.index(phase) + 1]
            self.send(phase)
        result = self.server.result
        wanted = exact_sum(self.agreed, self.updates, self.weights, result.included)
        assert result.integers.tolist() == wanted
        assert result.total_weight == sum(self.weights[i] for i in result.included)
        for i, message in self.downwards.items():
            self.clients[i].handle(message, -1)
            assert self.clients[i].result.integers.tolist() == wanted


def one_of_each() -> list[tuple[str, Message, Callable[[Round], Any], int]]:
    """(phase, message, who is to take it, source) for every type, from one genuine round."""
    run = Round(protocol())
    out: list[tuple[str, Message, Callable[[Round], Any], int]] = []
    for phase in PHASES:
        run.send(phase)
        out.append((phase, run.upwards[1], lambda r: r.server, 1))
        run.collect()
        run.close()
        out.append((phase, run.downwards[2], lambda r: r.clients[2], -1))
    return out


def refuse(party: Any, message: Message, source: int, text: str | None = None) -> None:
    """The party refuses a message and is, to the last byte, as it was before."""
    before = state(party)
    with pytest.raises(ProtocolError, match=text) as caught:
        party.handle(message, source)
    assert state(party) == before
    assert caught.value.phase in (*PHASES, "commit", "done", "closed", "")


def replaced(message: Message, **change: Any) -> Any:
    return dataclasses.replace(message, **change)
