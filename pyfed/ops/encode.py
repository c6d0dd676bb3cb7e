"""Floats to shares in one pass: clip, unbiased rounding, random rows and the code."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import expect_range, expect_tensor
from pyfed.fields import Field
from pyfed.keys import Key
from pyfed.op import Backend, Op
from pyfed.ops.encode_kind import (
    cuda_encode_kind,
    cuda_encode_workspace,
    cuda_rounds_in_place,
    encode_kind,
    encode_workspace,
    expect_standard,
)
from pyfed.ops.fixed import FLOATS, expect_quantizable, quantize_op
from pyfed.ops.lagrange import expect_encoding, lagrange_encode_op


def _columns(length: int, blocks: int) -> int:
    return (length + blocks - 1) // blocks


def _in_two(
    backend: Backend,
    values: torch.Tensor,
    scale: float,
    clip: float,
    matrix: torch.Tensor,
    key: torch.Tensor,
    modulus: int,
    blocks: int,
    stream: int,
    start_column: int,
    standard: bool,
) -> torch.Tensor:
    """The two ops one after the other, on one backend; what lies between is wiped."""
    start = start_column * blocks
    rounded = quantize_op.kernels[backend].run(values, scale, clip, modulus, key, stream, start)
    where = (blocks, stream, start_column, standard)
    try:
        shares = lagrange_encode_op.kernels[backend].run(rounded, matrix, key, modulus, *where)
    finally:
        rounded.zero_()
    assert isinstance(shares, torch.Tensor)
    return shares


def _quantize_encode_fake(
    values: torch.Tensor,
    scale: float,
    clip: float,
    matrix: torch.Tensor,
    key: torch.Tensor,
    modulus: int,
    blocks: int,
    *rest: Any,
) -> torch.Tensor:
    return matrix.new_empty(*matrix.shape[:-1], _columns(values.shape[0], blocks))


quantize_encode_op = Op(
    "quantize_encode(Tensor values, float scale, float clip, Tensor matrix, Tensor key,"
    " int modulus, int blocks, int stream, int start_column, bool standard) -> Tensor",
    fake=_quantize_encode_fake,
    reference=lambda *args: _in_two("reference", *args),
)


def _quantize_encode_native(
    kind: str,
    scratch: torch.Tensor | None,
    values: torch.Tensor,
    scale: float,
    clip: float,
    matrix: torch.Tensor,
    key: torch.Tensor,
    modulus: int,
    blocks: int,
    stream: int,
    start_column: int,
) -> torch.Tensor:
    values, matrix, key = values.contiguous(), matrix.contiguous(), key.contiguous()
    (shares, threshold), length = matrix.shape[-2:], values.shape[0]
    out = matrix.new_empty(*matrix.shape[:-1], _columns(length, blocks))
    for prime, factors, plane in native.planes(modulus, matrix, out):
        native.run(
            *(f"quantize_{kind}", values.device, values, length, scale, clip, factors, shares),
            *(blocks, threshold - blocks, key, stream, start_column, prime, plane, scratch),
        )
    return out


@quantize_encode_op.kernel(
    "cpu", lambda v, s, c, m, k, p, *r: native.cpu_reason(v) or native.modulus_reason(p)
)
def _quantize_encode_cpu(*args: Any) -> torch.Tensor:
    *given, standard = args
    values, _, _, matrix, _, modulus, blocks, *_ = given
    kind = encode_kind(matrix, modulus, standard)
    scratch = encode_workspace(kind, matrix, blocks, _columns(values.shape[0], blocks))
    return _quantize_encode_native(kind, scratch, *given)


@quantize_encode_op.kernel(
    "cuda", lambda v, s, c, m, k, p, *r: native.cuda_reason(v) or native.modulus_reason(p)
)
def _quantize_encode_cuda(*args: Any) -> torch.Tensor:
    *given, standard = args
    values, _, _, matrix, _, modulus, blocks, *_ = given
    kind = cuda_encode_kind(matrix, modulus, standard)
    if not cuda_rounds_in_place(matrix, kind):
        return _in_two("cuda", *args)
    scratch = cuda_encode_workspace(kind, matrix, blocks, _columns(values.shape[0], blocks))
    return _quantize_encode_native(kind, scratch, *given)


@quantize_encode_op.kernel(
    "triton", lambda v, s, c, m, k, p, *r: native.triton_reason(v) or native.modulus_reason(p)
)
def _quantize_encode_triton(*args: Any) -> torch.Tensor:
    return _in_two("triton", *args)


@quantize_encode_op.public
def quantize_encode(
    values: torch.Tensor,
    scale: float,
    clip: float,
    matrix: torch.Tensor,
    key: Key,
    field: Field,
    blocks: int,
    stream: int = 0,
    start_column: int = 0,
    standard: bool = False,
) -> tuple[Any, ...]:
    """Floats to shares: :func:`quantize`, then :func:`lagrange_encode`, both with one key.

    The shares are those of ``lagrange_encode(quantize(values, scale, clip, field, key, stream,
    start_column · blocks), matrix, key, field, blocks, stream, start_column)``; words that round
    and random rows are of different purposes. Compiled kernels read the values once and write the
    shares once, and no rounded value between; CUDA does so for up to 64 shares, and by
    transforms, and else runs the two. :meth:`pyfed.LagrangeCode.encode` with ``fixed`` calls it.

    Args:
        values: float32 (length,) (float16 and bfloat16 are widened, which is exact).
        scale: steps per unit; a power of two from 2^-100 to 2^100.
        clip: values are clipped to [-clip, clip]; see :func:`quantize`.
        matrix: residues, int32 (shares, blocks + privacy).
        key: makes the rounding and the random rows.
        field: the prime field, or ``WIDE``; then the matrix and the shares have a leading axis of
            2 planes, which hold one rounding.
        blocks: K, the values in a column, from 1 to the columns of the matrix.
        stream: which of the key's 2^32 streams.
        start_column: index of the first column; start_column · blocks + length ≤ 2^36.
        standard: a promise about the matrix, as :func:`lagrange_encode` takes it.

    Returns:
        int32 tensor of shape (shares, ⌈length / blocks⌉).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: an argument is out of range, values require grad, one is NaN or infinite, or
            an element of the matrix lies outside [0, p) (on CUDA: :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> sums = torch.tensor([[1, 1]], dtype=torch.int32)
        >>> key = pyfed.Key(bytes(32))
        >>> values = torch.tensor([0.5, 0.25, 1.0])
        >>> pyfed.ops.quantize_encode(values, 4.0, 1.0, sums, key, pyfed.SOLINAS31, blocks=2)
        tensor([[3, 4]], dtype=torch.int32)
    """
    op = "quantize_encode"
    expect_tensor(op, "values", values, FLOATS, 1)
    clip = expect_quantizable(op, values, scale, clip, field)
    words = expect_encoding(op, matrix, key, field, blocks, stream)
    standard = expect_standard(op, matrix, field, standard)
    expect_range(op, start_column, -(-values.shape[0] // blocks))
    expect_range(op, start_column * blocks, values.shape[0])
    where = (words, field.code, blocks, stream, start_column, standard)
    return values.to(torch.float32), float(scale), clip, matrix, *where
