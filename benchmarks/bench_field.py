"""Products and sums modulo a 31-bit prime, against computer algebra and plain tensor code."""

from __future__ import annotations

from collections.abc import Callable

import torch

import baselines as user
import pyfed
from contests import Contest, random_residues, sizes
from pyfed import SOLINAS31
from verified import is_product
from warpgroups import WARPGROUPS, by_wgmma, here

P = SOLINAS31.modulus
PRODUCTS = (user.FLINT, user.LIMBS, user.WRAPPING)


@sizes(
    cpu={(64, 64, 1024): (*PRODUCTS, user.GALOIS), (256, 256, 4096): PRODUCTS},
    cuda={
        (256, 256, 1 << 20): (user.LIMBS, *here()),
        (4096, 4096, 4096): (user.LIMBS, *here()),
    },
    small=(5, 259, 35),
)
def bench_field_matmul(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int, int]
) -> None:
    m, k, n = size
    a = random_residues(P, m, k, device=device)
    b = random_residues(P, k, n, device=device)

    def run() -> torch.Tensor:
        return pyfed.ops.field_matmul(a, b, SOLINAS31)

    measure(
        Contest(
            op="field_matmul",
            shape=f"{m}×{k}×{n}",
            run=run,
            holds=lambda c: is_product(a, b, c, SOLINAS31),
            bytes=4 * (m * k + k * n + m * n),
            macs=m * k * n,
            baselines={
                user.FLINT: lambda: user.flint_matmul(a, b, P),
                user.GALOIS: lambda: user.galois_matmul(a, b, P),
                user.WRAPPING: lambda: user.wrapping_matmul(a, b),
                user.LIMBS: lambda: user.limb_matmul(a, b, P),
                WARPGROUPS: lambda: by_wgmma(run),
            },
        )
    )


@sizes(
    cpu={(64, 1 << 16): (user.NUMPY,)},
    cuda={(64, 1 << 23): (user.TORCH,)},
    small=(7, 33),
)
def bench_field_sum(measure: Callable[[Contest], None], device: str, size: tuple[int, int]) -> None:
    clients, length = size
    x = random_residues(P, clients, length, device=device)
    measure(
        Contest(
            op="field_sum",
            shape=f"{clients}×{length:,}",
            run=lambda: pyfed.ops.field_sum(x, SOLINAS31),
            bytes=4 * (clients + 1) * length,
            baselines={
                user.NUMPY: lambda: user.numpy_sum(x, P),
                user.TORCH: lambda: user.torch_sum(x, P),
            },
        )
    )


@sizes(
    cpu={(64, 1 << 16): (user.TORCH,)},
    cuda={(64, 1 << 23): (user.TORCH,)},
    small=(7, 33),
)
def bench_weighted_field_sum(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    clients, length = size
    x = random_residues(P, clients, length, device=device)
    weights = torch.arange(1, clients + 1)
    on_device = weights.to(device)  # so that a call moves nothing to the device
    measure(
        Contest(
            op="field_sum, weighted",
            shape=f"{clients}×{length:,}",
            run=lambda: pyfed.ops.field_sum(x, SOLINAS31, weights=on_device),
            bytes=4 * (clients + 1) * length,
            macs=clients * length,
            baselines={user.TORCH: lambda: user.torch_weighted_sum(x, weights, P)},
        )
    )
