"""What an attacker computes from messages and from what colluders hold, in Python integers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import oracles
from secagg.journeys import Journey, Scene
from secagg.scenes import integers_of, round_key


def words(packed: bytes) -> list[int]:
    """Residues out of packed 32-bit words."""
    return list(struct.unpack(f"<{len(packed) // 4}I", packed))


def minus(a: Sequence[int], b: Sequence[int], p: int) -> list[int]:
    return [(x - y) % p for x, y in zip(a, b, strict=True)]


def value_at(rows: Mapping[int, Sequence[int]], share: int, scene: Scene) -> list[int]:
    """Share ``share`` of the shared vector that rows, by number, determine."""
    p, alphas, _ = code_of(scene)
    return columns_at(rows, alphas, alphas[share], p)


def data_of(rows: Mapping[int, Sequence[int]], scene: Scene, length: int) -> list[int]:
    """The shared vector itself: its blocks are the values at the block points."""
    p, alphas, betas = code_of(scene)
    blocks = [columns_at(rows, alphas, beta, p) for beta in betas]
    return [value for column in zip(*blocks, strict=True) for value in column][:length]


def columns_at(
    rows: Mapping[int, Sequence[int]], alphas: Sequence[int], x: int, p: int
) -> list[int]:
    where = [alphas[number] for number in rows]
    return [oracles.interpolate(where, column, x, p) for column in zip(*rows.values(), strict=True)]


def code_of(scene: Scene) -> tuple[int, list[int], list[int]]:
    """The prime, and the points of shares and of blocks."""
    code = scene.protocol.code
    p = code.field.modulus
    return p, *oracles.points(p, code.shares, code.blocks)


def centred(residues: Sequence[int], p: int) -> list[int]:
    return [oracles.centred(value, p) for value in residues]


def secret_of(journey: Journey, client: int) -> list[int]:
    """What nobody may learn: a client's weighted update in steps, and its weight."""
    update, weight = journey.scene.inputs[client]
    key = round_key(client, journey.round, journey.secret)
    own = integers_of(journey.scene.protocol, update.tolist(), weight, key)
    return [*own, weight]


def sent_by(journey: Journey, client: int, kind: str) -> Any:
    """The only message of a kind that a client sent to the server."""
    found = {
        data
        for event, sent in zip(journey.events, journey.sent, strict=True)
        if event.party == client
        for data in sent
        if journey.read(data).kind == kind
    }
    (data,) = found
    return journey.read(data)
