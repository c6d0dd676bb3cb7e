"""Decoding from some of the rows that are held, piece by piece."""

from __future__ import annotations

import torch

from pyfed.fields import Field
from pyfed.locate import piece_columns
from pyfed.ops.lagrange import lagrange_decode


def decode_chosen(
    rows: torch.Tensor, chosen: list[int], matrix: torch.Tensor, field: Field, length: int
) -> torch.Tensor:
    """``lagrange_decode`` of some rows, without a copy of them as a whole.

    Args:
        rows: int32 (n, columns); over ``WIDE`` every tensor has a leading axis of 2 planes.
        chosen: their positions, as many as the matrix has columns.
        matrix: int32 (blocks, threshold).
        field: the field.
        length: elements to give back.
    """
    blocks, threshold = matrix.shape[-2:]
    first_rows = rows[..., :threshold, :]  # of two planes, they have gaps, and would be copied
    if chosen == list(range(threshold)) and first_rows.is_contiguous():
        return lagrange_decode(first_rows, matrix, field, length)
    step = piece_columns(rows, threshold * len(field.planes))
    needed = -(-length // blocks)  # columns
    out = rows.new_empty(*rows.shape[:-2], length)
    index = torch.tensor(chosen, device=rows.device)
    for first in range(0, needed, step):
        count = min(step, needed - first)
        piece = torch.index_select(rows[..., first : first + count], -2, index)
        part = out[..., first * blocks : (first + count) * blocks]
        data = lagrange_decode(piece, matrix, field, part.shape[-1])
        part.copy_(data)
        data.zero_()
        piece.zero_()
    return out
