"""Packing, unpacking and counting bits of masks, against numpy, which does each in one call."""

from __future__ import annotations

from collections.abc import Callable

import mask_baselines as user
import pyfed
from contests import Contest, sizes
from votes import packed_votes


@sizes(cpu={(1 << 24,): (user.PACKBITS,)}, cuda={(1 << 30,): ()}, small=(1003,))
def bench_mask_pack(measure: Callable[[Contest], None], device: str, size: tuple[int]) -> None:
    (length,) = size
    mask = pyfed.ops.mask_unpack(packed_votes(1, length, device)[0], length)
    measure(
        Contest(
            op="mask_pack",
            shape=f"{length:,}",
            dtype="bool",
            run=lambda: pyfed.ops.mask_pack(mask),
            bytes=length + length // 8,
            baselines={user.PACKBITS: lambda: user.packbits(mask)},
        )
    )


@sizes(cpu={(1 << 24,): (user.UNPACK,)}, cuda={(1 << 30,): ()}, small=(1003,))
def bench_mask_unpack(measure: Callable[[Contest], None], device: str, size: tuple[int]) -> None:
    (length,) = size
    packed = packed_votes(1, length, device)[0]
    measure(
        Contest(
            op="mask_unpack",
            shape=f"{length:,}",
            dtype="bool",
            run=lambda: pyfed.ops.mask_unpack(packed, length),
            bytes=length + length // 8,
            baselines={user.UNPACK: lambda: user.unpackbits(packed, length)},
        )
    )


@sizes(cpu={(8, 1 << 24): (user.BITWISE,)}, cuda={(8, 1 << 28): ()}, small=(3, 1003))
def bench_mask_popcount(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    clients, length = size
    packed = packed_votes(clients, length, device)
    measure(
        Contest(
            op="mask_popcount",
            shape=f"{clients}×{length:,}",
            dtype="uint8",
            run=lambda: pyfed.ops.mask_popcount(packed, length),
            bytes=packed.numel(),
            baselines={user.BITWISE: lambda: user.bitwise_count(packed)},
        )
    )
