"""Discrete Gaussian noise on products and sums that are exact but for float64."""

from __future__ import annotations

import math

import torch

from pyfed.coded.privacy_grid import COARSEST, FINEST, fine_grid
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.ops import discrete_gaussian, sketch_block
from pyfed.ops.discrete import snap_

_BLOCK = 2**21
"""Entries of G at a time."""


def expect_grid(op: str, noise_std: float, noise: object, grid: object) -> float:
    """The step of discrete noise; 0 for continuous or no noise."""
    if noise not in ("discrete", "gaussian"):
        raise ArgumentError(f"{op}: noise is {noise!r}; it must be 'discrete' or 'gaussian'")
    if grid is None:
        return fine_grid(noise_std) if noise == "discrete" and noise_std > 0 else 0.0
    if isinstance(grid, bool) or not isinstance(grid, int | float):
        raise DtypeError(f"{op}: grid is {type(grid).__name__}; it must be a power of two")
    if noise == "gaussian" or noise_std == 0:
        raise ArgumentError(f"{op}: grid is {grid}; only discrete noise has one")
    if not (math.isfinite(grid) and grid > 0 and math.frexp(grid)[0] == 0.5):
        raise ArgumentError(f"{op}: grid is {grid}; it must be a power of two")
    if not COARSEST * grid <= noise_std <= FINEST * grid:
        raise ArgumentError(
            f"{op}: grid is {grid} and noise_std {noise_std}; noise must be from 4 to 2^20 grids"
        )
    return float(grid)


def with_discrete_noise(
    joint: torch.Tensor,
    rows: int,
    key: Key,
    kind: str,
    noise_std: float,
    grid: float,
    stream: int,
    public: bool,
) -> torch.Tensor:
    """grid·(round(G·joint / grid) + D), float32 (rows, columns), the product in float64.

    In float32 the record that a neighbour lacks would move sums of others by their rounding. In
    float64 with m samples of norm C it moves all by at most 2·m²·2^-53·√c·C together, which is
    nothing beside the noise. The result is multiples of ``grid`` where they are below 2^24 of it,
    and else their float32, which tells nothing more.

    Args:
        joint: float32 (samples, columns).
        rows: c; all else as of :meth:`pyfed.coded.CodedDataset.encode`.
        key: makes G and the noise.
        kind: of G.
        noise_std: σ.
        grid: a power of two.
        stream: of the key.
        public: whether G comes of the public seed.
    """
    samples, columns = joint.shape
    total = torch.zeros(rows, columns, dtype=torch.float64, device=joint.device)
    across = max(1, _BLOCK // rows)
    for first in range(0, samples, across):
        part = joint[first : first + across].to(torch.float64)
        block = sketch_block(
            *((0, rows), (first, len(part)), key, kind, (rows, samples), stream, public),
            joint.device,
        )
        total.addmm_(block.to(torch.float64), part)
        block.zero_()
        part.zero_()
    return on_grid_(total, noise_std, grid, key, stream).to(torch.float32)


def on_grid_(
    values: torch.Tensor, noise_std: float, grid: float, key: Key, stream: int
) -> torch.Tensor:
    """Round float64 values to multiples of ``grid``, and add discrete Gaussian ones, in place."""
    noise = discrete_gaussian(
        values.numel(), noise_std / grid, key, stream, device=values.device
    ).reshape(values.shape)
    return snap_(values, noise, grid)
