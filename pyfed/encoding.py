"""What secure aggregation asks of a way to turn updates into residues."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from pyfed.fields import Field
from pyfed.keys import Key


class Encoding(ABC):
    """How an update becomes residues whose sum modulo the prime says all about the sum of updates.

    :class:`pyfed.FixedPoint` is one, for floats; :class:`pyfed.lanes.VoteLanes` another, for
    votes. An encoding is immutable, and all parties of a session have an equal one.

    Attributes:
        clients: the most updates that are summed.
        max_weight: the largest integer weight of one.
        field: the prime field.
    """

    clients: int
    max_weight: int
    field: Field

    @property
    @abstractmethod
    def lanes(self) -> int:
        """ℓ, elements of an update in one residue: ``length`` of them take ⌈length / ℓ⌉."""

    @property
    @abstractmethod
    def form(self) -> tuple[object, ...]:
        """What two encodings of one field, ``clients`` and ``max_weight`` may differ in.

        A session is bound to it, so no two kinds of encoding may have one form in common.
        """

    @abstractmethod
    def expect_update(self, op: str, update: object, length: int) -> torch.Tensor:
        """``update`` detached; raises unless it is one of ``length`` elements, naming ``op``."""

    @abstractmethod
    def check_weight(self, weight: object) -> int:
        """``weight`` as an int; raises unless a client may have it."""

    @abstractmethod
    def encode_update(
        self, update: torch.Tensor, length: int, key: Key | None, weight: int
    ) -> torch.Tensor:
        """The residues of a weighted update, int32 (⌈length / ℓ⌉,); a key may steer rounding."""

    @abstractmethod
    def integer_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """The exact sum of ``clients`` weighted updates, int64 (length,)."""

    @abstractmethod
    def float_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """The same sum in the unit of the updates, float32 (length,)."""
