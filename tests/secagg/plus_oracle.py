"""SecAgg+ once more, with Python integers and the primitives of the cryptography package."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import oracles
from secagg.attacks import words
from secagg.journeys import Journey
from secagg.rounds import derived
from secagg.scenes import round_key

SEEDS = oracles.P_SOLINAS


def prefixed(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def expanded(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def shuffled(session: bytes, count: int) -> list[int]:
    """Fisher and Yates' shuffle by ChaCha20 words."""
    key, at, order = derived(session, "graph"), 0, list(range(count))
    for bound in range(count, 1, -1):
        while (word := oracles.word(key, at)) >= 2**32 - 2**32 % bound:
            at += 1
        at += 1
        place = word % bound
        order[place], order[bound - 1] = order[bound - 1], order[place]
    return order


def joined(session: bytes, members: list[int], degree: int) -> dict[int, list[int]]:
    """The sorted neighbours of every member."""
    count = len(members)
    if degree >= count - 1:
        return {m: [o for o in members if o != m] for m in members}
    ring = [members[i] for i in shuffled(session, count)]
    return {
        m: sorted(
            o
            for at, o in enumerate(ring)
            if 0 < min((at - p) % count, (p - at) % count) <= degree // 2
        )
        for p, m in enumerate(ring)
    }


def pieces(secret: bytes) -> list[int]:
    """256 bits as 9 integers of 30 bits."""
    bits = f"{int.from_bytes(secret, 'little'):0270b}"[::-1]
    return [int(bits[at : at + 30][::-1], 2) for at in range(0, 270, 30)]


def joined_pieces(values: list[int]) -> bytes:
    return sum(value << 30 * i for i, value in enumerate(values)).to_bytes(32, "little")


@dataclass
class Plus:
    """All secrets of one journey, from the clients' round keys.

    Args:
        journey: that has got beyond its first turn.
        session: the session hash of its roster.
    """

    journey: Journey
    session: bytes

    def __post_init__(self) -> None:
        journey = self.journey
        self.parameters: Any = journey.scene.protocol.parameters
        self.p = self.parameters.field.modulus
        keys = [round_key(i, journey.round, journey.secret) for i in range(journey.scene.clients)]
        self.rounds = keys
        self.seeds = [derived(key, "self") for key in keys]
        self.privates = [derived(key, "pairwise") for key in keys]
        self.channels = [X25519PrivateKey.from_private_bytes(derived(k, "channel")) for k in keys]
        self.masking = [X25519PrivateKey.from_private_bytes(k) for k in self.privates]

    def graph(self, members: list[int]) -> dict[int, list[int]]:
        return joined(self.session, members, self.parameters.degree)

    def pair_key(self, one: int, two: int) -> bytes:
        secret = self.masking[one].exchange(self.masking[two].public_key())
        numbers = struct.pack("<QII", self.journey.round, min(one, two), max(one, two))
        return expanded(secret, self.session, prefixed("pairwise") + numbers)

    def mask(self, key: bytes) -> list[int]:
        return [oracles.residue(key, i, self.p) for i in range(self.parameters.width)]

    def masked(self, client: int, own: list[int], neighbours: list[int]) -> list[int]:
        """An upload: the client's update and weight with the masks of these neighbours."""
        total = [a + b for a, b in zip(own, self.mask(self.seeds[client]), strict=True)]
        for peer in neighbours:
            sign = 1 if client < peer else -1
            mask = self.mask(self.pair_key(client, peer))
            total = [a + sign * b for a, b in zip(total, mask, strict=True)]
        return [value % self.p for value in total]

    def shares(self, client: int) -> list[list[int]]:
        """Row i: what the i-th neighbour gets."""
        values = pieces(self.seeds[client]) + pieces(self.privates[client])
        k, t = self.parameters.degree, self.parameters.threshold
        return oracles.encode(values, derived(self.rounds[client], "padding"), SEEDS, k, 1, t - 1)

    def opened(self, box: tuple[bytes, ...], sender: int, recipient: int) -> list[int]:
        """The words in a box."""
        secret = self.channels[sender].exchange(self.channels[recipient].public_key())
        numbers = struct.pack("<QII", self.journey.round, sender, recipient)
        info = prefixed("channel") + prefixed("share") + numbers
        bound = self.session + prefixed("Share")
        bound += struct.pack("<QIIII", self.journey.round, sender, recipient, 0, 1)
        (sealed,) = box
        cipher = AESGCM(expanded(secret, self.session, info))
        return words(cipher.decrypt(sealed[:12], sealed[12:], bound))


def revealed(rows: dict[int, list[int]], shares: int) -> bytes:
    """A secret from ``threshold`` rows of its shares, by their numbers."""
    alphas, betas = oracles.points(SEEDS, shares, 1)
    where = [alphas[row] for row in rows]
    columns = zip(*rows.values(), strict=True)
    return joined_pieces([oracles.interpolate(where, c, betas[0], SEEDS) for c in columns])
