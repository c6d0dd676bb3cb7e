"""Sums of many clients' packed masks: counts, and bit planes that grow as clients arrive.

In bit planes, plane b holds bit b of every element's total, packed like a mask; so the state of a
sum over N clients is ⌈log2(N + 1)⌉ bits for each element.
"""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import BAD_PADDING, TOO_MANY, expect_int, report
from pyfed.errors import ArgumentError
from pyfed.op import Op
from pyfed.ops.masks import (
    bad_padding,
    bytes_of,
    describe_padding,
    expect_packed,
    pack_reference,
    unpacked,
)

MOST_CLIENTS = 65_535
MOST_PLANES = 16
NARROW = 255
"""The most clients whose counts fit in uint8."""


def _mask_count_reference(packed: torch.Tensor, length: int) -> torch.Tensor:
    report("mask_count", bad_padding(packed, length), BAD_PADDING)
    out = torch.zeros(length, dtype=_count_dtype(packed.shape[0]), device=packed.device)
    for client in packed:
        out += unpacked(client, length)
    return out


def _mask_count_fake(packed: torch.Tensor, length: int) -> torch.Tensor:
    return packed.new_empty(length, dtype=_count_dtype(packed.shape[0]))


def _count_dtype(clients: int) -> torch.dtype:
    return torch.uint8 if clients <= NARROW else torch.int32


def _totals_dtype(planes: int) -> torch.dtype:
    return torch.uint8 if planes <= 8 else torch.int32


def _totals(planes: torch.Tensor, length: int) -> torch.Tensor:
    out = torch.zeros(length, dtype=torch.int64, device=planes.device)
    for bit, plane in enumerate(planes):
        out += unpacked(plane, length).to(torch.int64) << bit
    return out


def _mask_add_reference(
    planes: torch.Tensor, packed: torch.Tensor, length: int, out_planes: int
) -> torch.Tensor:
    for values in (planes, packed):
        report("mask_add", bad_padding(values, length), BAD_PADDING)
    totals = _totals(planes, length)
    for client in packed:
        totals += unpacked(client, length)
    report("mask_add", totals >= 1 << out_planes, TOO_MANY)
    bits = torch.arange(out_planes, device=planes.device)[:, None]
    return pack_reference((totals >> bits) & 1 != 0)


def _mask_add_fake(
    planes: torch.Tensor, packed: torch.Tensor, length: int, out_planes: int
) -> torch.Tensor:
    return planes.new_empty(out_planes, bytes_of(length))


def _mask_totals_reference(planes: torch.Tensor, length: int) -> torch.Tensor:
    report("mask_totals", bad_padding(planes, length), BAD_PADDING)
    return _totals(planes, length).to(_totals_dtype(planes.shape[0]))


def _mask_totals_fake(planes: torch.Tensor, length: int) -> torch.Tensor:
    return planes.new_empty(length, dtype=_totals_dtype(planes.shape[0]))


def _describe_add(names: list[str], args: tuple[Any, ...]) -> str | None:
    planes, packed, length, out_planes = args
    padding = describe_padding("mask_add")(names, args)
    if padding is not None:
        return padding
    totals = _totals(planes, length)
    for client in packed:
        totals += unpacked(client, length)
    over = totals >= 1 << out_planes
    if not over.any():
        return None
    first = int(torch.nonzero(over)[0])
    return (
        f"mask_add: the totals of {int(over.sum())} of {length} elements do not fit in "
        f"{out_planes} planes; the first is {int(totals[first])} at index {first}; capacity must "
        "be at least the number of clients added so far and now"
    )


mask_count_op = Op(
    "mask_count(Tensor packed, SymInt length) -> Tensor",
    fake=_mask_count_fake,
    reference=_mask_count_reference,
    describe=describe_padding("mask_count"),
)
mask_add_op = Op(
    "mask_add(Tensor planes, Tensor packed, SymInt length, int out_planes) -> Tensor",
    fake=_mask_add_fake,
    reference=_mask_add_reference,
    describe=_describe_add,
)
mask_totals_op = Op(
    "mask_totals(Tensor planes, SymInt length) -> Tensor",
    fake=_mask_totals_fake,
    reference=_mask_totals_reference,
    describe=describe_padding("mask_totals"),
)


@mask_count_op.kernel("cpu", lambda packed, n: native.cpu_reason(packed))
@mask_count_op.kernel("cuda", lambda packed, n: native.cuda_reason(packed))
def _mask_count_native(packed: torch.Tensor, length: int) -> torch.Tensor:
    packed = packed.contiguous()
    out = _mask_count_fake(packed, length)
    native.run("mask_count", packed.device, packed, packed.shape[0], length, out)
    return out


@mask_add_op.kernel("cpu", lambda planes, *rest: native.cpu_reason(planes))
@mask_add_op.kernel("cuda", lambda planes, *rest: native.cuda_reason(planes))
def _mask_add_native(
    planes: torch.Tensor, packed: torch.Tensor, length: int, out_planes: int
) -> torch.Tensor:
    planes, packed = planes.contiguous(), packed.contiguous()
    out = _mask_add_fake(planes, packed, length, out_planes)
    native.run(
        *("mask_add", planes.device, planes, planes.shape[0], packed, packed.shape[0]),
        *(length, out_planes, out),
    )
    return out


