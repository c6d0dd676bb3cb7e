"""Bit-packed masks: 8 elements a byte, the first in the lowest bit, 0 behind the last element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyfed import native
from pyfed.checks import BAD_PADDING, expect_int, expect_tensor, report
from pyfed.errors import ArgumentError
from pyfed.op import Op

LONGEST = 2**40
"""The most elements of a mask."""


def bytes_of(length: int) -> int:
    """Bytes of a packed mask of ``length`` elements."""
    return (length + 7) // 8


def unpacked(packed: torch.Tensor, length: int) -> torch.Tensor:
    """(…, bytes) → bool (…, length), whatever the padding holds."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = (packed[..., None] >> shifts) & 1
    return bits.flatten(-2)[..., :length].to(torch.bool, memory_format=torch.contiguous_format)


def bad_padding(packed: torch.Tensor, length: int) -> torch.Tensor:
    """Which rows have a bit set behind the last element: bool (…), empty where none can."""
    if length % 8 == 0:
        return packed.new_zeros(0, dtype=torch.bool)
    return (packed[..., -1] >> (length % 8)) != 0


def describe_padding(op: str) -> Callable[[list[str], tuple[Any, ...]], str | None]:
    """Tells which packed argument of an op has a bit set in its padding."""

    def told(names: list[str], args: tuple[Any, ...]) -> str | None:
        given = dict(zip(names, args, strict=True))
        for name in ("planes", "packed"):
            if not isinstance(given.get(name), torch.Tensor):
                continue
            bad = bad_padding(given[name], given["length"])
            if bad.any():
                first = tuple(torch.nonzero(bad)[0].tolist())
                return (
                    f"{op}: in {name} the last byte of {int(bad.sum())} of {bad.numel()} rows has "
                    f"a bit set behind its {given['length']} elements; the first is row {first}; "
                    "padding bits must be 0"
                )
        return None

    return told


def expect_packed(op: str, name: str, packed: object, length: object, dim: int = -1) -> None:
    """Raise unless ``packed`` is a uint8 tensor whose rows hold ``length`` elements."""
    expect_int(op, "length", length, 0, LONGEST)
    expect_tensor(op, name, packed, torch.uint8, dim)
    assert isinstance(packed, torch.Tensor)
    wanted = bytes_of(length)  # type: ignore[arg-type]
    if packed.dim() == 0 or packed.shape[-1] != wanted:
        raise ArgumentError(
            f"{op}: {name} has shape {tuple(packed.shape)}; for length {length} its last dimension "
            f"must be {wanted} bytes"
        )


def pack_reference(mask: torch.Tensor) -> torch.Tensor:
    """Bool (…, length) → uint8 (…, bytes)."""
    length = mask.shape[-1]
    bits = torch.nn.functional.pad(mask.to(torch.uint8), (0, -length % 8))
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=mask.device)
    grouped = bits.unflatten(-1, (bytes_of(length), 8))
    return (grouped * weights).sum(-1, dtype=torch.uint8)


def _mask_pack_fake(mask: torch.Tensor) -> torch.Tensor:
    return mask.new_empty(*mask.shape[:-1], bytes_of(mask.shape[-1]), dtype=torch.uint8)


def _mask_unpack_reference(packed: torch.Tensor, length: int) -> torch.Tensor:
    report("mask_unpack", bad_padding(packed, length), BAD_PADDING)
    return unpacked(packed, length)


def _mask_unpack_fake(packed: torch.Tensor, length: int) -> torch.Tensor:
    return packed.new_empty(*packed.shape[:-1], length, dtype=torch.bool)


def _mask_popcount_reference(packed: torch.Tensor, length: int) -> torch.Tensor:
    report("mask_popcount", bad_padding(packed, length), BAD_PADDING)
    return unpacked(packed, length).sum(-1, dtype=torch.int64)


def _mask_popcount_fake(packed: torch.Tensor, length: int) -> torch.Tensor:
    return packed.new_empty(packed.shape[:-1], dtype=torch.int64)


mask_pack_op = Op(
    "mask_pack(Tensor mask) -> Tensor", fake=_mask_pack_fake, reference=pack_reference
)
mask_unpack_op = Op(
    "mask_unpack(Tensor packed, SymInt length) -> Tensor",
    fake=_mask_unpack_fake,
    reference=_mask_unpack_reference,
    describe=describe_padding("mask_unpack"),
)
mask_popcount_op = Op(
    "mask_popcount(Tensor packed, SymInt length) -> Tensor",
    fake=_mask_popcount_fake,
    reference=_mask_popcount_reference,
    describe=describe_padding("mask_popcount"),
)


