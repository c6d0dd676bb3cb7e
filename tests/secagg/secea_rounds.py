"""Rounds of SecEA that tests drive message by message, and the exact results they must have."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

import oracles
from pyfed import FixedPoint, Key
from pyfed.secagg import Message
from pyfed.secagg.secea import SecEA
from pyfed.secagg.secea_setup import Setup
from pyfed.secagg.union import pseudonyms
from secagg.rounds import SECRET, client_secret, derived

Entities = list[dict[Any, torch.Tensor]]


def protocol(
    clients: int = 5,
    privacy: int = 1,
    blocks: int = 1,
    dim: int = 3,
    dropouts: int = 2,
    **more: Any,
) -> SecEA:
    fixed = more.pop("fixed", None) or FixedPoint(clip=1.0, bits=16, clients=clients, max_weight=9)
    return SecEA(
        clients=clients,
        privacy=privacy,
        blocks=blocks,
        dim=dim,
        fixed=fixed,
        dropouts=dropouts,
        **more,
    )


def some_entities(clients: int, dim: int, count: int, seed: int = 1) -> Entities:
    """Entity e has e mod (clients + 1) owners, so from none to all; ids of every type."""
    rng = random.Random(seed)
    out: Entities = [{} for _ in range(clients)]
    for e in range(count):
        name: Any = (e - 3, f"word {e}", b"id %d" % e)[e % 3]
        for owner in sorted(rng.sample(range(clients), e % (clients + 1))):
            out[owner][name] = torch.tensor([rng.uniform(-1.25, 1.25) for _ in range(dim)])
    return out


def exact(
    agreed: SecEA,
    entities: Sequence[Mapping[Any, torch.Tensor]],
    weights: Sequence[int],
    included: Iterable[int],
    keys: Mapping[int, bytes],
) -> dict[Any, tuple[list[int], int]]:
    """Entity → Σ c·h in steps and Σ c, with Python integers, rounded as each client's key says."""
    fixed, p, dim = agreed.fixed, agreed.fixed.field.modulus, agreed.parameters.length
    out: dict[Any, tuple[list[int], int]] = {}
    for n in included:
        flat = [value for row in entities[n].values() for value in row.tolist()]
        rounding = derived(keys[n], "rounding")
        steps = oracles.quantize(flat, fixed.scale, fixed.clip, p, rounding)
        lifted = [weights[n] * oracles.centred(step, p) for step in steps]
        for at, entity in enumerate(entities[n]):
            own = lifted[at * dim : (at + 1) * dim]
            sums, total = out.get(entity, ([0] * dim, 0))
            sums = [a + b for a, b in zip(sums, own, strict=True)]
            out[entity] = (sums, total + weights[n])
    return out


def check_result(
    result: Any,
    agreed: SecEA,
    entities: Sequence[Mapping[Any, torch.Tensor]],
    weights: Sequence[int],
    number: int = 0,
) -> None:
    """A simulated round gave every client in it exactly its own entities' sums and means."""
    keys = {i: client_secret(i, number) for i in range(len(entities))}
    wish = exact(agreed, entities, weights, result.included, keys)
    for i in result.clients:
        assert i in result.included
        assert list(result.embeddings[i]) == list(entities[i])
        for entity in entities[i]:
            sums, total = wish[entity]
            assert result.integers[i][entity].tolist() == sums
            assert result.counts[i][entity] == total
            mean = torch.tensor(sums, dtype=torch.float32) / agreed.fixed.scale / total
            assert torch.equal(result.embeddings[i][entity], mean)
    for i in set(range(len(entities))) - set(result.clients):
        assert result.embeddings[i] is None


def set_up(agreed: SecEA, sets: Sequence[Iterable[Any]]) -> tuple[SecEA, dict[int, Setup]]:
    """The protocol over the union, and every client's setup, without the messages of a setup."""
    group = Key(derived(SECRET, "group"))
    rows = {tuple(row) for own in sets for row in pseudonyms(group, own).tolist()}
    union = torch.tensor(sorted(rows), dtype=torch.int32).reshape(-1, 4)
    bound = agreed.sized(max(1, len(union)), max(1, *(len(list(own)) for own in sets))).over(union)
    query = [Key(derived(SECRET, "query", i)) for i in range(len(sets))]
    return bound, {i: Setup.made(i, own, group, union, query[i]) for i, own in enumerate(sets)}


