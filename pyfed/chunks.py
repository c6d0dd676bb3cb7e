"""Long vectors piece by piece: where they come from, whole columns of them, their names."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pyfed.checks import expect_int, expect_key, outside
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import Field
from pyfed.fixed import FixedPoint
from pyfed.keys import KEY_BYTES, Key

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
CHUNK = 1 << 22
"""Elements of a chunk unless told: 16 MiB of float32."""

UNIT = 16
"""Columns in a block of the generator; shards begin at whole ones, so that none is made twice."""


def pieces_of(op: str, source: Any, size: int, lead: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """The elements of a source in order, as tensors of at most ``size`` of them.

    Args:
        op: what messages name.
        source: a tensor, an array (of a file that is mapped into memory: only the piece that is
            read is copied), a mapping whose values are such, or an iterable of any of these.
        size: the most elements of a piece.
        lead: leading axes that every tensor has and keeps; all others are laid end to end.
    """
    if isinstance(source, torch.Tensor):
        yield from _slices(op, source.detach(), size, lead)
    elif isinstance(source, np.ndarray):
        yield from _slices(op, source, size, lead)
    elif isinstance(source, Mapping):
        yield from pieces_of(op, source.values(), size, lead)
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes | bytearray):
        for part in source:
            yield from pieces_of(op, part, size, lead)
    else:
        kind = type(source).__name__
        raise DtypeError(
            f"{op}: a part of the source is {kind}; it must be a tensor, an array, or an iterable "
            "of them"
        )


def _slices(
    op: str, whole: torch.Tensor | np.ndarray[Any, Any], size: int, lead: tuple[int, ...]
) -> Iterator[torch.Tensor]:
    if tuple(whole.shape[: len(lead)]) != lead:
        raise ArgumentError(
            f"{op}: a part of the source has shape {tuple(whole.shape)}; its first axis must hold "
            f"the {lead[0]} planes"
        )
    flat = whole.reshape(*lead, -1)
    for first in range(0, flat.shape[-1], size):
        part = flat[..., first : first + size]
        # A copy of this piece alone: a mapped file may be read-only, which torch cannot be told.
        yield part if isinstance(part, torch.Tensor) else from_array(op, part)


def from_array(op: str, part: np.ndarray[Any, Any]) -> torch.Tensor:
    """A copy of an array as a tensor."""
    try:
        return torch.from_numpy(np.array(part, order="C"))
    except TypeError:
        kind = part.dtype
        raise DtypeError(
            f"{op}: a part of the source has dtype {kind}; torch has no such"
        ) from None


class Regrouped:
    """Pieces of any size as chunks of one size, the last but as long as there are elements.

    A chunk that lies within a piece is a view of it; others are put together in one buffer, which
    the next chunk overwrites.

    Args:
        op: what messages name.
        pieces: int32 or float (…, elements), all of one dtype and device.
        size: elements of a chunk.
        dtypes: what their dtype may be.
    """

    def __init__(
        self,
        op: str,
        pieces: Iterable[torch.Tensor],
        size: int,
        dtypes: tuple[torch.dtype, ...],
    ) -> None:
        self._op, self._pieces, self._size, self._dtypes = op, pieces, size, dtypes
        self._buffer: torch.Tensor | None = None
        self._seen: tuple[torch.dtype, torch.device] | None = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        filled, size = 0, self._size
        try:
            for piece in self._pieces:
                self._expect_like(piece)
                at, end = 0, piece.shape[-1]
                while at < end:
                    if filled == 0 and end - at >= size:
                        yield piece[..., at : at + size]
                        at += size
                        continue
                    if self._buffer is None:
                        self._buffer = piece.new_empty(*piece.shape[:-1], size)
                    take = min(size - filled, end - at)
                    self._buffer[..., filled : filled + take] = piece[..., at : at + take]
                    filled, at = filled + take, at + take
                    if filled == size:
                        yield self._buffer
                        filled = 0
            if filled and self._buffer is not None:
                yield self._buffer[..., :filled]
        finally:
            if self._buffer is not None:  # an update is nobody else's business
                self._buffer.zero_()

    def _expect_like(self, piece: torch.Tensor) -> None:
        if piece.dtype not in self._dtypes:
            wanted = " or ".join(str(dtype) for dtype in self._dtypes)
            raise DtypeError(
                f"{self._op}: a part of the source has dtype {piece.dtype}; it must be {wanted}"
            )
        kind = piece.dtype, piece.device
        if self._seen is None:
            self._seen = kind
        if kind != self._seen:
            raise ArgumentError(
                f"{self._op}: a part of the source is {kind[0]} on {kind[1]}, and one before it "
                f"{self._seen[0]} on {self._seen[1]}; they must be alike"
            )


def shard(columns: int, parts: int) -> list[range]:
    """Ranges of columns of nearly equal size, one for each device.

    Args:
        columns: of the whole vector; or its elements, where nothing is encoded.
        parts: how many ranges; the last ones are empty where there are too few columns.

    Returns:
        Ranges that follow one another and cover all columns. Part i of a vector is its elements
        ``blocks · r.start`` … ``blocks · r.stop``, and is encoded with ``start_column=r.start``.

    Example:
        >>> from pyfed.streaming import shard
        >>> shard(100, 3)
        [range(0, 48), range(48, 80), range(80, 100)]
    """
    expect_int("shard", "columns", columns, 0, 2**63)
    expect_int("shard", "parts", parts, 1, 2**31)
    units = -(-columns // UNIT)
    ends = [min(UNIT * -(-units * part // parts), columns) for part in range(parts + 1)]
    return [range(first, last) for first, last in itertools.pairwise(ends)]


@contextlib.contextmanager
def naming_chunk(
    op: str, name: str, chunk: torch.Tensor, field: Field, where: str, first: int
) -> Iterator[None]:
    """Where an element of a chunk is refused, tell its place in the whole."""
    try:
        yield
    except ArgumentError:
        if chunk.is_floating_point():
            bad = ~torch.isfinite(chunk)
            wanted = "finite"
        else:
            primes = tuple(plane.modulus for plane in field.planes)
            bad = outside(chunk, primes)
            wanted = f"in [0, {min(primes)})"
        if not bool(bad.any()):
            raise
        place = torch.nonzero(bad)[0].tolist()
        value = chunk[tuple(place)].item()
        *others, last = place
        row = "".join(f"row {number}, " for number in others)
        raise ArgumentError(
            f"{op}: {name} is {value} at {row}{where} {first + last}; it must be {wanted}"
        ) from None


class LivingKeys:
    """The keys of a stream, whose chunks are made later than it is asked for.

    A key that is wiped meanwhile is all zero, so that what it pads or masks would lie open.

    Args:
        op: what messages name.
        keys: those that are used for the chunks; None among them is none.
    """

    def __init__(self, op: str, keys: Iterable[Key | None]) -> None:
        self._op, self._keys, self._wiped = op, list[Key](), Key(bytes(KEY_BYTES))
        for key in keys:
            if key is not None:
                expect_key(op, key)
                if key != self._wiped:  # else it has no more to lose
                    self._keys.append(key)

    def expect(self) -> None:
        """Raise ArgumentError where one was wiped."""
        if any(key == self._wiped for key in self._keys):
            raise ArgumentError(
                f"{self._op}: a key was wiped before the last chunk was made; wipe it after that"
            )


def chunk_size(op: str, chunk: object, unit: int) -> int:
    """``chunk`` as whole units, at least one."""
    expect_int(op, "chunk", chunk, 1, 2**62)
    assert isinstance(chunk, int)
    return max(chunk // unit, 1) * unit


def expect_fixed(op: str, fixed: object, field: Field) -> None:
    """Raise unless ``fixed`` is None, or a FixedPoint over the field of a code."""
    if fixed is None:
        return
    if not isinstance(fixed, FixedPoint):
        raise DtypeError(f"{op}: fixed is {type(fixed).__name__}; it must be a pyfed.FixedPoint")
    if fixed.field != field:
        raise ArgumentError(
            f"{op}: fixed is over {fixed.field.name}; it must be over {field.name}, as code is"
        )
