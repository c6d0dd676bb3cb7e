"""Which kernel makes the shares of a Lagrange code: a product, or number-theoretic transforms."""

from __future__ import annotations

import torch

from pyfed import native
from pyfed.checks import expect_bool
from pyfed.errors import ArgumentError
from pyfed.fields import SUBGROUP_ORDER, Field, plane_moduli

MOST_PRODUCT_SHARES = 256
"""CUDA makes so many shares by products, and more by transforms where the code allows them."""
MOST_ROUNDED_SHARES = 64
"""Products on CUDA have tiles of so many shares, and each tile would round the values again."""


def expect_standard(op: str, matrix: torch.Tensor, field: Field, standard: bool) -> bool:
    """Whether kernels may use the promise ``standard``; raises where no code has such a matrix.

    They trust it: their tables of points, and room on their stacks, end with the largest code. And
    they are told of the prime alone, which a field with points elsewhere may have too.
    """
    expect_bool(op, "standard", standard)
    shares, threshold = matrix.shape[-2:]
    if standard and not threshold <= shares <= SUBGROUP_ORDER:
        raise ArgumentError(
            f"{op}: standard is True and matrix is {tuple(matrix.shape)}; that of a LagrangeCode "
            f"has from {threshold} to {SUBGROUP_ORDER} rows for {threshold} columns"
        )
    return standard and field.points == "subgroup"


def encode_kind(matrix: torch.Tensor, modulus: int, standard: bool) -> str:
    """Which CPU kernel makes shares: "transform", by number-theoretic transforms, or "encode".

    Measured with AVX2 and AVX-512: transforms take less time than products from 2 shares on, but
    for many shares of a polynomial with one or two coefficients, where they have nothing to save.
    """
    shares, threshold = matrix.shape[-2:]
    fast = standard and set(plane_moduli(modulus)) <= set(native.TRANSFORM_MODULI)
    fast = fast and shares > 1 and (shares <= 16 or threshold > 2)
    return "transform" if fast else "encode"


def cuda_encode_kind(matrix: torch.Tensor, modulus: int, standard: bool) -> str:
    """Which CUDA kernel makes shares: "transform" or "encode", as :func:`encode_kind` for a CPU.

    A model, not a measurement: docs/kernels.md has it.
    """
    fast = standard and set(plane_moduli(modulus)) <= set(native.TRANSFORM_MODULI)
    return "transform" if fast and matrix.shape[-2] > MOST_PRODUCT_SHARES else "encode"


def cuda_rounds_in_place(matrix: torch.Tensor, kind: str) -> bool:
    """Whether CUDA rounds floats on the way into this encoding: where it does so once.

    A model, not a measurement: docs/kernels.md has it.
    """
    return kind == "transform" or matrix.shape[-2] <= MOST_ROUNDED_SHARES


def cuda_encode_workspace(
    kind: str, matrix: torch.Tensor, blocks: int, columns: int
) -> torch.Tensor | None:
    """Scratch memory of an encoding on CUDA, wiped by the kernel where secrets stand in it."""
    if kind == "transform":
        return native.transform_factors(matrix.device, blocks)
    return encode_workspace(kind, matrix, blocks, columns)


def encode_workspace(
    kind: str, matrix: torch.Tensor, blocks: int, columns: int
) -> torch.Tensor | None:
    """Scratch memory of an encoding, wiped by the kernel; None where it wants none."""
    shares, threshold = matrix.shape[-2:]
    if kind == "transform":
        return native.transform_workspace(shares, blocks, threshold - blocks)
    digits = native.digit_words(shares, columns, blocks, threshold - blocks)
    return native.workspace(matrix.device, digits=digits)