@mask_totals_op.kernel("cpu", lambda planes, n: native.cpu_reason(planes))
@mask_totals_op.kernel("cuda", lambda planes, n: native.cuda_reason(planes))
def _mask_totals_native(planes: torch.Tensor, length: int) -> torch.Tensor:
    planes = planes.contiguous()
    out = _mask_totals_fake(planes, length)
    native.run("mask_totals", planes.device, planes, planes.shape[0], length, out)
    return out


@mask_count_op.kernel("triton", lambda packed, n: native.triton_reason(packed))
def _mask_count_triton(packed: torch.Tensor, length: int) -> Any:
    from pyfed.triton_kernels import counts as kernels

    with native.TritonReport("mask_count", packed.device) as word:
        return kernels.mask_count(packed, length, word)


@mask_add_op.kernel("triton", lambda planes, *rest: native.triton_reason(planes))
def _mask_add_triton(
    planes: torch.Tensor, packed: torch.Tensor, length: int, out_planes: int
) -> Any:
    from pyfed.triton_kernels import counts as kernels

    with native.TritonReport("mask_add", planes.device) as word:
        return kernels.mask_add(planes, packed, length, out_planes, word)


@mask_totals_op.kernel("triton", lambda planes, n: native.triton_reason(planes))
def _mask_totals_triton(planes: torch.Tensor, length: int) -> Any:
    from pyfed.triton_kernels import counts as kernels

    with native.TritonReport("mask_totals", planes.device) as word:
        return kernels.mask_totals(planes, length, word)


@mask_count_op.public
def mask_count(packed: torch.Tensor, length: int) -> tuple[Any, ...]:
    """Count, for every element, the clients whose mask has it set: out[j] = Σ_i mask[i, j].

    Args:
        packed: uint8 (clients, ⌈length / 8⌉), at most 65,535 clients; see :func:`mask_pack`.
        length: elements of a mask.

    Returns:
        Tensor of shape (length,): uint8 up to 255 clients, int32 beyond.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: the shape does not fit the length, there are too many clients, or a padding
            bit is set (on CUDA the last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> pyfed.ops.mask_count(torch.tensor([[5], [4], [1]], dtype=torch.uint8), 3)
        tensor([2, 0, 2], dtype=torch.uint8)
    """
    expect_packed("mask_count", "packed", packed, length, 2)
    _expect_clients("mask_count", packed)
    return packed, length


@mask_add_op.public
def mask_add(
    planes: torch.Tensor, packed: torch.Tensor, length: int, capacity: int
) -> tuple[Any, ...]:
    """Add clients' masks to totals in bit planes; the planes given are left as they are.

    Args:
        planes: uint8 (planes, ⌈length / 8⌉), at most 16; none for a total of 0.
        packed: uint8 (clients, ⌈length / 8⌉), on the same device.
        length: elements of a mask.
        capacity: the largest total that must fit, such as the number of clients added so far and
            now; from 0 to 65,535.

    Returns:
        uint8 tensor of shape (⌈log2(capacity + 1)⌉, ⌈length / 8⌉), the planes of the new totals.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes do not fit, a padding bit is set, or a total exceeds what the new
            planes hold (on CUDA the last two are raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> none = torch.empty(0, 1, dtype=torch.uint8)
        >>> masks = torch.tensor([[5], [4], [1]], dtype=torch.uint8)
        >>> pyfed.ops.mask_add(none, masks, 3, capacity=3)
        tensor([[0],
                [5]], dtype=torch.uint8)
    """
    expect_packed("mask_add", "packed", packed, length, 2)
    _expect_clients("mask_add", packed)
    expect_packed("mask_add", "planes", planes, length, 2)
    _expect_planes("mask_add", planes)
    expect_int("mask_add", "capacity", capacity, 0, MOST_CLIENTS + 1)
    return planes, packed, length, capacity.bit_length()


@mask_totals_op.public
def mask_totals(planes: torch.Tensor, length: int) -> tuple[Any, ...]:
    """Read totals from bit planes: out[j] = Σ_b 2^b · planes[b, j].

    Args:
        planes: uint8 (planes, ⌈length / 8⌉), at most 16.
        length: elements of a mask.

    Returns:
        Tensor of shape (length,): uint8 up to 8 planes, int32 beyond.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: the shape does not fit the length, or a padding bit is set (on CUDA the
            last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> pyfed.ops.mask_totals(torch.tensor([[0], [5]], dtype=torch.uint8), 3)
        tensor([2, 0, 2], dtype=torch.uint8)
    """
    expect_packed("mask_totals", "planes", planes, length, 2)
    _expect_planes("mask_totals", planes)
    return planes, length


def _expect_clients(op: str, packed: torch.Tensor) -> None:
    if packed.shape[0] > MOST_CLIENTS:
        raise ArgumentError(
            f"{op}: packed holds {packed.shape[0]} clients; it must be at most {MOST_CLIENTS}"
        )


def _expect_planes(op: str, planes: torch.Tensor) -> None:
    if planes.shape[0] > MOST_PLANES:
        raise ArgumentError(
            f"{op}: planes are {planes.shape[0]}; they must be at most {MOST_PLANES}"
        )
