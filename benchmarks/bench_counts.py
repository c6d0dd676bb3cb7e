"""Votes of many clients, counted from packed masks."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mask_baselines as user
import pyfed
from contests import Contest, sizes
from votes import packed_votes


@sizes(
    cpu={(64, 1 << 24): (user.TABLE, user.UNPACKBITS)},
    cuda={(64, 1 << 30): (user.TABLE,)},
    small=(9, 1003),
)
def bench_mask_count(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    clients, length = size
    packed = packed_votes(clients, length, device)
    table = user.count_by_table
    measure(
        Contest(
            op="mask_count",
            shape=f"{clients}×{length:,}",
            dtype="uint8",
            run=lambda: pyfed.ops.mask_count(packed, length),
            expected=lambda: table(packed, length),
            bytes=packed.numel() + length,
            baselines={
                user.TABLE: lambda: user.count_votes(packed, length, table),
                user.UNPACKBITS: lambda: user.count_votes(packed, length, user.count_by_unpackbits),
            },
        )
    )


@sizes(cpu={(8, 1 << 24): ()}, cuda={(8, 1 << 28): ()}, small=(3, 1003))
def bench_mask_add(measure: Callable[[Contest], None], device: str, size: tuple[int, int]) -> None:
    """A batch of clients on top of 56 that were there before."""
    clients, length = size
    packed = packed_votes(clients, length, device)
    planes = torch.stack([*packed_votes(6, length, device)]) if length > 10_000 else packed[:3]
    before = (1 << planes.shape[0]) - 1
    measure(
        Contest(
            op="mask_add",
            shape=f"{clients}×{length:,} to {planes.shape[0]} planes",
            dtype="uint8",
            run=lambda: pyfed.ops.mask_add(planes, packed, length, before + clients),
            bytes=packed.numel() + (2 * planes.shape[0] + 1) * packed.shape[1],
        )
    )
