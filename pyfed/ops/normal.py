"""Standard normal numbers from pairs of words, the same bits on every device.

Box and Muller's transform in float32. Every operation is rounded by itself, none is fused with
another, and nothing is used whose rounding IEEE 754 leaves open; so every kernel that follows these
lines gives these bits. The radius √(-2 ln u) is within 2 units of its last digit, the direction
within 2^-23 of the exact one. No number is larger than √(64 ln 2) = 6.66, which a normal one is
with probability 3e-11.
"""

from __future__ import annotations

import torch

# Minimax coefficients, found by Remez exchange with 50 digits and rounded to float32, lowest power
# first. With z in [√½ - 1, √2 - 1], ln(1 + z) = z - z²/2 + z³·LN(z), relative error below 7e-9;
# with |a| ≤ π/4, sin a = a + a³·SIN(a²), below 7e-9; cos a = 1 - a²/2 + a⁴·COS(a²), below 1e-9.
# The last digit of a float32 is 6e-8.
LN = tuple(
    float.fromhex(digits)
    for digits in (
        *("0x1.555554p-2", "-0x1.000226p-2", "0x1.99a00ep-3", "-0x1.547282p-3"),
        *("0x1.22d9e6p-3", "-0x1.0d8308p-3", "0x0.82add1p-2", "-0x1.38c070p-4"),
    )
)
SIN = tuple(map(float.fromhex, ("-0x1.555546p-3", "0x1.110760p-7", "-0x1.994eb4p-13")))
COS = tuple(map(float.fromhex, ("0x1.55554ap-5", "-0x1.6c0c8cp-10", "0x1.9a025ap-16")))
LN2_HIGH = float.fromhex("0x1.63p-1")  # 9 bits, so its product with an exponent is exact
LN2_LOW = float.fromhex("-0x1.bd0106p-13")  # ln 2 less that, rounded
STEP = float.fromhex("0x1.921fb6p-30")  # π/2 · 2^-30
SQRT_HALF = 0x3F3504F3  # the bits of √½ in float32


def _polynomial(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    """By Horner's rule, from the highest power."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def radius(words: torch.Tensor) -> torch.Tensor:
    """√(-2 ln u) with u = float32(word | 1) · 2^-32: int64 words → float32, of that shape."""
    bits = (words | 1).to(torch.float32).view(torch.int32)
    exponent = (bits - SQRT_HALF) >> 23
    z = (bits - (exponent << 23)).view(torch.float32) - 1  # the significand in [√½, √2), less 1
    e = (exponent - 32).to(torch.float32)
    square = z * z
    y = (_polynomial(LN, z) * z) * square
    y = (y + LN2_LOW * e) - 0.5 * square
    doubled = -2 * ((z + y) + LN2_HIGH * e)
    # PyTorch's own root of float32 may be off by a bit; that of float64, rounded, is never.
    return torch.where(doubled > 0, doubled, 0.0).double().sqrt().float()


def direction(words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of word · 2π / 2^32: int64 words → two float32, of that shape."""
    moved = words + 2**29
    quarter = (moved >> 30) & 3
    a = ((moved & (2**30 - 1)) - 2**29).to(torch.float32) * STEP  # in [-π/4, π/4]
    square = a * a
    sine = a + (_polynomial(SIN, square) * square) * a
    cosine = 1 + ((_polynomial(COS, square) * square) * square - 0.5 * square)
    across, up = quarter % 2 == 1, quarter >= 2
    x = torch.where(across, sine, cosine)
    y = torch.where(across, cosine, sine)
    return torch.where(across ^ up, -x, x), torch.where(up, -y, y)


def normal_pairs(words: torch.Tensor) -> torch.Tensor:
    """Words 2i and 2i + 1 → normals 2i and 2i + 1: int64 (…, 2n) in [0, 2^32) → float32 (…, 2n).

    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    rho = radius(words[..., 0::2])
    cosine, sine = direction(words[..., 1::2])
    return torch.stack([rho * cosine, rho * sine], dim=-1).flatten(-2)
