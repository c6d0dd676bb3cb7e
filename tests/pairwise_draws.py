"""Random calls of the pairwise masks, with what Python integers say of them."""

from __future__ import annotations

import random

import torch

import oracles
from draw import SIZES, Draw
from pyfed import MERSENNE31, SOLINAS31, Field, Key

LENGTHS = (*SIZES, 63, 64, 65, 127, 129, 255, 257)


def add_masks(rng: random.Random) -> Draw:
    """A call of ``add_masks_``: extremes among the residues, ranges anywhere in a stream."""
    p = rng.choice((SOLINAS31.modulus, MERSENNE31.modulus, 3, 13, 17, 2**31 - 19, 2**30 + 3))
    field = next((f for f in (SOLINAS31, MERSENNE31) if f.modulus == p), Field("test", p))
    masks = rng.choice((0, 1, 1, 2, 3))
    length = rng.choice(SIZES if masks > 1 else LENGTHS)
    stream = rng.choice((0, 1, rng.randrange(2**32), 2**32 - 1))
    last = 2**36 - length
    start = rng.choice((0, rng.randrange(300), rng.randrange(last), 2**32 - 5, last))
    values = [rng.choice((0, p - 1, rng.randrange(p))) for _ in range(length)]
    keys, signs = [rng.randbytes(32) for _ in range(masks)], rng.choices((1, -1), k=masks)
    if masks > 1 and rng.randrange(4) == 0:
        keys[1] = keys[0]
    wanted = [
        (value + sum(s * oracles.residue(k, start + i, p, stream=stream)
                     for k, s in zip(keys, signs, strict=True))) % p
        for i, value in enumerate(values)
    ]  # fmt: skip
    given = torch.tensor(values, dtype=torch.int32)
    args = given, [Key(key) for key in keys], signs, field
    return Draw(args, {"stream": stream, "start": start}, (), (wanted,))
