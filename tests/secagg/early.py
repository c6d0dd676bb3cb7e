"""Rounds in which some clients enter before they have an update."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import WIDE, FixedPoint, Key
from pyfed.lanes import VoteLanes
from pyfed.secagg import (
    LightSecAgg,
    SecAggPlus,
)
from pyfed.secagg.protocol import Protocol
from secagg.rounds import client_secret, some_updates

FIXED = FixedPoint(clip=1.0, bits=12, clients=5, max_weight=9)


NUMBERS: dict[str, Any] = {"clients": 5, "privacy": 1, "dropouts": 1, "length": 4, "fixed": FIXED}


EARLY = {
    "light": lambda: LightSecAgg(**NUMBERS),
    "checked": lambda: LightSecAgg(**NUMBERS, detect=1, check_dealers=True),
    "wide": lambda: LightSecAgg(
        **NUMBERS | {"fixed": FixedPoint(1.0, 12, clients=5, max_weight=9, field=WIDE)}
    ),
    "votes": lambda: LightSecAgg(**NUMBERS | {"fixed": VoteLanes(clients=5)}),
    "plus": lambda: SecAggPlus(**NUMBERS),
}


def update_of(agreed: Protocol, client: int) -> tuple[torch.Tensor, int]:
    update = some_updates(5, 4)[client]
    return (update > 0, 1) if isinstance(agreed.fixed, VoteLanes) else (update, 1 + client)


class Early:
    """A round in which some clients enter, and get their update when ``late`` says."""

    def __init__(self, agreed: Protocol, early: set[int], resumed: bool = False) -> None:
        self.agreed, self.early, self.resumed = agreed, early, resumed
        self.server = agreed.server(3, nonce=bytes(32))
        self.clients = [agreed.client(i, 3, Key(client_secret(i, 3))) for i in range(5)]
        self.sent: list[bytes] = []

    def deliver(self, messages: list[Any], source: int) -> None:
        for message in messages:
            self.sent.append(message.to_bytes())
            self.server.handle(message, source)

    def hello(self) -> None:
        for i, client in enumerate(self.clients):
            update, weight = update_of(self.agreed, i)
            self.deliver(client.enter() if i in self.early else client.start(update, weight), i)

    def step(self) -> list[Any]:
        messages = self.server.close_phase()
        for message in messages:
            self.deliver(self.clients[message.recipient].handle(message, -1), message.recipient)
        return messages

    def provide(self) -> None:
        for i in self.early:
            if self.resumed:
                key = Key.generate()
                state = self.clients[i].save(key)
                client = self.agreed.resume(state, key)
                self.clients[i] = client  # type: ignore[call-overload]
            self.clients[i].provide(*update_of(self.agreed, i))

    def finish(self) -> list[int]:
        while self.server.phase != "done":
            self.step()
        return self.server.result.integers.tolist()
