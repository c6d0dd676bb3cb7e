"""The random matrix G of sketches: any block of it from its place alone, the same everywhere.

Entry (r, j) is a function of the words W(r, i) of row r. Those of a public G are Philox4x32-10's
(word i mod 4 of the block with the counter ⌊i/4⌋ mod 2^32, ⌊i/4⌋ / 2^32 + 2^8 · kind, r, stream);
those of a secret G are ChaCha20's (key, row r, stream, purpose 6, attempt kind).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyfed.checks import INDICES, STREAMS, expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.ops.dropout import philox_reference
from pyfed.ops.normal import normal_pairs
from pyfed.ops.random import NOISE, SKETCH, chacha_blocks, domain
from pyfed.ops.sketch_arguments import (
    COUNTSKETCH,
    GAUSSIAN,
    LARGEST_ROWS,
    expect_kind,
    sketch_words,
)

Range = tuple[int, int]
"""The first of some neighbours, and how many they are."""


class Matrix(NamedTuple):
    """What G is made from."""

    seed: torch.Tensor | None  # int32 (2,): the words of a public G come from Philox
    key: torch.Tensor | None  # int32 (8,): without a seed they come from ChaCha20
    kind: int
    stream: int

    @property
    def device(self) -> torch.device:
        """Where blocks are made."""
        source = self.key if self.seed is None else self.seed
        assert source is not None
        return source.device

    def words(self, rows: Range, places: Range) -> torch.Tensor:
        """W(r, i) for these rows r and places i: int64 in [0, 2^32), (rows, places)."""
        if self.seed is None:
            assert self.key is not None
            nonce_end = domain(SKETCH, attempt=self.kind)
            return row_words(self.key, rows, places, self.stream, nonce_end)
        first, count = places
        i = torch.arange(first, first + count, device=self.device)
        row = torch.arange(rows[0], sum(rows), device=self.device)[:, None]
        block = i // 4
        counter = (
            *(block & 0xFFFFFFFF, (block >> 32) | self.kind << 8, row),
            torch.full_like(row, self.stream),
        )
        four = torch.stack(philox_reference(counter, self.seed))  # (4, rows, places)
        return four.gather(0, (i % 4).expand(1, *four.shape[1:]))[0]

    def block(self, rows: Range, columns: Range, height: int) -> torch.Tensor:
        """The entries of these rows and columns of a G with ``height`` rows: float32."""
        first, count = columns
        if self.kind == COUNTSKETCH:
            words = self.words((0, 2), columns)
            row = torch.arange(rows[0], sum(rows), device=self.device)[:, None]
            entry = (1 - 2 * (words[1] & 1)).to(torch.float32) * root(height)
            return torch.where(row == (words[0] * height) >> 32, entry, 0.0)
        unit = 2 if self.kind == GAUSSIAN else 32  # columns that are made together
        start, end = first // unit, -(-(first + count) // unit)
        if self.kind == GAUSSIAN:
            made = normal_pairs(self.words(rows, (2 * start, 2 * (end - start))))
        else:
            words = self.words(rows, (start, end - start))[..., None]
            bits = (words >> torch.arange(32, device=self.device)) & 1
            made = (1 - 2 * bits).to(torch.float32).flatten(1)
        return made[:, first - unit * start :][:, :count].contiguous()


def root(height: int) -> float:
    """√height, which is rounded to float32 where it meets float32."""
    return math.sqrt(height)


def row_words(
    key: torch.Tensor, rows: Range, places: Range, stream: int, nonce_end: int
) -> torch.Tensor:
    """ChaCha20's words of some rows at some places: int64 in [0, 2^32), (rows, places)."""
    first, count = places
    start, end = first // 16, -(-(first + count) // 16)
    counters = torch.arange(start, end, device=key.device).repeat(rows[1])
    row = torch.arange(rows[0], sum(rows), device=key.device).repeat_interleave(end - start)
    words = chacha_blocks(key, counters, [row, stream, nonce_end])
    words = words.reshape(rows[1], 16 * (end - start))
    return words[:, first - 16 * start :][:, :count]


def noise_reference(key: torch.Tensor, rows: int, features: int, stream: int) -> torch.Tensor:
    """The noise of standard deviation 1 that is added to a sketch: float32 (rows, features)."""
    even = features + features % 2
    words = row_words(key, (0, rows), (0, even), stream, domain(NOISE))
    return normal_pairs(words)[:, :features]


def _expect_range(name: str, given: object, size: int) -> Range:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise DtypeError(f"sketch_block: {name} is {given!r}; it must be a pair (first, count)")
    first, count = given
    expect_int("sketch_block", f"{name}[0]", first, 0, size + 1)
    expect_int("sketch_block", f"{name}[1]", count, 0, size + 1)
    if first + count > size:
        raise ArgumentError(
            f"sketch_block: {name} ends at {first + count}; G has {size} in that direction"
        )
    return first, count


def sketch_block(
    rows: tuple[int, int],
    columns: tuple[int, int],
    key: Key | int,
    kind: str,
    shape: tuple[int, int],
    stream: int = 0,
    public: bool = True,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """A block of the matrix G that :func:`sketch` multiplies by, for tests and for who must see it.

    Args:
        rows: the first row and how many.
        columns: the first column and how many.
        key: as :func:`sketch` takes it.
        kind: ``"rademacher"``, ``"gaussian"`` or ``"countsketch"``.
        shape: of the whole G: rows ≤ 2^31 and columns ≤ 2^36.
        stream: which of the key's 2^32 matrices.
        public: whether G comes from the public seed.
        device: where the block is made.

    Returns:
        float32 (rows[1], columns[1]), exactly the entries that every kernel uses.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: an argument is out of range, or the block is not inside G.

    Example:
        >>> import pyfed
        >>> key = pyfed.Key(bytes(range(32)))
        >>> pyfed.ops.sketch_block((0, 2), (5, 3), key, "rademacher", (4, 100))
        tensor([[-1., -1.,  1.],
                [-1., -1.,  1.]])
    """
    number = expect_kind("sketch_block", kind)
    if not isinstance(shape, list | tuple) or len(shape) != 2:
        raise DtypeError(f"sketch_block: shape is {shape!r}; it must be a pair (rows, columns)")
    expect_int("sketch_block", "shape[0]", shape[0], 1, LARGEST_ROWS + 1)
    expect_int("sketch_block", "shape[1]", shape[1], 0, INDICES + 1)
    row_range = _expect_range("rows", rows, shape[0])
    column_range = _expect_range("columns", columns, shape[1])
    expect_int("sketch_block", "stream", stream, 0, STREAMS)
    seed, secret = sketch_words("sketch_block", key, public, False, device)
    return Matrix(seed, secret, number, stream).block(row_range, column_range, shape[0])
