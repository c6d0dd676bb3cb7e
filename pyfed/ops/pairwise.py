"""Adding the masks that pairs of clients share to a vector of residues, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyfed import native
from pyfed.checks import (
    STREAMS,
    describe_bad_values,
    expect_field,
    expect_int,
    expect_range,
    expect_residues,
)
from pyfed.errors import ArgumentError
from pyfed.fields import Field
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.field import check_residues
from pyfed.ops.random import RESIDUES, residues_reference
from pyfed.ops.stacked import expect_masks, may_run_dry, stacked, takes_keys


def _add_masks_reference(
    residues: torch.Tensor,
    keys: torch.Tensor,
    signs: torch.Tensor,
    modulus: int,
    stream: int,
    start: int,
) -> None:
    check_residues("add_masks_", residues, modulus)
    totals = []
    for prime, plane in native.planes(modulus, residues):
        total = plane.to(torch.int64)
        for key, sign in zip(keys, signs, strict=True):
            mask = residues_reference(key, start, len(plane), 0, stream, RESIDUES, prime)
            total = (total + sign * mask) % prime
        totals.append(total)
    residues.copy_(torch.stack(totals).view(residues.shape))


def _add_masks_fake(residues: torch.Tensor, *rest: Any) -> None:
    return None


def _describe(names: list[str], args: tuple[Any, ...]) -> str | None:
    """Of the tensors only the residues lie in the field, and of the keys nothing is told."""
    some = [names.index("residues"), names.index("modulus")]
    return describe_bad_values("add_masks_", [names[i] for i in some], tuple(args[i] for i in some))


add_masks_op = Op(
    "add_masks_(Tensor(a!) residues, Tensor keys, Tensor signs, int modulus, int stream, "
    "int start) -> ()",
    fake=_add_masks_fake,
    reference=_add_masks_reference,
    describe=_describe,
)


@add_masks_op.kernel("cpu", lambda residues, *rest: native.cpu_reason(residues))
@add_masks_op.kernel("cuda", lambda residues, *rest: native.cuda_reason(residues))
def _add_masks_native(
    residues: torch.Tensor,
    keys: torch.Tensor,
    signs: torch.Tensor,
    modulus: int,
    stream: int,
    start: int,
) -> None:
    length = residues.shape[-1]
    if length == 0:
        return
    inplace = residues.contiguous()  # a copy where the vector has gaps; then written back
    if inplace is residues and may_run_dry(modulus):
        inplace = residues.clone()
    given = keys.contiguous(), signs.contiguous()
    planes = list(native.planes(modulus, inplace))
    # On a CPU all residues are looked at before one is written; without masks they only are.
    for prime, plane in planes[1:] if inplace.device.type == "cpu" else ():
        native.run("add_masks", plane.device, plane, length, *given, 0, prime, stream, start)
    for prime, plane in planes:
        masks = len(signs)
        native.run("add_masks", plane.device, plane, length, *given, masks, prime, stream, start)
    if inplace is not residues:
        residues.copy_(inplace)


@add_masks_op.kernel("triton", lambda residues, *rest: native.triton_reason(residues))
def _add_masks_triton(
    residues: torch.Tensor,
    keys: torch.Tensor,
    signs: torch.Tensor,
    modulus: int,
    stream: int,
    start: int,
) -> None:
    from pyfed.triton_kernels import pairwise as kernels

    if residues.shape[-1] == 0:
        return
    report = native.TritonReport("add_masks_", residues.device)
    # Where the kernel's report raises, which it does after the fact, nothing may be changed.
    inplace = residues.contiguous() if report.sticky else residues.clone().contiguous()
    with report as word:
        for prime, plane in native.planes(modulus, inplace):
            kernels.add_masks_(
                plane, keys.contiguous(), signs.contiguous(), prime, stream, start, word
            )
    if inplace is not residues:
        residues.copy_(inplace)


@takes_keys(add_masks_op)
def add_masks_(
    residues: torch.Tensor,
    keys: Sequence[Key],
    signs: Sequence[int],
    field: Field,
    stream: int = 0,
    start: int = 0,
) -> tuple[Any, ...]:
    """Add or subtract the masks of many keys: residues += Σ_m signs[m] · R(keys[m]) mod p.

    R(key) is what :func:`random_residues` gives for that key, stream and range; it is added while
    it is made, so no mask ever lies in memory. Two clients that share a key and take opposite
    signs cancel in the sum of their vectors.

    Args:
        residues: int32 (length,), written in place.
        keys: the shared keys; none only checks the residues.
        signs: +1 or -1 for each key.
        field: the prime field; every prime below 2^31 has kernels here. Over ``WIDE`` residues is
            (2, length), and each plane gets masks of its own.
        stream: which of 2^32 independent streams of the keys.
        start: index of the first residue in the stream; start + length ≤ 2^36.

    Returns:
        ``residues``.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: an argument is out of range, ``residues`` is expanded, or an element lies
            outside [0, p); nothing is changed then (on CUDA values are told of by
            :func:`pyfed.check`, after the fact).
        PyfedError: 16 candidates in a row for one residue were rejected, for which a prime just
            above a power of two gives a chance of 2^-16; told of in the same way.

    Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine
    learning", CCS 2017, section 4.1 (pairwise masks that cancel).

    Example:
        >>> import torch, pyfed
        >>> shared = pyfed.Key(bytes(range(32)))
        >>> x, y = (torch.tensor([value], dtype=torch.int32) for value in (2, 3))
        >>> pyfed.ops.add_masks_(x, [shared], [1], pyfed.SOLINAS31, stream=7)
        tensor([1255483154], dtype=torch.int32)
        >>> pyfed.ops.add_masks_(y, [shared], [-1], pyfed.SOLINAS31, stream=7)
        tensor([891869428], dtype=torch.int32)
        >>> pyfed.ops.field_sum(torch.stack([x, y]), pyfed.SOLINAS31)
        tensor([5], dtype=torch.int32)
    """
    expect_field("add_masks_", field, wide=True)
    expect_residues("add_masks_", "residues", residues, field, 1)
    length = residues.shape[-1]
    places = zip(residues.shape, residues.stride(), strict=True)
    if any(size > 1 and step == 0 for size, step in places):
        raise ArgumentError(
            "add_masks_: residues shows one number in memory at many places; give a copy of it"
        )
    expect_masks("add_masks_", keys, signs)
    expect_int("add_masks_", "stream", stream, 0, STREAMS)
    expect_range("add_masks_", start, length)
    directions = torch.tensor(signs, dtype=torch.int32, device=residues.device)
    return residues, stacked(keys, residues.device), directions, field.code, stream, start
