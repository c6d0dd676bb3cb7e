"""Votes of many clients in one residue: lanes of radix n + 1, whose sums never meet."""

from __future__ import annotations

import dataclasses

import torch

from pyfed.checks import expect_field, expect_int, expect_tensor
from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.fields import SOLINAS31, Field
from pyfed.keys import Key
from pyfed.ops.counts import MOST_CLIENTS, NARROW
from pyfed.ops.field import check_residues
from pyfed.ops.masks import LONGEST, expect_packed, mask_unpack

NAME = "VoteLanes"


@dataclasses.dataclass(frozen=True)
class VoteLanes(Encoding):
    """How votes become residues whose sum, split, is every element's exact count.

    Residue i holds the votes b of elements ℓ·i … ℓ·i + ℓ - 1 as Σ_j b_j·(n + 1)^j. A count is at
    most n, so lanes never carry, and a sum of n residues is at most (n + 1)^ℓ - 1 < p:

    ℓ = max{l : (n + 1)^l ≤ p}.

    In ``SOLINAS31`` that is 4 up to 214 clients, 3 up to 1,289, 2 up to 46,338, and 1 beyond; a
    residue is 4 bytes, so 4 lanes take 8 bits for each vote. This holds for clients that send what
    an encoding can give. Nothing stops a cheating client from adding another residue, which votes
    several times or carries into the lanes above; see ``decode`` for what is noticed.

    Args:
        clients: n, the most masks that are summed, from 1 to 65,535.
        field: the prime field; n + 1 must be at most p.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: ``clients`` is out of range.

    Example:
        >>> import torch
        >>> from pyfed.lanes import VoteLanes
        >>> lanes = VoteLanes(clients=100)
        >>> lanes.lanes
        4
        >>> masks = torch.tensor([[1, 0, 1, 1, 1], [1, 0, 0, 1, 1]]).to(torch.bool)
        >>> shared = [lanes.encode(mask) for mask in masks]
        >>> shared[1]
        tensor([1030302,       1], dtype=torch.int32)
        >>> lanes.decode(shared[0] + shared[1], length=5)
        tensor([2, 0, 1, 2, 2], dtype=torch.uint8)
    """

    clients: int
    field: Field = SOLINAS31
    max_weight: int = dataclasses.field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        expect_field(NAME, self.field)
        most = min(MOST_CLIENTS, self.field.modulus - 1)
        expect_int(NAME, "clients", self.clients, 1, most + 1)

    @property
    def radix(self) -> int:
        """The number of values that a count can have: n + 1."""
        return self.clients + 1

    @property
    def lanes(self) -> int:
        """ℓ, votes in one residue."""
        count, reach = 0, self.radix
        while reach <= self.field.modulus:
            count, reach = count + 1, reach * self.radix
        return count

    @property
    def form(self) -> tuple[object, ...]:
        """What a session is bound to: ``"votes"``, lanes and radix."""
        return "votes", self.lanes, self.radix

    def check_weight(self, weight: object) -> int:
        """1; raises for anything else."""
        if isinstance(weight, bool) or not isinstance(weight, int):
            kind = type(weight).__name__
            raise DtypeError(f"{NAME}: weight is {weight!r} ({kind}); it must be an int")
        if weight != 1:
            raise ArgumentError(f"{NAME}: weight is {weight}; it must be 1, as every client's is")
        return weight

    def residues(self, length: int) -> int:
        """How many residues ``length`` votes take: ⌈length / ℓ⌉."""
        expect_int(NAME, "length", length, 0, LONGEST)
        return -(-length // self.lanes)

    def encode(self, mask: torch.Tensor, length: int | None = None) -> torch.Tensor:
        """One client's votes as residues.

        Args:
            mask: bool (length,), or packed uint8 (⌈length / 8⌉,) as ``pyfed.ops.mask_pack`` gives.
            length: elements of the mask; may be left out for bool.

        Returns:
            int32 (⌈length / ℓ⌉,); lanes behind the last element are 0.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: the mask has another length, a packed one comes without it, or a padding
                bit is set (on CUDA the last is raised by :func:`pyfed.check`).
        """
        if length is None:
            if isinstance(mask, torch.Tensor) and mask.dtype == torch.uint8:
                raise ArgumentError(
                    "VoteLanes.encode: length is None; a packed mask (uint8) needs it: give the "
                    "number of its elements, or a bool mask"
                )
            expect_tensor("VoteLanes.encode", "mask", mask, torch.bool, 1)
            length = mask.numel()
        mask = self._expect_mask("VoteLanes.encode", "mask", mask, length)
        count, lanes = self.residues(length), self.lanes
        out = torch.zeros(count, dtype=torch.int32, device=mask.device)
        bits = mask if mask.dtype == torch.bool else mask_unpack(mask, length)
        for lane in range(lanes):
            votes = bits[lane::lanes]  # the last residue may lack this lane
            out[: votes.numel()].add_(votes, alpha=self.radix**lane)
        if bits is not mask:
            bits.zero_()
        return out

    def decode(
        self, residue_sum: torch.Tensor, length: int, included: int | None = None
    ) -> torch.Tensor:
        """Split a sum of encoded masks into counts.

        A lane above ``included``, or a vote behind the last element, cannot come of honest
        clients and is refused. What a cheating client adds is noticed in no other case: one vote
        too many where others did not vote, or a carry that fits into the lane above, is not.

        Args:
            residue_sum: int32 (⌈length / ℓ⌉,), the sum modulo the prime.
            length: elements of a mask.
            included: how many masks are in the sum; None: up to ``clients``.

        Returns:
            Counts (length,): uint8 when ``clients`` is up to 255, int32 beyond.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: the number of residues does not fit the length, one lies outside
                [0, p), or ``included`` is not from 0 to ``clients``.
            DecodeError: the sum is not one of ``included`` encoded masks.
        """
        op = "VoteLanes.decode"
        expect_tensor(op, "residue_sum", residue_sum, torch.int32, 1)
        count, lanes = self.residues(length), self.lanes
        if residue_sum.numel() != count:
            raise ArgumentError(
                f"{op}: residue_sum has {residue_sum.numel()} residues; {length} votes in {lanes} "
                f"lanes take {count}"
            )
        most = self.clients if included is None else included
        expect_int(op, "included", most, 0, self.clients + 1)
        check_residues(op, residue_sum, self.field.modulus)
        dtype = torch.uint8 if self.clients <= NARROW else torch.int32
        counts = torch.empty(length, dtype=dtype, device=residue_sum.device)
        rest = residue_sum.clone()
        for lane in range(lanes):
            last = lane == lanes - 1
            digits = rest if last else rest % self.radix  # the last may exceed the radix
            _expect_lane(digits, most, lane, lanes, length)
            into = counts[lane::lanes]
            into.copy_(digits[: into.numel()])
            if not last:
                rest.div_(self.radix, rounding_mode="floor")
        return counts

    def expect_update(self, op: str, update: object, length: int) -> torch.Tensor:
        """``update``; raises unless it is a mask, bool or packed, of that length."""
        return self._expect_mask(op, "update", update, length)

    def _expect_mask(self, op: str, name: str, mask: object, length: int) -> torch.Tensor:
        expect_tensor(op, name, mask, (torch.bool, torch.uint8), 1)
        assert isinstance(mask, torch.Tensor)
        expect_int(op, "length", length, 0, LONGEST)
        if mask.dtype == torch.uint8:
            expect_packed(op, name, mask, length)
        elif mask.numel() != length:
            raise ArgumentError(f"{op}: {name} has {mask.numel()} elements; length is {length}")
        return mask

    def encode_update(
        self, update: torch.Tensor, length: int, key: Key | None, weight: int
    ) -> torch.Tensor:
        """:meth:`encode`; nothing is rounded, and the weight is 1."""
        self.check_weight(weight)
        return self.encode(update, length)

    def integer_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """:meth:`decode`, as int64."""
        return self.decode(residue_sum, length, clients).to(torch.int64)

    def float_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """:meth:`decode`, as float32."""
        return self.decode(residue_sum, length, clients).to(torch.float32)


def _expect_lane(digits: torch.Tensor, most: int, lane: int, lanes: int, length: int) -> None:
    """Raise unless a lane of every residue, int32 (residues,), holds a count that can be."""
    over = digits > most
    if length % lanes and lane >= length % lanes:
        over[-1] = digits[-1] > 0  # no element is there
    if bool(over.any()):
        first = int(torch.nonzero(over)[0])
        raise DecodeError(
            f"VoteLanes.decode: lane {lane} of residue {first} is {int(digits[first])} in a sum "
            f"over {most} masks of {length} votes ({int(over.sum())} residues are wrong there): a "
            "client did not keep to the encoding"
        )
