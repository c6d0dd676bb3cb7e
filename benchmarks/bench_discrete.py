"""Discrete Gaussian noise against an exact sampler in Python and rounded normals."""

from __future__ import annotations

from collections.abc import Callable

import discrete_baselines as user
import pyfed
from contests import Contest, sizes
from pyfed.ops.discrete_tables import WORDS, recipe

KEY = pyfed.Key(bytes(range(32)))
SIGMAS = (1, 10, 1000, 1 << 20)


@sizes(
    cpu={
        **{(sigma, 1 << 20): (user.ROUNDED,) for sigma in SIGMAS},
        (10, user.ONE_BY_ONE): (user.EXACT, user.ROUNDED),
    },
    cuda={(sigma, 1 << 26): () for sigma in SIGMAS},
    small=(10, 1003),
)
def bench_discrete_gaussian(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    sigma, count = size
    terms = len(recipe(float(sigma)).coefficients)
    measure(
        Contest(
            op="discrete_gaussian",
            shape=f"{count:,}, sigma {sigma:,}",
            run=lambda: pyfed.ops.discrete_gaussian(count, sigma, KEY, device=device),
            bytes=4 * count,
            chacha=4 * WORDS * terms * count,
            baselines={
                user.EXACT: lambda: user.exact(sigma, count),
                user.ROUNDED: lambda: user.rounded(sigma, count),
            },
        )
    )
