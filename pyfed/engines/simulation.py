"""A round of secure aggregation in one process, through the bytes of its messages."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from pyfed.checks import expect_int, expect_key, expect_one_device
from pyfed.engines.callbacks import RoundCallback, expect_callbacks, round_ended
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.secagg.identity import Identity
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.result import RoundResult
from pyfed.secagg.session import SERVER
from pyfed.secagg.wire import Message


def simulate(
    protocol: Protocol,
    updates: Any,
    weights: Sequence[int] | None = None,
    drop: Mapping[str, Iterable[int]] | None = None,
    key: Key | None = None,
    round: int = 0,
    identities: Sequence[Identity] | None = None,
    callbacks: Iterable[RoundCallback] = (),
) -> Any:
    """Run one round with all its clients and the server in this process.

    Every message is turned into bytes, counted, and read back as if it came from a stranger.

    Args:
        protocol: the session's numbers: of LightSecAgg, SwiftAgg, SecAggPlus or SecEA.
        updates: for each client what the session's encoding takes, all on one device: a float
            vector of ``length``, of which what lies beyond the clip of the fixed-point form is
            cut off there and gradients do not flow, or a mask of ``length`` votes. Under SecEA:
            for each client a dict, entity id → embedding; see :func:`simulate_secea`.
        weights: an integer for each client, as a list, tensor or array; None: all 1.
        drop: phase → clients that send nothing from that phase on. Phases are ``"keys"``,
            ``"share"``, ``"upload"`` (lost there: outside the sum), ``"commit"`` (under a
            malicious server) and ``"recover"`` (inside).
        key: makes the round repeatable, in tests; None takes fresh keys from the operating system.
        round: number of the round.
        identities: under a malicious server the private key of each client for signatures.
        callbacks: told of the round when it is over; see :mod:`pyfed.engines.callbacks`.

    Returns:
        The RoundResult (of SecEA an EmbeddingResult), with ``.traffic`` {(role, phase): bytes
        sent} and ``.seconds`` {phase: wall time of all parties together}.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.
        ThresholdError: more clients than the protocol bears were lost; ``.missing`` names them.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.secagg import LightSecAgg, simulate
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=12, clients=4, max_weight=10)
        >>> protocol = LightSecAgg(clients=4, privacy=1, dropouts=1, length=1, fixed=fixed)
        >>> updates = [torch.tensor([x]) for x in (0.5, 0.25, -0.5, 1.0)]
        >>> result = simulate(protocol, updates, weights=[1, 2, 3, 4], drop={"share": {3}})
        >>> result.sum, result.total_weight
        (tensor([-0.5000]), 6)
    """
    if not isinstance(protocol, Protocol):
        kind = type(protocol).__name__
        raise DtypeError(
            f"simulate: protocol is {kind}; it must be a LightSecAgg, SwiftAgg, SecAggPlus or SecEA"
        )
    told = expect_callbacks("simulate", callbacks)
    if protocol.name == "SecEA":
        from pyfed.engines.secea import simulate_secea

        return simulate_secea(
            protocol, updates, weights, drop, key, round, identities, callbacks=told
        )
    count = protocol.parameters.clients
    updates = _one_each("updates", updates, count)
    for index, update in enumerate(updates):
        if not isinstance(update, torch.Tensor):
            kind = type(update).__name__
            raise DtypeError(f"simulate: updates[{index}] is {kind}; it must be a torch.Tensor")
    weights = [1] * count if weights is None else _one_each("weights", weights, count)
    for index, weight in enumerate(weights):
        expect_int("simulate", f"weights[{index}]", weight, 0, protocol.fixed.max_weight + 1)
    if key is not None:
        expect_key("simulate", key)
    device = expect_one_device("simulate", updates)
    lost = lost_from(drop or {}, protocol)
    run = _Round(protocol, round, key, device, identities)
    try:
        result = run.play(updates, weights, lost)
    finally:
        run.close()
    round_ended(
        told,
        protocol.name,
        round,
        result.traffic,
        clients=count,
        included=sorted(result.included),
        total_weight=result.total_weight,
        wrong=list(result.wrong),
        seconds=result.seconds,
    )
    return result


def _one_each(name: str, values: Any, clients: int) -> list[Any]:
    """A list of one value for each client; a tensor or an array of numbers becomes numbers."""
    if name == "weights" and hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence | torch.Tensor):
        kind = type(values).__name__
        raise DtypeError(f"simulate: {name} is {kind}; it must be a list, one for each client")
    if len(values) != clients:
        raise ArgumentError(f"simulate: {len(values)} {name} are given; clients is {clients}")
    return list(values)


def lost_from(drop: Mapping[str, Iterable[int]], protocol: Protocol) -> dict[int, int]:
    """Client → number of the phase from which on it sends nothing."""
    if not isinstance(drop, Mapping):
        raise DtypeError(f"simulate: drop is {type(drop).__name__}; it must map phases to clients")
    lost: dict[int, int] = {}
    for phase, clients in drop.items():
        if phase not in protocol.phases:
            raise ArgumentError(
                f"simulate: drop names the phase {phase!r}; phases are {', '.join(protocol.phases)}"
            )
        if not isinstance(clients, Iterable):
            kind = type(clients).__name__
            raise DtypeError(f"simulate: drop[{phase!r}] is {kind}; it must be a set of clients")
        for client in clients:
            expect_int("simulate", "a client in drop", client, 0, protocol.parameters.clients)
            if client in lost:
                raise ArgumentError(f"simulate: drop names client {client} in two phases")
            lost[client] = protocol.phases.index(phase)
    return lost


class _Round:
    """The parties of one round, and what they have sent each other."""

    def __init__(
        self,
        protocol: Protocol,
        round_: int,
        key: Key | None,
        device: torch.device,
        identities: Sequence[Identity] | None,
    ) -> None:
        self.protocol = protocol
        count = protocol.parameters.clients
        if protocol.parameters.signed and identities is None:
            raise ArgumentError(
                f"simulate: {protocol.name} has server='malicious'; pass identities=[...] with "
                "every client's private Identity"
            )
        owned = [None] * count if identities is None else _one_each("identities", identities, count)
        nonce = None
        if key is not None:
            public = key.derive("nonce", round_)
            nonce = public.reveal()
            public.wipe()
        self.server = protocol.server(round_, nonce, device)
        self.clients = []
        for index in range(count):
            own = None if key is None else key.derive("client", round_, index)
            self.clients.append(protocol.client(index, round_, own, identity=owned[index]))
            if own is not None:
                own.wipe()
        self.traffic: defaultdict[tuple[str, str], int] = defaultdict(int)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.close()

    def sent(self, message: Message, role: str, phase: str) -> bytes:
        data = message.to_bytes()
        self.traffic[role, phase] += len(data)
        return data

    def received(self, data: bytes) -> Message:
        return Message.from_bytes(data, self.protocol.parameters)

    def play(
        self,
        updates: Sequence[torch.Tensor] | torch.Tensor,
        weights: Sequence[int],
        lost: dict[int, int],
    ) -> RoundResult:
        seconds: defaultdict[str, float] = defaultdict(float)
        inbox: dict[int, list[bytes]] = {}
        last = len(self.protocol.phases)
        started: set[int] = set()
        while self.server.phase != "done":
            phase, began = self.server.phase, time.perf_counter()
            number = self.protocol.phases.index(phase)
            for index in range(len(self.clients)):
                if lost.get(index, last) <= number:
                    continue
                if index not in started:
                    started.add(index)
                    messages = self.entered(index, updates[index], weights[index])
                else:
                    messages = self.handled(index, inbox.pop(index, []))
                for message in messages:
                    data = self.sent(message, "client", phase)
                    self.server.handle(self.received(data), index)
            for message in self.server.close_phase():
                data = self.sent(message, "server", phase)
                inbox.setdefault(message.recipient, []).append(data)
            seconds[phase] += time.perf_counter() - began
        for index, waiting in inbox.items():
            if index not in lost:
                self.handled(index, waiting)
        result = self.server.result
        return dataclasses.replace(result, traffic=dict(self.traffic), seconds=dict(seconds))

    def entered(self, index: int, update: torch.Tensor, weight: int) -> list[Message]:
        """A client's first message; what is wrong with an update is told with its number."""
        try:
            return self.clients[index].start(update, weight)
        except (ArgumentError, DtypeError) as error:
            raise type(error)(f"simulate: updates[{index}]: {error}") from None

    def handled(self, index: int, waiting: list[bytes]) -> list[Message]:
        """What a client answers to the messages that wait for it."""
        client = self.clients[index]
        return [m for data in waiting for m in client.handle(self.received(data), SERVER)]
