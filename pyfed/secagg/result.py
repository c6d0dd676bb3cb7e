"""What a round of secure aggregation gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class RoundResult:
    """The weighted sum over the clients that are in it.

    Args:
        residues: the sum of the encoded updates modulo the prime: in fixed-point form Σ w·x in
            steps, int32 (length,); in ℓ lanes int32 (⌈length / ℓ⌉,).
        included: numbers of the clients in the sum.
        total_weight: Σ w over them.
        fixed: what the residues mean.
        length: elements of an update.
        wrong: clients to whom wrong shares are due, which were repaired, sorted; only the server
            has them. Under SwiftAgg+ all those are named whose sums a wrong column went through.
        traffic: (role, phase) → bytes sent by the server or by all clients together; filled in by
            an engine that counts them.
        seconds: phase → wall time; filled in by an engine that measures it.
    """

    residues: torch.Tensor
    included: frozenset[int]
    total_weight: int
    fixed: Encoding
    length: int
    wrong: tuple[int, ...] = ()
    traffic: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def integers(self) -> torch.Tensor:
        """Σ w·x in steps, exact, as int64 (length,); of votes their counts.

        Raises:
            DecodeError: the lanes of votes hold what no honest clients can have sent.
        """
        return self.fixed.integer_sum(self.residues, self.length, len(self.included))

    @cached_property
    def sum(self) -> torch.Tensor:
        """Σ w·x as float32 (length,): the integers, rounded once to float32, over the scale."""
        return self.fixed.float_sum(self.residues, self.length, len(self.included))

    @cached_property
    def mean(self) -> torch.Tensor:
        """The weighted mean Σ w·x / Σ w as float32 (length,).

        Raises:
            ArgumentError: every client in the sum has weight 0.
        """
        if self.total_weight == 0:
            raise ArgumentError(
                f"mean: all {len(self.included)} clients in the sum have weight 0, so there is no "
                "mean; give at least one of them a positive weight"
            )
        return self.sum / self.total_weight
