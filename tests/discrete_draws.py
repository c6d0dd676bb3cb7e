"""Random calls of the discrete Gaussian, with what Python integers say of them."""

from __future__ import annotations

import random

import discrete_oracles
from draw import SIZES, Draw
from pyfed import Key

WIDE = (10.5, 11.0, 17.25, 64.0, 320.0, 2.0**20)


def discrete_gaussian(rng: random.Random) -> Draw:
    """A call of ``discrete_gaussian``: ranges anywhere in a stream."""
    sigma = rng.choice((0.3, 1, 1.0, 2.0, rng.uniform(0.2, 8), rng.choice(WIDE)))
    key, count = rng.randbytes(32), rng.choice(SIZES)
    stream = rng.choice((0, 1, rng.randrange(2**32), 2**32 - 1))
    last = 2**36 - count
    start = rng.choice((0, rng.randrange(64), rng.randrange(last), 2**32 - 5, last))
    indices = range(start, start + count)
    wanted = [discrete_oracles.sample(key, i, sigma, stream) for i in indices]
    return Draw((count, sigma, Key(key)), {"stream": stream, "start": start}, wanted)
