"""Damaged and forged messages in the thousands: each is refused, and changes nothing."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from lora.fedsa_rounds import equal_bits, models_of, refused, state, with_nan
from pyfed.errors import ProtocolError
from pyfed.lora import FedSALoRA, LoraMessage


def parties(server: bool) -> tuple[Any, LoraMessage, int, list[Any]]:
    """A party that waits for a message, that message, its source, and the clients' models."""
    models = models_of("lora", 2)
    rule = FedSALoRA()
    clients = [rule.client(i, model) for i, model in enumerate(models)]
    updates = [client.start()[0] for client in clients]
    party = rule.server(models[0], 2)
    if server:
        return party, updates[1], 1, models
    for index, update in enumerate(updates):
        party.handle(update, index)
    return clients[0], party.close_phase()[0], -1, models


def damaged(genuine: bytes, draw: random.Random) -> bytes:
    """Bits flipped, bytes lost, added and moved."""
    data = bytearray(genuine)
    for _ in range(draw.randint(1, 3)):
        kind, place = draw.randrange(4), draw.randrange(len(data))
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[place : place + draw.choice([1, 4, len(data)])]
            data = data or bytearray(1)
        elif kind == 2:
            data[place:place] = draw.randbytes(draw.randint(1, 8))
        else:
            data = data[place:] + data[:place]
    return bytes(data)


def forged(genuine: LoraMessage, draw: random.Random) -> LoraMessage:
    """With one to three fields that must not be taken."""
    wrong = {
        "session": [draw.randbytes(32), b""],
        "marks": [draw.randbytes(28), b""],
        "round": [1, 2**64 - 1, -1, 0.0],
        "sender": [-2, 0 if genuine.sender else 1, 65_534, 2**31],
        "recipient": [-2, 1, 65_534],
        "weight": [2**39, -1, None],
        "payload": [b"", genuine.payload[4:], with_nan(genuine).payload, genuine.payload + b"0"],
    }
    chosen = draw.sample(sorted(wrong), draw.randint(1, 3))
    return dataclasses.replace(genuine, **{name: draw.choice(wrong[name]) for name in chosen})


def fuzz(server: bool, count: int, seed: int) -> None:
    party, genuine, source, models = parties(server)
    before, draw = [state(model) for model in models], random.Random(seed)
    data = genuine.to_bytes()
    for number in range(count):
        bad = damaged(data, draw) if number % 2 else forged(genuine, draw).to_bytes()
        if bad == data:  # moved around and back
            continue
        with pytest.raises(ProtocolError):
            party.handle(LoraMessage.from_bytes(bad, party.plan), source)
        if number % 8 == 0:  # a peer in the same process gives messages that were not read
            refused(party.handle, forged(genuine, draw), source)
    for model, old in zip(models, before, strict=True):
        assert all(equal_bits(value, old[key]) for key, value in state(model).items())
    party.handle(LoraMessage.from_bytes(data, party.plan), source)  # still waiting for it


@pytest.mark.parametrize("server", [True, False])
def test_damaged_and_forged_messages_are_refused_and_change_nothing(server: bool) -> None:
    fuzz(server, 1500, 3)


@pytest.mark.slow
@pytest.mark.parametrize("server", [True, False])
def test_damaged_and_forged_messages_are_refused_and_change_nothing_in_full(server: bool) -> None:
    fuzz(server, 50_000, 4)