class Drive:
    """The parties of one round; messages go through bytes.

    Args:
        agreed: the protocol over the union.
        entities: of each client.
        setups: of each client.
        number: of the round.
        more: client → further arguments of ``agreed.client``.
    """

    def __init__(
        self,
        agreed: SecEA,
        entities: Entities,
        setups: Mapping[int, Setup],
        number: int = 0,
        more: Mapping[int, dict[str, Any]] | None = None,
    ) -> None:
        self.agreed, self.entities, self.setups, self.number = agreed, entities, setups, number
        self.server = agreed.server(number, nonce=bytes(32))
        given = more or {}
        self.clients = [
            agreed.client(i, number, Key(client_secret(i, number)), **given.get(i, {}))
            for i in range(agreed.parameters.clients)
        ]
        self.upwards: dict[int, Message] = {}
        self.downwards: dict[int, Message] = {}

    def through(self, message: Message) -> Message:
        return Message.from_bytes(message.to_bytes(), self.agreed.parameters)

    def send(self, lost: Iterable[int] = ()) -> dict[int, Message]:
        """Each client acts on what it was sent; its message waits in ``upwards``."""
        self.upwards = {}
        for i, client in enumerate(self.clients):
            if i in lost:
                continue
            if self.server.phase == "keys":
                (self.upwards[i],) = client.start(self.entities[i], 1 + i % 3, self.setups[i])
            elif i in self.downwards:
                (self.upwards[i],) = client.handle(self.downwards[i], -1)
        return self.upwards

    def collect(self) -> None:
        """The server takes what waits."""
        for i, message in self.upwards.items():
            assert self.server.handle(self.through(message), i) == []
        self.upwards = {}

    def close(self) -> dict[int, Message]:
        """The server closes its phase; its messages wait in ``downwards``."""
        self.downwards = {m.recipient: self.through(m) for m in self.server.close_phase()}
        return self.downwards

    def turn(self, lost: Iterable[int] = ()) -> None:
        self.send(lost)
        self.collect()
        self.close()

    def until(self, kind: str, lost: Iterable[int] = ()) -> dict[int, Message]:
        """Play until messages of this kind wait, in ``upwards`` or ``downwards``."""
        while True:
            if not self.upwards:  # what waits goes first
                self.send(lost)
                if self.upwards and next(iter(self.upwards.values())).kind == kind:
                    return self.upwards
            self.collect()
            self.close()
            if self.downwards and next(iter(self.downwards.values())).kind == kind:
                return self.downwards

    def check(self, who: Iterable[int]) -> None:
        """These clients take their answers and have exact results."""
        weights = [1 + i % 3 for i in range(len(self.clients))]
        keys = {i: client_secret(i, self.number) for i in range(len(self.clients))}
        wish = exact(self.agreed, self.entities, weights, self.server.included, keys)
        for i in who:
            assert self.clients[i].handle(self.downwards[i], -1) == []
            result = self.clients[i].result
            assert list(result.ids) == list(self.entities[i])
            for entity in self.entities[i]:
                sums, total = wish[entity]
                assert result.integers[entity].tolist() == sums
                assert result.counts[entity] == total


def drive(count: int = 12, **numbers: Any) -> Drive:
    """A round of a small setting with ``count`` entities."""
    more = numbers.pop("more", None)
    number = numbers.pop("number", 0)
    agreed = protocol(**numbers)
    p = agreed.parameters
    entities = some_entities(p.clients, p.length, count)
    bound, setups = set_up(agreed, entities)
    return Drive(bound, entities, setups, number, more)


def changed(message: Message, **change: Any) -> Any:
    return dataclasses.replace(message, **change)


def flipped(box: tuple[bytes, ...]) -> tuple[bytes, ...]:
    first = bytearray(box[0])
    first[20] ^= 1
    return (bytes(first), *box[1:])


def spoiled(message: Any, to: int, place: int) -> Any:
    """A Share whose box number ``place`` for one recipient is damaged."""
    boxes = [
        (*entry[:place], flipped(entry[place]), *entry[place + 1 :]) if entry[0] == to else entry
        for entry in message.boxes
    ]
    return changed(message, boxes=tuple(boxes))
