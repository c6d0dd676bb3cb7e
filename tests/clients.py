"""Masks of clients, drawn and packed by NumPy, and sizes where kernels change their path."""

from __future__ import annotations

import numpy as np
import torch

import mask_oracles as oracles

CLIENTS = (1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 1000)
LENGTHS = sorted(
    {
        max(0, unit * times + offset)
        for unit in (8, 32, 64, 512)
        for times in (0, 1, 2, 3)
        for offset in (-1, 0, 1)
    }
)


def masks(seed: int, *shape: int, density: float = 0.5) -> oracles.Array:
    """Random masks, bool; the last dimension is that of the elements."""
    return np.random.default_rng(seed).random(shape) < density


def agreeing(seed: int, clients: int, n: int) -> oracles.Array:
    """Masks (clients, n) like real ones: most elements are pruned by all clients, or by none."""
    numbers = np.random.default_rng(seed)
    chance = numbers.choice([0.0, 1.0, 0.1, 0.5, 0.9], size=n, p=[0.35, 0.35, 0.1, 0.1, 0.1])
    return numbers.random((clients, n)) < chance


def packed(bits: oracles.Array, device: str = "cpu") -> torch.Tensor:
    """Masks (…, n) in bits, uint8 (…, ⌈n / 8⌉)."""
    return torch.from_numpy(oracles.pack(bits)).to(device)


def counted(bits: oracles.Array, device: str = "cpu") -> torch.Tensor:
    """The counts of masks (clients, n), as the ops want them."""
    counts = torch.from_numpy(bits.sum(0, dtype=np.int32))
    return (counts.to(torch.uint8) if len(bits) < 256 else counts).to(device)
