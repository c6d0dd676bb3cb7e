"""Small least-squares problems, and G and noise that a test chooses, for tests of coded data."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import pyfed
from pyfed.coded import SCFL, CodedDataset

KEY = pyfed.Key(bytes(range(32)))
KINDS = ("rademacher", "gaussian", "countsketch")


@dataclass
class Problem:
    """Records of several clients, and a W at which gradients are taken."""

    x: list[torch.Tensor]
    y: list[torch.Tensor]
    weight: torch.Tensor

    def gradients(self) -> list[torch.Tensor]:
        """g_i in float64."""
        w = self.weight.double()
        pairs = zip(self.x, self.y, strict=True)
        return [x.double().T @ (x.double() @ w - y.double()) for x, y in pairs]

    def total(self) -> torch.Tensor:
        return torch.stack(self.gradients()).sum(0)

    def clients(self, scfl: SCFL) -> list:
        return [scfl.client(i, x, y) for i, (x, y) in enumerate(zip(self.x, self.y, strict=True))]

    def coded(self, scfl: SCFL, rows: int, **more) -> CodedDataset:
        """The sum of the clients' sets, each with a key of its own."""
        sets = [
            one.encode(rows, KEY.derive("client", i), **more)
            for i, one in enumerate(self.clients(scfl))
        ]
        return CodedDataset.total(sets)


def problem(
    clients: int = 4, samples: int = 6, features: int = 3, outputs: int = 2, seed: int = 1
) -> Problem:
    make = torch.Generator().manual_seed(seed)
    x = [torch.randn(samples, features, generator=make) for _ in range(clients)]
    y = [torch.randn(samples, outputs, generator=make) for _ in range(clients)]
    return Problem(x, y, torch.randn(features, outputs, generator=make))


def sketch_with(
    monkeypatch: pytest.MonkeyPatch, matrix: torch.Tensor, noise: torch.Tensor | None = None
) -> None:
    """Let every sketch be ``matrix`` times its input plus ``noise`` times its σ."""

    def fake(x, rows, key, kind, noise_std, stream, public, **rest):
        out = matrix[:, : len(x)].double() @ x.double()
        return (out if noise is None else out + noise_std * noise).float()

    monkeypatch.setattr("pyfed.coded.dataset.sketch", fake)


def coded_of(x: torch.Tensor, y: torch.Tensor, variance: float = 0.0, **more) -> CodedDataset:
    """A coded set with these values."""
    given = {"kind": "gaussian", "samples": len(x), "sources": frozenset([bytes(8)])} | more
    return CodedDataset(x=x, y=y, noise_variance=variance, **given)


def encoded(index: int, **more) -> CodedDataset:
    given = problem(clients=4)
    own = KEY.derive("client", index)
    return CodedDataset.encode(given.x[index], given.y[index], **({"rows": 5, "key": own} | more))


def on_grid(index: int, grid: float) -> CodedDataset:
    make = torch.Generator().manual_seed(index)
    values = torch.randint(-400, 400, (5, 5), generator=make) * grid
    return coded_of(
        values[:, :3], values[:, 3:], 1.0, grid=grid, sources=frozenset([bytes(7) + b"%d" % index])
    )
