"""Random calls of a client's upload and of the server's sum, with what Python integers say."""

from __future__ import annotations

import random

import torch

import oracles
from draw import SIZES, Draw
from pyfed import MERSENNE31, SOLINAS31, Field, Key


def quantize_mask(rng: random.Random) -> Draw:
    """A call of ``quantize_mask``: extremes among the values, ranges anywhere in a stream."""
    p = rng.choice((SOLINAS31.modulus, MERSENNE31.modulus, 1009, 2**31 - 19))
    field = next((f for f in (SOLINAS31, MERSENNE31) if f.modulus == p), Field("test", p))
    masks, length = rng.choice((0, 1, 1, 2)), rng.choice(SIZES)
    stream = rng.choice((0, rng.randrange(2**32), 2**32 - 1))
    last = 2**36 - length
    start = rng.choice((0, rng.randrange(300), rng.randrange(last), last))
    steps = rng.choice((1, 7, 100, (p - 1) // 2 if p < 2**20 else 2**20))
    scale = 2.0 ** rng.randrange(-30, 30)
    clip = steps / scale
    values = [oracles.float32(rng.choice((clip, -clip, 0.0, rng.uniform(-1.5, 1.5) * clip)))
              for _ in range(length)]  # fmt: skip
    most = (p - 1) // 2 // steps
    weight = rng.choice((0, 1, 1, most, rng.randrange(most + 1)))
    key = rng.choice((None, rng.randbytes(32)))
    keys, signs = [rng.randbytes(32) for _ in range(masks)], rng.choices((1, -1), k=masks)
    rounded = oracles.quantize(values, scale, clip, p, key, stream, start)
    wanted = [
        (weight * value + sum(s * oracles.residue(k, start + i, p, stream=stream)
                              for k, s in zip(keys, signs, strict=True))) % p
        for i, value in enumerate(rounded)
    ]  # fmt: skip
    args = torch.tensor(values), scale, clip, field, [Key(k) for k in keys], signs
    how = {"key": None if key is None else Key(key), "weight": weight}
    return Draw(args, {**how, "stream": stream, "start": start}, wanted)


def decode_sum(rng: random.Random) -> Draw:
    """A call of ``decode_sum``: all p - 1, or anything."""
    field = rng.choice((SOLINAS31, MERSENNE31))
    p, blocks, threshold = field.modulus, rng.choice((1, 2, 3, 16, 17)), rng.randrange(1, 10)
    clients, length = rng.choice((0, 1, 3, 4, 5, 9)), rng.choice((*SIZES, 67))
    columns = -(-length // blocks)

    def drawn(rows: int, width: int) -> list[list[int]]:
        if rng.randrange(3) == 0:
            return [[p - 1] * width for _ in range(rows)]
        return [[rng.choice((0, p - 1, rng.randrange(p))) for _ in range(width)]
                for _ in range(rows)]  # fmt: skip

    uploads, rows = drawn(clients, length), drawn(threshold, columns)
    matrix = drawn(blocks, threshold)
    product = oracles.matmul(matrix, rows, p) if columns else []
    mask = [value for column in zip(*product, strict=True) for value in column][:length]
    bare = [(sum(row[i] for row in uploads) - mask[i]) % p for i in range(length)]
    scale = rng.choice((None, 1.0, 2.0**100, 2.0 ** rng.randrange(-100, 100)))
    shapes = (clients, length), (threshold, columns), (blocks, threshold)
    args = [
        torch.tensor(part, dtype=torch.int32).reshape(shape)
        for part, shape in zip((uploads, rows, matrix), shapes, strict=True)
    ]
    wanted = bare if scale is None else oracles.dequantize(bare, scale, p)
    return Draw((*args, field), {"scale": scale}, wanted)
