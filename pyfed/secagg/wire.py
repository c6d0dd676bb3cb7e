"""What every message carries, its bytes, and the checks that bytes must pass.

Bytes are a canonical msgpack array [version, protocol, type, session, round, sender, recipient,
signature, …body] followed by a checksum. It finds damage in transit, not forgery: forgery is held
off by the authenticated connection, the boxes and the session hash. Residues are packed as
little-endian 32-bit words.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import msgpack
import numpy as np

from pyfed.errors import DtypeError, ProtocolError
from pyfed.fields import Field
from pyfed.secagg.digests import CHECKSUM, checksum
from pyfed.secagg.packing import expect_few_objects, kind_name
from pyfed.secagg.session import SERVER, SIGNATURE, VERSION, WORD, Parameters, canonical_parts

HEADER = 736
"""Bytes: more than the header, the checksum and the small fields of any message take."""

Box = tuple[bytes, ...]
"""Sealed segments, each nonce ‖ ciphertext ‖ tag."""

KINDS: dict[tuple[str, str], type[Message]] = {}
"""Message types by protocol and name; every subclass of Message is here."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What every message carries.

    Args:
        session: 32 bytes, the session hash (in Hello: the digest of the parameters).
        round: number of the round.
        sender: number of the client that sends it, or -1 for the server.
        recipient: number of the client it is for, or -1 for the server.
        signature: of a client under a malicious server: Ed25519 over :meth:`signed_part`.
        protocol: name of the protocol.
        version: version of the rules.
    """

    kind: ClassVar[str]
    """The name of the class, as the bytes carry it."""
    protocols: ClassVar[tuple[str, ...]]
    """The protocols that have such a message."""
    from_server: ClassVar[bool]

    session: bytes
    round: int
    sender: int
    recipient: int
    signature: bytes = b""
    protocol: str = "LightSecAgg"
    version: int = VERSION

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__
        for protocol in cls.protocols:
            KINDS[protocol, cls.kind] = cls

    def _body(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in _body_names(type(self)))

    def _parts(self, signature: bytes) -> list[bytes]:
        """What packs this message, with that signature, in parts behind one another."""
        head = (self.version, self.protocol, self.kind, self.session, self.round)
        return canonical_parts((*head, self.sender, self.recipient, signature, *self._body()))

    def signed_part(self) -> bytes:
        """What a signature covers: "pyfed/v1/sign" ‖ SHA-256 of the bytes without signature."""
        whole = hashlib.sha256()
        for part in self._parts(b""):
            whole.update(part)
        return b"pyfed/v1/sign" + whole.digest()

    def to_bytes(self) -> bytes:
        """The bytes of this message."""
        parts = self._parts(self.signature)
        return b"".join((*parts, checksum(*parts)))

    @staticmethod
    def from_bytes(data: bytes, parameters: Parameters) -> Message:
        """The message that bytes stand for.

        Args:
            data: what a peer sent; nothing about it is trusted.
            parameters: of the session; they bound every size before anything is allocated.

        Raises:
            ProtocolError: the bytes are not exactly one well-formed message.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ProtocolError(f"a message is {type(data).__name__}; it must be bytes")
        if not isinstance(parameters, Parameters):
            kind = type(parameters).__name__
            raise DtypeError(f"from_bytes: parameters is {kind}; pass protocol.parameters")
        view = memoryview(data)
        kinds = kinds_of(parameters)
        most = max(kind.largest(parameters) for kind in kinds.values())
        if not CHECKSUM < len(view) <= most:
            wanted = f"{CHECKSUM + 1} to {most}"
            raise ProtocolError(f"a message has {len(view)} bytes; it must have {wanted}")
        data = data if isinstance(data, bytes) else bytes(view)
        packed = memoryview(data)[:-CHECKSUM]
        if checksum(packed) != view[-CHECKSUM:]:
            raise ProtocolError("a message was damaged: its checksum does not match its content")
        message = _unpacked(packed, kinds, parameters)
        message.check(parameters)
        # One message has one encoding, so that equal bytes and equal messages are the same thing.
        at = 0
        for part in message._parts(message.signature):
            if not data.startswith(part, at):
                raise ProtocolError("a message is not in canonical form", sender=message.sender)
            at += len(part)
        if at != len(packed):
            raise ProtocolError("a message is not in canonical form", sender=message.sender)
        return message

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER

    def check(self, parameters: Parameters) -> None:
        """Raise ProtocolError unless every field has the right type, size and range."""
        p, server = parameters, self.from_server
        belongs = type(self) is KINDS.get((p.protocol, self.kind))
        self._expect(belongs, "type", f"one of {p.protocol}'s: {sorted(kinds_of(p))}")
        self._expect(type(self.version) is int and self.version == VERSION, "version", VERSION)
        self._expect(self.protocol == p.protocol, "protocol", p.protocol)
        self._expect_bytes("session", self.session, 32)
        self._expect_int("round", self.round, 0, 2**64)
        self._expect_int("sender", self.sender, *((SERVER, 0) if server else (0, p.clients)))
        self._expect_int("recipient", self.recipient, *((0, p.clients) if server else (SERVER, 0)))
        self._expect_bytes("signature", self.signature, SIGNATURE * (p.signed and not server))
        self._check_body(parameters)

    def _check_body(self, parameters: Parameters) -> None:
        raise NotImplementedError

    def _expect(self, good: bool, name: str, wanted: object) -> None:
        if not good:
            sender = self.sender if type(self.sender) is int else None
            raise ProtocolError(f"{self.kind}: {name} must be {wanted}", sender=sender)

    def _expect_int(self, name: str, value: object, low: int, high: int) -> None:
        good = type(value) is int and low <= value < high
        self._expect(good, name, f"an integer in [{low}, {high})")

    def _expect_bytes(self, name: str, value: object, size: int) -> None:
        self._expect(type(value) is bytes and len(value) == size, name, f"{size} bytes")

    def _expect_residues(self, name: str, value: bytes, count: int, modulus: int) -> None:
        self._expect_bytes(name, value, WORD * count)
        self._expect(all_below(value, modulus), name, f"residues below {modulus}")

    def _expect_planes(self, name: str, value: bytes, count: int, field: Field) -> None:
        """``count`` elements of a field: the residues of each plane, one after the other."""
        self._expect_bytes(name, value, WORD * count * len(field.planes))
        primes = " and ".join(str(plane.modulus) for plane in field.planes)
        self._expect(all_residues(value, field), name, f"residues below {primes}")

    def _expect_clients(self, name: str, value: object, parameters: Parameters) -> None:
        self._expect(isinstance(value, tuple), name, "an array")
        assert isinstance(value, tuple)
        for number in value:
            self._expect_int(f"each of {name}", number, 0, parameters.clients)
        rising = all(a < b for a, b in itertools.pairwise(value))
        self._expect(rising, name, "sorted, and name nobody twice")

    def _expect_boxes(self, value: object, own: int, parameters: Parameters) -> None:
        self._expect(isinstance(value, tuple), "boxes", "an array")
        assert isinstance(value, tuple)
        for entry in value:
            self._expect(isinstance(entry, tuple) and len(entry) == 2, "each box", "a pair")
            self._expect(isinstance(entry[1], tuple), "each box", "an array of segments")
            sizes = tuple(len(s) if type(s) is bytes else -1 for s in entry[1])
            self._expect(sizes == parameters.segments, "segments", f"{parameters.segments} bytes")
        numbers = tuple(entry[0] for entry in value)
        self._expect_clients("boxes", numbers, parameters)
        self._expect(own not in numbers, "boxes", "for or from other clients only")


