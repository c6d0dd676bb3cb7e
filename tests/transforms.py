"""Shares by the kernel of transforms, and by the product that it stands for."""

from __future__ import annotations

import pytest
import torch

from pyfed import SOLINAS31, WIDE, Key, LagrangeCode, native
from pyfed.ops import lagrange_encode
from runs import simd_levels

KEY = Key(bytes(range(32)))
SECOND = WIDE.planes[1]
EVERY_LEVEL = pytest.mark.parametrize("simd", simd_levels())
BOTH = pytest.mark.parametrize("field", [SOLINAS31, SECOND], ids=lambda f: f.name)


def by_transforms(
    data: torch.Tensor, code: LagrangeCode, stream: int = 0, start: int = 0
) -> torch.Tensor:
    """The kernel itself, whether or not it would be chosen."""
    shape = code.shares, code.blocks, code.privacy
    out = data.new_full((code.shares, -(-len(data) // code.blocks)), -1)
    native.run(
        *("lagrange_transform", data.device, data, len(data), code.encoding_matrix(), *shape),
        *(KEY.words(), stream, start, code.field.modulus, out, native.transform_workspace(*shape)),
    )
    return out


def by_products(
    data: torch.Tensor, code: LagrangeCode, stream: int = 0, start: int = 0
) -> torch.Tensor:
    matrix = code.encoding_matrix()
    return lagrange_encode(data, matrix, KEY, code.field, code.blocks, stream, start)


def drawn(p: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, p, (length,), dtype=torch.int32, generator=generator)
