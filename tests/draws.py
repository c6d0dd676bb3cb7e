"""Random calls of every op, with what the oracles say of them.

Sizes are drawn around the places where kernels change their path: the ends of 16-word blocks, of
SIMD lanes, of tiles and of lazy reductions. Extreme residues are drawn as often as others.
"""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

import oracles
from discrete_draws import discrete_gaussian
from draw import SIZES, Draw
from lora_draws import LORA_DRAWERS
from mask_draws import MASK_DRAWERS
from pairwise_draws import add_masks
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, Key, LagrangeCode
from sketch_draws import sketch
from upload_draws import decode_sum, quantize_mask

TINY = tuple(Field(f"tiny{p}", p) for p in (3, 5, 7, 11, 13, 17, 257))


def _field(rng: random.Random) -> Field:
    return rng.choice((SOLINAS31, MERSENNE31))


def _residues(rng: random.Random, p: int, count: int) -> list[int]:
    kind = rng.randrange(4)
    if kind == 0:
        return [p - 1] * count
    if kind == 1:
        extremes = (0, 1, p - 1, p - 2, (p - 1) // 2, (p + 1) // 2, 2**16, 2**30)
        return [rng.choice(extremes) for _ in range(count)]
    return [rng.randrange(p) for _ in range(count)]


def _matrix(rng: random.Random, p: int, rows: int, columns: int) -> list[list[int]]:
    flat = _residues(rng, p, rows * columns)
    return [flat[i * columns : (i + 1) * columns] for i in range(rows)]


def _tensor(values: list[Any], *shape: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32).reshape(shape)


def _place(rng: random.Random, count: int) -> dict[str, int]:
    """A stream and a start, near the ends of their ranges half of the time."""
    stream = rng.choice((0, 1, rng.randrange(2**32), 2**32 - 1))
    last = 2**36 - count
    start = rng.choice((0, rng.randrange(64), rng.randrange(last), 2**32 - 5, last))
    return {"stream": stream, "start": start}


def _key(rng: random.Random) -> bytes:
    return rng.randbytes(32)


def _random_words(rng: random.Random) -> Draw:
    key, count = _key(rng), rng.choice(SIZES)
    where = _place(rng, count)
    indices = range(where["start"], where["start"] + count)
    wanted = [oracles.signed(oracles.word(key, i, stream=where["stream"])) for i in indices]
    return Draw((Key(key), count), where, wanted)


def _random_residues(rng: random.Random) -> Draw:
    field = rng.choice(TINY) if rng.randrange(6) == 0 else _field(rng)
    key, count = _key(rng), rng.choice(SIZES)
    where = _place(rng, count)
    indices = range(where["start"], where["start"] + count)
    wanted = [oracles.residue(key, i, field.modulus, stream=where["stream"]) for i in indices]
    return Draw((Key(key), count, field), where, wanted)


def _field_matmul(rng: random.Random) -> Draw:
    field = _field(rng)
    p, m, n = field.modulus, rng.randrange(1, 10), rng.choice(SIZES[1:])
    k = rng.choice((*SIZES, 63, 64, 65))
    a, b = _matrix(rng, p, m, k), _matrix(rng, p, k, n)
    product = oracles.matmul(a, b, p) if k else [[0] * n] * m
    return Draw((_tensor(a, m, k), _tensor(b, k, n), field), {}, [*chain(*product)])


def _field_sum(rng: random.Random) -> Draw:
    field = _field(rng)
    p, clients, count = field.modulus, rng.choice((*SIZES, 255, 257)), rng.choice(SIZES)
    x = _matrix(rng, p, clients, count)
    weights = [rng.choice((0, 1, p - 1, p, 2**63 - 1, rng.randrange(2**63))) for _ in x]
    used = weights if rng.randrange(2) else [1] * clients
    wanted = [sum(w * row[i] for w, row in zip(used, x, strict=True)) % p for i in range(count)]
    kwargs = {"weights": weights} if used is weights else {}
    return Draw((_tensor(x, clients, count), field), kwargs, wanted)


def _finite_float(rng: random.Random) -> float:
    """A float32 of any exponent: denormals, zeros of both signs and the largest among them."""
    while True:
        value = struct.unpack("<f", struct.pack("<I", rng.randrange(2**32)))[0]
        if math.isfinite(value):
            return value


def _quantize(rng: random.Random) -> Draw:
    field, key, count = _field(rng), _key(rng), rng.choice(SIZES)
    clip = oracles.float32(rng.choice((1.0, 0.3, 4.0, rng.uniform(0.01, 100), 2.0**-60)))
    exponent = rng.randrange(-8, 29) - math.ceil(math.log2(clip))
    scale = 2.0**exponent
    halves = [(rng.randrange(-9, 9) + 0.5) / scale for _ in range(3)]  # ties
    common = (clip, -clip, 0.0, -0.0, *halves)
    values = [
        rng.choice((rng.choice(common), rng.uniform(-clip, clip), _finite_float(rng)))
        for _ in range(count)
    ]
    values = [oracles.float32(v) for v in values]
    where = _place(rng, count)
    if rng.randrange(4) == 0:
        wanted = oracles.quantize(values, scale, clip, field.modulus)
        return Draw((torch.tensor(values), scale, clip, field), {}, wanted)
    wanted = oracles.quantize(values, scale, clip, field.modulus, key, **where)
    return Draw((torch.tensor(values), scale, clip, field), {"key": Key(key), **where}, wanted)


def _dequantize(rng: random.Random) -> Draw:
    field, count = _field(rng), rng.choice(SIZES)
    scale = 2.0 ** rng.choice((-100, 100, *range(-40, 40)))
    residues = _residues(rng, field.modulus, count)
    wanted = oracles.dequantize(residues, scale, field.modulus)
    return Draw((_tensor(residues, count), scale, field), {}, wanted)


def _field_lift(rng: random.Random) -> Draw:
    """Residues of integers that are known from the start."""
    count = rng.choice(SIZES)
    if rng.randrange(2):
        field = rng.choice((*TINY, SOLINAS31, MERSENNE31))
        p = field.modulus
        values = [v % p for v in _residues(rng, p, count)]
        wanted = [v if 2 * v < p else v - p for v in values]
        return Draw((_tensor(values, count), field), {}, wanted)
    p, q = WIDE.first.modulus, WIDE.second.modulus
    half = (p * q - 1) // 2
    ends = (0, 1, -1, half, -half, half - 1, 1 - half, p, -p, q, -q)
    wanted = [
        rng.choice(ends) if rng.randrange(3) else rng.randint(-half, half) for _ in range(count)
    ]
    planes = [[value % prime for value in wanted] for prime in (p, q)]
    return Draw((_tensor(planes, 2, count), WIDE), {}, wanted)


def _lagrange_encode(rng: random.Random) -> Draw:
    """Checks the layout and the random rows; the matrix is any matrix."""
    field, key = _field(rng), _key(rng)
    p, blocks, privacy = field.modulus, rng.randrange(1, 9), rng.randrange(4)
    length, shares = rng.choice(SIZES), rng.randrange(1, 9)
    columns = -(-length // blocks)
    where = _place(rng, columns)
    data = _residues(rng, p, length)
    padded = [*data, *[0] * (columns * blocks - length)]
    stacked = [padded[row::blocks] for row in range(blocks)]
    for row in range(privacy):
        how = {"row": row, "stream": where["stream"], "purpose": oracles.PADDING}
        starts = range(where["start"], where["start"] + columns)
        stacked.append([oracles.residue(key, i, p, **how) for i in starts])
    matrix = _matrix(rng, p, shares, blocks + privacy)
    product = oracles.matmul(matrix, stacked, p)
    args = _tensor(data, length), _tensor(matrix, shares, blocks + privacy), Key(key), field
    kwargs = {"blocks": blocks, "stream": where["stream"], "start_column": where["start"]}
    return Draw(args, kwargs, [*chain(*product)])


def _quantize_encode(rng: random.Random) -> Draw:
    """The matrix is a code's, or the same with no word about it."""
    field, key = _field(rng), _key(rng)
    p, blocks, privacy = field.modulus, rng.randrange(1, 6), rng.randrange(3)
    shares, length = blocks + privacy + rng.randrange(3), rng.choice(SIZES)
    columns = -(-length // blocks)
    stream = rng.choice((0, rng.randrange(2**32)))
    start = rng.choice((0, rng.randrange(64), 2**36 // blocks - columns))
    values = [oracles.float32(rng.uniform(-2.0, 2.0)) for _ in range(length)]
    words = {"stream": stream, "start": start * blocks}
    residues = oracles.quantize(values, 2.0**12, 1.5, p, key, **words)
    wanted = oracles.encode(residues, key, p, shares, blocks, privacy, stream, start)
    matrix = LagrangeCode(shares, blocks, privacy, field).encoding_matrix()
    args = torch.tensor(values), 2.0**12, 1.5, matrix, Key(key), field, blocks
    how = {"stream": stream, "start_column": start, "standard": bool(rng.randrange(4))}
    return Draw(args, how, [*chain(*wanted)])


def _lagrange_decode(rng: random.Random) -> Draw:
    field = _field(rng)
    p, blocks, threshold = field.modulus, rng.randrange(1, 9), rng.randrange(1, 12)
    columns = rng.choice(SIZES)
    length = rng.randrange(max(0, blocks * columns - blocks), blocks * columns + 1)
    rows, matrix = _matrix(rng, p, threshold, columns), _matrix(rng, p, blocks, threshold)
    product = oracles.matmul(matrix, rows, p) if columns else []
    wanted = [value for column in zip(*product, strict=True) for value in column][:length]
    args = _tensor(rows, threshold, columns), _tensor(matrix, blocks, threshold), field, length
    return Draw(args, {}, wanted)


_DRAWERS: dict[str, Callable[[random.Random], Draw]] = {
    "random_words": _random_words,
    "random_residues": _random_residues,
    "add_masks_": add_masks,
    "quantize_mask": quantize_mask,
    "decode_sum": decode_sum,
    "discrete_gaussian": discrete_gaussian,
    "field_matmul": _field_matmul,
    "field_sum": _field_sum,
    "quantize": _quantize,
    "dequantize": _dequantize,
    "field_lift": _field_lift,
    "lagrange_encode": _lagrange_encode,
    "quantize_encode": _quantize_encode,
    "lagrange_decode": _lagrange_decode,
    **MASK_DRAWERS,
    **LORA_DRAWERS,
    "sketch": sketch,
}


@functools.lru_cache(maxsize=1)
def draws(op: str, count: int) -> list[Draw]:
    """The first ``count`` random calls of an op; always the same ones."""
    rng = random.Random(f"{op} 20")
    return [_DRAWERS[op](rng) for _ in range(count)]
