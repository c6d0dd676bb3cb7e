"""The messages that only SwiftAgg+ has, and the numbers that fix their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pyfed.secagg.common import NUMBER
from pyfed.secagg.session import WORD, Parameters
from pyfed.secagg.swiftagg_plan import Layout
from pyfed.secagg.wire import HEADER, Box, Message

NAME = "SwiftAgg"
_FRAME = 16  # bytes: more than a client's number and the frame of its box take


@dataclass(frozen=True)
class SwiftParameters(Parameters):
    """The public numbers of a SwiftAgg+ session.

    Args:
        parents: group → the group it hands its sums to; -1 at the root.
    """

    parents: tuple[int, ...] = ()

    def values(self) -> tuple[object, ...]:
        """Everything, in the order in which it is hashed: the parents of the groups come last."""
        return (*super().values(), self.parents)

    @property
    def needed(self) -> int:
        """K + T + 2E + F: how many columns must reach the server."""
        return self.blocks + self.privacy + 2 * self.errors + self.detect

    @property
    def holders(self) -> int:
        """K + T + D + 2E + F: the members of a group that hold shares."""
        return self.needed + self.dropouts

    @cached_property
    def layout(self) -> Layout:
        """Who sits where."""
        return Layout(self.clients, self.holders, self.parents)

    @property
    def framed(self) -> int:
        """More bytes than one sealed share or sum takes in a message."""
        return _FRAME + sum(self.segments) + 5 * len(self.segments)


def _swift(parameters: Parameters) -> SwiftParameters:
    assert isinstance(parameters, SwiftParameters)
    return parameters


@dataclass(frozen=True, kw_only=True)
class Share(Message):
    """A client's shares, a box for each other holder of its group: (recipient, box) in order."""

    protocols = (NAME,)
    from_server = False
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        p = _swift(parameters)
        return HEADER + p.framed * p.holders

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_boxes(self.boxes, self.sender, parameters)


@dataclass(frozen=True, kw_only=True)
class Inbox(Message):
    """The clients of a group that shared, and, for a holder, their boxes: (dealer, box) in order.

    A spare client holds nothing and gets no boxes.
    """

    protocols = (NAME,)
    from_server = True
    dealers: tuple[int, ...]
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        p = _swift(parameters)
        return HEADER + (NUMBER + p.framed) * len(p.layout.members[0])  # the largest group

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("dealers", self.dealers, parameters)
        self._expect_boxes(self.boxes, self.recipient, parameters)


@dataclass(frozen=True, kw_only=True)
class Report(Message):
    """A client is there, holds its shares, and names the dealers whose box was bad."""

    protocols = (NAME,)
    from_server = False
    complaints: tuple[int, ...] = ()

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + NUMBER * _swift(parameters).holders

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("complaints", self.complaints, parameters)
        self._expect(self.sender not in self.complaints, "complaints", "about other clients")


@dataclass(frozen=True, kw_only=True)
class Members(Message):
    """The clients whose updates are summed, of all groups: it fixes who is in."""

    protocols = (NAME,)
    from_server = True
    members: tuple[int, ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("members", self.members, parameters)


@dataclass(frozen=True, kw_only=True)
class Hop(Message):
    """A column's sum so far, in one box for the same column of the parent group."""

    protocols = (NAME,)
    from_server = False
    digest: bytes
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + _swift(parameters).framed

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("digest", self.digest, 32)
        self._expect_boxes(self.boxes, self.sender, parameters)
        self._expect(len(self.boxes) == 1, "boxes", "an array of one")


@dataclass(frozen=True, kw_only=True)
class Hops(Message):
    """The boxes of a column from all groups below: (sender, box) in order."""

    protocols = (NAME,)
    from_server = True
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        p = _swift(parameters)
        return HEADER + p.framed * p.layout.fan_in

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_boxes(self.boxes, self.recipient, parameters)


@dataclass(frozen=True, kw_only=True)
class Root(Message):
    """A column's sum over all groups, for the server, and the digest of who is in it."""

    protocols = (NAME,)
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