@mask_pack_op.kernel("cpu", lambda mask: native.cpu_reason(mask))
@mask_pack_op.kernel("cuda", lambda mask: native.cuda_reason(mask))
def _mask_pack_native(mask: torch.Tensor) -> torch.Tensor:
    mask = mask.contiguous()
    out = _mask_pack_fake(mask)
    rows, length = mask.shape[:-1].numel(), mask.shape[-1]
    native.run("mask_pack", mask.device, mask, rows, length, out)
    return out


@mask_unpack_op.kernel("cpu", lambda packed, n: native.cpu_reason(packed))
@mask_unpack_op.kernel("cuda", lambda packed, n: native.cuda_reason(packed))
def _mask_unpack_native(packed: torch.Tensor, length: int) -> torch.Tensor:
    packed = packed.contiguous()
    out = _mask_unpack_fake(packed, length)
    rows = packed.shape[:-1].numel()
    native.run("mask_unpack", packed.device, packed, rows, length, out)
    return out


@mask_popcount_op.kernel("cpu", lambda packed, n: native.cpu_reason(packed))
@mask_popcount_op.kernel("cuda", lambda packed, n: native.cuda_reason(packed))
def _mask_popcount_native(packed: torch.Tensor, length: int) -> torch.Tensor:
    packed = packed.contiguous()
    out = _mask_popcount_fake(packed, length)
    native.run("mask_popcount", packed.device, packed, out.numel(), length, out)
    return out


@mask_pack_op.kernel("triton", lambda mask: native.triton_reason(mask))
def _mask_pack_triton(mask: torch.Tensor) -> Any:
    from pyfed.triton_kernels import masks as kernels

    return kernels.mask_pack(mask)


@mask_unpack_op.kernel("triton", lambda packed, n: native.triton_reason(packed))
def _mask_unpack_triton(packed: torch.Tensor, length: int) -> Any:
    from pyfed.triton_kernels import masks as kernels

    with native.TritonReport("mask_unpack", packed.device) as word:
        return kernels.mask_unpack(packed, length, word)


@mask_popcount_op.kernel("triton", lambda packed, n: native.triton_reason(packed))
def _mask_popcount_triton(packed: torch.Tensor, length: int) -> Any:
    from pyfed.triton_kernels import masks as kernels

    with native.TritonReport("mask_popcount", packed.device) as word:
        return kernels.mask_popcount(packed, length, word)


@mask_pack_op.public
def mask_pack(mask: torch.Tensor) -> tuple[Any, ...]:
    """Pack a mask into bits: element i of a row is bit i mod 8 of byte ⌊i / 8⌋.

    Args:
        mask: bool (…, length), at least one dimension.

    Returns:
        uint8 tensor of shape (…, ⌈length / 8⌉); bits behind the last element are 0. This is the
        layout of ``numpy.packbits(mask, axis=-1, bitorder="little")``.

    Raises:
        DtypeError: ``mask`` is not a bool tensor.
        ArgumentError: it has no dimension.

    Example:
        >>> import torch, pyfed
        >>> pyfed.ops.mask_pack(torch.tensor([True, False, True] + [False] * 5 + [True]))
        tensor([5, 1], dtype=torch.uint8)
    """
    expect_tensor("mask_pack", "mask", mask, torch.bool)
    if mask.dim() == 0:
        raise ArgumentError("mask_pack: mask has no dimension; it must have one at least")
    return (mask,)


@mask_unpack_op.public
def mask_unpack(packed: torch.Tensor, length: int) -> tuple[Any, ...]:
    """Unpack bits into a mask, the inverse of :func:`mask_pack`.

    Args:
        packed: uint8 (…, ⌈length / 8⌉).
        length: elements of a row.

    Returns:
        bool tensor of shape (…, length).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: the shape does not fit the length, or a padding bit is set (on CUDA the
            last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> pyfed.ops.mask_unpack(torch.tensor([5], dtype=torch.uint8), 3)
        tensor([ True, False,  True])
    """
    expect_packed("mask_unpack", "packed", packed, length)
    return packed, length


@mask_popcount_op.public
def mask_popcount(packed: torch.Tensor, length: int) -> tuple[Any, ...]:
    """Count the set bits of every row of packed masks.

    Args:
        packed: uint8 (…, ⌈length / 8⌉).
        length: elements of a row.

    Returns:
        int64 tensor of shape (…).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: the shape does not fit the length, or a padding bit is set (on CUDA the
            last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> pyfed.ops.mask_popcount(torch.tensor([[255, 1], [0, 1]], dtype=torch.uint8), 9)
        tensor([9, 1])
    """
    expect_packed("mask_popcount", "packed", packed, length)
    return packed, length
