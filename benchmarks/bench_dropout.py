"""Dropout whose mask depends on a key and a place, against torch's generator."""

from __future__ import annotations

from collections.abc import Callable

import torch

import lora_baselines as user
import pyfed
from contests import Contest, random_floats, sizes

KEY = pyfed.Key(bytes(range(32)))
CLIENTS, RATE = 8, 0.1


def dropout(rows: int, features: int, dtype: torch.dtype, device: str) -> Contest:
    x = random_floats(rows * features, device).view(rows, features).to(dtype)
    return Contest(
        op=user.named("counter_dropout", dtype),
        shape=f"{rows}×{features}, {CLIENTS} clients",
        dtype=str(dtype).removeprefix("torch."),
        run=lambda: pyfed.ops.counter_dropout(x, RATE, KEY, clients=CLIENTS),
        bytes=2 * x.nbytes,
        baselines={user.DROPOUT: lambda: user.dropout(x, RATE)},
    )


PLAN = {
    "cpu": {(1024, 384): (user.DROPOUT,)},
    "cuda": {(1 << 16, 4096): (user.DROPOUT,)},
    "small": (16, 33),
}


@sizes(**PLAN)
def bench_counter_dropout(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    measure(dropout(*size, torch.float32, device))


@sizes(**PLAN)
def bench_counter_dropout_in_bfloat16(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    measure(dropout(*size, torch.bfloat16, device))
