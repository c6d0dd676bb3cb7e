"""Collectives over residues: sums modulo a prime, 4 bytes for each element and hop.

An all_reduce of torch.distributed would add residues as integers, which needs 8 bytes. Here every
rank sends each other rank the slice that it is to sum, and sums its own with
:func:`pyfed.ops.field_sum`; no sum can overflow, whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from pyfed.checks import expect_field, expect_int, expect_residues, naming, outside
from pyfed.engines.distributed.agreement import Step, agreed
from pyfed.engines.distributed.link import Link
from pyfed.engines.distributed.slices import joined, slice_sizes, summed_slice
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import Field


def reduce_scatter(
    x: torch.Tensor, field: Field, group: Any = None, splits: Sequence[int] | None = None
) -> torch.Tensor:
    """Each rank's slice of the sum of all ranks' vectors modulo a prime.

    Every rank must call it. Slice r of Σ_i x_i mod p goes to rank r; all slices, put end to end,
    are ``field_sum(torch.stack(every x), field)``.

    Args:
        x: residues, int32 (length,), over ``WIDE`` (2, length); of one length on all ranks.
        field: the prime field, or ``WIDE``.
        group: a process group; None: the default one.
        splits: elements of each rank's slice, which sum to length; 0 for a rank that sums nothing.
            None: nearly equal slices, as :func:`pyfed.streaming.shard` has them.

    Returns:
        int32 (elements of the slice,), on the device of ``x``; over ``WIDE`` (2, elements).

    Raises:
        DtypeError, ArgumentError: an argument is wrong, here or on another rank, or differs
            between ranks; then every rank raises. On CUDA elements outside [0, p) are told of by
            :func:`pyfed.check`.

    Example:
        >>> import pyfed, torch, torch.distributed as dist
        >>> from pyfed.engines.distributed import reduce_scatter
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> reduce_scatter(torch.tensor([1, 2], dtype=torch.int32), pyfed.SOLINAS31)
        tensor([1, 2], dtype=torch.int32)
        >>> dist.destroy_process_group()
    """
    link = Link("reduce_scatter", group)
    sizes = _agreed_sizes("reduce_scatter", link, x, field, splits)
    return summed_slice(link, x, field, sizes, range(link.size))


def all_gather(x: torch.Tensor, field: Field, group: Any = None) -> torch.Tensor:
    """The slices of all ranks, end to end, on every rank.

    Args:
        x: residues, int32 (elements,), over ``WIDE`` (2, elements); lengths may differ, and be 0.
        field: the prime field, or ``WIDE``.
        group: a process group; None: the default one.

    Returns:
        int32 (Σ elements,), on the device of ``x``; over ``WIDE`` (2, Σ elements).

    Raises:
        DtypeError, ArgumentError: as :func:`reduce_scatter`.
    """
    op = "all_gather"
    link = Link(op, group)

    def prepare() -> Step:
        _expect_vector(op, x, field)
        return Step(None, (field.name, field.code), [x.shape[-1]])

    _, told = agreed(op, link, prepare, told=1)
    return joined(link, x, field, [row[0] for row in told])


def all_reduce(x: torch.Tensor, field: Field, group: Any = None) -> torch.Tensor:
    """The sum of all ranks' vectors modulo a prime, on every rank: reduce_scatter, then all_gather.

    Args:
        x: residues, int32 (length,), over ``WIDE`` (2, length); of one length on all ranks. It is
            left as it is.
        field: the prime field, or ``WIDE``.
        group: a process group; None: the default one.

    Returns:
        int32, shaped like ``x`` and on its device.

    Raises:
        DtypeError, ArgumentError: as :func:`reduce_scatter`.
    """
    link = Link("all_reduce", group)
    sizes = _agreed_sizes("all_reduce", link, x, field, None)
    part = summed_slice(link, x, field, sizes, range(link.size))
    return joined(link, part, field, sizes)


def _agreed_sizes(
    op: str, link: Link, x: torch.Tensor, field: Field, splits: Sequence[int] | None
) -> list[int]:
    """Elements of each rank's slice, when all ranks agree on the vector."""

    def prepare() -> Step:
        _expect_vector(op, x, field)
        length = x.shape[-1]
        if splits is None:
            sizes = slice_sizes(length, range(link.size), link.size)
        else:
            sizes = _expect_splits(op, splits, length, link.size)
        return Step(sizes, (f"length {length}", field.name, field.code, f"splits {sizes}"))

    sizes, _ = agreed(op, link, prepare)
    return cast(list[int], sizes)


def _expect_vector(op: str, x: torch.Tensor, field: Field) -> None:
    """Raise unless ``x`` is a vector of residues; on CUDA its values are not looked at."""
    expect_field(op, field, wide=True)
    expect_residues(op, "x", x, field, 1)
    if x.device.type == "cpu":
        primes = tuple(plane.modulus for plane in field.planes)
        with naming(op, "x", x, field.code):
            if bool(outside(x, primes).any()):
                raise ArgumentError(f"{op}: x holds a number that is no residue")


def _expect_splits(op: str, splits: object, length: int, size: int) -> list[int]:
    if not isinstance(splits, Sequence):
        kind = type(splits).__name__
        raise DtypeError(f"{op}: splits is {kind}; it must be a list, one size for each rank")
    for rank, elements in enumerate(splits):
        expect_int(op, f"splits[{rank}]", elements, 0, length + 1)
    if len(splits) != size or sum(splits) != length:
        raise ArgumentError(
            f"{op}: splits has {len(splits)} sizes with the sum {sum(splits)}; it must have "
            f"{size}, one for each rank, with the sum {length}, the length of x"
        )
    return list(splits)
