"""Adding the masks that pairs of clients share to a vector of residues, in place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ParamSpec

import torch

from pyfed import native
from pyfed.checks import (
    STREAMS,
    describe_bad_values,
    expect_field,
    expect_int,
    expect_key,
    expect_range,
    expect_tensor,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import MERSENNE31, SOLINAS31, Field
from pyfed.keys import Key
from pyfed.op import Op, PublicOp
from pyfed.ops.field import check_residues
from pyfed.ops.random import RESIDUES, residues_reference

P = ParamSpec("P")


def _add_masks_reference(
    residues: torch.Tensor,
    keys: torch.Tensor,
    signs: torch.Tensor,
    modulus: int,
    stream: int,
    start: int,
) -> None:
    check_residues("add_masks_", residues, modulus)
    total = residues.to(torch.int64)
    for key, sign in zip(keys, signs, strict=True):
        mask = residues_reference(key, start, len(residues), 0, stream, RESIDUES, modulus)
        total = (total + sign * mask) % modulus
    residues.copy_(total)


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


def _may_run_dry(modulus: int) -> bool:
    """Whether 16 candidates in a row may well be rejected, which is noticed when much is written.

    One is with probability 1 - p/2^b, b the bits of p: 2^-14 for the fields with fast kernels, and
    nearly 1/2 for a prime just above a power of two.
    """
    return modulus not in (SOLINAS31.modulus, MERSENNE31.modulus)


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
    length = residues.shape[0]
    if length == 0:
        return
    inplace = residues.contiguous()  # a copy where the vector has gaps; then written back
    if inplace is residues and _may_run_dry(modulus):
        inplace = residues.clone()
    native.run(
        *("add_masks", residues.device, inplace, length, keys.contiguous(), signs.contiguous()),
        *(len(signs), modulus, stream, start),
    )
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

    if residues.shape[0] == 0:
        return
    report = native.TritonReport("add_masks_", residues.device)
    # Where the kernel's report raises, which it does after the fact, nothing may be changed.
    inplace = residues.contiguous() if report.sticky else residues.clone().contiguous()
    with report as word:
        kernels.add_masks_(
            inplace, keys.contiguous(), signs.contiguous(), modulus, stream, start, word
        )
    if inplace is not residues:
        residues.copy_(inplace)


class _PublicAddMasks(PublicOp[P]):
    """Overwrites the stacked key words, which are pyfed's own copy, after each use."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        """Check the arguments, run the op, forget the words."""
        given = self.prepare(*args, **kwargs)
        try:
            self.op.torch_op(*given)
        finally:
            given[1].zero_()
        residues: torch.Tensor = given[0]
        return residues

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Which kernel would run on these arguments, and why the others would not."""
        given = self.prepare(*args, **kwargs)
        given[1].zero_()
        return self.op.explain(*given)


def _stacked(keys: Sequence[Key], device: torch.device) -> torch.Tensor:
    """The words of the keys, int32 (masks, 8), in memory that nothing else has."""
    if not keys:
        return torch.empty(0, 8, dtype=torch.int32, device=device)
    words = torch.stack([key.words() for key in keys])
    if device.type == "cpu":
        return words
    moved = words.to(device)
    words.zero_()
    return moved


@functools.partial(_PublicAddMasks, add_masks_op)
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
        field: the prime field; every prime below 2^31 has kernels here.
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
    expect_field("add_masks_", field)
    expect_tensor("add_masks_", "residues", residues, torch.int32, 1)
    length = residues.shape[0]
    if length > 1 and residues.stride(0) == 0:
        raise ArgumentError(
            "add_masks_: residues shows one number in memory at many places; give a copy of it"
        )
    for name, value in (("keys", keys), ("signs", signs)):
        if not isinstance(value, list | tuple):
            raise DtypeError(f"add_masks_: {name} is {type(value).__name__}; it must be a list")
    if len(signs) != len(keys):
        raise ArgumentError(
            f"add_masks_: signs has {len(signs)} elements; there are {len(keys)} keys"
        )
    for key in keys:
        expect_key("add_masks_", key)
    for number, sign in enumerate(signs):
        expect_int("add_masks_", f"signs[{number}]", sign, -1, 2)
        if sign == 0:
            raise ArgumentError(f"add_masks_: signs[{number}] is 0; it must be 1 or -1")
    expect_int("add_masks_", "stream", stream, 0, STREAMS)
    expect_range("add_masks_", start, length)
    directions = torch.tensor(signs, dtype=torch.int32, device=residues.device)
    return residues, _stacked(keys, residues.device), directions, field.modulus, stream, start
