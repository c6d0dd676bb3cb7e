"""The coded reading of SecEA: shares, queries, masks, answers and read-outs, as functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.checks import expect_int, expect_tensor
from pyfed.codes import LagrangeCode
from pyfed.errors import ArgumentError, DecodeError
from pyfed.fields import SOLINAS31, Field
from pyfed.keys import Key
from pyfed.ops.field import field_matmul, field_sum
from pyfed.ops.lagrange import lagrange_encode

NAME = "EntityCode"
NOTHING = -1
"""As a position: a row of a query that asks for nothing."""
CHUNK = 2**24
"""Elements of a query that are made at a time, so that its one-hot rows stay small."""


class EntityCode:
    """How N clients hold a table of entities' embeddings so that anyone may read rows unseen.

    Row e of the table is Σ_n c_n·h_(n,e), over the owners n of entity e, and Σ_n c_n, the
    *ownership symbol*, with c_n the weight of n. An embedding of d residues is cut into K blocks,
    and the symbol is put behind every block, which makes w = ⌈d/K⌉ + 1 columns an entity.

    - *Share* of the table at α_j: Φ(α_j) for Φ of degree K + T - 1 with block k at Φ(β_k).
    - *Query* for answerer j: q_e(α_j) = [e is asked for] + Z(α_j)·Σ_t α_j^t·R_(e,t), with
      Z(x) = ∏(x - β_k) and R uniform, so that T answerers see uniform numbers whatever is asked.
    - *Answer*: Σ_e q_e(α_j)·Φ_e(α_j), of degree 2(K + T - 1), whose value at β_k is block k of
      the row asked for. Its other coefficients would tell of other rows, so the answerers add
      shares of W(x) = Z(x)·r(x), r uniform of degree K + 2T - 2: then nothing but those values
      is left. One W serves one answer.
    - *Read-out*: any 2K + 2T - 1 answers determine the polynomial; more of them are checked.

    Args:
        clients: N ≥ 2K + 2T - 1.
        blocks: K ≥ 1.
        privacy: T ≥ 1, how many clients together learn nothing.
        dim: d ≥ 1, residues of an embedding.
        field: the prime field.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or the clients are too few.

    Source: Tang, Zhu, Li, Sun, *Secure embedding aggregation for federated representation
    learning*, arXiv 2206.09097, whose abstract we could read and whose body we could not. The
    three parts and their order are the paper's; the polynomials, the masks W and the thresholds
    are ours, derived so that every published number comes out.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.secagg.secea_queries import EntityCode
        >>> code, key = EntityCode(clients=5, blocks=1, privacy=2, dim=2), pyfed.Key.generate
        >>> table = code.laid_out(torch.tensor([[7, 8]], dtype=torch.int32), 1, [2], entities=3)
        >>> shares, masks = code.share(table, key()), code.mask(1, key(), asker=0)
        >>> own = key()  # one for all answerers
        >>> answers = [
        ...     code.answer(code.query([2], 3, j, own), shares[j], masks[j][None])
        ...     for j in range(5)
        ... ]
        >>> code.read(torch.stack(answers), range(5))
        (tensor([[7, 8]], dtype=torch.int32), [1])
    """

    def __init__(
        self, clients: int, blocks: int, privacy: int, dim: int, field: Field = SOLINAS31
    ) -> None:
        expect_int(NAME, "privacy", privacy, 1, 2**31)
        expect_int(NAME, "dim", dim, 1, 2**31)
        self.sharing = LagrangeCode(clients, blocks, privacy, field)
        needed = 2 * blocks + 2 * privacy - 1
        if clients < needed:
            raise ArgumentError(
                f"{NAME}: clients is {clients}; it must be at least 2·blocks + 2·privacy - 1 = "
                f"{needed}"
            )
        # Z·r of degree K + (K + 2T - 1) - 1 is as high as an answer, so W hides all of it.
        self.reading = LagrangeCode(clients, blocks, blocks + 2 * privacy - 1, field)
        self.dim = dim
        self.field = field

    @property
    def blocks(self) -> int:
        """K."""
        return self.sharing.blocks

    @property
    def threshold(self) -> int:
        """2K + 2T - 1: how many answers determine a read-out."""
        return self.reading.threshold

    @property
    def width(self) -> int:
        """w, residues of an entity in a share, and in an answer."""
        return -(-self.dim // self.blocks) + 1

    def __repr__(self) -> str:
        return (
            f"{NAME}(clients={self.sharing.shares}, blocks={self.blocks}, "
            f"privacy={self.sharing.privacy}, dim={self.dim}, field={self.field.name})"
        )

    def laid_out(
        self, residues: torch.Tensor, weight: int, positions: Sequence[int], entities: int
    ) -> torch.Tensor:
        """A client's table: its embeddings and symbols in their rows, and zeros in all others.

        Args:
            residues: weighted embeddings, int32 (count, dim).
            weight: c, the symbol of each of them, in [0, p).
            positions: the row of each, no two equal; NOTHING leaves one out.
            entities: M, rows of the table.

        Returns:
            int32 (entities · width · blocks,), as :meth:`share` takes it.
        """
        op = f"{NAME}.laid_out"
        expect_tensor(op, "residues", residues, torch.int32, 2)
        expect_int(op, "weight", weight, 0, self.field.modulus)
        expect_int(op, "entities", entities, 0, 2**31)
        self._expect_positions(op, positions, entities)
        if residues.shape != (len(positions), self.dim):
            raise ArgumentError(
                f"{op}: residues is {tuple(residues.shape)}; it must be ({len(positions)}, "
                f"{self.dim}), a row for each position"
            )
        wide = self.width * self.blocks
        table = residues.new_zeros(entities, wide)
        kept = [i for i, position in enumerate(positions) if position != NOTHING]
        rows = torch.tensor([positions[i] for i in kept], dtype=torch.int64, device=table.device)
        table[rows, : self.dim] = residues if len(kept) == len(positions) else residues[kept]
        table[rows, wide - self.blocks :] = weight
        return table.view(-1)

    def share(self, table: torch.Tensor, key: Key) -> torch.Tensor:
        """The N shares of a table: int32 (entities · width · blocks,) → (N, entities · width)."""
        return self.sharing.encode(table, key)

    def query(
        self, positions: Sequence[int], entities: int, answerer: int, key: Key
    ) -> torch.Tensor:
        """What one answerer gets to see of the rows that are asked for.

        Args:
            positions: the row of the table that each row of the query asks for, or NOTHING.
            entities: M, rows of the table.
            answerer: number of the client that will answer.
            key: makes R; the same for all answerers, and never for other positions or another code.

        Returns:
            int32 (len(positions), entities).
        """
        op = f"{NAME}.query"
        expect_int(op, "answerer", answerer, 0, self.sharing.shares)
        expect_int(op, "entities", entities, 0, 2**31)
        self._expect_positions(op, positions, entities)
        hiding = self.sharing.encoding_matrix()[answerer, self.blocks :]  # Z(α), Z(α)·α, …
        matrix = torch.cat([hiding.new_ones(1), hiding])[None]  # (1, 1 + T)
        out = torch.empty(len(positions), entities, dtype=torch.int32)
        step = max(1, CHUNK // max(entities, 1))
        for first in range(0, len(positions), step):
            wanted = torch.tensor(positions[first : first + step], dtype=torch.int64)
            asking = torch.nonzero(wanted != NOTHING).flatten()
            onehot = out.new_zeros(len(wanted), entities)
            onehot[asking, wanted[asking]] = 1
            at = first * entities
            try:
                part = lagrange_encode(onehot.view(-1), matrix, key, self.field, 1, start_column=at)
            except BaseException:
                out.zero_()
                raise
            finally:
                onehot.zero_()
            out[first : first + step] = part.view(len(wanted), entities)
            part.zero_()
        return out

    def mask(self, rows: int, key: Key, asker: int) -> torch.Tensor:
        """The shares of one dealer's W for the answers to one asker, zero at every β_k.

        Args:
            rows: of the query.
            key: of the dealer, fresh every round.
            asker: number of the client that asks.

        Returns:
            int32 (N, rows · width): row j is for answerer j.
        """
        zeros = torch.zeros(rows * self.width * self.blocks, dtype=torch.int32)
        return self.reading.encode(zeros, key, stream=asker)

    def answer(
        self, query: torch.Tensor, shares: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """What an answerer returns: its shares of the table times the query, under the masks.

        Args:
            query: int32 (rows, entities).
            shares: the sum of the clients' shares that it holds, int32 (entities · width,).
            masks: its share of each dealer's W for this asker, int32 (dealers, rows · width).

        Returns:
            int32 (rows · width,).
        """
        product = field_matmul(query, shares.view(query.shape[1], self.width), self.field)
        try:
            return field_sum(torch.cat([product.view(1, -1), masks]), self.field)
        finally:
            product.zero_()

    def read(
        self, answers: torch.Tensor, answerers: Sequence[int], correct: int = 0
    ) -> tuple[torch.Tensor, list[int]]:
        """The rows asked for, from enough answers.

        Args:
            answers: int32 (n, rows · width), n ≥ 2K + 2T - 1; more are checked.
            answerers: the client of each, in row order.
            correct: how many wrong answers may be repaired.

        Returns:
            Σ c·h, int32 (rows, dim), and Σ c of each row.

        Raises:
            ThresholdError: too few answers.
            DecodeError: answers contradict one another, or stand for no table of honest clients.
        """
        flat = self.reading.decode(answers, answerers, correct=correct)
        wide = self.width * self.blocks
        table = flat.view(-1, wide)
        symbols = table[:, wide - self.blocks :]
        if bool((symbols != symbols[:, :1]).any()) or bool(table[:, self.dim : -self.blocks].any()):
            raise DecodeError(
                f"{NAME}.read: the answers agree and decode to a row that no honest clients can "
                "have made: its padding or its ownership symbols do not fit"
            )
        return table[:, : self.dim], symbols[:, 0].tolist()

    def _expect_positions(self, op: str, positions: Sequence[int], entities: int) -> None:
        for position in positions:
            expect_int(op, "a position", position, NOTHING, entities)
        asked = [position for position in positions if position != NOTHING]
        if len(set(asked)) != len(asked):
            raise ArgumentError(f"{op}: positions names a row more than once")
