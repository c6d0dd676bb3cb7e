"""Tables of residues through secure aggregation, as they are."""

from __future__ import annotations

import dataclasses

import torch

from pyfed.checks import expect_field, expect_int, expect_tensor
from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import SOLINAS31, Field
from pyfed.keys import Key
from pyfed.ops.field import check_residues

NAME = "Cells"


@dataclasses.dataclass(frozen=True)
class Cells(Encoding):
    """How the tables of :class:`pyfed.secagg.union.EntityUnion` are summed: unchanged, modulo p.

    Args:
        clients: the most tables that are summed.
        salt: where entities are in the tables; the session is bound to it, so that a server which
            gives out two salts gets no sum.
        field: the prime field.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: ``clients`` is out of range.

    Example:
        >>> import torch
        >>> from pyfed.secagg.cells import Cells
        >>> cells = Cells(clients=3, salt=bytes(16))
        >>> cells.encode_update(torch.tensor([5, 7], dtype=torch.int32), 2, None, 1)
        tensor([5, 7], dtype=torch.int32)
    """

    clients: int
    salt: bytes
    field: Field = SOLINAS31
    max_weight: int = dataclasses.field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        expect_int(NAME, "clients", self.clients, 1, 2**31)
        expect_field(NAME, self.field)
        if not isinstance(self.salt, bytes):
            raise DtypeError(f"{NAME}: salt is {type(self.salt).__name__}; it must be bytes")

    @property
    def lanes(self) -> int:
        """1: a residue is an element."""
        return 1

    @property
    def form(self) -> tuple[object, ...]:
        """What a session is bound to: ``"cells"`` and the salt."""
        return "cells", self.salt

    def check_weight(self, weight: object) -> int:
        """1; raises for anything else."""
        expect_int(NAME, "weight", weight, 1, 2)
        return 1

    def expect_update(self, op: str, update: object, length: int) -> torch.Tensor:
        """``update``; raises unless it is int32 (length,) of residues."""
        expect_tensor(op, "update", update, torch.int32, 1)
        assert isinstance(update, torch.Tensor)
        if update.numel() != length:
            raise ArgumentError(f"{op}: update has {update.numel()} elements; length is {length}")
        check_residues(op, update, self.field.modulus)
        return update

    def encode_update(
        self, update: torch.Tensor, length: int, key: Key | None, weight: int
    ) -> torch.Tensor:
        """A copy of the residues; nothing is rounded, and the weight is 1."""
        self.check_weight(weight)
        return self.expect_update(NAME, update, length).clone()

    def integer_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """The sum modulo p, from 0 to p - 1, as int64 (length,)."""
        return self.expect_update(NAME, residue_sum, length).to(torch.int64)

    def float_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """Raises ArgumentError: residues are no numbers that floats could be near to."""
        raise ArgumentError(f"{NAME}: a table has no sum in floats; use the residues")
