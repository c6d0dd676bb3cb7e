"""Coded data sets as bytes."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct

import numpy as np
import torch

from pyfed.coded.dataset import KINDS, CodedDataset
from pyfed.coded.records import SOURCE
from pyfed.errors import ProtocolError

MAGIC = b"pyfed/coded/1"
HEADER = struct.Struct("<13sBBBIIIIQddd")
"""Magic, kind, complement, public, rows, features, outputs, sources, samples, variance, grid, norm.

The norm is that of records, or 0 where nobody looked.

Behind it: the sources in rising order, float32 of x and then of y row by row, all little-endian,
and the SHA-256 of everything before.
"""
DIGEST = 32


def to_bytes(coded: CodedDataset) -> bytes:
    """See :meth:`CodedDataset.to_bytes`."""
    head = HEADER.pack(
        *(MAGIC, KINDS.index(coded.kind), coded.complement, coded.public),
        *(coded.rows, coded.features, coded.outputs, coded.clients, coded.samples),
        *(coded.noise_variance, coded.grid, coded.record_norm or 0.0),
    )
    parts = [head, *sorted(coded.sources)]
    for values in (coded.x, coded.y):
        parts.append(values.cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
    data = b"".join(parts)
    return data + hashlib.sha256(data).digest()


def from_bytes(data: bytes) -> CodedDataset:
    """See :meth:`CodedDataset.from_bytes`."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise _refused(f"it is {type(data).__name__}; it must be bytes")
    view = memoryview(bytes(data))
    if len(view) < HEADER.size + DIGEST:
        raise _refused(f"it has {len(view)} bytes; the least is {HEADER.size + DIGEST}")
    if hashlib.sha256(view[:-DIGEST]).digest() != view[-DIGEST:]:
        raise _refused("it was damaged: its digest does not match its content")
    magic, kind, complement, public, *sizes, variance, grid, norm = HEADER.unpack_from(view)
    rows, features, outputs, count, samples = sizes
    if magic != MAGIC:
        raise _refused(f"it begins with {magic!r}; it must begin with {MAGIC!r}")
    if kind >= len(KINDS) or max(complement, public) > 1 or min(sizes) < 1:
        raise _refused("a field of its header is out of range")
    if not (
        math.isfinite(variance) and variance >= 0 and _is_grid(grid) and (grid == 0 or variance > 0)
    ):
        raise _refused(f"its noise has variance {variance} and grid {grid}")
    if not (math.isfinite(norm) and norm >= 0):
        raise _refused(f"its record norm is {norm}")
    size = HEADER.size + SOURCE * count + 4 * rows * (features + outputs) + DIGEST
    if len(view) != size:
        raise _refused(f"it has {len(view)} bytes; its header says {size}")
    at = HEADER.size + SOURCE * count
    tags = [bytes(view[i : i + SOURCE]) for i in range(HEADER.size, at, SOURCE)]
    if any(a >= b for a, b in itertools.pairwise(tags)):
        raise _refused("its sources are not in rising order")
    values = torch.from_numpy(np.frombuffer(view[at:-DIGEST], "<f4").astype(np.float32))
    if not bool(torch.isfinite(values).all()):
        raise _refused("a value is NaN or infinite")
    if grid and bool((values.to(torch.float64) / grid).frac().any()):
        raise _refused(f"a value is no multiple of its grid {grid}")
    x, y = values.split([rows * features, rows * outputs])
    return CodedDataset(
        x=x.reshape(rows, features).clone(),
        y=y.reshape(rows, outputs).clone(),
        kind=KINDS[kind],
        noise_variance=variance,
        samples=samples,
        sources=frozenset(tags),
        complement=bool(complement),
        grid=grid,
        public=bool(public),
        record_norm=norm or None,
    )


def _is_grid(grid: float) -> bool:
    """Whether it is 0 or a power of two."""
    return grid == 0 or (math.isfinite(grid) and math.frexp(grid)[0] == 0.5)


def _refused(reason: str) -> ProtocolError:
    return ProtocolError(f"CodedDataset.from_bytes: {reason}")
