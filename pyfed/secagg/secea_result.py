"""What a round of SecEA gives to a client, and to an engine that plays all clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from pyfed.errors import ArgumentError, PyfedError
from pyfed.fixed import FixedPoint
from pyfed.secagg.secea_setup import EntityId, Setup


@dataclass(frozen=True, eq=False)
class EntityResult:
    """A client's own entities, averaged over all clients in the sum that have them.

    Args:
        ids: the entities.
        residues: Σ c·h of each modulo the prime, int32 (len(ids), dim), c the weight of an owner.
        totals: Σ c of each.
        included: the clients in the sum.
        fixed: what the residues mean.
        wrong: the clients whose answers were wrong and are repaired, sorted.
    """

    ids: tuple[EntityId, ...]
    residues: torch.Tensor
    totals: tuple[int, ...]
    included: frozenset[int]
    fixed: FixedPoint
    wrong: tuple[int, ...] = ()

    def __repr__(self) -> str:
        # Not the entities and their sums: they are for this client alone, and logs are not.
        return f"EntityResult(included={sorted(self.included)}, wrong={list(self.wrong)})"

    @cached_property
    def counts(self) -> dict[EntityId, int]:
        """Entity → Σ c over its owners: with weights of 1, how many have it."""
        return dict(zip(self.ids, self.totals, strict=True))

    @cached_property
    def integers(self) -> dict[EntityId, torch.Tensor]:
        """Entity → Σ c·h in steps, exact, int64 (dim,)."""
        exact = self.fixed.integer_sum(
            self.residues.reshape(-1), self.residues.numel(), len(self.included)
        )
        return dict(zip(self.ids, exact.view(self.residues.shape), strict=True))

    @cached_property
    def embeddings(self) -> dict[EntityId, torch.Tensor]:
        """Entity → Σ c·h / Σ c, float32 (dim,).

        Raises:
            ArgumentError: an entity has owners of weight 0 alone.
        """
        empty = [entity for entity, total in self.counts.items() if total == 0]
        if empty:
            raise ArgumentError(
                f"embeddings: {len(empty)} entities, {empty[0]!r} first, have owners of weight 0 "
                "alone, so they have no mean; give one of them a positive weight"
            )
        rows = zip(self.ids, self.residues, self.totals, strict=True)
        return {entity: self.fixed.decode(row, total) for entity, row, total in rows}


@dataclass(frozen=True, eq=False)
class EmbeddingResult:
    """A round with all its clients.

    Args:
        clients: client → its result, of those who have one.
        failed: client → why it has none, though it was there to the end.
        included: the clients in the sum.
        size: of the session, N.
        union_size: M, entities of the union.
        setups: client → what it keeps for the next round.
        traffic: (role, phase) → bytes sent by the server or by all clients together.
        seconds: phase → wall time of all parties together.
    """

    clients: dict[int, EntityResult]
    failed: dict[int, PyfedError]
    included: frozenset[int]
    size: int
    union_size: int
    setups: dict[int, Setup]
    traffic: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"EmbeddingResult({len(self.clients)} of {self.size} clients have results, "
            f"included={sorted(self.included)}, failed={self.failed}, "
            f"union_size={self.union_size})"
        )

    @cached_property
    def embeddings(self) -> list[dict[EntityId, torch.Tensor] | None]:
        """For each client its entities' means, as it gave them; None: it has no result."""
        every = (self.clients.get(i) for i in range(self.size))
        return [None if one is None else one.embeddings for one in every]

    @cached_property
    def integers(self) -> list[dict[EntityId, torch.Tensor] | None]:
        """For each client its entities' exact sums in steps; None: it has no result."""
        every = (self.clients.get(i) for i in range(self.size))
        return [None if one is None else one.integers for one in every]

    @cached_property
    def counts(self) -> list[dict[EntityId, int] | None]:
        """For each client how many own each of its entities; None: it has no result."""
        every = (self.clients.get(i) for i in range(self.size))
        return [None if one is None else one.counts for one in every]

    @cached_property
    def wrong(self) -> tuple[int, ...]:
        """The clients whose answers were wrong and are repaired, sorted."""
        return tuple(sorted({i for one in self.clients.values() for i in one.wrong}))
