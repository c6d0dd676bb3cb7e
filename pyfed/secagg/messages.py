"""The messages of LightSecAgg, in the order in which they are sent."""

from __future__ import annotations

from dataclasses import dataclass

from pyfed.secagg.session import WORD, Member, Parameters
from pyfed.secagg.wire import HEADER, Box, Message

__all__ = [
    "Answer",
    "Box",
    "Hello",
    "Inbox",
    "Message",
    "Result",
    "Roster",
    "Share",
    "Survivors",
    "Upload",
]

_PER_CLIENT = 96  # bytes: more than a roster entry with its keys, or the frame of a box, takes
_NUMBER = 5  # bytes: the most that a client number takes


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """A client's public keys: X25519, and one for signatures (reserved; empty)."""

    from_server = False
    channel_key: bytes
    signing_key: bytes = b""

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("channel_key", self.channel_key, 32)
        self._expect_bytes("signing_key", self.signing_key, 0)


@dataclass(frozen=True, kw_only=True)
class Roster(Message):
    """Everybody's public keys, with what the session hash is made of."""

    from_server = True
    parameters: bytes
    roster: tuple[Member, ...]
    nonce: bytes

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + len(parameters.packed()) + _PER_CLIENT * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        # Other parameters than one's own may have another length: that is for the client to tell.
        self._expect(type(self.parameters) is bytes, "parameters", "bytes")
        self._expect_bytes("nonce", self.nonce, 32)
        self._expect(isinstance(self.roster, tuple), "roster", "an array")
        for entry in self.roster:
            self._expect(isinstance(entry, tuple) and len(entry) == 3, "each member", "a triple")
            self._expect_bytes("channel_key", entry[1], 32)
            self._expect_bytes("signing_key", entry[2], 0)
        self._expect_clients("roster", tuple(entry[0] for entry in self.roster), parameters)
        keys = {entry[1] for entry in self.roster}
        self._expect(len(keys) == len(self.roster), "roster", "without a key named twice")


@dataclass(frozen=True, kw_only=True)
class Share(Message):
    """A client's shares, a box for each other member: (recipient, box) in order."""

    from_server = False
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        framed = sum(parameters.segments) + 5 * len(parameters.segments)
        return HEADER + (_PER_CLIENT + framed) * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_boxes(self.boxes, self.sender, parameters)


@dataclass(frozen=True, kw_only=True)
class Inbox(Message):
    """The clients that shared, and the boxes for one of them: (dealer, box) in order."""

    from_server = True
    dealers: tuple[int, ...]
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return Share.largest(parameters) + _NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("dealers", self.dealers, parameters)
        self._expect_boxes(self.boxes, self.recipient, parameters)


@dataclass(frozen=True, kw_only=True)
class Upload(Message):
    """The masked update and weight, and the dealers whose box was bad."""

    from_server = False
    masked: bytes
    complaints: tuple[int, ...] = ()

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + WORD * parameters.width + _NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_residues("masked", self.masked, parameters.width, parameters.field.modulus)
        self._expect_clients("complaints", self.complaints, parameters)
        self._expect(self.sender not in self.complaints, "complaints", "about other clients")


@dataclass(frozen=True, kw_only=True)
class Survivors(Message):
    """The clients whose updates are summed."""

    from_server = True
    survivors: tuple[int, ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + _NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("survivors", self.survivors, parameters)


@dataclass(frozen=True, kw_only=True)
class Answer(Message):
    """The sum of the survivors' shares that a client holds, and the digest of their set."""

    from_server = False
    digest: bytes
    row: bytes

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + WORD * parameters.columns

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("digest", self.digest, 32)
        self._expect_residues("row", self.row, parameters.columns, parameters.field.modulus)


@dataclass(frozen=True, kw_only=True)
class Result(Message):
    """The sum of the survivors' weighted updates as residues, and of their weights."""

    from_server = True
    survivors: tuple[int, ...]
    sum: bytes
    weight: int

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + WORD * parameters.residues + _NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        p = parameters
        self._expect_clients("survivors", self.survivors, p)
        self._expect_residues("sum", self.sum, p.residues, p.field.modulus)
        self._expect_int("weight", self.weight, 0, len(self.survivors) * p.max_weight + 1)
