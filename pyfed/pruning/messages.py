"""The messages of federated pruning: a client's vote on a block, and the server's decision.

Bytes are a canonical msgpack array [version, type, session, round, sender, recipient, block, masks,
…] followed by its SHA-256. That digest finds damage in transit, not forgery: the connection
vouches for the sender. Masks are packed 8 weights a byte, the first in the lowest bit, over the
matrix (out, in) row by row; a set bit means prune, and bits behind the last weight are 0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import msgpack
import numpy as np

from pyfed.errors import DtypeError, ProtocolError
from pyfed.pruning.plan import (
    MOST_CLIENTS,
    NARROW,
    VERSION,
    Plan,
    PrunableLayer,
)
from pyfed.secagg.session import SERVER, canonical

__all__ = ["PruneDecision", "PruneMessage", "PruneVote"]

DIGEST = 32
_HEADER = 256
"""Bytes: more than the header, the digest and the small fields of any message take."""

_FRAME = 16
"""Bytes: more than the frame of a layer's entry takes, beside its name and its bits."""

Entries = tuple[tuple[str, bytes], ...]
"""(layer, bytes) for every layer of the block, in the order of the plan."""


@dataclass(frozen=True, kw_only=True)
class PruneMessage:
    """What every message carries.

    Args:
        session: 32 bytes, the digest of the plan: settings, layers and shapes.
        round: number of the round.
        sender: number of the client that sends it, or -1 for the server.
        recipient: number of the client it is for, or -1 for the server.
        block: number of the block.
        masks: a packed mask for each layer of the block.
        version: version of the rules.
    """

    kind: ClassVar[str]
    """The name of the class, as the bytes carry it."""
    from_server: ClassVar[bool]

    session: bytes
    round: int
    sender: int
    recipient: int
    block: int
    masks: Entries
    version: int = VERSION

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__

    def _packed(self) -> bytes:
        head = (self.version, self.kind, self.session, self.round, self.sender, self.recipient)
        return canonical((*head, *(getattr(self, name) for name in _body_names(type(self)))))

    def to_bytes(self) -> bytes:
        """The bytes of this message."""
        packed = self._packed()
        return packed + hashlib.sha256(packed).digest()

    @staticmethod
    def from_bytes(data: bytes, plan: Plan) -> PruneMessage:
        """The message that bytes stand for.

        Args:
            data: what a peer sent; nothing about it is trusted.
            plan: of the session; it bounds every size before anything is allocated.

        Raises:
            ProtocolError: the bytes are not exactly one well-formed message.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ProtocolError(f"a message is {type(data).__name__}; it must be bytes")
        if not isinstance(plan, Plan):
            raise DtypeError(f"from_bytes: plan is {type(plan).__name__}; it must be a Plan")
        view = memoryview(data)
        most = max(kind.largest(plan) for kind in KINDS.values())
        if view.format != "B" or view.ndim != 1 or not view.contiguous:
            raise ProtocolError("a message is not a flat row of bytes")
        if not DIGEST < len(view) <= most:
            raise ProtocolError(f"a message has {len(view)} bytes; it must have {DIGEST} to {most}")
        packed = view[:-DIGEST]
        if hashlib.sha256(packed).digest() != view[-DIGEST:]:
            raise ProtocolError("a message was damaged: its digest does not match its content")
        message = _unpacked(packed, plan)
        message.check(plan)
        # One message has one encoding, so that equal bytes and equal messages are the same thing.
        if message._packed() != packed:
            raise ProtocolError("a message is not in canonical form", sender=message.sender)
        return message

    @classmethod
    def largest(cls, plan: Plan) -> int:
        """The most bytes such a message can have."""
        return max(
            _HEADER + sum(_framed(layer) + layer.packed_bytes for layer in block)
            for block in plan.blocks
        )

    def check(self, plan: Plan) -> None:
        """Raise ProtocolError unless every field has the right type, size and range."""
        clients, server = (0, MOST_CLIENTS), (SERVER, 0)
        sender, recipient = (server, clients) if self.from_server else (clients, server)
        self._expect(type(self.version) is int and self.version == VERSION, "version", VERSION)
        good = type(self.session) is bytes and len(self.session) == 32
        self._expect(good, "session", "32 bytes")
        self._expect_int("round", self.round, 0, 2**64)
        self._expect_int("sender", self.sender, *sender)
        self._expect_int("recipient", self.recipient, *recipient)
        self._expect_int("block", self.block, 0, len(plan.blocks))
        self._expect_entries("masks", self.masks, plan, 0)
        for layer, (_, packed) in zip(plan.blocks[self.block], self.masks, strict=True):
            spare = -layer.weights % 8
            clean = packed[-1] < 1 << (8 - spare)
            self._expect(clean, f"the mask of {layer.name}", f"0 in its {spare} padding bits")

    def _expect(self, good: bool, name: str, wanted: object) -> None:
        if not good:
            sender = self.sender if type(self.sender) is int else None
            raise ProtocolError(f"{self.kind}: {name} must be {wanted}", sender=sender)

    def _expect_int(self, name: str, value: object, low: int, high: int) -> None:
        good = type(value) is int and low <= value < high
        self._expect(good, name, f"an integer in [{low}, {high})")

    def _expect_entries(self, name: str, value: object, plan: Plan, width: int) -> None:
        """Expect an entry for each layer: of ``width`` bytes a weight, or 0: of packed bits."""
        layers = plan.blocks[self.block]
        self._expect(type(value) is tuple, name, "an array")
        assert isinstance(value, tuple)
        pairs = all(type(entry) is tuple and len(entry) == 2 for entry in value)
        self._expect(pairs, f"each of {name}", "a pair")
        named = tuple(entry[0] for entry in value) == tuple(layer.name for layer in layers)
        self._expect(named, f"the layers in {name}", f"those of block {self.block}, in order")
        for layer, (_, data) in zip(layers, value, strict=True):
            size = layer.weights * width if width else layer.packed_bytes
            good = type(data) is bytes and len(data) == size
            self._expect(good, f"{layer.name} in {name}", f"{size} bytes")


@dataclass(frozen=True, kw_only=True)
class PruneVote(PruneMessage):
    """What a client would prune in a block."""

    from_server = False


@dataclass(frozen=True, kw_only=True)
class PruneDecision(PruneMessage):
    """What is pruned in a block.

    Args:
        voters: how many clients voted on it.
        counts: with scaling, the votes for each weight: a byte up to 255 voters, else two bytes,
            little-endian. Without scaling empty.
    """

    from_server = True
    voters: int
    counts: Entries = ()

    @classmethod
    def largest(cls, plan: Plan) -> int:
        """The most bytes such a message can have."""
        width = 2 if plan.setting("scaling") else 0
        return super().largest(plan) + max(
            sum((_framed(layer) + layer.weights) * width for layer in block)
            for block in plan.blocks
        )

    def check(self, plan: Plan) -> None:
        """Raise ProtocolError unless every field has the right type, size and range."""
        super().check(plan)
        self._expect_int("voters", self.voters, 1, MOST_CLIENTS + 1)
        if not plan.setting("scaling"):
            self._expect(self.counts == (), "counts", "empty, since scaling is off")
            return
        self._expect_entries("counts", self.counts, plan, 1 if self.voters <= NARROW else 2)
        for name, data in self.counts:
            good = int(counted(data, self.voters).max()) <= self.voters
            self._expect(good, f"{name} in counts", f"{self.voters} at most, the voters")


def counted(data: bytes, voters: int) -> np.ndarray[Any, np.dtype[Any]]:
    """The counts in the bytes of a decision: uint8 up to 255 voters, else uint16."""
    return np.frombuffer(data, dtype="u1" if voters <= NARROW else "<u2")


KINDS: dict[str, type[PruneMessage]] = {kind.kind: kind for kind in (PruneVote, PruneDecision)}
"""Message types by name."""


def _framed(layer: PrunableLayer) -> int:
    return _FRAME + len(layer.name.encode())


def _body_names(kind: type[PruneMessage]) -> tuple[str, ...]:
    own = (f.name for f in fields(kind) if f.name not in PruneMessage.__dataclass_fields__)
    return ("block", "masks", *own)


def _unpacked(packed: memoryview, plan: Plan) -> PruneMessage:
    """A message whose fields are there but not yet checked."""
    try:
        values = msgpack.unpackb(
            packed,
            use_list=False,
            max_array_len=max(16, *(len(block) for block in plan.blocks)),
            max_map_len=0,
            max_ext_len=0,
            max_str_len=max(64, *(len(layer.name.encode()) for layer in plan.layers)),
        )
    except (ValueError, msgpack.UnpackException) as error:  # trailing bytes are a ValueError too
        raise ProtocolError(f"a message is not well-formed msgpack: {error}") from None
    if not isinstance(values, tuple) or len(values) < 6 or type(values[1]) is not str:
        raise ProtocolError("a message is not an array with a header of 6 fields")
    kind = KINDS.get(values[1])
    if kind is None:
        raise ProtocolError(f"a message has type {values[1]!r}; it must be one of {sorted(KINDS)}")
    if len(packed) + DIGEST > kind.largest(plan):
        raise ProtocolError(f"{kind.kind}: {len(packed)} bytes are more than such a message has")
    names = _body_names(kind)
    if len(values) != 6 + len(names):
        raise ProtocolError(f"{kind.kind}: {len(values)} fields; there must be {6 + len(names)}")
    version, _, session, round_, sender, recipient = values[:6]
    return kind(
        session=session,
        round=round_,
        sender=sender,
        recipient=recipient,
        version=version,
        **dict(zip(names, values[6:], strict=True)),
    )
