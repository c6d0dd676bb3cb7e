"""Adapters of many clients in one pass over their rows, and the gradients of that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import lora_baselines as user
import pyfed
from contests import Contest, sizes

KEY = pyfed.Key(bytes(range(32)))
RIVALS = (user.CLIENT_LOOP, user.BADDBMM)
Size = tuple[int, int, int, int, int]


def adapters(
    size: Size,
    device: str,
    gradients: bool,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Contest:
    bank = user.Bank.sized(size, dtype, dropout, device)

    def forward() -> torch.Tensor:
        key = KEY if dropout else None
        return pyfed.ops.lora_linear(
            bank.x, bank.base_out, bank.a, bank.b, bank.scale, dropout=dropout, key=key
        )

    def run() -> torch.Tensor | list[torch.Tensor]:
        if gradients:
            return bank.gradients(forward())
        with torch.no_grad():
            return forward()

    return Contest(
        op=user.named("lora_linear" + (" and its gradient" if gradients else ""), dtype),
        shape=bank.shape(),
        dtype=str(dtype).removeprefix("torch."),
        run=run,
        bytes=bank.bytes(gradients),
        baselines={
            user.CLIENT_LOOP: lambda: user.adapters(bank, user.CLIENT_LOOP, gradients),
            user.BADDBMM: lambda: user.adapters(bank, user.BADDBMM, gradients),
        },
    )


LAYERS = {
    "cpu": {(8, 128, 384, 384, 8): RIVALS, (8, 128, 384, 1536, 8): RIVALS},
    "cuda": {(32, 512, 1024, 1024, 8): RIVALS, (32, 128, 384, 1536, 8): RIVALS},
    "small": (2, 3, 9, 7, 2),
}


@sizes(**LAYERS)
def bench_lora_linear(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    if contestant == "cuda":
        pytest.skip("on GPUs Triton serves")
    measure(adapters(size, device, gradients=False))


@sizes(**LAYERS)
def bench_lora_linear_gradient(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    if contestant == "cuda":
        pytest.skip("on GPUs Triton serves")
    measure(adapters(size, device, gradients=True))


ONE = {
    "cpu": {(8, 128, 384, 384, 8): RIVALS},
    "cuda": {(32, 512, 1024, 1024, 8): RIVALS},
    "small": (2, 3, 9, 7, 2),
}


@sizes(**ONE)
def bench_lora_linear_with_dropout(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    if contestant == "cuda":
        pytest.skip("on GPUs Triton serves")
    measure(adapters(size, device, gradients=True, dropout=0.5))


@sizes(**ONE)
def bench_lora_linear_in_bfloat16(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    if contestant == "cuda":
        pytest.skip("on GPUs Triton serves")
    measure(adapters(size, device, gradients=True, dtype=torch.bfloat16))
