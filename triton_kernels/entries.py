"""Entries of a sketch's matrix G, made where they are needed, from words that their places name.

Word W(r, i) of row r comes from Philox4x32-10 under a public seed, or from ChaCha20 under a secret
key. Rademacher: G[r, j] is -1 where bit j mod 32 of W(r, ⌊j/32⌋) is set. Gaussian: each two words
make two entries. CountSketch: W(0, j) chooses column j's only row, W(1, j) its sign.

Products run on tensor cores, in bfloat16, which has 8 bits: three of them hold all 24 of a float32.
"""

import triton
import triton.language as tl

from .common import COMPILED
from .floats import rounded, widened
from .random import chacha20

SKETCH = 6
NOISE = 4
RADEMACHER = tl.constexpr(1)
GAUSSIAN = tl.constexpr(2)
COUNTSKETCH = tl.constexpr(3)
DOMAIN = tl.constexpr(SKETCH << 24)
NOISE_DOMAIN = tl.constexpr(NOISE << 24)


@triton.jit
def words_of(
    source,  # int32 (2,), the seed; or int32 (8,), the key
    row,  # uint32 (ROWS,)
    first,  # int64 scalar, a multiple of 4, or 16: what a block of words holds
    stream,  # uint32, a scalar or (ROWS, 1)
    KIND: tl.constexpr,  # 0: noise
    PUBLIC: tl.constexpr,
    COUNT: tl.constexpr,  # a multiple of 4, or 16
):
    """Words first … first + COUNT - 1 of each of these rows: uint32 (ROWS, COUNT)."""
    ROWS: tl.constexpr = row.shape[0]
    if PUBLIC:
        low = tl.load(source).to(tl.uint32, bitcast=True).to(tl.uint64)
        high = tl.load(source + 1).to(tl.uint32, bitcast=True).to(tl.uint64)
        block = (first >> 2) + tl.arange(0, COUNT // 4)[None, :]
        above = (block >> 32).to(tl.uint32) | (KIND << 8)
        w0, w1, w2, w3 = tl.philox(
            *(low | (high << 32), block.to(tl.uint32), above, row[:, None], stream)
        )
        # A join appends the lowest dimension, so the higher bit of the word's number goes first.
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    else:
        zero = tl.zeros((ROWS, COUNT // 16), tl.uint32)
        counter = zero + ((first >> 4) + tl.arange(0, COUNT // 16)[None, :]).to(tl.uint32)
        domain: tl.constexpr = DOMAIN + KIND if KIND else NOISE_DOMAIN
        words = chacha20(source, counter, row[:, None], stream, zero + domain)
    return tl.reshape(words, (ROWS, COUNT))


@triton.jit
def narrowed(value):
    """float32 of 8 significant bits → bfloat16."""
    high = value.to(tl.uint32, bitcast=True) >> 16
    return high.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def leading_pieces(value):
    """float32 → its leading 8 bits, the next 8, and the last 8: three bfloat16 that add up to it.

    Bits are cut off, so that no finite number becomes infinite. Below 2^-110 the last bits are
    lost, as bfloat16 has no number under 2^-133.
    """
    high = (value.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
    rest = value - high
    middle = (rest.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return narrowed(high), narrowed(middle), narrowed(rest - middle)


@triton.jit
def nearest(value):
    """float32 → bfloat16, half to even; one instruction for two numbers where it is compiled."""
    return value.to(tl.bfloat16) if COMPILED else rounded(value, tl.bfloat16)


@triton.jit
def nearest_pieces(value):
    """float32 → three bfloat16 that add up to it, each at most 2^-8 of the one before it."""
    high = nearest(value)
    rest = value - widened(high)
    middle = nearest(rest)
    return high, middle, nearest(rest - widened(middle))


@triton.jit
def sign_tile(word):
    """The 32 entries of each word, 1 or -1: uint32 (ROWS,) → bfloat16 (ROWS, 32)."""
    moved = word[:, None] << (31 - tl.arange(0, 32))[None, :].to(tl.uint32)
    return narrowed(((moved & 0x80000000) | 0x3F800000).to(tl.float32, bitcast=True))


@triton.jit
def add_one(sums, left, right):
    """The float32 sums + left @ right, of bfloat16; interpreted Triton cannot multiply these."""
    if COMPILED:
        return tl.dot(left, right, sums)
    return tl.dot(widened(left), widened(right), sums)


@triton.jit
def add_signs(sums, left, value):
    """The float32 sums + left @ value, small parts first: bfloat16 ±1 (m, k), float32 (k, n)."""
    high, middle, low = leading_pieces(value)
    sums = add_one(sums, left, low)
    sums = add_one(sums, left, middle)
    return add_one(sums, left, high)


@triton.jit
def add_normals(sums, high, middle, low, value):
    """The float32 sums + (high + middle + low) @ value, small parts first.

    Left out are products below 2^-22 of the whole one, of either sign as the rounding of G is.

    Args:
        sums: float32 (m, n).
        high: bfloat16 (m, k), as ``nearest_pieces`` gives them.
        middle: likewise.
        low: likewise.
        value: float32 (k, n).
    """
    first, second, third = leading_pieces(value)
    sums = add_one(sums, low, first)
    sums = add_one(sums, high, third)
    sums = add_one(sums, middle, second)
    sums = add_one(sums, middle, first)
    sums = add_one(sums, high, second)
    return add_one(sums, high, first)
