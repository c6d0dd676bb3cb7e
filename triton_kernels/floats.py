"""Rounding in Triton, the same bits whether it is compiled or interpreted.

Kernels that add products are launched with ``enable_fp_fusion=False``, so that no multiplication is
contracted with the addition behind it; divisions are ``div_rn``.
"""

import triton
import triton.language as tl


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """float32 → ``dtype``, half to even; what a NaN becomes in bfloat16 is not said.

    The conversion to bfloat16 is done on the bits: interpreted Triton truncates there.
    """
    if dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        even = (bits >> 16) & 1
        bits = tl.add(bits, even + 0x7FFF, sanitize_overflow=False)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return value.to(dtype)


@triton.jit
def widened(value):
    """A number of any of the three dtypes → float32, exactly.

    That of bfloat16 is done on the bits: interpreted Triton gets denormal numbers wrong.
    """
    if value.dtype == tl.bfloat16:
        bits = value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        return bits.to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def not_finite(value):
    """Which float32 are NaN or infinite, told by their bits."""
    return (value.to(tl.int32, bitcast=True) & 0x7F800000) == 0x7F800000
