"""One small setting of each protocol and server mode, with exact results to be met."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

import oracles
from pyfed import FixedPoint, Key
from pyfed.secagg import Identity, LightSecAgg, SecAggPlus, SwiftAgg
from secagg.journeys import Journey, Scene
from secagg.rounds import client_secret, derived, some_updates
from secagg.secea_rounds import exact, set_up, some_entities
from secagg.secea_rounds import protocol as secea_protocol

MODES = ("curious", "malicious")


def round_key(index: int, round_: int, secret: int) -> bytes:
    """The round key that :meth:`Scene.make_client` gives a client."""
    return hashlib.sha256(client_secret(index, round_) + bytes([secret])).digest()


def integers_of(protocol: Any, update: Sequence[float], weight: int, key: bytes) -> list[int]:
    """One client's weighted update in steps, as its own round key rounds it."""
    fixed, p = protocol.fixed, protocol.fixed.field.modulus
    steps = oracles.quantize(update, fixed.scale, fixed.clip, p, derived(key, "rounding"))
    return [oracles.centred(step, p) * weight for step in steps]


def check_sum(journey: Journey) -> None:
    """Server and clients have the exact sum over the clients that are named as included."""
    scene, result = journey.scene, journey.server.result
    wanted = [0] * scene.protocol.parameters.length
    total = 0
    for i in result.included:
        update, weight = scene.inputs[i]
        key = round_key(i, journey.round, journey.secret)
        own = integers_of(scene.protocol, update.tolist(), weight, key)
        wanted = [a + b for a, b in zip(wanted, own, strict=True)]
        total += weight
    assert len(result.included) >= scene.clients - scene.losses
    assert result.integers.tolist() == wanted
    assert result.total_weight == total
    for i, client in enumerate(journey.clients):
        if client.phase == "done":
            assert client.result.integers.tolist() == wanted
            assert client.result.included == result.included
            assert i in result.included


def ring(mode: str, count: int) -> list[Identity]:
    """The clients' identities; none under a curious server."""
    if mode == "curious":
        return []
    return [Identity(Key(hashlib.sha256(b"identity" + bytes([i])).digest())) for i in range(count)]


def told(mode: str, count: int) -> dict[str, Any]:
    """What a protocol is given besides its numbers: the mode, and whom it pins."""
    more = {"identities": [identity.public for identity in ring(mode, count)]}
    return {"server": mode} | (more if mode == "malicious" else {})


def fixed_point(clients: int) -> FixedPoint:
    return FixedPoint(clip=1.0, bits=16, clients=clients, max_weight=9)


def moved(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Another update with the same weight."""
    update, weight = arguments
    return update + 0.125, weight


def summing(name: str, protocol: Any, losses: int) -> Scene:
    """A scene in which every client brings a vector and a weight."""
    p = protocol.parameters
    updates = some_updates(p.clients, p.length)
    inputs = [(update, 1 + i % 9) for i, update in enumerate(updates)]
    return Scene(name, protocol, inputs, check_sum, moved, ring(p.mode, p.clients), losses)


@functools.cache
def lightsecagg(mode: str = "curious", **more: Any) -> Scene:
    """Six clients, K = 2: two may be lost, and one wrong row is noticed."""
    numbers = {"clients": 6, "privacy": 1, "dropouts": 2, "detect": 1, "length": 5} | more
    count = numbers["clients"]
    agreed = LightSecAgg(**numbers, fixed=fixed_point(count), **told(mode, count))
    return summing(f"LightSecAgg-{mode}", agreed, agreed.parameters.dropouts)


@functools.cache
def swiftagg(mode: str = "curious", **more: Any) -> Scene:
    """Two groups of four, K = 1: one may be lost, and one wrong column is noticed."""
    numbers = {"clients": 8, "privacy": 1, "dropouts": 1, "detect": 1, "blocks": 1, "length": 5}
    numbers |= more
    agreed = SwiftAgg(**numbers, fixed=fixed_point(8), **told(mode, 8))
    return summing(f"SwiftAgg-{mode}", agreed, agreed.parameters.dropouts)


@functools.cache
def secaggplus(mode: str = "curious", **more: Any) -> Scene:
    """Six clients that are all neighbours: two may be lost, and one wrong share is noticed."""
    numbers = {"clients": 6, "privacy": 1, "dropouts": 2, "detect": 1, "length": 5} | more
    agreed = SecAggPlus(**numbers, fixed=fixed_point(6), **told(mode, 6))
    return summing(f"SecAggPlus-{mode}", agreed, agreed.parameters.dropouts)


def check_entities(journey: Journey) -> None:
    """Every client that has read has the exact sums of its own entities, over those included."""
    scene, included = journey.scene, journey.server.included
    entities = [arguments[0] for arguments in scene.inputs]
    weights = [arguments[1] for arguments in scene.inputs]
    keys = {i: round_key(i, journey.round, journey.secret) for i in range(scene.clients)}
    wish = exact(scene.protocol, entities, weights, included, keys)
    assert len(included) >= scene.clients - scene.losses
    for i, client in enumerate(journey.clients):
        if client.phase != "done":
            continue
        assert client.result.included == included
        found = {entity: sums.tolist() for entity, sums in client.result.integers.items()}
        assert found == {entity: wish[entity][0] for entity in entities[i]}
        assert client.result.counts == {entity: wish[entity][1] for entity in entities[i]}


def other_embeddings(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Other embeddings of the same entities."""
    embeddings, weight, setup = arguments
    return {entity: row + 0.125 for entity, row in embeddings.items()}, weight, setup


@functools.cache
def secea(mode: str = "curious") -> Scene:
    """Six clients with entities of one to six owners: two may be lost, one wrong row is noticed."""
    entities = some_entities(6, 3, 7)
    agreed = secea_protocol(6, 1, 1, 3, 2, detect=1, **told(mode, 6))
    bound, setups = set_up(agreed, entities)
    inputs = [(entities[i], 1 + i % 3, setups[i]) for i in range(6)]
    identities = ring(mode, 6)
    check, name = check_entities, f"SecEA-{mode}"
    return Scene(name, bound, inputs, check, other_embeddings, identities, losses=2, keeps=True)


def masked_residues(message: Any) -> bytes:
    """What an Upload says of its client's own input."""
    return bytes(message.masked)


@functools.cache
def every_scene() -> tuple[Scene, ...]:
    """All protocols under both kinds of server."""
    makers = (lightsecagg, swiftagg, secaggplus, secea)
    return tuple(make(mode) for make in makers for mode in MODES)


def malicious_scenes() -> tuple[Scene, ...]:
    return tuple(scene for scene in every_scene() if scene.identities)


EVERY = pytest.mark.parametrize("scene", every_scene(), ids=lambda scene: scene.name)
