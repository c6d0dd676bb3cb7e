"""Rounds of SecEA in one process, with the setup that they share."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from pyfed.checks import expect_int, expect_key
from pyfed.engines.callbacks import RoundCallback, expect_callbacks, round_ended
from pyfed.engines.secea_arguments import expect_entities, expect_list, expect_setups
from pyfed.engines.simulation import lost_from, simulate
from pyfed.errors import ArgumentError, DecodeError, DtypeError, PyfedError, ThresholdError
from pyfed.keys import Key
from pyfed.secagg.identity import Identity
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.secea import SecEA
from pyfed.secagg.secea_group import GroupServer
from pyfed.secagg.secea_result import EmbeddingResult
from pyfed.secagg.secea_setup import EntityId, Setup
from pyfed.secagg.session import SERVER
from pyfed.secagg.union import pseudonyms
from pyfed.secagg.wire import Message

ATTEMPTS = 8
"""Unions tried, each with a new salt, before a failed peel is given up on."""

Traffic = defaultdict[tuple[str, str], int]
Seconds = defaultdict[str, float]


def simulate_secea(
    protocol: Protocol,
    entities: Sequence[Mapping[EntityId, torch.Tensor]],
    weights: Sequence[int] | None = None,
    drop: Mapping[str, Iterable[int]] | None = None,
    key: Key | None = None,
    round: int = 0,
    identities: Sequence[Identity] | None = None,
    setups: Mapping[int, Setup] | None = None,
    callbacks: Iterable[RoundCallback] = (),
) -> EmbeddingResult:
    """Run one round of SecEA, after a setup if there is none for these entities.

    Args:
        protocol: a SecEA; public maxima that it leaves open are taken from the data.
        entities: for each client a dict, entity → embedding (dim,), on any device.
        weights: an integer for each client, of all its embeddings; None: all 1.
        drop: phase → clients that send nothing from that phase on; in the setup nobody is lost.
        key: makes the round repeatable, in tests; None takes fresh keys from the operating system.
        round: number of the round; never used twice with the same setups.
        identities: under a malicious server the private key of each client for signatures.
        setups: ``setups`` of an earlier result, which are left as they are. A client whose
            entities have changed moves to a new epoch; when one of them is not in the union, all
            clients set up again.
        callbacks: told of the round when it is over; see :mod:`pyfed.engines.callbacks`.

    Returns:
        The result; ``.traffic`` counts the setup as phase ``"setup"``.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.
        ThresholdError: more clients than the protocol bears were lost.
        DecodeError: no union was found.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.secagg.secea import SecEA
        >>> from pyfed.engines.secea import simulate_secea
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=3)
        >>> protocol = SecEA(clients=3, privacy=1, blocks=1, dim=1, fixed=fixed)
        >>> one, two = {7: torch.tensor([0.5])}, {7: torch.tensor([0.25]), 8: torch.tensor([1.0])}
        >>> first = simulate_secea(protocol, [one, two, {}])
        >>> first.embeddings
        [{7: tensor([0.3750])}, {7: tensor([0.3750]), 8: tensor([1.])}, {}]
        >>> again = simulate_secea(protocol, [one, two, {}], round=1, setups=first.setups)
        >>> again.traffic["client", "recover"] < first.traffic["client", "recover"]
        True
    """
    if not isinstance(protocol, SecEA):
        raise DtypeError(f"simulate_secea: protocol is {type(protocol).__name__}; pass a SecEA")
    told = expect_callbacks("simulate_secea", callbacks)
    if key is not None:
        expect_key("simulate_secea", key)
    count = protocol.parameters.clients
    for name, given in (("entities", entities), ("weights", weights), ("identities", identities)):
        if given is not None or name == "entities":
            expect_list(name, given, count)
    dim = protocol.parameters.length
    sets = [expect_entities(index, own, dim) for index, own in enumerate(entities)]
    expect_int("simulate_secea", "round", round, 0, 2**64)
    lost = lost_from(drop or {}, protocol)
    traffic: Traffic = defaultdict(int)
    seconds: Seconds = defaultdict(float)
    kept = None if setups is None else _moved(expect_setups(setups, count), sets, key, round)
    if kept is None:
        protocol = protocol.sized(
            max(1, len(set().union(*sets))), max(1, max(len(own) for own in sets))
        )
        kept = _set_up(protocol, sets, key, round, identities, traffic, seconds)
    else:
        most = max(1, max(len(own) for own in sets))
        protocol = protocol.sized(max(1, len(kept[0].union)), most)
    bound = protocol.over(kept[0].union)
    inputs = [(entities[i], 1 if weights is None else weights[i], kept[i]) for i in range(count)]
    play = _Play(bound, round, key, identities)
    try:
        play.run(inputs, lost, traffic, seconds)
        done = [i for i in range(count) if play.clients[i].phase == "done"]
        result = EmbeddingResult(
            clients={i: play.clients[i].result for i in done},
            failed=play.failed,
            included=play.server.included,
            size=count,
            union_size=len(kept[0].union),
            setups={
                i: play.clients[i].setup if i in play.started else kept[i].copy()
                for i in range(count)
            },
            traffic=dict(traffic),
            seconds=dict(seconds),
        )
    finally:
        play.close()
    round_ended(
        told,
        protocol.name,
        round,
        result.traffic,
        clients=count,
        included=sorted(result.included),
        failed=sorted(result.failed),
        union_size=result.union_size,
        seconds=result.seconds,
    )
    return result


def _moved(
    setups: Mapping[int, Setup],
    sets: list[tuple[EntityId, ...]],
    key: Key | None,
    round_: int,
) -> dict[int, Setup] | None:
    """The setups for these entities; None when an entity is new and so a new union is needed."""
    moved = {}
    for index, own in enumerate(sets):
        moved[index] = setups[index]
        if not setups[index].holds(own):
            fresh = None if key is None else key.derive("query", round_, index)
            try:
                moved[index] = setups[index].moved(own, fresh)
            except ArgumentError:  # all else is checked, so the union has not all of them
                return None
    return moved


def _set_up(
    protocol: SecEA,
    sets: list[tuple[EntityId, ...]],
    key: Key | None,
    round_: int,
    identities: Sequence[Identity] | None,
    traffic: Traffic,
    seconds: Seconds,
) -> dict[int, Setup]:
    """The group key, then the union, for all clients."""
    began = time.perf_counter()
    group = _Play(protocol.group, round_, None if key is None else key.derive("group"), identities)
    try:
        sent: Traffic = defaultdict(int)
        group.run([()] * len(sets), {}, sent, defaultdict(float))
        keys = [client.group_key for client in group.clients]
        assert isinstance(group.server, GroupServer)
        seed = group.server.seed
        for attempt in range(ATTEMPTS):
            form, salt, summed = protocol.union_sum(seed, attempt)
            drawn = [_own(key, "table", attempt, i) or Key.generate() for i in range(len(sets))]
            tables = [
                form.table(pseudonyms(keys[i], own), salt, drawn[i]) for i, own in enumerate(sets)
            ]
            secret = _own(key, "union", attempt)
            result = simulate(summed, tables, key=secret, round=round_, identities=identities)
            for (role, _), count in result.traffic.items():
                sent[role, "setup"] += count
            try:
                union = form.peel(result.residues, salt)
                break
            except DecodeError:
                if attempt == ATTEMPTS - 1:
                    raise
        return {
            i: Setup.made(i, own, keys[i], union, _own(key, "query", round_, i))
            for i, own in enumerate(sets)
        }
    finally:
        group.close()
        for (role, _), count in sent.items():
            traffic[role, "setup"] += count
        seconds["setup"] += time.perf_counter() - began


def _own(key: Key | None, label: str, *numbers: int) -> Key | None:
    return None if key is None else key.derive(label, *numbers)


class _Play:
    """The parties of one round of any step, whose results are read from the parties."""

    def __init__(
        self,
        protocol: Protocol,
        round_: int,
        key: Key | None,
        identities: Sequence[Identity] | None,
    ) -> None:
        self.protocol = protocol
        nonce = None if key is None else key.derive("nonce", round_).reveal()
        self.server: Any = protocol.server(round_, nonce)
        self.clients: list[Any] = [
            protocol.client(
                index,
                round_,
                _own(key, "client", round_, index),
                identity=None if identities is None else identities[index],
            )
            for index in range(protocol.parameters.clients)
        ]
        self.started: set[int] = set()
        self.failed: dict[int, PyfedError] = {}
        self.mail: dict[int, list[bytes]] = {}

    def close(self) -> None:
        for party in (*self.clients, self.server):
            party.close()

    def received(self, data: bytes) -> Message:
        return Message.from_bytes(data, self.protocol.parameters)

    def run(
        self,
        inputs: Sequence[tuple[Any, ...]],
        lost: dict[int, int],
        traffic: Traffic,
        seconds: Seconds,
    ) -> None:
        """Every client acts, then the server closes its phase, until it is done."""
        phases = self.protocol.phases
        while self.server.phase != "done":
            phase, began = self.server.phase, time.perf_counter()
            number = phases.index(phase)
            for index in range(len(self.clients)):
                if lost.get(index, len(phases)) <= number:
                    continue
                for message in self.acted(index, inputs[index]):
                    data = message.to_bytes()
                    traffic["client", phase] += len(data)
                    self.server.handle(self.received(data), index)
            for message in self.server.close_phase():
                data = message.to_bytes()
                traffic["server", phase] += len(data)
                self.mail.setdefault(message.recipient, []).append(data)
            seconds[phase] += time.perf_counter() - began
        began = time.perf_counter()
        for index in sorted(set(self.mail) - set(lost)):
            try:
                self.acted(index, ())
            except (ThresholdError, DecodeError) as error:
                self.failed[index] = error
        seconds[phases[-1]] += time.perf_counter() - began

    def acted(self, index: int, inputs: tuple[Any, ...]) -> list[Message]:
        """What a client sends: at first its Hello, then the answers to what it was sent."""
        client = self.clients[index]
        if index not in self.started:
            self.started.add(index)
            first: list[Message] = client.start(*inputs)
            return first
        waiting = self.mail.pop(index, [])
        return [m for data in waiting for m in client.handle(self.received(data), SERVER)]
