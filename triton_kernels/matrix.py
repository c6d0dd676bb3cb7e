"""Products of float32 matrices on tensor cores, to float32's precision.

A tensor core reads the 11 leading bits of a float32 (tf32). A factor is therefore split into its
leading and its other bits: three products give all that counts, two where the other factor came
from 16 bits, as these all fit.
"""

import triton
import triton.language as tl


@triton.jit
def leading(value):
    """The 11 leading bits of float32, and the rest: two float32 whose sum is ``value``."""
    high = (value.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)
    return high, value - high


@triton.jit
def add_product(sums, left, right, LEFT_NARROW: tl.constexpr, RIGHT_NARROW: tl.constexpr):
    """The float32 sums + left @ right.

    Args:
        sums: (m, n).
        left: (m, k).
        right: (k, n).
        LEFT_NARROW: left was widened from 16 bits.
        RIGHT_NARROW: right was widened from 16 bits.
    """
    if LEFT_NARROW:
        if RIGHT_NARROW:
            return tl.dot(left, right, sums, input_precision="tf32")
        high, low = leading(right)
        sums = tl.dot(left, low, sums, input_precision="tf32")
        return tl.dot(left, high, sums, input_precision="tf32")
    if RIGHT_NARROW:
        high, low = leading(left)
        sums = tl.dot(low, right, sums, input_precision="tf32")
        return tl.dot(high, right, sums, input_precision="tf32")
    return tl.dot(left, right, sums, input_precision="tf32x3")
