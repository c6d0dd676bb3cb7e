"""The messages of LightSecAgg with checked dealers that differ from those without."""

from __future__ import annotations

from dataclasses import dataclass

from pyfed.secagg import messages
from pyfed.secagg.messages import CHECKED
from pyfed.secagg.session import SEALING, SEGMENT, WORD, Parameters

COIN = 32
"""Bytes of the coin."""


@dataclass(frozen=True)
class DealerParameters(Parameters):
    """The public numbers of a session in which dealers are checked.

    Args:
        challenges: residues of a pad, which follow the share in its box.
    """

    challenges: int = 0

    @property
    def segments(self) -> tuple[int, ...]:
        """Bytes of each sealed segment of a box that holds a share and a pad."""
        size = WORD * (self.columns + self.challenges)
        return tuple(min(SEGMENT, size - at) + SEALING for at in range(0, size, SEGMENT))

    def values(self) -> tuple[object, ...]:
        """As without checks, and the challenges."""
        return (*super().values(), self.challenges)


def _challenges(parameters: Parameters) -> int:
    assert isinstance(parameters, DealerParameters)  # no other session has these messages
    return parameters.challenges


@dataclass(frozen=True, kw_only=True)
class Inbox(messages.Inbox):
    """As without checks, and the coin that was drawn when all boxes were there."""

    protocols = (CHECKED,)
    coin: bytes

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return super().largest(parameters) + COIN

    def _check_body(self, parameters: Parameters) -> None:
        super()._check_body(parameters)
        self._expect_bytes("coin", self.coin, COIN)


@dataclass(frozen=True, kw_only=True)
class Upload(messages.Upload):
    """As without checks, and the sender's answers about each client's dealing.

    Args:
        answers: (clients, challenges) residues; zeros about who dealt nothing.
    """

    protocols = (CHECKED,)
    answers: bytes

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return super().largest(parameters) + WORD * parameters.clients * _challenges(parameters)

    def _check_body(self, parameters: Parameters) -> None:
        super()._check_body(parameters)
        count = parameters.clients * _challenges(parameters)
        self._expect_residues("answers", self.answers, count, parameters.field.modulus)
