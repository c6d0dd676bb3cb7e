"""Floats to residues and back, against chains of torch operations."""

from __future__ import annotations

from collections.abc import Callable

import baselines as user
import pyfed
from contests import Contest, random_floats, random_residues, sizes
from pyfed import SOLINAS31

P = SOLINAS31.modulus
KEY = pyfed.Key(bytes(range(32)))
SCALE, CLIP = 2.0**15, 1.0


@sizes(cpu={(1 << 22,): (user.TORCH,)}, cuda={(1 << 28,): (user.TORCH,)}, small=(1003,))
def bench_quantize(measure: Callable[[Contest], None], device: str, size: tuple[int]) -> None:
    (count,) = size
    values = random_floats(count, device)
    measure(
        Contest(
            op="quantize",
            shape=f"{count:,}",
            dtype="float32",
            run=lambda: pyfed.ops.quantize(values, SCALE, CLIP, SOLINAS31, KEY),
            bytes=8 * count,
            chacha=4 * count,
            baselines={user.TORCH: lambda: user.torch_quantize(values, SCALE, CLIP, P)},
        )
    )


@sizes(cpu={(1 << 22,): (user.TORCH,)}, cuda={(1 << 28,): (user.TORCH,)}, small=(1003,))
def bench_dequantize(measure: Callable[[Contest], None], device: str, size: tuple[int]) -> None:
    (count,) = size
    residues = random_residues(P, count, device=device)
    measure(
        Contest(
            op="dequantize",
            shape=f"{count:,}",
            run=lambda: pyfed.ops.dequantize(residues, SCALE, SOLINAS31),
            bytes=8 * count,
            baselines={user.TORCH: lambda: user.torch_dequantize(residues, SCALE, P)},
        )
    )
