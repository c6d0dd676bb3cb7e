"""The messages of federated LoRA: a client's update, and the mean that all share.

Bytes are a canonical msgpack array [version, type, session, marks, round, sender, recipient, …,
payload] followed by its SHA-256. That digest finds damage in transit, not forgery: the connection
vouches for the sender. The payload holds the shared tensors of the plan one after another, row by
row, little-endian; names and shapes are not sent, since the session stands for them, and the marks
tell in what another plan differs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import ClassVar

import msgpack
import numpy as np

from pyfed.errors import DtypeError, ProtocolError
from pyfed.lora.plan import ASPECTS, MARK, MOST_CLIENTS, MOST_WEIGHT, VERSION, LoraPlan
from pyfed.secagg.session import SERVER, canonical

__all__ = ["LoraMessage", "LoraShared", "LoraUpdate"]

DIGEST = 32
HEADER = 192
"""Bytes: more than the header, the small fields and the digest of any message take."""

_FORMS = {
    "float32": ("<u4", 0x7FFFFFFF, 0x7F7FFFFF, (126 + 127) << 23, "2^126"),
    "float16": ("<u2", 0x7FFF, 0x7BFF, (15 + 15) << 10, "2^15"),
    "bfloat16": ("<u2", 0x7FFF, 0x7F7F, (126 + 127) << 7, "2^126"),
}
"""Of each wire dtype: its bits as integers, all but the sign, the largest finite, the limit.

Magnitudes compare as their bits do, infinity and NaN above all others. The limit of an update
leaves so much room above it that no mean of valid updates can overflow, however it is rounded.
"""


@dataclass(frozen=True, kw_only=True)
class LoraMessage:
    """What every message carries.

    Args:
        session: 32 bytes, the digest of the plan: settings, tensors and scalings.
        marks: 4 bytes for each aspect of the plan.
        round: number of the round.
        sender: number of the client that sends it, or -1 for the server.
        recipient: number of the client it is for, or -1 for the server.
        weight: of the client, its number of samples; of a mean, the sum over its clients.
        payload: the values of the plan's shared tensors.
        version: version of the rules.
    """

    kind: ClassVar[str]
    """The name of the class, as the bytes carry it."""
    from_server: ClassVar[bool]

    session: bytes
    marks: bytes
    round: int
    sender: int
    recipient: int
    weight: int
    payload: bytes = field(repr=False)
    version: int = VERSION

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__

    def _packed(self) -> bytes:
        return canonical((self.version, self.kind, *(getattr(self, n) for n in _names(type(self)))))

    def to_bytes(self) -> bytes:
        """The bytes of this message."""
        packed = self._packed()
        return packed + hashlib.sha256(packed).digest()

    @staticmethod
    def from_bytes(data: bytes, plan: LoraPlan) -> LoraMessage:
        """The message that bytes stand for.

        Args:
            data: what a peer sent; nothing about it is trusted.
            plan: of the session; it bounds every size before anything is allocated.

        Raises:
            ProtocolError: the bytes are not exactly one well-formed message of this session.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ProtocolError(f"a message is {type(data).__name__}; it must be bytes")
        if not isinstance(plan, LoraPlan):
            raise DtypeError(f"from_bytes: plan is {type(plan).__name__}; it must be a LoraPlan")
        view = memoryview(data)
        if view.format != "B" or view.ndim != 1 or not view.contiguous:
            raise ProtocolError("a message is not a flat row of bytes")
        if not DIGEST < len(view) <= HEADER + plan.payload_bytes:
            raise _wrong_size(view, plan)
        packed = view[:-DIGEST]
        if hashlib.sha256(packed).digest() != view[-DIGEST:]:
            raise ProtocolError("a message was damaged: its digest does not match its content")
        message = _unpacked(packed)
        message.check(plan)
        # One message has one encoding, so that equal bytes and equal messages are the same thing.
        if message._packed() != packed:
            raise ProtocolError("a message is not in canonical form", sender=message.sender)
        return message

    def check(self, plan: LoraPlan) -> None:
        """Raise ProtocolError unless every field has the right type, size and range."""
        clients, server = (0, MOST_CLIENTS), (SERVER, 0)
        sender, recipient = (server, clients) if self.from_server else (clients, server)
        self._expect(type(self.version) is int and self.version == VERSION, "version", VERSION)
        good = type(self.session) is bytes and len(self.session) == 32
        self._expect(good, "session", "32 bytes")
        size = MARK * len(ASPECTS)
        good = type(self.marks) is bytes and len(self.marks) == size
        self._expect(good, "marks", f"{size} bytes")
        self._expect_int("round", self.round, 0, 2**64)
        self._expect_int("sender", self.sender, *sender)
        self._expect_int("recipient", self.recipient, *recipient)
        if self.session != plan.digest or self.marks != plan.marks:
            raise ProtocolError(
                f"{self.kind} of {_whom(self.sender)} in round {self.round} is of another session: "
                f"{_why(plan, self.marks)}",
                sender=self.sender,
            )
        self._check_weight()
        good = type(self.payload) is bytes and len(self.payload) == plan.payload_bytes
        self._expect(good, "payload", f"{plan.payload_bytes} bytes")
        bad = out_of_range(self.payload, plan, self.from_server)
        if bad:
            raise ProtocolError(f"{self.kind} of {_whom(self.sender)}: {bad}", sender=self.sender)

    def _check_weight(self) -> None:
        raise NotImplementedError

    def _expect(self, good: bool, name: str, wanted: object) -> None:
        if not good:
            sender = self.sender if type(self.sender) is int else None
            raise ProtocolError(f"{self.kind}: {name} must be {wanted}", sender=sender)

    def _expect_int(self, name: str, value: object, low: int, high: int) -> None:
        good = type(value) is int and low <= value < high
        self._expect(good, name, f"an integer in [{low}, {high})")


