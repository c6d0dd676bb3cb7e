"""What LagrangeCode.encode does: residues or floats to shares, under a key given or fresh."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyfed.checks import expect_key, expect_residues, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import Field
from pyfed.fixed import FixedPoint
from pyfed.keys import Key
from pyfed.ops.encode import quantize_encode
from pyfed.ops.fixed import FLOATS
from pyfed.ops.lagrange import lagrange_encode

OP = "LagrangeCode.encode"


def encode(
    data: torch.Tensor,
    matrix: Callable[[torch.device], torch.Tensor],
    field: Field,
    blocks: int,
    key: Key | None,
    stream: int,
    start_column: int,
    fixed: FixedPoint | None,
) -> torch.Tensor:
    """:meth:`pyfed.LagrangeCode.encode`.

    Args:
        data: residues, int32 (length,), or floats (length,).
        matrix: gives the code's encoding matrix on a device.
        field: the code's.
        blocks: K.
        key: makes random rows and rounding; None: a fresh one.
        stream: of the key.
        start_column: number of the first column.
        fixed: rounds floats; None: data is residues.
    """
    if fixed is None:
        if isinstance(data, torch.Tensor) and data.dtype in FLOATS:
            raise DtypeError(
                f"{OP}: data has dtype {data.dtype}; it must be torch.int32, or go with fixed=, a "
                "pyfed.FixedPoint of the code's field"
            )
        expect_residues(OP, "data", data, field, 1)
    else:
        _expect_fixed(fixed, field)
        expect_tensor(OP, "data", data, FLOATS, 1)
    if key is not None:
        expect_key(OP, key)
    used = Key.generate() if key is None else key
    where = used, field, blocks, stream, start_column, True
    try:
        if fixed is None:
            return lagrange_encode(data, matrix(data.device), *where)
        scale, clip = fixed.scale, fixed.clip
        return quantize_encode(data, scale, clip, matrix(data.device), *where)
    finally:
        if key is None:
            used.wipe()


def _expect_fixed(fixed: object, field: Field) -> None:
    if not isinstance(fixed, FixedPoint):
        raise DtypeError(f"{OP}: fixed is {type(fixed).__name__}; it must be a pyfed.FixedPoint")
    if fixed.field.code != field.code:
        raise ArgumentError(
            f"{OP}: fixed is for {fixed.field.name}; it must be for {field.name}, the code's field"
        )
