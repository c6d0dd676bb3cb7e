"""What a user would write without pyfed to project samples: a whole random matrix, and a product.

No seed gives these matrices again on another device, and each is held in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from contests import Baseline

RANDN = "torch.randn @ x"
SIGNS = "torch.randint of signs @ x"
PROJECTION = "scikit-learn's projection"
PHILOX = "numpy's Philox @ x"
INDEX_ADD = "torch.index_add_"
LACKS = "G is stored"


def _keeps_lengths(x: torch.Tensor, rows: int, noise_std: float = 0.0) -> Callable[..., None]:
    """Whether a projection kept the squared length of all samples, times its rows, within 30 %.

    The least size has 150 rows of 9 features, of which one standard deviation is 4 %.
    """
    wanted = rows * (float(x.double().square().sum()) + x.shape[1] * noise_std**2)

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        assert output.shape == expected.shape
        assert output.dtype == expected.dtype
        for one in (output, expected):
            assert abs(float(one.double().square().sum()) - wanted) < 0.3 * wanted

    return check


def randn(x: torch.Tensor, rows: int, noise_std: float = 0.0) -> Baseline:
    """Standard normal numbers from torch's generator; the noise is from it too."""

    def run() -> torch.Tensor:
        out = torch.randn(rows, len(x), device=x.device) @ x
        return out.add_(torch.randn_like(out), alpha=noise_std) if noise_std else out

    lacks = "numbers not fit for secrets" if noise_std else LACKS
    return Baseline(run, _keeps_lengths(x, rows, noise_std), lacks)


def signs(x: torch.Tensor, rows: int) -> Baseline:
    """Signs as floats, from torch's generator."""

    def run() -> torch.Tensor:
        bits = torch.randint(0, 2, (rows, len(x)), dtype=torch.int8, device=x.device)
        return bits.mul_(2).sub_(1).float() @ x

    return Baseline(run, _keeps_lengths(x, rows), LACKS)


def projection(x: torch.Tensor, rows: int) -> Baseline:
    """As GaussianRandomProjection fits and transforms: numpy's older generator, in float64."""
    values, generator = x.numpy(), np.random.RandomState(20)

    def run() -> torch.Tensor:
        matrix = generator.normal(size=(rows, len(values))).astype(np.float32)
        return torch.from_numpy(matrix @ values)

    return Baseline(run, _keeps_lengths(x, rows), LACKS)


def philox(x: torch.Tensor, rows: int) -> Baseline:
    """Normal float32 numbers by the ziggurat, from numpy's counter-based generator."""
    values, generator = x.numpy(), np.random.Generator(np.random.Philox(20))

    def run() -> torch.Tensor:
        return torch.from_numpy(generator.standard_normal((rows, len(values)), np.float32) @ values)

    return Baseline(run, _keeps_lengths(x, rows), LACKS)


def index_add(x: torch.Tensor, rows: int) -> Baseline:
    """CountSketch by scattering signed samples."""

    def run() -> torch.Tensor:
        place = torch.randint(0, rows, (len(x),), device=x.device)
        sign = torch.randint(0, 2, (len(x), 1), device=x.device).mul_(2).sub_(1)
        signed = x * (sign * rows**0.5)
        return torch.zeros(rows, x.shape[1], device=x.device).index_add_(0, place, signed)

    return Baseline(run, _keeps_lengths(x, rows), LACKS)


def loop(x: torch.Tensor, rows: int, starts: list[int]) -> Baseline:
    """Client by client, by :func:`randn`."""
    parts = [x[first:last] for first, last in itertools.pairwise(starts)]

    def run() -> torch.Tensor:
        return torch.stack([torch.randn(rows, len(part), device=x.device) @ part for part in parts])

    return Baseline(run, _keeps_lengths(x, rows), LACKS)
