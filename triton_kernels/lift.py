"""Residues to the integers of least magnitude in Triton, of one prime or of the two of WIDE."""

import torch
import triton
import triton.language as tl

from .common import BAD_RESIDUE, canonical, ceil_div, report_any

BLOCK = 1024


@triton.jit(do_not_specialize=["residues", "step", "count", "first", "second", "inverse"])
def lift_kernel(
    out,
    residues,  # (count,), or (2, count) of a pair
    word,
    step: tl.float32,
    count: tl.int64,
    first: tl.int32,
    second: tl.int32,
    inverse: tl.int32,  # of the first prime modulo the second
    PAIR: tl.constexpr,
    FLOATS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The integers of one block, as they are or times ``step``."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    low = tl.load(residues + index, mask=inside, other=0)
    bad = low.to(tl.uint32, bitcast=True) >= first.to(tl.uint32)
    if PAIR:
        high = tl.load(residues + count + index, mask=inside, other=0)
        bad = bad | (high.to(tl.uint32, bitcast=True) >= second.to(tl.uint32))
        # r_0 + p_0 t, t = (r_1 - r_0) / p_0 mod p_1; the difference is below 3 p_1, and its product
        # with the inverse below 3 p_1^2 < 2^64.
        apart = (high.to(tl.int64) - low.to(tl.int64) + 2 * second.to(tl.int64)).to(tl.uint64)
        ratio = canonical(apart * inverse.to(tl.uint64), second).to(tl.int64)
        value = low.to(tl.int64) + first.to(tl.int64) * ratio
        modulus = first.to(tl.int64) * second.to(tl.int64)
    else:
        value = low.to(tl.int64)
        modulus = first.to(tl.int64)
    value = tl.where(value > (modulus >> 1), value - modulus, value)
    if FLOATS:
        tl.store(out + index, value.to(tl.float32) * step, mask=inside)
    else:
        tl.store(out + index, value, mask=inside)
    report_any(word, bad & inside, BAD_RESIDUE)


def _lifted(
    out: torch.Tensor, residues: torch.Tensor, step: float, primes: tuple[int, ...], word
) -> torch.Tensor:
    residues = residues.contiguous()
    if out.numel() == 0:
        return out
    pair = len(primes) > 1
    inverse = pow(primes[0], -1, primes[1]) if pair else 0
    with torch.cuda.device_of(out):
        lift_kernel[(ceil_div(out.numel(), BLOCK),)](
            *(out, residues, word, step, out.numel(), primes[0], primes[1] if pair else 0, inverse),
            PAIR=pair,
            FLOATS=out.dtype == torch.float32,
            BLOCK=BLOCK,
        )
    return out


def field_lift(residues: torch.Tensor, primes: tuple[int, ...], word: torch.Tensor) -> torch.Tensor:
    """Centred lifts: int32 (…), or (2, …) of a pair, → int64 (…).

    Args:
        residues: any shape.
        primes: a prime below 2^31, or those of WIDE.
        word: gets bit 1 when an element lies outside [0, p).
    """
    shape = residues.shape[len(primes) - 1 :]
    out = torch.empty(shape, dtype=torch.int64, device=residues.device)
    return _lifted(out, residues, 1.0, primes, word)


def dequantize_wide(
    residues: torch.Tensor, scale: float, primes: tuple[int, ...], word: torch.Tensor
) -> torch.Tensor:
    """float32(centred lift) / scale: int32 (2, …) → float32 (…).

    Args:
        residues: any shape behind the planes.
        scale: a power of two from 2^-100 to 2^100.
        primes: those of WIDE.
        word: gets bit 1 when an element lies outside [0, p).
    """
    out = torch.empty(residues.shape[1:], dtype=torch.float32, device=residues.device)
    return _lifted(out, residues, 1 / scale, primes, word)
