"""Votes that agree as those of real models do: a common score, and noise of each client."""

from __future__ import annotations

import functools

import torch

import pyfed

PERIOD = 1 << 18
"""Weights after which the votes repeat: making them would else take longer than counting them."""
NOISE = 0.12


@functools.lru_cache(maxsize=2)
def packed_votes(clients: int, length: int, device: str = "cpu") -> torch.Tensor:
    """Masks with half of the weights pruned, about three quarters unanimous: (clients, bytes)."""
    generator = torch.Generator().manual_seed(20)
    period = min(PERIOD, length)
    score = torch.randn(period, generator=generator)
    rows = []
    for _ in range(clients):
        own = score + NOISE * torch.randn(period, generator=generator)
        row = pyfed.ops.mask_pack(own > 0)
        rows.append(row.repeat(-(-length // period))[: (length + 7) // 8])
    packed = torch.stack(rows)
    if length % 8:
        packed[:, -1] &= (1 << length % 8) - 1
    return packed.to(device)
