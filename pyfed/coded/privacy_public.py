"""δ(ε) when G is known: the Gaussian mechanism, by dp-accounting.

Given G, the record in column j moves G·X by ‖G_:j‖·‖record‖ in Euclidean norm; the curve is exact.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pyfed.checks import expect_int
from pyfed.keys import Key
from pyfed.ops.sketch_matrix import sketch_block

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_BLOCK = 2**22  # entries of G at a time


def gaussian_delta(ratio: float, epsilon: float) -> float:
    """The exact δ of a Gaussian mechanism: Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ).

    Source: Balle and Wang, ICML 2018 (arXiv 1805.06530), theorem 8; dp-accounting offers its
    inverses alone. For small μ the difference is an integral: with z = ε/μ − μ/2 and Mills's ratio
    R = Φ(−t)/φ(t), δ = φ(z)·(R(z) − R(z + μ)), and −R'(t) = 1 − t·R(t).

    Args:
        ratio: μ = sensitivity / noise > 0.
        epsilon: ε ≥ 0.
    """
    from scipy.special import erfcx, log_ndtr

    if ratio > 1e-2:
        first = float(log_ndtr(ratio / 2 - epsilon / ratio))
        second = epsilon + float(log_ndtr(-ratio / 2 - epsilon / ratio))
        return math.exp(first) * -math.expm1(min(0.0, second - first))
    z = epsilon / ratio - ratio / 2
    if z > 40:
        return 0.0  # below 1e-300
    t = z + ratio * (_NODES + 1) / 2
    slope = 1 - t * math.sqrt(math.pi / 2) * erfcx(t / math.sqrt(2))
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * ratio / 2 * float(slope @ _WEIGHTS)


def gaussian_epsilon(ratio: float, delta: float) -> float:
    """The ε at which :func:`gaussian_delta` is ``delta``."""
    from dp_accounting import get_epsilon_gaussian

    with np.errstate(divide="ignore"):  # of the logarithm of a δ that is 0 in floats
        return float(get_epsilon_gaussian(1 / ratio, delta))


def gaussian_ratio(epsilon: float, delta: float) -> float:
    """The greatest μ at which :func:`gaussian_delta` is at most ``delta``."""
    from dp_accounting import get_sigma_gaussian

    with np.errstate(divide="ignore"):
        return 1 / float(get_sigma_gaussian(epsilon, delta))


def column_norm(rows: int, samples: int, key: Key | int, stream: int = 0) -> float:
    """The greatest Euclidean column norm of a public Gaussian G, which is its sensitivity.

    Close to √c·(1 + √(ln(samples)/c)). Of a sum of coded sets, take the greatest over the clients.

    Args:
        rows: c.
        samples: columns of G.
        key: as the op ``sketch`` takes it, a Key or the public seed.
        stream: as the op takes it.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import pyfed
        >>> from pyfed.coded import privacy
        >>> round(privacy.column_norm(100, 50, pyfed.Key(bytes(32))), 3)
        12.059
    """
    expect_int("privacy.column_norm", "rows", rows, 1, 2**31 + 1)
    expect_int("privacy.column_norm", "samples", samples, 1, 2**36 + 1)
    greatest = 0.0
    across = min(samples, 4096)
    down = max(1, _BLOCK // across)
    for first in range(0, samples, across):
        count = min(across, samples - first)
        squares = torch.zeros(count, dtype=torch.float64)
        for top in range(0, rows, down):
            block = sketch_block(
                (top, min(down, rows - top)),
                (first, count),
                key,
                "gaussian",
                (rows, samples),
                stream,
            )
            squares += block.to(torch.float64).square().sum(0)
        greatest = max(greatest, float(squares.max()))
    return math.sqrt(greatest)
