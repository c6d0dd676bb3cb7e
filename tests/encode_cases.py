"""Cases of encodings with the matrices of Lagrange codes, of residues and of floats."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from case import KEY, Case
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, LagrangeCode


def _data(field: Field, length: int) -> torch.Tensor:
    rows = torch.stack([torch.randint(0, plane.modulus, (length,)) for plane in field.planes])
    for row, plane in zip(rows, field.planes, strict=True):
        row[::5] = plane.modulus - 1
    return (rows if field.lead else rows[0]).to(torch.int32)


def _sizes() -> Iterator[tuple[Field, int, tuple[int, int, int], int, int]]:
    """Field, length, code, stream and first column."""
    yield SOLINAS31, 0, (4, 2, 1), 0, 0
    yield SOLINAS31, 77, (5, 3, 2), 2**32 - 1, 2**36 // 3 - 26
    yield SOLINAS31, 150, (9, 5, 3), 4, 37
    yield MERSENNE31, 33, (4, 2, 2), 0, 7
    yield WIDE, 50, (3, 2, 1), 1, 9


def standard_encode() -> Iterator[Case]:
    """lagrange_encode with the promise that the matrix is a code's."""
    for field, length, shape, stream, start in _sizes():
        code = LagrangeCode(*shape, field)
        args = _data(field, length), code.encoding_matrix(), KEY, field, code.blocks
        how = {"stream": stream, "start_column": start, "standard": True}
        yield Case(f"{field.name}, standard, {length} to {code}", args, how)
    code = LagrangeCode(20, 9, 5)
    args = _data(SOLINAS31, 60_003), code.encoding_matrix(), KEY, SOLINAS31, 9
    yield Case("standard, large", args, {"standard": True}, large=True)


def quantize_encode() -> Iterator[Case]:
    """Floats to shares, by products and by transforms."""
    for field, length, shape, stream, start in _sizes():
        code = LagrangeCode(*shape, field)
        for standard in (False, True):
            values = torch.randn(length).to(torch.bfloat16 if standard else torch.float32)
            args = values, 2.0**10, 3.0, code.encoding_matrix(), KEY, field, code.blocks
            how = {"stream": stream, "start_column": start, "standard": standard}
            yield Case(f"{field.name}, standard {standard}, {length} to {code}", args, how)
    some = (torch.randint(0, SOLINAS31.modulus, (3, 300)).int(), KEY, SOLINAS31, 290)
    yield Case("290 blocks", (torch.randn(2000), 2.0**10, 3.0, *some), {"start_column": 3})
    for standard in (False, True):
        code = LagrangeCode(20, 9, 5)
        args = torch.randn(60_003), 2.0**10, 3.0, code.encoding_matrix(), KEY, SOLINAS31, 9
        yield Case(f"large, standard {standard}", args, {"standard": standard}, large=True)
