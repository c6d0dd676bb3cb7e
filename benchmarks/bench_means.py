"""Means of what clients' masks keep, in one pass over the values."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mask_baselines as user
import pyfed
from contests import Contest, sizes
from votes import packed_votes


@sizes(
    cpu={(16, 1 << 24): (user.EXPRESSION, user.LOOP)},
    cuda={(16, 1 << 28): (user.EXPRESSION, user.LOOP)},
    small=(3, 1003),
)
def bench_masked_mean(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    clients, length = size
    packed = packed_votes(clients, length, device)
    generator = torch.Generator(device).manual_seed(20)
    values = torch.randn(clients, length, device=device, generator=generator)
    measure(
        Contest(
            op="masked_mean",
            shape=f"{clients}×{length:,}",
            dtype="float32",
            run=lambda: pyfed.ops.masked_mean(values, packed),
            bytes=values.nbytes + packed.numel() + 4 * length,
            baselines={
                user.EXPRESSION: lambda: user.mean_expression(
                    values, pyfed.ops.mask_unpack(packed, length)
                ),
                user.LOOP: lambda: user.mean_loop(values, pyfed.ops.mask_unpack(packed, length)),
            },
        )
    )


@sizes(cpu={(16, 1 << 22): ()}, cuda={(16, 1 << 28): ()}, small=(3, 1003))
def bench_masked_mean_of_packed_values(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    clients, length = size
    packed = packed_votes(clients, length, device)
    held = int(pyfed.ops.mask_popcount(packed, length).sum())
    generator = torch.Generator(device).manual_seed(20)
    values = torch.randn(held, device=device, generator=generator)
    measure(
        Contest(
            op="masked_mean, packed values",
            shape=f"{clients}×{length:,}",
            dtype="float32",
            run=lambda: pyfed.ops.masked_mean(values, packed, shape=(length,)),
            bytes=values.nbytes + packed.numel() + 4 * length,
        )
    )