@dataclass(frozen=True, kw_only=True)
class LoraUpdate(LoraMessage):
    """A client's half of its adapter, after local training."""

    from_server = False

    def _check_weight(self) -> None:
        self._expect_int("weight", self.weight, 0, MOST_WEIGHT)


@dataclass(frozen=True, kw_only=True)
class LoraShared(LoraMessage):
    """The weighted mean of the clients' updates.

    Args:
        included: how many clients are in it.
    """

    from_server = True
    included: int

    def _check_weight(self) -> None:
        self._expect_int("included", self.included, 1, MOST_CLIENTS + 1)
        self._expect_int("weight", self.weight, 1, self.included * (MOST_WEIGHT - 1) + 1)


KINDS: dict[str, type[LoraMessage]] = {kind.kind: kind for kind in (LoraUpdate, LoraShared)}
"""Message types by name."""


def out_of_range(payload: bytes, plan: LoraPlan, mean: bool = False) -> str:
    """Which value of a payload is no number or too large, in words; empty when none is.

    Args:
        payload: the values of the plan's shared tensors, as their bytes.
        plan: names the tensors.
        mean: whether it is a mean, which may exceed the limit of updates by its rounding.
    """
    form, magnitude, finite, limit, text = _FORMS[plan.wire]
    bad = (np.frombuffer(payload, dtype=form) & magnitude) > (finite if mean else limit)
    if not bad.any():
        return ""
    first = int(bad.argmax())
    tensor, index = plan.place(first)
    return (
        f"{tensor.name} holds {_number(payload, plan.wire, first)} at {index}; values must be "
        f"finite and at most {text} in magnitude, to travel as {plan.wire}"
    )


def _number(payload: bytes, wire: str, at: int) -> float:
    """A value of a payload."""
    if wire == "bfloat16":
        high = np.frombuffer(payload, "<u2")[at].astype("<u4") << 16
        return float(high.view("<f4"))
    return float(np.frombuffer(payload, "<f4" if wire == "float32" else "<f2")[at])


def _names(kind: type[LoraMessage]) -> tuple[str, ...]:
    """The fields of a message behind its version and type, in the order of its bytes."""
    last = ("version", "payload")
    return (*(f.name for f in fields(kind) if f.name not in last), "payload")


def _whom(number: int) -> str:
    return "the server" if number == SERVER else f"client {number}"


def _why(plan: LoraPlan, marks: bytes) -> str:
    """Why a session is another one."""
    odd = plan.odd_aspects(marks)
    return f"the adapters differ in {odd}" if odd else "its digest is not that of the plan"


def _wrong_size(view: memoryview, plan: LoraPlan) -> ProtocolError:
    """What is wrong with a message too short or too long to be read; its header may tell why."""
    most = HEADER + plan.payload_bytes
    text = f"a message has {len(view)} bytes; it must have {DIGEST + 1} to {most}"
    unpacker = msgpack.Unpacker(use_list=False, max_array_len=16, max_map_len=0, max_ext_len=0)
    unpacker.feed(bytes(view[:HEADER]))
    try:
        unpacker.read_array_header()
        head = [unpacker.unpack() for _ in range(7)]
    except (ValueError, msgpack.UnpackException):
        return ProtocolError(text)
    marks, sender = head[3], head[5]
    if type(marks) is not bytes or type(sender) is not int:
        return ProtocolError(text)
    odd = plan.odd_aspects(marks)
    return ProtocolError(f"{text}; by its header its adapter differs in {odd}" if odd else text)


def _unpacked(packed: memoryview) -> LoraMessage:
    """A message whose fields are there but not yet checked."""
    try:
        values = msgpack.unpackb(
            packed, use_list=False, max_array_len=16, max_map_len=0, max_ext_len=0, max_str_len=64
        )
    except (ValueError, msgpack.UnpackException) as error:  # trailing bytes are a ValueError too
        raise ProtocolError(f"a message is not well-formed msgpack: {error}") from None
    if not isinstance(values, tuple) or len(values) < 2 or type(values[1]) is not str:
        raise ProtocolError("a message is not an array that begins with version and type")
    kind = KINDS.get(values[1])
    if kind is None:
        raise ProtocolError(f"a message has type {values[1]!r}; it must be one of {sorted(KINDS)}")
    names = _names(kind)
    if len(values) != 2 + len(names):
        raise ProtocolError(f"{kind.kind}: {len(values)} fields; there must be {2 + len(names)}")
    return kind(version=values[0], **dict(zip(names, values[2:], strict=True)))
