"""The core factorisation of FlexLoRA against dense decompositions of the sum that it avoids."""

from __future__ import annotations

from collections.abc import Callable

import torch

from contests import Baseline, Contest, sizes
from pyfed.lora import low_rank_svd

DENSE = "dense SVD"
RANDOMISED = "torch.svd_lowrank"
STACKED = "QR of the factors"
CLIENTS, RANK = 10, 16


def _factors(side: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Stacked factors of all clients: A (N·r, side), B (side, N·r)."""
    generator = torch.Generator(device).manual_seed(20)
    shape = (CLIENTS * RANK, side)
    a, b = (torch.randn(shape, generator=generator, device=device) / side**0.5 for _ in range(2))
    return a, b.T.contiguous()


def _values_agree(found: torch.Tensor, expected: torch.Tensor, near: float) -> None:
    assert float((found[:RANK] - expected).abs().max()) <= near * float(expected[0])


@sizes(
    cpu={(1024,): (DENSE, RANDOMISED, STACKED), (4096,): (DENSE, RANDOMISED, STACKED)},
    cuda={(4096,): (DENSE, RANDOMISED, STACKED)},
    small=(192,),
)
def bench_low_rank_svd(measure: Callable[[Contest], None], device: str, size: tuple[int]) -> None:
    (side,) = size
    a, b = _factors(side, device)

    def dense() -> Baseline:
        return Baseline(
            run=lambda: torch.linalg.svd(b @ a, full_matrices=False)[1],
            check=lambda found, expected: _values_agree(found, expected, 1e-5),
        )

    def randomised() -> Baseline:
        return Baseline(
            run=lambda: torch.svd_lowrank(b @ a, q=RANK, niter=2)[1],
            check=lambda found, expected: _values_agree(found, expected, 0.3),
            lacks="approximate",
        )

    def stacked() -> Baseline:
        def run() -> torch.Tensor:
            qa, ra = torch.linalg.qr(a.T)
            qb, rb = torch.linalg.qr(b)
            u, s, v = torch.linalg.svd(rb @ ra.T)
            left, right = qb @ u[:, :RANK], v[:RANK] @ qa.T
            assert left.shape == right.T.shape
            return s

        return Baseline(run, lambda found, expected: _values_agree(found, expected, 1e-5))

    measure(
        Contest(
            op="low_rank_svd",
            shape=f"{CLIENTS} clients, r={RANK}, {side:,}²",
            dtype="float32",
            run=lambda: low_rank_svd(a, b, RANK)[1],
            bytes=4 * (a.numel() + b.numel() + 2 * side * RANK),
            baselines={DENSE: dense, RANDOMISED: randomised, STACKED: stacked},
        )
    )
