"""Invertible Bloom lookup tables over a prime field, with entries blinded by random factors."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch

from pyfed.errors import DecodeError
from pyfed.fields import Field
from pyfed.keys import length_prefixed

WORDS = 4
"""Words of an entry: 120 bits."""

WORD_BITS = 30  # so that a word is a residue of every field of the library
CHECKS = 2
PLACES = 4
COLUMNS = 1 + WORDS + CHECKS
"""Residues of a cell: Σ r, then Σ r·word for each word of the entry and of its check."""


@dataclasses.dataclass(frozen=True)
class InvertibleTable:
    """Tables whose sum modulo p lists the entries of all of them.

    An entry w with factor r is r·(1, w, c), added to 4 cells; c and the cells are hashes of w and
    a salt. In a sum of tables, w has one total factor.

    Args:
        cells: how many cells there are.
        field: the prime field.

    Source: Goodrich and Mitzenmacher, Invertible Bloom lookup tables, Allerton 2011; factors from
    a field in place of counts are ours.
    """

    cells: int
    field: Field

    @property
    def limit(self) -> int:
        """What words and checks are below: 2^30, or p of a tiny field."""
        return min(1 << WORD_BITS, self.field.modulus)

    def filled(self, rows: torch.Tensor, factors: torch.Tensor, salt: bytes) -> torch.Tensor:
        """The table of entries int32 (n, 4) with factors int32 (n,): int32 (cells · 7,)."""
        checks, places = self._hashed(rows, salt)
        table = torch.zeros(self.cells, COLUMNS, dtype=torch.int64)
        wide = factors.to(torch.int64)
        multiples = self._multiples(wide, rows, checks)
        self._add(table, places, multiples)
        flat = table.to(torch.int32).flatten()
        for secret in (wide, multiples, table):
            secret.zero_()
        return flat

    def peel(self, summed: torch.Tensor, salt: bytes, most: int) -> torch.Tensor:
        """All entries of a sum of tables, sorted by their words: int32 (n, 4).

        Once all cells are empty, the table was the sum of just what was taken out. No entry is
        taken out twice, and at most ``most`` are, so hostile tables end too: after ``most`` + 1
        rounds, each of which looks at the cells that changed.

        Args:
            summed: int32 (cells · 7,), residues on the CPU.
            salt: of the tables.
            most: the most entries.

        Raises:
            DecodeError: the table does not peel, or holds more than ``most`` entries.
        """
        op = "EntityUnion.peel"
        table = summed.to(torch.int64).view(self.cells, COLUMNS)
        found: set[bytes] = set()
        touched = torch.arange(self.cells)
        while True:
            factors, rows, checks, places = self._pure(table, touched, salt)
            if not len(rows):
                break
            names = _row_bytes(rows)
            if not found.isdisjoint(names):
                raise DecodeError(f"{op}: an entity has two totals; a client's table is no table")
            once = dict(zip(names, range(len(names)), strict=True))  # it may be alone in 4 cells
            found.update(once)
            if len(found) > most:
                raise DecodeError(f"{op}: more than most = {most} entities are in the union")
            at = torch.tensor(list(once.values()))
            back = self.field.modulus - factors[at]
            touched = self._add(table, places[at], self._multiples(back, rows[at], checks[at]))
        stuck = int(table.any(dim=1).sum())
        if stuck:
            raise DecodeError(
                f"{op}: {stuck} of {self.cells} cells do not peel after {len(found)} entities: "
                f"the union has more than most = {most}, or some entities met in all their cells; "
                "start again with another salt"
            )
        union = np.frombuffer(b"".join(found), dtype="<i4").reshape(-1, WORDS)
        ordered: torch.Tensor = torch.unique(torch.from_numpy(union.astype(np.int32)), dim=0)
        return ordered

    def _pure(
        self, table: torch.Tensor, cells: torch.Tensor, salt: bytes
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of some cells those with one entry: its factor int64 (n,), words, checks and places."""
        p = self.field.modulus
        totals = table[cells]
        totals = totals[totals[:, 0] != 0]
        words = totals[:, 1:] * _inverse(totals[:, :1], p) % p
        # Of cells with several entries one in 64 passes, and is hashed in vain.
        fits = (words < self.limit).all(1)
        totals, words = totals[fits], words[fits]
        rows = words[:, :WORDS].to(torch.int32)
        checks, places = self._hashed(rows, salt)
        pure = (checks == words[:, WORDS:]).all(1)
        return totals[pure, 0], rows[pure], checks[pure], places[pure]

    def _hashed(self, rows: torch.Tensor, salt: bytes) -> tuple[torch.Tensor, torch.Tensor]:
        """Checks int64 (n, 2) and cells int64 (n, 4) of entries.

        Both are from SHA-256(SHA-256("pyfed/v1/union-cells" ‖ lp(salt)) ‖ words): of its 32-bit
        words h, check i is h_i mod 2^30 mod p, and place i is ⌊h_(2+i)·s / 2^32⌋ in part i, which
        has s cells from ⌊i·cells / 4⌋ on. A check that were linear in the words would pass any
        cell with several entries.
        """
        start = hashlib.sha256(b"pyfed/v1/union-cells" + length_prefixed(salt)).digest()
        digests = b"".join(hashlib.sha256(start + row).digest() for row in _row_bytes(rows))
        words = torch.from_numpy(np.frombuffer(digests, "<u4").reshape(-1, 8).astype(np.int64))
        checks = words[:, :CHECKS] % (1 << WORD_BITS) % self.field.modulus
        edges = torch.tensor([part * self.cells // PLACES for part in range(PLACES + 1)])
        places = edges[:-1] + (words[:, CHECKS : CHECKS + PLACES] * edges.diff() >> 32)
        return checks, places

    def _multiples(
        self, factors: torch.Tensor, rows: torch.Tensor, checks: torch.Tensor
    ) -> torch.Tensor:
        """For factors int64 (n,) the residues that a cell gets, int64 (n, 7); products < 2^62."""
        columns = torch.cat([factors.new_ones(len(rows), 1), rows.to(torch.int64), checks], dim=1)
        return columns.mul_(factors[:, None]).remainder_(self.field.modulus)

    def _add(
        self, table: torch.Tensor, places: torch.Tensor, multiples: torch.Tensor
    ) -> torch.Tensor:
        """Add each row to its four cells, and give the cells that changed.

        At most 2^25 rows meet in a cell, so sums stay below 2^57.
        """
        for part in places.t():
            table.index_add_(0, part, multiples)
        touched: torch.Tensor = torch.unique(places)
        table[touched] = table[touched].remainder_(self.field.modulus)
        return touched


def _row_bytes(rows: torch.Tensor) -> list[bytes]:
    """The words of each row, int32 (n, 4), little-endian."""
    data = rows.numpy().astype("<i4").tobytes()
    return [data[at : at + 4 * WORDS] for at in range(0, len(data), 4 * WORDS)]


def _inverse(values: torch.Tensor, modulus: int) -> torch.Tensor:
    """The inverses of non-zero residues, int64 of any shape: powers p - 2."""
    power, square, exponent = torch.ones_like(values), values, modulus - 2
    while exponent:
        if exponent & 1:
            power = power * square % modulus
        square = square * square % modulus
        exponent >>= 1
    return power
