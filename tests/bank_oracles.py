"""What the ops on arenas must compute, one client and one step after the other, with NumPy.

Every line rounds once to float32, or to the dtype that the numbers have.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from lora_oracles import Between
from mask_oracles import Array


def _each(value: Any, clients: int) -> list[float]:
    """A number for each client, as Python floats."""
    return value.tolist() if isinstance(value, torch.Tensor) else [float(value)] * clients


def _rows(*arenas: torch.Tensor) -> list[Array]:
    return [arena.detach().clone().contiguous().numpy() for arena in arenas]


def adamw(
    params: torch.Tensor,
    grads: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    steps: torch.Tensor,
    lr: float | torch.Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | torch.Tensor = 0.01,
) -> tuple[Array, ...]:
    """Parameters and both moments after a step."""
    p, g, m, v = _rows(params, grads, exp_avg, exp_avg_sq)
    rates, decays = _each(lr, len(p)), _each(weight_decay, len(p))
    one, two = betas
    kind = p.dtype.type
    for c, t in enumerate(steps.tolist()):
        if t == 0:
            continue
        m[c] = m[c] + (g[c] - m[c]) * kind(1 - one)
        v[c] = v[c] * kind(two) + kind(1 - two) * g[c] * g[c]
        p[c] = p[c] * kind(1 - rates[c] * decays[c])
        below = np.sqrt(v[c]) / kind(math.sqrt(1 - two**t)) + kind(eps)
        p[c] = p[c] - kind(rates[c] / (1 - one**t)) * (m[c] / below)
    return p, m, v


def sgd(
    params: torch.Tensor,
    grads: torch.Tensor,
    momentum_buffer: torch.Tensor | None,
    steps: torch.Tensor,
    lr: float | torch.Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float | torch.Tensor = 0.0,
    nesterov: bool = False,
) -> tuple[Array, ...]:
    """Parameters, and the buffer if there is one, after a step."""
    p, g = _rows(params, grads)
    buffers = _rows(momentum_buffer) if momentum_buffer is not None else []
    rates, decays = _each(lr, len(p)), _each(weight_decay, len(p))
    kind = p.dtype.type
    for c, t in enumerate(steps.tolist()):
        if t == 0:
            continue
        d = g[c] + kind(decays[c]) * p[c] if decays[c] else g[c]
        for buffer in buffers:
            kept = kind(momentum)
            buffer[c] = d if t == 1 else buffer[c] * kept + kind(1 - dampening) * d
            d = d + kept * buffer[c] if nesterov else buffer[c]
        p[c] = p[c] - kind(rates[c]) * d
    return p, *buffers


def clip(grads: torch.Tensor, max_norm: float | torch.Tensor) -> list[Between]:
    """Bounds of the norms, and of the rows that are left.

    Squares are exact in float64 but for the last bit, and their sum is off by at most the number of
    roundings; so the norm is one float32 or, close to the middle of two, one of both. What follows
    from either is exact: sum, quotient and product are rounded once each.
    """
    (g,) = _rows(grads)
    limits = np.array(_each(max_norm, len(g)), dtype=g.dtype)
    exact = np.array([math.sqrt(math.fsum(float(x) ** 2 for x in row)) for row in g])
    off = exact * (g.shape[1] + 3) * 2.0**-53
    norms = [(exact - off).astype(g.dtype), (exact + off).astype(g.dtype)]
    ends = []
    for norm in norms:
        factor = (limits / (norm + g.dtype.type(1e-6)))[:, None]
        ends.append(np.where(factor < 1, g * np.where(factor < 1, factor, 1), g))
    rows = np.minimum(*ends), np.maximum(*ends)
    return [Between(*map(torch.from_numpy, norms)), Between(*map(torch.from_numpy, rows))]
