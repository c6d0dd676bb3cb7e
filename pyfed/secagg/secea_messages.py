"""The messages of SecEA, in the order in which they are sent, and the numbers that size them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pyfed.secagg.common import NUMBER
from pyfed.secagg.session import SEALING, SEGMENT, WORD, Parameters
from pyfed.secagg.wire import HEADER, Box, Message

NAME = "SecEA"
EPOCH = 16
"""Bytes of an epoch: the public name of one asker's query, of one randomness."""
_FRAME = 32  # bytes: more than a client's number, an epoch's frame and that of two boxes take


def sealed_sizes(words: int) -> tuple[int, ...]:
    """Bytes of each sealed segment of a box that holds so many words."""
    size = WORD * words
    return tuple(min(SEGMENT, size - at) + SEALING for at in range(0, max(size, 1), SEGMENT))


@dataclass(frozen=True)
class SecEAParameters(Parameters):
    """The public numbers of a SecEA session; ``length`` is the dimension of an embedding.

    Args:
        entities: M, rows of the union; before it is known the most that it may have.
        wanted: rows of every query, so the most entities that a client may have.
        union: SHA-256 of the union's pseudonyms; empty before it is known.
    """

    entities: int = 0
    wanted: int = 0
    union: bytes = b""

    def values(self) -> tuple[object, ...]:
        """Everything, in the order in which it is hashed: the union comes last."""
        return (*super().values(), self.entities, self.wanted, self.union)

    @property
    def needed(self) -> int:
        """2K + 2T - 1 + 2E + F: how many answers an asker needs."""
        return 2 * self.blocks + 2 * self.privacy - 1 + 2 * self.errors + self.detect

    @property
    def mask_dealers(self) -> int:
        """T + 1 + D: the first clients deal masks, of whom T + 1 stay, so one who is honest."""
        return self.privacy + 1 + self.dropouts

    @property
    def width(self) -> int:
        """W = ⌈d/K⌉ + 1: residues of an entity in a share or an answer."""
        return -(-self.length // self.blocks) + 1

    @property
    def columns(self) -> int:
        """Residues of a share of a client's table: M·w."""
        return self.entities * self.width

    @property
    def reply(self) -> int:
        """Residues of an answer, and of a share of its mask."""
        return self.wanted * self.width

    @property
    def mask_segments(self) -> tuple[int, ...]:
        """Bytes of each sealed segment of a dealer's shares of the masks for all askers."""
        return sealed_sizes(self.clients * self.reply)

    @property
    def query_segments(self) -> tuple[int, ...]:
        """Bytes of each sealed segment of a query."""
        return sealed_sizes(self.wanted * self.entities)

    @property
    def answer_segments(self) -> tuple[int, ...]:
        """Bytes of each sealed segment of an answer."""
        return sealed_sizes(self.reply)

    @property
    def objects(self) -> int:
        """The most msgpack objects in any message."""
        boxes = (self.segments, self.mask_segments, self.query_segments)
        return 64 + self.clients * (16 + sum(map(len, boxes)))


def _own(parameters: Parameters) -> SecEAParameters:
    assert isinstance(parameters, SecEAParameters)
    return parameters


def _framed(parameters: Parameters, *boxes: tuple[int, ...]) -> int:
    """More bytes than one entry with such boxes for each client takes."""
    entry = _FRAME + EPOCH + sum(5 + size for sizes in boxes for size in sizes)
    return parameters.clients * entry


class _Boxes(Message):
    """Checks of arrays of (client, …) with sealed boxes in them."""

    protocols: ClassVar[tuple[str, ...]] = ()
    from_server = False

    def _expect_entries(self, name: str, value: Any, size: int, parameters: Parameters) -> None:
        """An array of ``size``-tuples, sorted by the client that each begins with."""
        self._expect(isinstance(value, tuple), name, "an array")
        for entry in value:
            fits = isinstance(entry, tuple) and len(entry) == size
            self._expect(fits, f"each of {name}", f"an array of {size}")
        numbers = tuple(entry[0] for entry in value)
        self._expect_clients(name, numbers, parameters)
        own = self.recipient if self.from_server else self.sender
        self._expect(own not in numbers, name, "for or from other clients only")

    def _expect_box(self, value: object, *allowed: tuple[int, ...]) -> None:
        self._expect(isinstance(value, tuple), "each box", "an array of segments")
        assert isinstance(value, tuple)
        sizes = tuple(len(s) if type(s) is bytes else -1 for s in value)
        self._expect(sizes in allowed, "segments", f"of {' or '.join(map(str, allowed))} bytes")


def _mask_sizes(dealer: int, parameters: SecEAParameters) -> tuple[int, ...]:
    """Of the masks that a client deals; the empty box of one that deals none."""
    return parameters.mask_segments if dealer < parameters.mask_dealers else ()


@dataclass(frozen=True, kw_only=True)
class Share(_Boxes):
    """A client's shares: (recipient, box of its table, box of its masks or ()) in order."""

    protocols = (NAME,)
    from_server = False
    boxes: tuple[tuple[int, Box, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + _framed(parameters, parameters.segments, _own(parameters).mask_segments)

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_entries("boxes", self.boxes, 3, parameters)
        masks = _mask_sizes(self.sender, _own(parameters))
        for _, table, mask in self.boxes:
            self._expect_box(table, parameters.segments)
            self._expect_box(mask, masks)


@dataclass(frozen=True, kw_only=True)
class Inbox(_Boxes):
    """The clients that shared, and the boxes for one of them: (dealer, table, masks) in order."""

    protocols = (NAME,)
    from_server = True
    dealers: tuple[int, ...]
    boxes: tuple[tuple[int, Box, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return Share.largest(parameters) + NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("dealers", self.dealers, parameters)
        self._expect_entries("boxes", self.boxes, 3, parameters)
        for dealer, table, mask in self.boxes:
            self._expect_box(table, parameters.segments)
            self._expect_box(mask, _mask_sizes(dealer, _own(parameters)))


@dataclass(frozen=True, kw_only=True)
class Ready(_Boxes):
    """The dealers whose boxes were bad, this client's epoch, and the epochs it holds of others."""

    protocols = (NAME,)
    from_server = False
    complaints: tuple[int, ...]
    epoch: bytes
    held: tuple[tuple[int, bytes], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + NUMBER * parameters.clients + _framed(parameters)

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("complaints", self.complaints, parameters)
        self._expect(self.sender not in self.complaints, "complaints", "about other clients")
        self._expect_bytes("epoch", self.epoch, EPOCH)
        self._expect_entries("held", self.held, 2, parameters)
        for _, epoch in self.held:
            self._expect_bytes("each epoch", epoch, EPOCH)


@dataclass(frozen=True, kw_only=True)
class Sets(Message):
    """Whose tables are summed, whose masks, and which of them lack the recipient's query."""

    protocols = (NAME,)
    from_server = True
    survivors: tuple[int, ...]
    dealers: tuple[int, ...]
    lacking: tuple[int, ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + 3 * NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("survivors", self.survivors, parameters)
        self._expect_clients("dealers", self.dealers, parameters)
        self._expect_clients("lacking", self.lacking, parameters)
        self._expect(self.recipient not in self.lacking, "lacking", "of other clients only")


@dataclass(frozen=True, kw_only=True)
class Query(_Boxes):
    """A client asks: its epoch, and (answerer, box) for those who do not hold its query yet."""

    protocols = (NAME,)
    from_server = False
    epoch: bytes
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + _framed(parameters, _own(parameters).query_segments)

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("epoch", self.epoch, EPOCH)
        self._expect_entries("boxes", self.boxes, 2, parameters)
        for _, box in self.boxes:
            self._expect_box(box, _own(parameters).query_segments)


@dataclass(frozen=True, kw_only=True)
class Questions(_Boxes):
    """Who asks one client: (asker, epoch, box or () for a query that it holds) in order."""

    protocols = (NAME,)
    from_server = True
    asked: tuple[tuple[int, bytes, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return Query.largest(parameters)

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_entries("asked", self.asked, 3, parameters)
        for _, epoch, box in self.asked:
            self._expect_bytes("each epoch", epoch, EPOCH)
            self._expect_box(box, (), _own(parameters).query_segments)


@dataclass(frozen=True, kw_only=True)
class Answer(_Boxes):
    """A client answers: (asker, box) for every query that it could open or holds."""

    protocols = (NAME,)
    from_server = False
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + _framed(parameters, _own(parameters).answer_segments)

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_entries("boxes", self.boxes, 2, parameters)
        for _, box in self.boxes:
            self._expect_box(box, _own(parameters).answer_segments)


@dataclass(frozen=True, kw_only=True)
class Answers(Answer):
    """The answers for one asker: (answerer, box) in order."""

    protocols = (NAME,)
    from_server = True
