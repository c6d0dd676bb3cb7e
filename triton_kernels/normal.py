"""Standard normal numbers from pairs of words, in Triton: Box and Muller's transform in float32.

Every operation is rounded by itself and in one order, so that all backends give the same bits:
kernels with normals are launched with ``EXACT``, which fuses no multiplication with an addition.
Signs are flipped on the bits, as Triton's minus is 0 - x, which loses that of a zero.
"""

import triton
import triton.language as tl

LN0 = tl.constexpr(float.fromhex("0x1.555554p-2"))
LN1 = tl.constexpr(float.fromhex("-0x1.000226p-2"))
LN2 = tl.constexpr(float.fromhex("0x1.99a00ep-3"))
LN3 = tl.constexpr(float.fromhex("-0x1.547282p-3"))
LN4 = tl.constexpr(float.fromhex("0x1.22d9e6p-3"))
LN5 = tl.constexpr(float.fromhex("-0x1.0d8308p-3"))
LN6 = tl.constexpr(float.fromhex("0x1.055ba2p-3"))
LN7 = tl.constexpr(float.fromhex("-0x1.38c070p-4"))
SIN0 = tl.constexpr(float.fromhex("-0x1.555546p-3"))
SIN1 = tl.constexpr(float.fromhex("0x1.110760p-7"))
SIN2 = tl.constexpr(float.fromhex("-0x1.994eb4p-13"))
COS0 = tl.constexpr(float.fromhex("0x1.55554ap-5"))
COS1 = tl.constexpr(float.fromhex("-0x1.6c0c8cp-10"))
COS2 = tl.constexpr(float.fromhex("0x1.9a025ap-16"))
LN2_HIGH = tl.constexpr(float.fromhex("0x1.63p-1"))
LN2_LOW = tl.constexpr(float.fromhex("-0x1.bd0106p-13"))
STEP = tl.constexpr(float.fromhex("0x1.921fb6p-30"))
SQRT_HALF = tl.constexpr(0x3F3504F3)

EXACT = {"enable_fp_fusion": False}


@triton.jit
def radius(word):
    """√(-2 ln u) with u = float32(word | 1) · 2^-32: uint32 → float32, of any shape."""
    bits = (word | 1).to(tl.float32).to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF) >> 23
    z = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    e = (exponent - 32).to(tl.float32)
    value = LN7 * z + LN6
    value = value * z + LN5
    value = value * z + LN4
    value = value * z + LN3
    value = value * z + LN2
    value = value * z + LN1
    value = value * z + LN0
    square = z * z
    y = (value * z) * square
    y = (y + e * LN2_LOW) - square * 0.5
    doubled = ((z + y) + e * LN2_HIGH) * -2.0
    return tl.sqrt_rn(tl.where(doubled > 0.0, doubled, 0.0))


@triton.jit
def normal_pair(first, second):
    """The two normals of a pair of words: uint32 tiles → two float32 tiles of their shape."""
    moved = tl.add(second, 0x20000000, sanitize_overflow=False)
    quarter = moved >> 30
    a = ((moved & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(tl.float32) * STEP
    square = a * a
    sine = a + (((square * SIN2 + SIN1) * square + SIN0) * square) * a
    cosine = (((square * COS2 + COS1) * square + COS0) * square) * square - square * 0.5
    cosine = cosine + 1.0
    across = (quarter & 1) != 0
    x = tl.where(across, sine, cosine).to(tl.uint32, bitcast=True)
    y = tl.where(across, cosine, sine).to(tl.uint32, bitcast=True)
    x = x ^ ((quarter ^ (quarter >> 1)) << 31)  # negative in the second and third quarter
    y = y ^ ((quarter >> 1) << 31)
    rho = radius(first)
    return rho * x.to(tl.float32, bitcast=True), rho * y.to(tl.float32, bitcast=True)


@triton.jit
def normals_of(words):
    """Words 2i and 2i + 1 of each row → normals 2i and 2i + 1: (rows, count), count even."""
    rows: tl.constexpr = words.shape[0]
    count: tl.constexpr = words.shape[1]
    first, second = tl.split(tl.reshape(words, (rows, count // 2, 2)))
    cosine, sine = normal_pair(first, second)
    return tl.reshape(tl.join(cosine, sine), (rows, count))
