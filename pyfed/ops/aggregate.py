"""What a server does with uploads, in one pass: sum, minus the decoded mask, lift and scale."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import expect_field, expect_scale, expect_tensor
from pyfed.errors import ArgumentError
from pyfed.fields import Field
from pyfed.op import Op
from pyfed.ops.field import check_residues, field_sum_op
from pyfed.ops.fixed import dequantize_op
from pyfed.ops.lagrange import lagrange_decode_op


def _decode_sum_reference(
    uploads: torch.Tensor,
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scale: float | None,
    modulus: int,
) -> torch.Tensor:
    for values in (uploads, rows, matrix):
        check_residues("decode_sum", values, modulus)
    total = field_sum_op.kernels["reference"].run(uploads, None, modulus)
    decode = lagrange_decode_op.kernels["reference"]
    mask = decode.run(rows, matrix, modulus, uploads.shape[1])
    residues: torch.Tensor = (total.to(torch.int64) - mask) % modulus
    if scale is None:
        return residues.to(torch.int32)
    lifted = dequantize_op.kernels["reference"].run(residues.to(torch.int32), scale, modulus)
    found: torch.Tensor = lifted
    return found


def _decode_sum_fake(
    uploads: torch.Tensor,
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scale: float | None,
    modulus: int,
) -> torch.Tensor:
    dtype = torch.int32 if scale is None else torch.float32
    return uploads.new_empty(uploads.shape[1], dtype=dtype)


decode_sum_op = Op(
    "decode_sum(Tensor uploads, Tensor rows, Tensor matrix, float? scale, int modulus) -> Tensor",
    fake=_decode_sum_fake,
    reference=_decode_sum_reference,
)


def _reason(uploads: torch.Tensor, modulus: int, where: Any) -> str | None:
    return where(uploads) or native.modulus_reason(modulus)


@decode_sum_op.kernel("cpu", lambda u, r, m, s, p: _reason(u, p, native.cpu_reason))
@decode_sum_op.kernel("cuda", lambda u, r, m, s, p: _reason(u, p, native.cuda_reason))
def _decode_sum_native(
    uploads: torch.Tensor,
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scale: float | None,
    modulus: int,
) -> torch.Tensor:
    uploads, rows, matrix = uploads.contiguous(), rows.contiguous(), matrix.contiguous()
    (clients, length), (blocks, threshold) = uploads.shape, matrix.shape
    out = _decode_sum_fake(uploads, rows, matrix, scale, modulus)
    scratch = native.workspace(uploads.device, blocks)
    native.run(
        *("decode_sum", uploads.device, uploads, clients, length, rows, rows.shape[1], matrix),
        *(blocks, threshold, 0.0 if scale is None else scale, modulus, scratch, out),
    )
    return out


@decode_sum_op.kernel("triton", lambda u, r, m, s, p: _reason(u, p, native.triton_reason))
def _decode_sum_triton(
    uploads: torch.Tensor,
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scale: float | None,
    modulus: int,
) -> Any:
    from pyfed.triton_kernels import aggregate as kernels

    with native.TritonReport("decode_sum", uploads.device) as word:
        return kernels.decode_sum(uploads, rows, matrix, scale, modulus, word)


@decode_sum_op.public
def decode_sum(
    uploads: torch.Tensor,
    rows: torch.Tensor,
    matrix: torch.Tensor,
    field: Field,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """The sum of masked uploads, minus the mask that rows decode to, as floats or as residues.

    With s = Σ_i uploads[i] - lagrange_decode(rows, matrix) mod p the result is s itself, or, with a
    scale, float32(centred lift of s) / scale: the same bits as :func:`field_sum`,
    :func:`lagrange_decode`, a subtraction and :func:`dequantize` give. Each upload is read once,
    and the result written once.

    Args:
        uploads: residues, int32 (clients, length).
        rows: the summed shares of the masks, int32 (threshold, columns).
        matrix: the decoding matrix, int32 (blocks, threshold); columns = ⌈length / blocks⌉; see
            :meth:`pyfed.LagrangeCode.decoding_matrix`.
        field: the prime field.
        scale: steps per unit, a power of two from 2^-100 to 2^100; None: residues are wanted.

    Returns:
        float32 (length,), or int32 (length,) in [0, p) where there is no scale.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes do not fit, devices differ, the scale is out of range, or an element
            lies outside [0, p) (on CUDA the last is raised by :func:`pyfed.check`).

    Source: So et al., "LightSecAgg: a lightweight and versatile design for secure aggregation in
    federated learning", MLSys 2022, section 4 (the server's recovery in one shot).

    Example:
        >>> import torch, pyfed
        >>> uploads = torch.tensor([[5, 6, 7], [1, 2, 3]], dtype=torch.int32)
        >>> mask, one = torch.tensor([[4, 4, 11]], dtype=torch.int32), torch.ones(1, 1).int()
        >>> pyfed.ops.decode_sum(uploads, mask, one, pyfed.SOLINAS31, scale=2.0)
        tensor([ 1.0000,  2.0000, -0.5000])
    """
    op = "decode_sum"
    expect_field(op, field)
    expect_tensor(op, "uploads", uploads, torch.int32, 2)
    expect_tensor(op, "rows", rows, torch.int32, 2)
    expect_tensor(op, "matrix", matrix, torch.int32, 2)
    if scale is not None:
        expect_scale(op, scale)
    length, blocks = uploads.shape[1], matrix.shape[0]
    if matrix.shape[1] != rows.shape[0]:
        raise ArgumentError(
            f"{op}: matrix is {tuple(matrix.shape)} and rows is {tuple(rows.shape)}; the columns "
            "of matrix must be as many as the rows"
        )
    if blocks == 0 or rows.shape[1] != -(-length // blocks):
        raise ArgumentError(
            f"{op}: rows has {rows.shape[1]} columns and matrix {blocks} rows; for uploads of "
            f"{length} there must be ⌈{length} / blocks⌉ columns, and a block at least"
        )
    return uploads, rows, matrix, None if scale is None else float(scale), field.modulus
