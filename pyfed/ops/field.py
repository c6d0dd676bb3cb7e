"""Exact products and sums of residues modulo a prime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyfed import native
from pyfed.checks import (
    BAD_RESIDUE,
    expect_field,
    expect_int,
    expect_residues,
    expect_tensor,
    report,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import Field, plane_moduli
from pyfed.op import Op


def check_residues(op: str, values: torch.Tensor, modulus: int) -> None:
    """Report residues outside [0, p), of each plane where ``modulus`` is the code of two."""
    for prime, plane in native.planes(modulus, values):
        report(op, (plane < 0) | (plane >= prime), BAD_RESIDUE)


def product_reference(a: torch.Tensor, b: torch.Tensor, modulus: int) -> torch.Tensor:
    """(m, k) x (k, n) → int64 (m, n): reduced after every product, each below 2^62."""
    out = torch.zeros(a.shape[0], b.shape[1], dtype=torch.int64, device=a.device)
    for column, row in zip(a.to(torch.int64).t(), b.to(torch.int64), strict=True):
        out = (out + column[:, None] * row) % modulus
    return out


@native.each_plane(2, 0, 1)
def _field_matmul_reference(a: torch.Tensor, b: torch.Tensor, modulus: int) -> torch.Tensor:
    for values in (a, b):
        check_residues("field_matmul", values, modulus)
    return product_reference(a, b, modulus).to(torch.int32)


def _field_matmul_fake(a: torch.Tensor, b: torch.Tensor, modulus: int) -> torch.Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


@native.each_plane(2, 0, 1)
def _field_sum_reference(
    x: torch.Tensor, weights: torch.Tensor | None, modulus: int
) -> torch.Tensor:
    check_residues("field_sum", x, modulus)
    out = torch.zeros(x.shape[1:], dtype=torch.int64, device=x.device)
    if weights is None:
        weights = torch.ones(x.shape[0], dtype=torch.int32, device=x.device)
    check_residues("field_sum", weights, modulus)
    for row, weight in zip(x, weights, strict=True):
        out = (out + row.to(torch.int64) * weight) % modulus
    return out.to(torch.int32)


def _field_sum_fake(x: torch.Tensor, weights: torch.Tensor | None, modulus: int) -> torch.Tensor:
    return x.new_empty(_summed(x, modulus))


def _summed(x: torch.Tensor, modulus: int) -> torch.Size:
    """The shape without the clients, who stand behind the planes."""
    return x.shape[1:] if modulus < 2**31 else x.shape[:1] + x.shape[2:]


field_matmul_op = Op(
    "field_matmul(Tensor a, Tensor b, int modulus) -> Tensor",
    fake=_field_matmul_fake,
    reference=_field_matmul_reference,
)
field_sum_op = Op(
    "field_sum(Tensor x, Tensor? weights, int modulus) -> Tensor",
    fake=_field_sum_fake,
    reference=_field_sum_reference,
)


@field_matmul_op.kernel("cpu", lambda a, b, p: native.cpu_reason(a) or native.modulus_reason(p))
@field_matmul_op.kernel("cuda", lambda a, b, p: native.cuda_reason(a) or native.modulus_reason(p))
def _field_matmul_native(a: torch.Tensor, b: torch.Tensor, modulus: int) -> torch.Tensor:
    a, b = a.contiguous(), b.contiguous()
    (m, k), n = a.shape[-2:], b.shape[-1]
    out = a.new_empty(*a.shape[:-1], n)
    scratch = native.workspace(a.device, digits=native.digit_words(m, n, k))
    for prime, left, right, product in native.planes(modulus, a, b, out):
        native.run("field_matmul", a.device, left, right, m, k, n, prime, product, scratch)
    return out


@field_sum_op.kernel("cpu", lambda x, w, p: native.cpu_reason(x) or native.modulus_reason(p))
@field_sum_op.kernel("cuda", lambda x, w, p: native.cuda_reason(x) or native.modulus_reason(p))
def _field_sum_native(x: torch.Tensor, weights: torch.Tensor | None, modulus: int) -> torch.Tensor:
    x = x.contiguous()
    weights = None if weights is None else weights.contiguous()
    out = x.new_empty(_summed(x, modulus))
    for prime, rows, factors, total in native.planes(modulus, x, weights, out):
        clients, count = rows.shape[0], total.numel()
        native.run("field_sum", x.device, rows, factors, clients, count, prime, total)
    return out


@field_matmul_op.kernel(
    "triton", lambda a, b, p: native.triton_reason(a) or native.modulus_reason(p)
)
@native.each_plane(2, 0, 1)
def _field_matmul_triton(a: torch.Tensor, b: torch.Tensor, modulus: int) -> Any:
    from pyfed.triton_kernels import field as kernels

    with native.TritonReport("field_matmul", a.device) as word:
        return kernels.field_matmul(a, b, modulus, word)


@field_sum_op.kernel("triton", lambda x, w, p: native.triton_reason(x) or native.modulus_reason(p))
@native.each_plane(2, 0, 1)
def _field_sum_triton(x: torch.Tensor, weights: torch.Tensor | None, modulus: int) -> Any:
    from pyfed.triton_kernels import field as kernels

    with native.TritonReport("field_sum", x.device) as word:
        return kernels.field_sum(x, weights, modulus, word)


@field_matmul_op.public
def field_matmul(a: torch.Tensor, b: torch.Tensor, field: Field) -> tuple[Any, ...]:
    """The exact matrix product modulo a prime: out[i, j] = Σ_l a[i, l] · b[l, j] mod p.

    Args:
        a: residues, int32 (m, k).
        b: residues, int32 (k, n), on the same device.
        field: the prime field, or ``WIDE``; then every tensor has a leading axis of 2 planes.

    Returns:
        int32 tensor of shape (m, n), canonical residues in [0, p).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes do not fit, devices differ, or an element lies outside [0, p)
            (on CUDA the last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> a = torch.tensor([[2**31 - 2]], dtype=torch.int32)  # that is -1
        >>> pyfed.ops.field_matmul(a, a, pyfed.MERSENNE31)
        tensor([[1]], dtype=torch.int32)
    """
    expect_field("field_matmul", field, wide=True)
    expect_residues("field_matmul", "a", a, field, 2)
    expect_residues("field_matmul", "b", b, field, 2)
    if a.shape[-1] != b.shape[-2]:
        raise ArgumentError(
            f"field_matmul: a is {tuple(a.shape)} and b is {tuple(b.shape)}; the columns of a must "
            "be as many as the rows of b"
        )
    return a, b, field.code


def weight_residues(
    weights: torch.Tensor | Sequence[int], modulus: int, device: torch.device
) -> torch.Tensor:
    """Non-negative integer weights as residues: int32 (clients,), or (2, clients) over a pair.

    ``modulus`` is the field's code.
    """
    if not isinstance(weights, torch.Tensor):
        if not isinstance(weights, Sequence):
            kind = type(weights).__name__
            raise DtypeError(f"field_sum: weights is {kind}; it must be a tensor or a list of ints")
        for number, weight in enumerate(weights):
            expect_int("field_sum", f"weights[{number}]", weight, 0, 2**63)
        weights = torch.tensor(weights, dtype=torch.int64, device=device)
    expect_tensor("field_sum", "weights", weights, (torch.int32, torch.int64), 1)
    # A negative weight stays negative here, so that the value check of the op sees it.
    rows = [torch.where(weights < 0, -1, weights % prime) for prime in plane_moduli(modulus)]
    return (torch.stack(rows) if len(rows) > 1 else rows[0]).to(torch.int32)


@field_sum_op.public
def field_sum(
    x: torch.Tensor, field: Field, weights: torch.Tensor | Sequence[int] | None = None
) -> tuple[Any, ...]:
    """The exact sum over the first dimension modulo a prime: out = Σ_i weights[i] · x[i] mod p.

    Args:
        x: residues, int32 (clients, …).
        field: the prime field, or ``WIDE``; then ``x`` and the result have a leading axis of 2
            planes, and the weights have none.
        weights: non-negative integers, int64 or int32 (clients,), or a sequence of ints;
            None: all 1.

    Returns:
        int32 tensor of shape (…), canonical residues in [0, p).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes do not fit, devices differ, a weight is negative, or an element lies
            outside [0, p) (on CUDA the values are told of by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> x = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
        >>> pyfed.ops.field_sum(x, pyfed.SOLINAS31, weights=[10, 1])
        tensor([13, 24], dtype=torch.int32)
    """
    expect_field("field_sum", field, wide=True)
    expect_residues("field_sum", "x", x, field)
    axis = len(field.lead)  # of the clients
    if x.dim() <= axis:
        raise ArgumentError(
            f"field_sum: x has shape {tuple(x.shape)}; its axis {axis} must count the clients"
        )
    if weights is None:
        return x, None, field.code
    residues = weight_residues(weights, field.code, x.device)
    if residues.shape[-1] != x.shape[axis]:
        raise ArgumentError(
            f"field_sum: weights has {residues.shape[-1]} elements; x has {x.shape[axis]} rows"
        )
    return x, residues, field.code
