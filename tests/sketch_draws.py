"""Random calls of sketches, with the bounds that NumPy gives for them."""

from __future__ import annotations

import random
from typing import Any

import torch

import sketch_oracles
from draw import SIZES, Draw
from pyfed import Key

SPECIAL = (0.0, -0.0, 1.4e-45, -1.1e-38, 6e-8, 1.0, -2.0, 1e30)


def _numbers(rng: random.Random, *shape: int) -> torch.Tensor:
    """Finite numbers: of both signs or positive, some zero, subnormal, equal or large."""
    made = torch.Generator().manual_seed(rng.randrange(2**32))
    values = torch.randn(shape, generator=made)
    if rng.randrange(3) == 0:
        values = values.abs()
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=made)]
    few = torch.rand(shape, generator=made) < rng.choice((0.0, 0.1, 0.5))
    return torch.where(few, special, values)


def sketch(rng: random.Random) -> Draw:
    """A call of ``sketch``: any kind, stream and direction, of one client or of several."""
    transpose = rng.randrange(3) == 0
    rows, features = rng.choice((*SIZES[1:], 65)), rng.choice(SIZES)
    samples, clients = rng.choice((*SIZES, 63, 65, 130)), rng.choice((0, 0, 1, 2, 3))
    kind = rng.choice(("rademacher", "gaussian", "countsketch"))
    how: dict[str, Any] = {"kind": kind, "transpose": transpose, "public": rng.randrange(3) > 0}
    how["stream"] = rng.choice((0, 1, rng.randrange(2**32 - 3), 2**32 - max(clients, 1)))
    if clients:
        inner = sorted(rng.randrange(samples + 1) for _ in range(clients - 1))
        how["starts"] = torch.tensor([0, *inner, samples])
    if not transpose and rng.randrange(3) == 0:
        how["noise_std"] = rng.choice((1.0, 2.0**-100, 0.1, rng.uniform(0.1, 9)))
    key: Key | int = Key(rng.randbytes(32))
    if how["public"] and "noise_std" not in how and rng.randrange(3) == 0:
        key = rng.choice((0, 2**64 - 1, rng.randrange(2**64)))
    leading = ((clients,) if clients else ()) + (rows,) if transpose else (samples,)
    args = _numbers(rng, *leading, features), samples if transpose else rows, key
    return Draw(args, how, tuple(sketch_oracles.sketch(*args, **how)))
