"""What all parties of a session must agree on, and the hash that binds every message to it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from pyfed.errors import ArgumentError
from pyfed.fields import Field

VERSION = 1
PHASES = ("keys", "share", "upload", "recover")
SIGNATURE = 64
"""Bytes of an Ed25519 signature."""

SERVER = -1
"""The number of the server as sender, recipient or source."""

WORD = 4
"""Bytes of a packed residue."""

LONG = 2**16
"""Bytes from which on they are packed without copies."""

SEGMENT = 2**28
"""The most plaintext bytes under one nonce."""

SEALING = 12 + 16
"""Bytes that a box adds to a segment: the nonce in front and the tag behind."""


class Member(NamedTuple):
    """A client of the roster: its number and its public keys.

    The signing key has 32 bytes, or none under a server that is only curious.
    """

    client: int
    channel_key: bytes
    signing_key: bytes


def canonical(value: object) -> bytes:
    """The one msgpack encoding of a value: shortest integers, float64, bytes apart from str."""
    packed: bytes = msgpack.packb(value, use_bin_type=True, use_single_float=False)
    return packed


def canonical_parts(value: object) -> list[bytes]:
    """Parts that make up ``canonical(value)``; long bytes are one each, and are not copied."""
    if isinstance(value, bytes) and len(value) >= LONG:
        if len(value) >= 2**32:
            raise ArgumentError(f"{len(value)} bytes in one piece are more than msgpack can hold")
        return [b"\xc6" + struct.pack(">I", len(value)), value]  # bin 32
    if not (isinstance(value, tuple | list) and _holds_long(value)):
        return [canonical(value)]
    parts = [msgpack.Packer().pack_array_header(len(value))]
    for member in value:
        parts += canonical_parts(member)
    return parts


def _holds_long(values: tuple[Any, ...] | list[Any]) -> bool:
    """Whether there are long bytes in an array."""
    for member in values:
        if isinstance(member, bytes):
            if len(member) >= LONG:
                return True
        elif isinstance(member, tuple | list) and _holds_long(member):
            return True
    return False


@dataclass(frozen=True)
class Parameters:
    """The public numbers of a session; they also fix the size of every message.

    Args:
        protocol: name of the protocol.
        mode: what the server may do: ``"curious"`` or ``"malicious"``.
        field: the prime field.
        clients: N.
        privacy: T, how many clients may pool what they see with the server.
        dropouts: D, how many clients may be lost.
        errors: E, how many wrong rows are repaired.
        detect: F, how many more are noticed.
        blocks: K, data residues in a column of the code.
        length: elements of an update.
        form: what the residues mean: clip, bits and scale of a fixed-point session, or
            ``"votes"``, lanes and radix of a session that counts votes.
        max_weight: the largest weight of a client.
        lanes: elements in one residue.
    """

    protocol: str
    mode: str
    field: Field
    clients: int
    privacy: int
    dropouts: int
    errors: int
    detect: int
    blocks: int
    length: int
    form: tuple[object, ...]
    max_weight: int
    lanes: int = 1

    @property
    def signed(self) -> bool:
        """Whether clients sign their messages, and a quorum of them the set of survivors."""
        return self.mode == "malicious"

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases of a round, in order."""
        return (*PHASES[:-1], "commit", PHASES[-1]) if self.signed else PHASES

    @property
    def key_bytes(self) -> int:
        """Bytes of the public keys that a client shows in Hello; the first 32 are X25519's."""
        return 32

    @property
    def signing_bytes(self) -> int:
        """Bytes of a public key for signatures: 32, or none."""
        return 32 if self.signed else 0

    @property
    def objects(self) -> int:
        """The most msgpack objects in any message."""
        return 64 + self.clients * (8 + len(self.segments))

    @property
    def enough(self) -> int:
        """N - D: the clients that every phase needs."""
        return self.clients - self.dropouts

    @property
    def residues(self) -> int:
        """Residues of an encoded update: ⌈length / lanes⌉."""
        return -(-self.length // self.lanes)

    @property
    def width(self) -> int:
        """Elements of an upload: the update, and the weight as the last one."""
        return self.residues + 1

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading axes of every tensor of residues: none, or (2,) over ``WIDE``."""
        return self.field.lead

    @property
    def columns(self) -> int:
        """Residues of a share: ⌈width / K⌉."""
        return -(-self.width // self.blocks)

    @property
    def segments(self) -> tuple[int, ...]:
        """Bytes of each sealed segment of a box that holds one share."""
        size = WORD * len(self.field.planes) * self.columns
        return tuple(min(SEGMENT, size - at) + SEALING for at in range(0, max(size, 1), SEGMENT))

    def values(self) -> tuple[object, ...]:
        """Everything, in the order in which it is hashed; ``form`` has ``lanes`` unless it is 1."""
        return (
            *(self.protocol, VERSION, self.mode),
            (self.field.name, self.field.modulus, self.field.points),
            *(self.clients, self.privacy, self.dropouts, self.errors, self.detect, self.blocks),
            *(self.length, *self.form, self.max_weight),
        )

    def packed(self) -> bytes:
        """The canonical bytes of :meth:`values`."""
        return canonical(self.values())

    def digest(self) -> bytes:
        """Stands for the session in Hello, when there is no roster yet."""
        return hashlib.sha256(b"pyfed/v1/parameters" + self.packed()).digest()

    def session(self, roster: tuple[Member, ...], nonce: bytes) -> bytes:
        """SHA-256("pyfed/v1/session" ‖ canonical msgpack of parameters, roster and nonce)."""
        everything = canonical((*self.values(), roster, nonce))
        return hashlib.sha256(b"pyfed/v1/session" + everything).digest()


def survivors_digest(survivors: tuple[int, ...]) -> bytes:
    """SHA-256 of the sorted client numbers as little-endian 32-bit words."""
    packed = b"".join(number.to_bytes(4, "little") for number in survivors)
    return hashlib.sha256(packed).digest()
