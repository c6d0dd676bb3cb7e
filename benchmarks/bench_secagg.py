"""A whole round of LightSecAgg in one process: every client, the server, and encoded messages."""

from __future__ import annotations

from collections.abc import Callable

import torch

import pyfed
from contests import Contest, sizes
from pyfed.secagg import LightSecAgg, simulate

Size = tuple[int, int, int, int]


@sizes(
    cpu={(20, 5, 4, 100_000): ()},
    cuda={(20, 5, 4, 1_000_000): ()},
    small=(4, 1, 1, 53),
)
def bench_lightsecagg_round(measure: Callable[[Contest], None], device: str, size: Size) -> None:
    clients, privacy, dropouts, length = size
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=clients)
    protocol = LightSecAgg(clients, privacy, dropouts, length, fixed)
    # Updates of whole steps: rounding then changes nothing, so the sum is known beforehand.
    generator = torch.Generator(device).manual_seed(20)
    most = int(fixed.scale)
    steps = torch.randint(-most, most, (clients, length), device=device, generator=generator)
    updates = steps.float() / fixed.scale
    blocks = clients - dropouts - privacy
    columns = -(-(length + 1) // blocks)  # the weight is the last coordinate
    late = range(clients - dropouts, clients)
    measure(
        Contest(
            op="LightSecAgg round",
            shape=f"{clients} clients, {length:,} values, T={privacy} D={dropouts}",
            dtype="float32",
            run=lambda: simulate(protocol, updates, drop={"recover": late}).integers,
            expected=lambda: steps.sum(0),
            # Every client rounds, masks and shares its mask; the server decodes once.
            bytes=4 * clients * (2 * length + clients * columns),
            macs=(clients**2 + blocks) * (blocks + privacy) * columns,
            chacha=4 * clients * (2 * length + privacy * columns),
        )
    )
