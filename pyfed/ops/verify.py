"""Freivalds' check of a matrix product: far less work than the product, at any size."""

from __future__ import annotations

import torch

from pyfed.checks import INDICES, expect_field, expect_int, expect_key, expect_residues, naming
from pyfed.errors import ArgumentError
from pyfed.fields import Field
from pyfed.keys import Key
from pyfed.ops.field import field_matmul
from pyfed.ops.random import random_residues


def agreeing(
    a: torch.Tensor, b: torch.Tensor, product: torch.Tensor, vectors: torch.Tensor, field: Field
) -> torch.Tensor:
    """Which vectors r have product · r = a · (b · r): bool (trials,).

    Args:
        a: residues, int32 (m, k).
        b: residues, int32 (k, n).
        product: residues, int32 (m, n).
        vectors: residues, int32 (n, trials), one vector a column.
        field: the prime field, or ``WIDE``; then every tensor has a leading axis of 2 planes.
    """

    def times(name: str, matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        with naming("field_verify", name, matrix, field.code):
            return field_matmul(matrix, right, field)

    same = times("product", product, vectors) == times("a", a, times("b", b, vectors))
    return same.flatten(0, -2).all(0)


def field_verify(
    a: torch.Tensor,
    b: torch.Tensor,
    product: torch.Tensor,
    field: Field,
    trials: int = 2,
    key: Key | None = None,
) -> bool:
    """Whether a · b = product modulo p, by random vectors instead of another product.

    For independent uniform vectors r_1 … r_trials it tells whether product · r_i = a · (b · r_i)
    for all of them. A right product always passes. Of a wrong one, some row d of product - a · b
    is not zero; d · r is then uniform, so one vector misses with probability at most 1/p and all
    of them with at most p^-trials: below 2^-61 for two trials over a 31-bit prime. That takes
    trials · (m·k + k·n + m·n) multiply-adds, where the product takes m·k·n.

    Args:
        a: residues, int32 (m, k).
        b: residues, int32 (k, n), on the same device.
        product: residues, int32 (m, n), on the same device.
        field: the prime field, or ``WIDE``; then every matrix has a leading axis of 2 planes, and p
            is the prime of a plane in which the product is wrong.
        trials: how many vectors, from 1 to 4096.
        key: makes the vectors, from a key derived from it; None takes a fresh one from the
            operating system. Who knew it beforehand could make a wrong product that passes.

    Returns:
        True where every vector agrees.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes do not fit, devices differ, ``trials`` is out of range, or an element
            lies outside [0, p) (on CUDA the last is raised by :func:`pyfed.check`).

    Source: R. Freivalds, Probabilistic machines can use less running time, IFIP Congress 1977.

    Example:
        >>> import torch, pyfed
        >>> a = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
        >>> square = pyfed.ops.field_matmul(a, a, pyfed.SOLINAS31)
        >>> pyfed.ops.field_verify(a, a, square, pyfed.SOLINAS31)
        True
        >>> square[1, 0] += 1
        >>> pyfed.ops.field_verify(a, a, square, pyfed.SOLINAS31)
        False
    """
    op = "field_verify"
    expect_field(op, field, wide=True)
    for name, matrix in (("a", a), ("b", b), ("product", product)):
        expect_residues(op, name, matrix, field, 2)
        if matrix.device != a.device:
            raise ArgumentError(f"{op}: {name} is on {matrix.device}; it must be on {a.device}")
    k, n = a.shape[-1], b.shape[-1]
    if b.shape[-2] != k:
        raise ArgumentError(
            f"{op}: b is {tuple(b.shape)}; it must have {k} rows, as many as a has columns"
        )
    shape = (*a.shape[:-1], n)
    if product.shape != shape:
        raise ArgumentError(f"{op}: product is {tuple(product.shape)}; it must be {shape}")
    expect_int(op, "trials", trials, 1, 4097)
    if n * trials > INDICES:
        raise ArgumentError(f"{op}: trials is {trials}; it must be at most 2^36 / {n} columns")
    if key is not None:
        expect_key(op, key)
    # Derived, so that no other op that is given the key ever meets these words.
    used = Key.generate() if key is None else key.derive(op)
    try:
        drawn = random_residues(used, n * trials, field, device=a.device)
    finally:
        used.wipe()
    vectors = drawn.view(*field.lead, n, trials)
    return bool(agreeing(a, b, product, vectors, field).all())
