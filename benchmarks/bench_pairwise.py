"""What a client of SecAgg+ does for its upload: round its update, mask it for every neighbour."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

import pairwise_baselines as user
import pyfed
from baselines import FLOWER
from contests import Contest, random_floats, random_residues, sizes
from flower_baselines import by_flower
from pyfed import SOLINAS31

P = SOLINAS31.modulus
SCALE, CLIP = 2.0**13, 4.0
RIVALS = (user.GENERATOR, user.CIPHER)


def neighbours(count: int) -> tuple[list[pyfed.Key], list[int]]:
    """Keys and signs."""
    root = pyfed.Key(bytes(range(32)))
    return [root.derive("pair", i) for i in range(count)], [1 - i % 3 % 2 * 2 for i in range(count)]


def one_by_one(x: torch.Tensor, keys: list[pyfed.Key], signs: list[int]) -> torch.Tensor:
    """The sum from another kernel, which has a benchmark of its own, and 64-bit integers."""
    total = x.long()
    for key, sign in zip(keys, signs, strict=True):
        mask = pyfed.ops.random_residues(key, len(x), SOLINAS31, device=x.device)
        total.add_(mask, alpha=sign)
    return total.remainder_(P).int()


@sizes(
    cpu={(10_000_000, 10): (*RIVALS, FLOWER), (1_000_000, 30): RIVALS},
    cuda={(1 << 26, 10): ()},
    small=(1003, 3),
)
def bench_masked_upload(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    length, masks = size
    values = random_floats(length, device)
    keys, signs = neighbours(masks)
    own = pyfed.Key(bytes(32))
    quantize = functools.partial(pyfed.ops.quantize, values, SCALE, CLIP, SOLINAS31, own)
    update = user.Update(values.cpu(), SCALE, CLIP, [key.reveal() for key in keys], signs)
    measure(
        Contest(
            op="quantize_mask",
            shape=f"{length:,}, {masks} masks",
            run=lambda: pyfed.ops.quantize_mask(values, SCALE, CLIP, SOLINAS31, keys, signs, own),
            expected=lambda: one_by_one(quantize(), keys, signs),
            bytes=8 * length,
            chacha=4 * length * (masks + 1),
            baselines={
                user.GENERATOR: lambda: user.by_generator(update),
                user.CIPHER: lambda: user.by_cipher(update),
                FLOWER: lambda: by_flower(update),
            },
        )
    )


@sizes(cpu={(1 << 20, 10): ()}, cuda={(1 << 26, 10): (), (1 << 20, 100): ()}, small=(259, 2))
def bench_add_masks(measure: Callable[[Contest], None], device: str, size: tuple[int, int]) -> None:
    """Masks of both signs on a copy of the vector, since the op works in place."""
    length, masks = size
    x = random_residues(P, length, device=device)
    keys, signs = neighbours(masks)
    measure(
        Contest(
            op="add_masks_ to a copy",
            shape=f"{length:,}, {masks} masks",
            run=lambda: pyfed.ops.add_masks_(x.clone(), keys, signs, SOLINAS31),
            expected=lambda: one_by_one(x, keys, signs),
            bytes=16 * length,
            chacha=4 * length * masks,
        )
    )
