"""What the library must compute, written with Python integers and nothing of the library.

The formulas are those of the documented fixed form: ChaCha20 as RFC 8439 has it, addressed by
(row, stream, purpose, field, attempt); residues by rejection; fixed point; Lagrange sharing.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction

P_SOLINAS, P_MERSENNE, P_SECOND = 2**31 - 2**17 + 1, 2**31 - 1, 2**31 - 2**19 + 1
GENERATORS = {P_SOLINAS: 5, P_SECOND: 19}  # of the fields whose points are roots of unity
FIELD_IDS = {P_SOLINAS: 1, P_MERSENNE: 2, P_SECOND: 3}  # every other prime has number 0
WORDS, RESIDUES, ROUNDING, PADDING = 0, 1, 2, 3  # purposes
QUARTERS = (
    *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),  # columns
    *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),  # diagonals
)


def _rotated(x: int, bits: int) -> int:
    return ((x << bits) | (x >> (32 - bits))) & 0xFFFFFFFF


@functools.lru_cache(maxsize=1 << 16)
def chacha_block(key: bytes, counter: int, nonce: tuple[int, int, int]) -> tuple[int, ...]:
    """The 16 words of one ChaCha20 block (RFC 8439, section 2.3)."""
    constants = struct.unpack("<4I", b"expand 32-byte k")
    start = (*constants, *struct.unpack("<8I", key), counter, *nonce)
    w = list(start)
    for _ in range(10):
        for a, b, c, d in QUARTERS:
            w[a] = (w[a] + w[b]) & 0xFFFFFFFF
            w[d] = _rotated(w[d] ^ w[a], 16)
            w[c] = (w[c] + w[d]) & 0xFFFFFFFF
            w[b] = _rotated(w[b] ^ w[c], 12)
            w[a] = (w[a] + w[b]) & 0xFFFFFFFF
            w[d] = _rotated(w[d] ^ w[a], 8)
            w[c] = (w[c] + w[d]) & 0xFFFFFFFF
            w[b] = _rotated(w[b] ^ w[c], 7)
    return tuple((x + y) & 0xFFFFFFFF for x, y in zip(w, start, strict=True))


def word(
    key: bytes, index: int, *, row: int = 0, stream: int = 0, domain: int = WORDS << 24
) -> int:
    """Word ``index`` of one stream, unsigned."""
    return chacha_block(key, index // 16, (row, stream, domain))[index % 16]


def signed(value: int) -> int:
    """A 32-bit pattern as a signed integer."""
    return value - 2**32 if value >= 2**31 else value


def residue_attempts(
    key: bytes, index: int, p: int, *, row: int = 0, stream: int = 0, purpose: int = RESIDUES
) -> tuple[int, int]:
    """A residue, and which attempt gave it (0 for the first)."""
    mask = (1 << (p - 1).bit_length()) - 1
    for attempt in range(16):
        domain = purpose << 24 | FIELD_IDS.get(p, 0) << 16 | attempt
        candidate = word(key, index, row=row, stream=stream, domain=domain) & mask
        if candidate < p:
            return candidate, attempt
    raise ArithmeticError("16 candidates in a row were rejected")


def residue(key: bytes, index: int, p: int, **where: int) -> int:
    """Element ``index`` of a stream of uniform residues."""
    return residue_attempts(key, index, p, **where)[0]


def points(p: int, shares: int, blocks: int) -> tuple[list[int], list[int]]:
    """Points of the shares and of the data blocks."""
    if p not in GENERATORS:
        return [p - 1 - j for j in range(shares)], [k + 1 for k in range(blocks)]
    generator = GENERATORS[p]
    omega = pow(generator, (p - 1) >> 12, p)

    def root(i: int) -> int:
        return pow(omega, int(f"{i:012b}"[::-1], 2), p)

    return [root(j) for j in range(shares)], [generator * root(k) % p for k in range(blocks)]


def interpolate(xs: Sequence[int], ys: Sequence[int], x: int, p: int) -> int:
    """The value at x of the polynomial of lowest degree through the points."""
    total = 0
    for i, xi in enumerate(xs):
        above = below = 1
        for j, xj in enumerate(xs):
            if i != j:
                above, below = above * (x - xj) % p, below * (xi - xj) % p
        total = (total + ys[i] * above * pow(below, -1, p)) % p
    return total


def encode_column(data: Sequence[int], pads: Sequence[int], shares: int, p: int) -> list[int]:
    """The shares of one column: d(x) + Z(x)·r(x) at each share point."""
    alphas, betas = points(p, shares, len(data))
    out = []
    for a in alphas:
        z = math.prod(a - b for b in betas)
        noise = sum(r * pow(a, t, p) for t, r in enumerate(pads))
        out.append((interpolate(betas, data, a, p) + z * noise) % p)
    return out


def encode(
    values: Sequence[int],
    key: bytes,
    p: int,
    shares: int,
    blocks: int,
    privacy: int,
    stream: int = 0,
    start_column: int = 0,
) -> list[list[int]]:
    """The share rows of a vector, checked by decoding five sets of survivors."""
    columns = -(-len(values) // blocks)
    padded = [*values, *[0] * (columns * blocks - len(values))]
    alphas, betas = points(p, shares, blocks)
    encoded = []
    for c in range(columns):
        data = padded[c * blocks : (c + 1) * blocks]
        where = {"stream": stream, "purpose": PADDING}
        pads = [residue(key, start_column + c, p, row=t, **where) for t in range(privacy)]
        column = encode_column(data, pads, shares, p)
        for chosen in itertools.islice(itertools.combinations(range(shares), blocks + privacy), 5):
            xs, ys = [alphas[j] for j in chosen], [column[j] for j in chosen]
            assert [interpolate(xs, ys, b, p) for b in betas] == data
        encoded.append(column)
    return [list(row) for row in zip(*encoded, strict=True)] if encoded else [[]] * shares


def float32(value: float) -> float:
    """The nearest float32, as a Python float; infinite beyond the largest."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def clipped_steps(value: float, scale: float, clip: float) -> Fraction:
    """clip(value) · scale, exactly."""
    return Fraction(max(-clip, min(clip, value))) * Fraction(scale)