def all_below(words: bytes | memoryview, bound: int) -> bool:
    """Whether packed little-endian 32-bit words, read as unsigned, are all below ``bound``."""
    return len(words) == 0 or int(np.frombuffer(words, dtype="<u4").max()) < bound


def all_residues(words: bytes | memoryview, field: Field) -> bool:
    """Whether packed words are residues: of each plane in its turn, as many of one as of others."""
    view, size = memoryview(words), len(words) // len(field.planes)
    return all(
        all_below(view[number * size : (number + 1) * size], plane.modulus)
        for number, plane in enumerate(field.planes)
    )


def _body_names(kind: type[Message]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name not in Message.__dataclass_fields__)


def kinds_of(parameters: Parameters) -> dict[str, type[Message]]:
    """The message types of a protocol, by name."""
    return {
        name: kind for (protocol, name), kind in KINDS.items() if protocol == parameters.protocol
    }


def _unpacked(
    packed: memoryview, kinds: dict[str, type[Message]], parameters: Parameters
) -> Message:
    """A message whose fields are there but not yet checked."""
    kind = kinds.get(name := kind_name(packed))
    if kind is None:
        raise ProtocolError(f"a message has type {name!r}; it must be one of {sorted(kinds)}")
    if len(packed) + CHECKSUM > kind.largest(parameters):
        raise ProtocolError(f"{kind.kind}: {len(packed)} bytes are more than such a message has")
    expect_few_objects(packed, parameters.objects)
    try:
        values = msgpack.unpackb(packed, use_list=False, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:  # trailing bytes are a ValueError too
        raise ProtocolError(f"a message is not well-formed msgpack: {error}") from None
    names = _body_names(kind)
    if len(values) != 8 + len(names):
        raise ProtocolError(f"{kind.kind}: {len(values)} fields; there must be {8 + len(names)}")
    version, protocol, _, session, round_, sender, recipient, signature = values[:8]
    return kind(
        session=session,
        round=round_,
        sender=sender,
        recipient=recipient,
        signature=signature,
        protocol=protocol,
        version=version,
        **dict(zip(names, values[8:], strict=True)),
    )
