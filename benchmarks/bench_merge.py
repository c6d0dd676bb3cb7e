"""Adapters of many clients merged into a weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import lora_baselines as user
import pyfed
from contests import Contest, sizes

RIVALS = (user.MERGE_LOOP, user.ADDMM)


def merge(clients: int, rank: int, width: int, dtype: torch.dtype, device: str) -> Contest:
    """Factors come as one tensor for each client; stacking them is timed in every way."""
    base = user.integers(width, width, device=device, seed=1).to(dtype)
    a = [user.integers(rank, width, device=device, seed=2 + i).to(dtype) for i in range(clients)]
    b = [user.integers(width, rank, device=device, seed=99 + i).to(dtype) for i in range(clients)]
    scale = [2.0 ** -(i % 3) for i in range(clients)]
    each = torch.tensor(scale, device=device).repeat_interleave(rank)

    def run(weight: torch.Tensor) -> torch.Tensor:
        return pyfed.ops.lora_merge_(weight, torch.cat(a), torch.cat(b, 1), each)

    def expected() -> torch.Tensor:
        with pyfed.use_backend("reference"):
            return run(base.clone())

    weight = base.clone()
    factors = clients * rank * 2 * width * base.element_size()
    return Contest(
        op=user.named("lora_merge_", dtype),
        shape=f"{clients} clients, rank {rank}, {width}×{width}",
        dtype=str(dtype).removeprefix("torch."),
        run=lambda: run(weight),
        bytes=2 * base.nbytes + factors,
        baselines={
            user.MERGE_LOOP: lambda: user.merge_loop(base.clone(), a, b, scale),
            user.ADDMM: lambda: user.merge_addmm(base.clone(), a, b, scale),
        },
        expected=expected,
    )


@sizes(
    cpu={(10, 16, 4096): RIVALS, (10, 16, 1024): RIVALS},
    cuda={(10, 16, 4096): RIVALS, (100, 4, 4096): RIVALS},
    small=(3, 2, 33),
)
def bench_lora_merge_(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int, int], contestant: str
) -> None:
    if contestant == "cuda":
        pytest.skip("on GPUs Triton merges")
    measure(merge(*size, torch.float32, device))


@sizes(cpu={(10, 16, 2048): RIVALS}, cuda={(10, 16, 4096): RIVALS}, small=(3, 2, 33))
def bench_lora_merge_into_bfloat16(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int, int], contestant: str
) -> None:
    if contestant == "cuda":
        pytest.skip("on GPUs Triton merges")
    measure(merge(*size, torch.bfloat16, device))
