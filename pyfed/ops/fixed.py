"""Fixed point: floats to residues with unbiased rounding, and back."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import (
    NOT_FINITE,
    STREAMS,
    expect_field,
    expect_int,
    expect_key,
    expect_range,
    expect_residues,
    expect_scale,
    expect_tensor,
    report,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import Field, plane_moduli
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.field import check_residues
from pyfed.ops.lift import lift_reason, lift_reference, lifted_shape, prime_pair
from pyfed.ops.random import ROUNDING, domain, words_reference

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SMALLEST_CLIP, LARGEST_CLIP = 2.0**-149, 2.0**128 - 2.0**104
LARGEST_STEP = 2**30 - 2**20
"""Scaled values stay at or below this, so that rounding up stays inside int32 and every field."""


def expect_clip(op: str, clip: object) -> float:
    """``clip`` rounded to float32; raises unless it is positive and finite there.

    The rounding is Veltkamp's, by arithmetic that torch.compile can trace. It leaves subnormal
    numbers as they are: with a scale of at most 2^100 such a clip makes every result 0 anyway.
    """
    if isinstance(clip, bool) or not isinstance(clip, int | float):
        raise DtypeError(f"{op}: clip is {type(clip).__name__}; it must be a float")
    if not SMALLEST_CLIP <= clip <= LARGEST_CLIP:
        raise ArgumentError(
            f"{op}: clip is {clip}; it must be positive and finite in float32, from 2^-149 to "
            "2^128 - 2^104"
        )
    spread = clip * (2.0**29 + 1)  # 29 = 53 - 24 bits, the difference of the two precisions
    return spread - (spread - clip)


def _quantize_reference(
    values: torch.Tensor,
    scale: float,
    clip: float,
    modulus: int,
    key: torch.Tensor | None,
    stream: int,
    start: int,
) -> torch.Tensor:
    report("quantize", ~torch.isfinite(values), NOT_FINITE)
    y = torch.nan_to_num(values).clamp(-clip, clip) * scale
    if key is None:
        rounded = torch.round(y).to(torch.int64)
    else:
        whole = y.to(torch.int32)
        part = ((y - whole) * 2.0**24).to(torch.int32)
        nonce = [0, stream, domain(ROUNDING)]
        words = words_reference(key, start, values.numel(), nonce).reshape(values.shape)
        rounded = whole.to(torch.int64) + ((part + (words >> 8)) >> 24)
    rows = [(rounded % prime).to(torch.int32) for prime in plane_moduli(modulus)]
    return (torch.stack(rows) if len(rows) > 1 else rows[0]).contiguous()


def _quantize_fake(
    values: torch.Tensor, scale: float, clip: float, modulus: int, *rest: Any
) -> torch.Tensor:
    return values.new_empty(_residues_shape(values, modulus), dtype=torch.int32)


def _residues_shape(values: torch.Tensor, modulus: int) -> tuple[int, ...]:
    return (*(() if modulus < 2**31 else (2,)), *values.shape)


def _dequantize_reference(residues: torch.Tensor, scale: float, modulus: int) -> torch.Tensor:
    check_residues("dequantize", residues, modulus)
    integers = lift_reference(residues, modulus)
    return (integers.to(torch.float32) * (1 / scale)).contiguous()


def _dequantize_fake(residues: torch.Tensor, scale: float, modulus: int) -> torch.Tensor:
    return residues.new_empty(lifted_shape(residues, modulus), dtype=torch.float32)


quantize_op = Op(
    "quantize(Tensor values, float scale, float clip, int modulus, Tensor? key, int stream,"
    " int start) -> Tensor",
    fake=_quantize_fake,
    reference=_quantize_reference,
)
dequantize_op = Op(
    "dequantize(Tensor residues, float scale, int modulus) -> Tensor",
    fake=_dequantize_fake,
    reference=_dequantize_reference,
)


@quantize_op.kernel("cpu", when=lambda values, *rest: native.cpu_reason(values))
@quantize_op.kernel("cuda", when=lambda values, *rest: native.cuda_reason(values))
def _quantize_native(
    values: torch.Tensor,
    scale: float,
    clip: float,
    modulus: int,
    key: torch.Tensor | None,
    stream: int,
    start: int,
) -> torch.Tensor:
    values = values.contiguous()
    key = None if key is None else key.contiguous()
    shape = _residues_shape(values, modulus)
    out = torch.empty(shape, dtype=torch.int32, device=values.device)
    for prime, plane in native.planes(modulus, out):
        native.run(
            *("quantize", values.device, values, values.numel(), scale, clip, prime),
            *(key, stream, start, plane),
        )
    return out


@dequantize_op.kernel("cpu", when=lambda r, s, p: native.cpu_reason(r) or lift_reason(p))
@dequantize_op.kernel("cuda", when=lambda r, s, p: native.cuda_reason(r) or lift_reason(p))
def _dequantize_native(residues: torch.Tensor, scale: float, modulus: int) -> torch.Tensor:
    residues = residues.contiguous()
    shape = lifted_shape(residues, modulus)
    out = torch.empty(shape, dtype=torch.float32, device=residues.device)
    given = (residues, out.numel(), scale)
    if modulus < 2**31:
        native.run("dequantize", residues.device, *given, modulus, out)
    else:
        native.run("dequantize_wide", residues.device, *given, *prime_pair(modulus), out)
    return out


@quantize_op.kernel("triton", when=lambda values, *rest: native.triton_reason(values))
@native.each_plane(3)
def _quantize_triton(values: torch.Tensor, *rest: Any) -> Any:
    from pyfed.triton_kernels import fixed as kernels

    with native.TritonReport("quantize", values.device) as word:
        return kernels.quantize(values, *rest, word)


@dequantize_op.kernel("triton", when=lambda r, s, p: native.triton_reason(r) or lift_reason(p))
def _dequantize_triton(residues: torch.Tensor, scale: float, modulus: int) -> Any:
    from pyfed.triton_kernels import fixed as kernels
    from pyfed.triton_kernels import lift as wide

    with native.TritonReport("dequantize", residues.device) as word:
        if modulus < 2**31:
            return kernels.dequantize(residues, scale, modulus, word)
        return wide.dequantize_wide(residues, scale, plane_moduli(modulus), word)


def expect_quantizable(
    op: str, values: torch.Tensor, scale: float, clip: float, field: Field
) -> float:
    """``clip`` rounded to float32; raises unless such values can be rounded into the field."""
    expect_field(op, field, wide=True)
    expect_scale(op, scale)
    clip = expect_clip(op, clip)
    largest = min(LARGEST_STEP, (field.modulus - 1) // 2)
    if clip * scale > largest:
        raise ArgumentError(
            f"{op}: clip · scale is {clip * scale}; it must be at most {largest} in "
            f"{field.name}: use a smaller scale or clip"
        )
    if values.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            f"{op}: values require grad, and rounding has no useful gradient; pass "
            "values.detach(), or call it under torch.no_grad()"
        )
    return clip


@quantize_op.public
def quantize(
    values: torch.Tensor,
    scale: float,
    clip: float,
    field: Field,
    key: Key | None = None,
    stream: int = 0,
    start: int = 0,
) -> tuple[Any, ...]:
    """Floats to residues: clip, scale by a power of two, round, reduce modulo the prime.

    With y = clip(x) · scale in float32, i = trunc(y) and q = trunc((y - i) · 2^24), the result is
    i + ⌊(q + (w >> 8)) / 2^24⌋ mod p, where w is word ``start + index`` of the key's stream
    (purpose 2). Every step is exact, so all backends agree bit for bit, and the expected value is
    within 2^-24 of y. Without a key, y is rounded half to even.

    Args:
        values: float32 of any shape (float16 and bfloat16 are widened, which is exact).
        scale: steps per unit; a power of two from 2^-100 to 2^100.
        clip: values are clipped to [-clip, clip], with clip rounded to float32;
            ⌈clip · scale⌉ ≤ min(2^30 - 2^20, (p - 1) / 2).
        field: the prime field; over ``WIDE`` the result has a leading axis of 2 planes, which
            hold one rounding.
        key: makes the rounding random and unbiased; None rounds to nearest.
        stream: which of the key's 2^32 streams.
        start: index of the first element's word; start + elements ≤ 2^36.

    Returns:
        int32 tensor shaped like ``values``; a negative result v is given as p + v.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: scale, clip, stream or start is out of range, values require grad (rounding
            has no useful gradient), or one is NaN or infinite (on CUDA: :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> pyfed.ops.quantize(torch.tensor([0.5, -0.5]), 4.0, 1.0, pyfed.MERSENNE31)
        tensor([         2, 2147483645], dtype=torch.int32)
    """
    op = "quantize"
    expect_tensor(op, "values", values, FLOATS)
    clip = expect_quantizable(op, values, scale, clip, field)
    expect_int(op, "stream", stream, 0, STREAMS)
    expect_range(op, start, 0 if key is None else values.numel())
    if key is not None:
        expect_key(op, key)
    words = None if key is None else key.words(values.device)
    return values.to(torch.float32), float(scale), clip, field.code, words, stream, start


@dequantize_op.public
def dequantize(residues: torch.Tensor, scale: float, field: Field) -> tuple[Any, ...]:
    """Residues to floats: float32(centred lift) / scale.

    The centred lift of v is v when v ≤ (p - 1) / 2, else v - p; see :func:`field_lift`. It is
    rounded once.

    Args:
        residues: int32 of any shape, in [0, p); over ``WIDE`` with the planes as leading axis.
        scale: steps per unit; a power of two from 2^-100 to 2^100.
        field: the prime field, or ``WIDE``.

    Returns:
        float32 tensor shaped like ``residues``, without the planes.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: scale is out of range, or an element lies outside [0, p)
            (on CUDA the last is raised by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> r = torch.tensor([2, 2**31 - 3], dtype=torch.int32)
        >>> pyfed.ops.dequantize(r, 4.0, pyfed.MERSENNE31)
        tensor([ 0.5000, -0.5000])
    """
    expect_field("dequantize", field, wide=True)
    expect_residues("dequantize", "residues", residues, field)
    expect_scale("dequantize", scale)
    return residues, float(scale), field.code
