"""A client's upload in one pass: floats rounded, weighted, and masked with many keys."""

from __future__ import annotations

import math
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
    expect_tensor,
)
from pyfed.errors import ArgumentError
from pyfed.fields import Field
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.fixed import quantize, quantize_op
from pyfed.ops.pairwise import add_masks_op
from pyfed.ops.stacked import expect_masks, stacked, takes_keys


def _quantize_mask_reference(
    values: torch.Tensor,
    scale: float,
    clip: float,
    modulus: int,
    key: torch.Tensor | None,
    keys: torch.Tensor,
    signs: torch.Tensor,
    weight: int,
    stream: int,
    start: int,
) -> torch.Tensor:
    quantized = quantize_op.kernels["reference"]
    residues = quantized.run(values, scale, clip, modulus, key, stream, start)
    weighted: torch.Tensor = (residues.to(torch.int64) * weight % modulus).to(torch.int32)
    add_masks_op.kernels["reference"].run(weighted, keys, signs, modulus, stream, start)
    return weighted


def _quantize_mask_fake(values: torch.Tensor, *rest: Any) -> torch.Tensor:
    return values.new_empty(values.shape, dtype=torch.int32)


def _describe(names: list[str], args: tuple[Any, ...]) -> str | None:
    """Only the values can be bad, and of the keys nothing is told."""
    some = [names.index("values"), names.index("modulus")]
    given = tuple(args[i] for i in some)
    return describe_bad_values("quantize_mask", [names[i] for i in some], given)


quantize_mask_op = Op(
    "quantize_mask(Tensor values, float scale, float clip, int modulus, Tensor? key, Tensor keys, "
    "Tensor signs, int weight, int stream, int start) -> Tensor",
    fake=_quantize_mask_fake,
    reference=_quantize_mask_reference,
    describe=_describe,
)


@quantize_mask_op.kernel("cpu", lambda values, *rest: native.cpu_reason(values))
@quantize_mask_op.kernel("cuda", lambda values, *rest: native.cuda_reason(values))
def _quantize_mask_native(
    values: torch.Tensor,
    scale: float,
    clip: float,
    modulus: int,
    key: torch.Tensor | None,
    keys: torch.Tensor,
    signs: torch.Tensor,
    weight: int,
    stream: int,
    start: int,
) -> torch.Tensor:
    values = values.contiguous()
    key = None if key is None else key.contiguous()
    out = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    native.run(
        *("quantize_mask", values.device, values, values.shape[0], scale, clip, modulus, key),
        *(keys.contiguous(), signs.contiguous(), len(signs), weight, stream, start, out),
    )
    return out


@quantize_mask_op.kernel("triton", lambda values, *rest: native.triton_reason(values))
def _quantize_mask_triton(values: torch.Tensor, *rest: Any) -> Any:
    from pyfed.triton_kernels import upload as kernels

    with native.TritonReport("quantize_mask", values.device) as word:
        return kernels.quantize_mask(values, *rest, word)


@takes_keys(quantize_mask_op)
def quantize_mask(
    values: torch.Tensor,
    scale: float,
    clip: float,
    field: Field,
    keys: Sequence[Key],
    signs: Sequence[int],
    key: Key | None = None,
    weight: int = 1,
    stream: int = 0,
    start: int = 0,
) -> tuple[Any, ...]:
    """Round, weight and mask in one pass: weight · quantize(x) + Σ_m signs[m] · R(keys[m]) mod p.

    The result is, bit for bit, that of :func:`quantize`, a product with the weight, and
    :func:`add_masks_`. Each value is read once and its residue written once; neither the bare
    residues nor a mask is ever in memory.

    Args:
        values: float32 (length,) (float16 and bfloat16 are widened, which is exact).
        scale: steps per unit; a power of two from 2^-100 to 2^100.
        clip: values are clipped to [-clip, clip], with clip rounded to float32.
        field: the prime field; every prime below 2^31 has kernels here.
        keys: the shared keys of the masks.
        signs: +1 or -1 for each of them.
        key: makes the rounding random and unbiased; None rounds to nearest.
        weight: factor of the rounded values; weight · ⌈clip · scale⌉ ≤ (p - 1) / 2.
        stream: which of 2^32 independent streams of the keys, for rounding and for masks.
        start: index of the first element in them; start + length ≤ 2^36.

    Returns:
        int32 (length,), canonical residues in [0, p).

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: an argument is out of range, values require grad, or one is NaN or infinite
            (on CUDA: :func:`pyfed.check`).
        PyfedError: 16 candidates in a row for one residue were rejected, as in
            :func:`add_masks_`.

    Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine
    learning", CCS 2017, section 4.

    Example:
        >>> import torch, pyfed
        >>> shared, field = pyfed.Key(bytes(range(32))), pyfed.SOLINAS31
        >>> x, y = torch.tensor([0.5]), torch.tensor([0.25])
        >>> mine = pyfed.ops.quantize_mask(x, 4.0, 1.0, field, [shared], [1])
        >>> theirs = pyfed.ops.quantize_mask(y, 4.0, 1.0, field, [shared], [-1])
        >>> total = pyfed.ops.field_sum(torch.stack([mine, theirs]), field)
        >>> pyfed.ops.dequantize(total, 4.0, field)
        tensor([0.7500])
    """
    op = "quantize_mask"
    expect_tensor(op, "values", values, (torch.float32, torch.float16, torch.bfloat16), 1)
    expect_field(op, field)
    expect_masks(op, keys, signs)
    floats, scale, clip, modulus, words, *place = quantize.prepare(
        values, scale, clip, field, key, stream, start
    )
    expect_int(op, "stream", stream, 0, STREAMS)
    expect_range(op, start, values.shape[0])
    expect_int(op, "weight", weight, 0, 2**31)
    half, step = (modulus - 1) // 2, math.ceil(clip * scale)
    if weight * step > half:
        raise ArgumentError(
            f"{op}: weight · ⌈clip · scale⌉ is {weight} · {step}; it must be at most {half} in "
            f"{field.name}: use a smaller weight, scale or clip"
        )
    signed = torch.tensor(signs, dtype=torch.int32, device=values.device)
    masks = stacked(keys, values.device), signed
    return floats, scale, clip, modulus, words, *masks, weight, *place
