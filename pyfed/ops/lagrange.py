"""Encoding and decoding behind LagrangeCode: modular products fused with layout and random rows."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import (
    STREAMS,
    expect_field,
    expect_int,
    expect_key,
    expect_range,
    expect_residues,
)
from pyfed.errors import ArgumentError
from pyfed.fields import Field
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.encode_kind import (
    cuda_encode_kind,
    cuda_encode_workspace,
    encode_kind,
    encode_workspace,
    expect_standard,
)
from pyfed.ops.field import check_residues, product_reference
from pyfed.ops.random import PADDING, residues_reference


def _columns(length: int, blocks: int) -> int:
    return (length + blocks - 1) // blocks


@native.each_plane(3, 0, 1)
def _lagrange_encode_reference(
    data: torch.Tensor,
    matrix: torch.Tensor,
    key: torch.Tensor,
    modulus: int,
    blocks: int,
    stream: int,
    start_column: int,
    standard: bool,
) -> torch.Tensor:
    for values in (data, matrix):
        check_residues("lagrange_encode", values, modulus)
    columns = _columns(data.numel(), blocks)
    padded = data.new_zeros(columns * blocks)
    padded[: data.numel()] = data
    rows = [padded.reshape(columns, blocks).t()]  # (blocks, columns)
    for row in range(matrix.shape[1] - blocks):
        random = residues_reference(key, start_column, columns, row, stream, PADDING, modulus)
        rows.append(random[None])
    return product_reference(matrix, torch.cat(rows), modulus).to(torch.int32)


def _lagrange_encode_fake(
    data: torch.Tensor,
    matrix: torch.Tensor,
    key: torch.Tensor,
    modulus: int,
    blocks: int,
    *rest: Any,
) -> torch.Tensor:
    return data.new_empty(*matrix.shape[:-1], _columns(data.shape[-1], blocks))


@native.each_plane(2, 0, 1)
def _lagrange_decode_reference(
    rows: torch.Tensor, matrix: torch.Tensor, modulus: int, length: int
) -> torch.Tensor:
    for values in (rows, matrix):
        check_residues("lagrange_decode", values, modulus)
    blocks = product_reference(matrix, rows, modulus)  # (blocks, columns)
    return blocks.t().reshape(-1)[:length].to(torch.int32).contiguous()


def _lagrange_decode_fake(
    rows: torch.Tensor, matrix: torch.Tensor, modulus: int, length: int
) -> torch.Tensor:
    return rows.new_empty(*rows.shape[:-2], length)


lagrange_encode_op = Op(
    "lagrange_encode(Tensor data, Tensor matrix, Tensor key, int modulus, int blocks, int stream,"
    " int start_column, bool standard) -> Tensor",
    fake=_lagrange_encode_fake,
    reference=_lagrange_encode_reference,
)
lagrange_decode_op = Op(
    "lagrange_decode(Tensor rows, Tensor matrix, int modulus, SymInt length) -> Tensor",
    fake=_lagrange_decode_fake,
    reference=_lagrange_decode_reference,
)


def _encode_reason(data: torch.Tensor, modulus: int, where: Any) -> str | None:
    return where(data) or native.modulus_reason(modulus)


def _lagrange_encode_native(
    kind: str,
    scratch: torch.Tensor | None,
    data: torch.Tensor,
    matrix: torch.Tensor,
    key: torch.Tensor,
    modulus: int,
    blocks: int,
    stream: int,
    start_column: int,
) -> torch.Tensor:
    data, matrix, key = data.contiguous(), matrix.contiguous(), key.contiguous()
    (shares, threshold), length = matrix.shape[-2:], data.shape[-1]
    out = data.new_empty(*matrix.shape[:-1], _columns(length, blocks))
    for prime, values, factors, plane in native.planes(modulus, data, matrix, out):
        native.run(
            *(f"lagrange_{kind}", data.device, values, length, factors, shares, blocks),
            *(threshold - blocks, key, stream, start_column, prime, plane, scratch),
        )
    return out


@lagrange_encode_op.kernel("cpu", lambda d, m, k, p, *r: _encode_reason(d, p, native.cpu_reason))
def _lagrange_encode_cpu(
    data: torch.Tensor, matrix: torch.Tensor, key: torch.Tensor, modulus: int, *rest: Any
) -> torch.Tensor:
    *where, standard = rest
    kind = encode_kind(matrix, modulus, standard)
    scratch = encode_workspace(kind, matrix, where[0], _columns(data.shape[-1], where[0]))
    return _lagrange_encode_native(kind, scratch, data, matrix, key, modulus, *where)


@lagrange_encode_op.kernel("cuda", lambda d, m, k, p, *r: _encode_reason(d, p, native.cuda_reason))
def _lagrange_encode_cuda(
    data: torch.Tensor, matrix: torch.Tensor, key: torch.Tensor, modulus: int, *rest: Any
) -> torch.Tensor:
    *where, standard = rest
    kind = cuda_encode_kind(matrix, modulus, standard)
    scratch = cuda_encode_workspace(kind, matrix, where[0], _columns(data.shape[-1], where[0]))
    return _lagrange_encode_native(kind, scratch, data, matrix, key, modulus, *where)


@lagrange_decode_op.kernel("cpu", lambda r, m, p, n: _encode_reason(r, p, native.cpu_reason))
@lagrange_decode_op.kernel("cuda", lambda r, m, p, n: _encode_reason(r, p, native.cuda_reason))
def _lagrange_decode_native(
    rows: torch.Tensor, matrix: torch.Tensor, modulus: int, length: int
) -> torch.Tensor:
    rows, matrix = rows.contiguous(), matrix.contiguous()
    blocks, threshold = matrix.shape[-2:]
    out = rows.new_empty(*rows.shape[:-2], length)
    digits = native.digit_words(blocks, rows.shape[-1], threshold)
    scratch = native.workspace(rows.device, blocks, digits)
    for prime, shares, factors, plane in native.planes(modulus, rows, matrix, out):
        native.run(
            *("lagrange_decode", rows.device, shares, rows.shape[-1], factors, blocks, threshold),
            *(length, prime, plane, scratch),
        )
    return out


@lagrange_encode_op.kernel(
    "triton", lambda d, m, k, p, *r: _encode_reason(d, p, native.triton_reason)
)
@native.each_plane(3, 0, 1)
def _lagrange_encode_triton(data: torch.Tensor, *rest: Any) -> Any:
    from pyfed.triton_kernels import lagrange as kernels

    with native.TritonReport("lagrange_encode", data.device) as word:
        return kernels.lagrange_encode(data, *rest[:-1], word)  # whatever the matrix


@lagrange_decode_op.kernel("triton", lambda r, m, p, n: _encode_reason(r, p, native.triton_reason))
@native.each_plane(2, 0, 1)
def _lagrange_decode_triton(rows: torch.Tensor, *rest: Any) -> Any:
    from pyfed.triton_kernels import lagrange as kernels

    with native.TritonReport("lagrange_decode", rows.device) as word:
        return kernels.lagrange_decode(rows, *rest, word)


def expect_encoding(
    op: str, matrix: object, key: object, field: Field, blocks: int, stream: int
) -> torch.Tensor:
    """The words of the key, on the matrix's device; raises unless they can encode."""
    expect_key(op, key)
    expect_residues(op, "matrix", matrix, field, 2)
    assert isinstance(matrix, torch.Tensor) and isinstance(key, Key)
    expect_int(op, "blocks", blocks, 1, matrix.shape[-1] + 1)
    expect_int(op, "stream", stream, 0, STREAMS)
    return key.words(matrix.device)


