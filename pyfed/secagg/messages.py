"""The messages of LightSecAgg, in the order in which they are sent."""

from __future__ import annotations

from dataclasses import dataclass

from pyfed.secagg.common import NUMBER, Commit, Hello, Quorum, Result, Roster
from pyfed.secagg.session import WORD, Parameters
from pyfed.secagg.wire import HEADER, Box, Message

__all__ = [
    "Answer",
    "Box",
    "Commit",
    "Hello",
    "Inbox",
    "Message",
    "Quorum",
    "Result",
    "Roster",
    "Share",
    "Survivors",
    "Upload",
]

CHECKED = "LightSecAggChecked"
"""What messages call LightSecAgg with checked dealers."""

PLAIN = ("LightSecAgg",)
PROTOCOLS = (*PLAIN, CHECKED)
_PER_BOX = 16  # bytes: more than a recipient and the frame of its box take


@dataclass(frozen=True, kw_only=True)
class Share(Message):
    """A client's shares, a box for each other member: (recipient, box) in order."""

    protocols = PROTOCOLS
    from_server = False
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        framed = sum(parameters.segments) + 5 * len(parameters.segments)
        return HEADER + (_PER_BOX + framed) * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_boxes(self.boxes, self.sender, parameters)


@dataclass(frozen=True, kw_only=True)
class Inbox(Message):
    """The clients that shared, and the boxes for one of them: (dealer, box) in order."""

    protocols = PLAIN
    from_server = True
    dealers: tuple[int, ...]
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return Share.largest(parameters) + NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("dealers", self.dealers, parameters)
        self._expect_boxes(self.boxes, self.recipient, parameters)


@dataclass(frozen=True, kw_only=True)
class Upload(Message):
    """The masked update and weight, and the dealers whose box was bad."""

    protocols = PLAIN
    from_server = False
    masked: bytes
    complaints: tuple[int, ...] = ()

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        words = parameters.width * len(parameters.field.planes)
        return HEADER + WORD * words + NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_planes("masked", self.masked, parameters.width, parameters.field)
        self._expect_clients("complaints", self.complaints, parameters)
        self._expect(self.sender not in self.complaints, "complaints", "about other clients")


@dataclass(frozen=True, kw_only=True)
class Survivors(Message):
    """The clients whose updates are summed."""

    protocols = PROTOCOLS
    from_server = True
    survivors: tuple[int, ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("survivors", self.survivors, parameters)


@dataclass(frozen=True, kw_only=True)
class Answer(Message):
    """The sum of the survivors' shares that a client holds, and the digest of their set."""

    protocols = PROTOCOLS
    from_server = False
    digest: bytes
    row: bytes

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + WORD * parameters.columns * len(parameters.field.planes)

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("digest", self.digest, 32)
        self._expect_planes("row", self.row, parameters.columns, parameters.field)