def round_randomly(y: Fraction, random_word: int) -> int:
    """Round y up with probability near its fraction: i + ⌊(q + (word >> 8)) / 2^24⌋.

    Where i = trunc(y) and q = trunc((y - i) · 2^24).
    """
    whole = math.trunc(y)
    part = math.trunc((y - whole) * 2**24)
    return whole + (part + (random_word >> 8)) // 2**24


def quantize(
    values: Iterable[float],
    scale: float,
    clip: float,
    p: int,
    key: bytes | None = None,
    stream: int = 0,
    start: int = 0,
) -> list[int]:
    """Fixed point: with a key by random rounding, without one half to even."""
    out = []
    for i, value in enumerate(values):
        y = clipped_steps(value, scale, clip)
        if key is None:
            rounded = round(y)  # Python rounds a Fraction half to even
        else:
            random_word = word(key, start + i, stream=stream, domain=ROUNDING << 24)
            rounded = round_randomly(y, random_word)
        out.append(rounded % p)
    return out


def centred(residue_value: int, p: int) -> int:
    """The representative in [-(p-1)/2, (p-1)/2]."""
    return residue_value if residue_value <= (p - 1) // 2 else residue_value - p


def dequantize(residues: Iterable[int], scale: float, p: int) -> list[float]:
    """float32(centred lift) / scale, rounded once to float32."""
    return [float32(float32(centred(r, p)) / scale) for r in residues]


def matmul(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]], p: int) -> list[list[int]]:
    """The product of two matrices, given as rows."""
    columns = list(zip(*b, strict=True))
    return [[sum(x * y for x, y in zip(row, c, strict=True)) % p for c in columns] for row in a]