@lagrange_encode_op.public
def lagrange_encode(
    data: torch.Tensor,
    matrix: torch.Tensor,
    key: Key,
    field: Field,
    blocks: int,
    stream: int = 0,
    start_column: int = 0,
    standard: bool = False,
) -> tuple[Any, ...]:
    """The product of a coding matrix with data columns stacked on random rows, modulo a prime.

    Column c holds data[c·K … c·K + K - 1] (0 beyond the end) and below it, for each random row t,
    residue ``start_column + c`` of ChaCha20 row t (purpose 3). :class:`pyfed.LagrangeCode` makes
    the matrix; most users call its ``encode``.

    Args:
        data: residues, int32 (length,).
        matrix: residues, int32 (shares, blocks + privacy).
        key: makes the random rows.
        field: the prime field, or ``WIDE``; then every tensor has a leading axis of 2 planes, and
            each plane gets random rows of its own.
        blocks: K, the data values in a column, from 1 to the columns of the matrix.
        stream: which of the key's 2^32 streams.
        start_column: index of the first column's random residue.
        standard: a promise that the matrix is ``encoding_matrix`` of :class:`pyfed.LagrangeCode`
            with so many shares, blocks and random rows over this field. The CPU, and CUDA kernels,
            may then do without the product, by number-theoretic transforms; the shares are the
            same. Of another matrix that has the shape of one they are not.

    Returns:
        int32 tensor of shape (shares, ⌈length / blocks⌉).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: an argument is out of range, shapes do not fit, or an element lies outside
            [0, p) (on CUDA the last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> data = torch.tensor([5, 6, 7], dtype=torch.int32)
        >>> sums = torch.tensor([[1, 1]], dtype=torch.int32)
        >>> key = pyfed.Key(bytes(32))
        >>> pyfed.ops.lagrange_encode(data, sums, key, pyfed.SOLINAS31, blocks=2)
        tensor([[11,  7]], dtype=torch.int32)
    """
    op = "lagrange_encode"
    expect_field(op, field, wide=True)
    expect_residues(op, "data", data, field, 1)
    words = expect_encoding(op, matrix, key, field, blocks, stream)
    expect_range(op, start_column, _columns(data.shape[-1], blocks))
    standard = expect_standard(op, matrix, field, standard)
    return data, matrix, words, field.code, blocks, stream, start_column, standard


@lagrange_decode_op.public
def lagrange_decode(
    rows: torch.Tensor, matrix: torch.Tensor, field: Field, length: int
) -> tuple[Any, ...]:
    """The product of a decoding matrix with share rows, modulo a prime, as one flat vector.

    Args:
        rows: shares, int32 (threshold, columns).
        matrix: residues, int32 (blocks, threshold).
        field: the prime field, or ``WIDE``; then every tensor has a leading axis of 2 planes.
        length: elements to give back, at most blocks · columns.

    Returns:
        int32 tensor of shape (length,); element c·K + k is row k, column c of the product.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: an argument is out of range, shapes do not fit, or an element lies outside
            [0, p) (on CUDA the last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> rows = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
        >>> swap = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
        >>> pyfed.ops.lagrange_decode(rows, swap, pyfed.SOLINAS31, 3)
        tensor([3, 1, 4], dtype=torch.int32)
    """
    op = "lagrange_decode"
    expect_field(op, field, wide=True)
    expect_residues(op, "rows", rows, field, 2)
    expect_residues(op, "matrix", matrix, field, 2)
    if matrix.shape[-1] != rows.shape[-2]:
        raise ArgumentError(
            f"lagrange_decode: matrix is {tuple(matrix.shape)} and rows is {tuple(rows.shape)}; "
            "the columns of matrix must be as many as the rows"
        )
    expect_int(op, "length", length, 0, matrix.shape[-2] * rows.shape[-1] + 1)
    return rows, matrix, field.code, length
