"""Decoding of shares that are longer than memory, some columns at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pyfed.checks import expect_device, expect_int
from pyfed.chunks import CHUNK, chunk_size, expect_fixed, from_array, naming_chunk
from pyfed.codes import LagrangeCode
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.fields import Field
from pyfed.fixed import FixedPoint
from pyfed.staging import staged


def decode_stream(
    code: LagrangeCode,
    rows: Any,
    survivors: Sequence[int],
    length: int,
    *,
    fixed: FixedPoint | None = None,
    total_weight: int = 1,
    correct: int = 0,
    start_column: int = 0,
    chunk: int = CHUNK,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:
    """The long vector that shares stand for, some columns at a time.

    All that is yielded, put end to end, is ``code.decode(rows, survivors, length, correct)``; with
    ``fixed``, ``fixed.decode`` of it. Wrong rows are looked for in each chunk, by challenges of its
    own; more than ``correct`` of them in all chunks together end the stream.

    Args:
        code: made the shares.
        rows: the shares, one row for each survivor: an int32 tensor or array (n, columns); or a
            list of n vectors, such as a ``numpy.memmap`` each. Over ``WIDE`` behind an axis of 2
            planes; of a list, each vector is (2, columns).
        survivors: the share number of each row.
        length: elements to give back, from the first of ``start_column`` on.
        fixed: how residues become floats; None gives residues.
        total_weight: as :meth:`FixedPoint.decode` has it.
        correct: how many wrong rows may be repaired.
        start_column: number of the first column of ``rows`` in the whole vector.
        chunk: elements of a chunk, rounded down to whole columns, but one at least.
        device: where it is done. To a GPU the next chunk is copied meanwhile.

    Yields:
        The number of the first element, and int32 or float32 (elements,), on the device; residues
        over ``WIDE`` are (2, elements).

    Raises:
        DtypeError: an argument has a wrong type.
        ThresholdError, DecodeError: as :meth:`LagrangeCode.decode`.
        ArgumentError: an argument is out of range, or an element is no residue: its row and its
            place in the whole vector are named (on CUDA: :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> from pyfed.streaming import decode_stream
        >>> code = pyfed.LagrangeCode(shares=3, blocks=2, privacy=1)
        >>> shares = code.encode(torch.arange(10, dtype=torch.int32))
        >>> for first, part in decode_stream(code, shares, range(3), 10, chunk=4):
        ...     print(first, part.tolist())
        0 [0, 1, 2, 3]
        4 [4, 5, 6, 7]
        8 [8, 9]
    """
    op = "decode_stream"
    if not isinstance(code, LagrangeCode):
        raise DtypeError(f"{op}: code is {type(code).__name__}; it must be a pyfed.LagrangeCode")
    expect_fixed(op, fixed, code.field)
    columns = _columns_of(op, rows, code.field)
    expect_int(op, "length", length, 0, code.blocks * columns + 1)
    expect_int(op, "start_column", start_column, 0, 2**36)
    expect_int(op, "total_weight", total_weight, 1, 2**63)
    size, place = chunk_size(op, chunk, code.blocks), expect_device(op, device)
    given = _row_chunks(op, rows, code.field, size // code.blocks, -(-length // code.blocks))
    return _decoded(
        code, given, survivors, length, fixed, total_weight, correct, start_column, place
    )


def _decoded(
    code: LagrangeCode,
    given: Iterator[torch.Tensor],
    survivors: Sequence[int],
    length: int,
    fixed: FixedPoint | None,
    total_weight: int,
    correct: int,
    column: int,
    device: torch.device,
) -> Iterator[tuple[int, torch.Tensor]]:
    op, left, known = "decode_stream", length, set[int]()
    for part in staged(given, device):
        first = column * code.blocks
        count = min(left, code.blocks * part.shape[-1])
        with naming_chunk(op, "rows", part, code.field, "column", column):
            data, wrong = code.repair(part, survivors, count, correct)
        known |= set(wrong)
        if len(known) > correct:
            raise DecodeError(
                f"{op}: up to column {column + part.shape[-1] - 1} the rows {sorted(known)} were "
                f"wrong, and correct is {correct}",
                rows=sorted(known),
            )
        if fixed is not None:
            residues, data = data, fixed.decode(data, total_weight)
            residues.zero_()
        yield first, data
        column, left = column + part.shape[-1], left - count


def _columns_of(op: str, rows: Any, field: Field) -> int:
    """The columns of all rows; raises unless they are as many in each."""
    if isinstance(rows, torch.Tensor | np.ndarray):
        if len(rows.shape) != 2 + len(field.lead):
            raise ArgumentError(
                f"{op}: rows has shape {tuple(rows.shape)}; it must have {2 + len(field.lead)} "
                "dimensions, or be a list of rows"
            )
        return int(rows.shape[-1])
    if not isinstance(rows, list | tuple):
        raise DtypeError(
            f"{op}: rows is {type(rows).__name__}; it must be a tensor, an array or a list of rows"
        )
    for number, row in enumerate(rows):
        if not isinstance(row, torch.Tensor | np.ndarray):
            kind = type(row).__name__
            raise DtypeError(f"{op}: rows[{number}] is {kind}; it must be a tensor or an array")
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 + len(field.lead):
        found = sorted({tuple(row.shape) for row in rows})
        raise ArgumentError(f"{op}: rows have shapes {found}; they must be vectors of one length")
    return int(shape[-1])


def _row_chunks(
    op: str, rows: Any, field: Field, columns: int, needed: int
) -> Iterator[torch.Tensor]:
    """int32 (n, at most ``columns``) of the first ``needed`` columns, a copy of each alone."""
    for first in range(0, needed, columns):
        last = min(first + columns, needed)
        if isinstance(rows, list | tuple):
            yield torch.stack([_part(op, row, first, last) for row in rows], dim=len(field.lead))
        else:
            yield _part(op, rows, first, last)


def _part(op: str, rows: Any, first: int, last: int) -> torch.Tensor:
    part = rows[..., first:last]
    values = part if isinstance(part, torch.Tensor) else from_array(op, part)
    if values.dtype != torch.int32:
        raise DtypeError(f"{op}: rows has dtype {values.dtype}; it must be torch.int32")
    return values
