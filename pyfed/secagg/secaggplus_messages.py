"""The messages that only SecAgg+ has, and the numbers that fix their sizes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pyfed.fields import SOLINAS31
from pyfed.secagg.common import NUMBER
from pyfed.secagg.session import SIGNATURE, WORD, Parameters, survivors_digest
from pyfed.secagg.wire import HEADER, Box, Message

NAME = "SecAggPlus"
SEEDS = SOLINAS31
"""The field in which secrets are shared, whatever the field of the updates."""

SECRET_WORDS = 9
"""Residues of a secret of 256 bits, 30 bits in each."""

_FRAME = 16  # bytes: more than a client's number and the frame of what is sent with it take
_KEY = 32


@dataclass(frozen=True)
class SecAggPlusParameters(Parameters):
    """The public numbers of a SecAgg+ session.

    Args:
        degree: k, how many neighbours a client has; in a smaller roster there may be fewer.
        threshold: t, how many shares uncover a secret.
    """

    degree: int = 0
    threshold: int = 0

    def values(self) -> tuple[object, ...]:
        """Everything, in the order in which it is hashed: degree and threshold come last."""
        return (*super().values(), self.degree, self.threshold)

    @property
    def key_bytes(self) -> int:
        """Two X25519 keys: for boxes, and for masks, which the server may come to know."""
        return 2 * _KEY

    @property
    def columns(self) -> int:
        """Residues of a share: of the own seed, then of the private key for masks."""
        return 2 * SECRET_WORDS

    @property
    def needed(self) -> int:
        """Shares of every secret that must reach the server: t + 2E + F."""
        return self.threshold + 2 * self.errors + self.detect

    @property
    def framed(self) -> int:
        """More bytes than the boxes for all neighbours take in a message."""
        return (_FRAME + sum(self.segments)) * self.degree


def _plus(parameters: Parameters) -> SecAggPlusParameters:
    assert isinstance(parameters, SecAggPlusParameters)
    return parameters


def settled_session(session: bytes, dealers: tuple[int, ...]) -> bytes:
    """The session hash from the Inbox on: it covers who masks, so that none is told otherwise.

    SHA-256("pyfed/v1/dealers" ‖ session ‖ SHA-256 of the dealers' numbers).
    """
    everything = b"pyfed/v1/dealers" + session + survivors_digest(dealers)
    return hashlib.sha256(everything).digest()


@dataclass(frozen=True, kw_only=True)
class Share(Message):
    """A client's shares, a box for each neighbour: (recipient, box) in order."""

    protocols = (NAME,)
    from_server = False
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + _plus(parameters).framed

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_boxes(self.boxes, self.sender, parameters)


@dataclass(frozen=True, kw_only=True)
class Inbox(Message):
    """The clients that shared, and the boxes of the neighbours among them: (dealer, box)."""

    protocols = (NAME,)
    from_server = True
    dealers: tuple[int, ...]
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + _plus(parameters).framed + NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("dealers", self.dealers, parameters)
        self._expect_boxes(self.boxes, self.recipient, parameters)


@dataclass(frozen=True, kw_only=True)
class Pledge(Message):
    """What a client signs with its upload: it has masked with the dealers of the session field.

    It is never sent whole. Without it a malicious server could show one client other dealers, so
    that no mask of it is shared with an honest survivor, and have the others open its seed.
    """

    protocols = ()
    from_server = False


@dataclass(frozen=True, kw_only=True)
class Upload(Message):
    """The masked update and weight, and the neighbours whose box was bad.

    Under a malicious server the signature of the client's Pledge goes with them.
    """

    protocols = (NAME,)
    from_server = False
    masked: bytes
    complaints: tuple[int, ...] = ()
    pledge: bytes = b""

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + WORD * parameters.width + NUMBER * _plus(parameters).degree

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_residues("masked", self.masked, parameters.width, parameters.field.modulus)
        self._expect_clients("complaints", self.complaints, parameters)
        self._expect(self.sender not in self.complaints, "complaints", "about other clients")
        self._expect_bytes("pledge", self.pledge, SIGNATURE * parameters.signed)


@dataclass(frozen=True, kw_only=True)
class Alive(Message):
    """The clients whose updates are summed; every other dealer is dead, so none is both.

    Under a malicious server the pledges of the recipient's neighbours among them follow, in order.
    """

    protocols = (NAME,)
    from_server = True
    survivors: tuple[int, ...]
    pledges: tuple[bytes, ...] = ()

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        pledges = (SIGNATURE + 4) * _plus(parameters).degree * parameters.signed
        return HEADER + NUMBER * parameters.clients + pledges

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_clients("survivors", self.survivors, parameters)
        most = _plus(parameters).degree * parameters.signed
        few = isinstance(self.pledges, tuple) and len(self.pledges) <= most
        self._expect(few, "pledges", f"an array of at most {most}")
        for pledge in self.pledges:
            self._expect_bytes("each of pledges", pledge, SIGNATURE)


@dataclass(frozen=True, kw_only=True)
class Unmask(Message):
    """What uncovers the sum, of one secret for each neighbour that dealt.

    Args:
        digest: of the survivors.
        seeds: (survivor, share of its own seed), where the box was good.
        keys: (dealer that is no survivor, share of its private key for masks), where it was good.
        pairs: (dealer that is no survivor, the key that it shares with the sender).
    """

    protocols = (NAME,)
    from_server = False
    digest: bytes
    seeds: tuple[tuple[int, bytes], ...]
    keys: tuple[tuple[int, bytes], ...]
    pairs: tuple[tuple[int, bytes], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        entry = 2 * _FRAME + WORD * SECRET_WORDS + _KEY
        return HEADER + entry * _plus(parameters).degree

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("digest", self.digest, 32)
        seeds, keys, pairs = (
            self._expect_entries(name, getattr(self, name), parameters)
            for name in ("seeds", "keys", "pairs")
        )
        self._expect(not seeds & pairs, "seeds", "of clients of which no pair key is told")
        self._expect(keys <= pairs, "keys", "of clients of which a pair key is told")
        for name in ("seeds", "keys"):
            for _, share in getattr(self, name):
                self._expect_residues(name, share, SECRET_WORDS, SEEDS.modulus)
        for _, key in self.pairs:
            self._expect_bytes("each of pairs", key, _KEY)

    def _expect_entries(self, name: str, value: object, parameters: Parameters) -> frozenset[int]:
        """The clients that an array of pairs names."""
        self._expect(isinstance(value, tuple), name, "an array")
        assert isinstance(value, tuple)
        for entry in value:
            self._expect(isinstance(entry, tuple) and len(entry) == 2, f"each of {name}", "a pair")
        numbers = tuple(entry[0] for entry in value)
        self._expect_clients(name, numbers, parameters)
        self._expect(self.sender not in numbers, name, "of other clients")
        return frozenset(numbers)
