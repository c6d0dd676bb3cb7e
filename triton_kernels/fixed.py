"""Fixed point in Triton: floats to residues with unbiased rounding, and back.

Every floating-point step is exact (clipping, products with powers of two, the difference to the
whole part), so that contraction to fused multiply-add and flushing of subnormals change nothing.
"""

import torch
import triton
import triton.language as tl

from .common import BAD_RESIDUE, NOT_FINITE, ceil_div, clear_shared, report_any, signed32
from .random import LANES, ROUNDING, chacha20, domain_of, tile_of_blocks

BLOCK = 2048


@triton.jit
def rounded_tile(x, key, counter, scale, clip, stream, DOMAIN: tl.constexpr, RANDOM: tl.constexpr):
    """A tile of floats in steps, at random by the words of a key or half to even, as int32.

    Also gives the bools that say where the floats are NaN or infinite, which count as 0.
    """
    # An exponent of all ones is a NaN or an infinity; found in the bits, no minimum can hide it.
    unbounded = (x.to(tl.int32, bitcast=True) & 0x7F800000) == 0x7F800000
    x = tl.where(unbounded, 0.0, x)
    y = tl.minimum(tl.maximum(x, -clip), clip) * scale  # |y| ≤ 2^30 - 2^20
    whole = y.to(tl.int32)
    part = y - whole.to(tl.float32)  # in (-1, 1), with the sign of y
    if RANDOM:
        stream = stream.to(tl.uint32)
        noise = tl.reshape(chacha20(key, counter, stream * 0, stream, stream * 0 + DOMAIN), x.shape)
        steps = (part * 16777216.0).to(tl.int32) + (noise >> 8).to(tl.int32)  # < 2^25
        rounded = whole + (steps >> 24)
    else:
        # Half to even: a half moves away from zero only from an odd whole part.
        size = tl.abs(part)
        away = (size > 0.5) | ((size == 0.5) & ((whole & 1) != 0))
        rounded = whole + tl.where(away, tl.where(part < 0, -1, 1), 0)
    return rounded, unbounded


@triton.jit(
    do_not_specialize=[
        *("values", "key", "scale", "clip", "modulus", "block", "lead", "count", "stream"),
    ]
)
def quantize_kernel(
    out,
    values,
    key,  # int32 (8,), or None: round to nearest
    word,
    scale: tl.float32,
    clip: tl.float32,
    modulus: tl.int32,
    block: tl.int32,
    lead: tl.int32,
    count: tl.int64,
    stream: tl.int32,
    DOMAIN: tl.constexpr,
    RANDOM: tl.constexpr,
    LANES: tl.constexpr,
):
    """The residues of one tile of values."""
    counter, first, local, inside = tile_of_blocks(block, lead, count, LANES)
    x = tl.load(values + first + local, mask=inside, other=0.0)
    rounded, unbounded = rounded_tile(x, key, counter, scale, clip, stream, DOMAIN, RANDOM)
    residue = tl.where(rounded < 0, rounded + modulus, rounded)
    tl.store(out + first + local, residue, mask=inside)
    report_any(word, unbounded, NOT_FINITE)
    clear_shared()


@triton.jit(do_not_specialize=["step", "count", "modulus"])
def dequantize_kernel(
    out,
    residues,
    word,
    step: tl.float32,
    count: tl.int64,
    modulus: tl.int32,
    BLOCK: tl.constexpr,
):
    """The floats of one block of residues."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(residues + index, mask=index < count, other=0)
    centred = tl.where(value > (modulus >> 1), value - modulus, value)
    tl.store(out + index, centred.to(tl.float32) * step, mask=index < count)
    report_any(word, value.to(tl.uint32, bitcast=True) >= modulus.to(tl.uint32), BAD_RESIDUE)


def quantize(
    values: torch.Tensor,
    scale: float,
    clip: float,
    modulus: int,
    key: torch.Tensor | None,
    stream: int,
    start: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """Floats to residues: clip, scale, round, reduce: float32 (…) → int32 (…).

    Args:
        values: any shape.
        scale: a power of two from 2^-100 to 2^100.
        clip: exact in float32; ⌈clip · scale⌉ ≤ min(2^30 - 2^20, (p - 1) / 2).
        modulus: any prime below 2^31.
        key: int32 (8,) for random rounding with words start, start + 1, … of purpose 2; None
            rounds half to even.
        stream: from 0 to 2^32 - 1.
        start: index of the first element's word.
        word: gets bit 2 when a value is NaN or infinite.
    """
    values = values.contiguous()
    out = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    count = values.numel()
    if count == 0:
        return out
    block, lead = (0, 0) if key is None else divmod(start, 16)
    with torch.cuda.device_of(out):
        quantize_kernel[(ceil_div(lead + count, 16 * LANES),)](
            *(out, values, None if key is None else key.contiguous(), word),
            *(scale, clip, modulus, signed32(block), lead, count, signed32(stream)),
            DOMAIN=domain_of(ROUNDING, 0),
            RANDOM=key is not None,
            LANES=LANES,
        )
    return out


def dequantize(
    residues: torch.Tensor, scale: float, modulus: int, word: torch.Tensor
) -> torch.Tensor:
    """Residues to floats, float32(centred lift) / scale: int32 (…) → float32 (…).

    Args:
        residues: any shape.
        scale: a power of two from 2^-100 to 2^100.
        modulus: any prime below 2^31.
        word: gets bit 1 when an element lies outside [0, p).
    """
    residues = residues.contiguous()
    out = torch.empty(residues.shape, dtype=torch.float32, device=residues.device)
    count = residues.numel()
    if count == 0:
        return out
    with torch.cuda.device_of(out):
        dequantize_kernel[(ceil_div(count, BLOCK),)](
            out, residues, word, 1 / scale, count, modulus, BLOCK=BLOCK
        )
    return out
