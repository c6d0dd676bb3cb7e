"""Sessions, updates and losses that the engines' tests share."""

from __future__ import annotations

import torch

from pyfed import SOLINAS31, Field, FixedPoint, LagrangeCode
from pyfed.secagg import LightSecAgg

SECRET = bytes(range(32))
LENGTH = 40
DROPS: list[dict[str, set[int]]] = [
    {},
    {"keys": {0}},
    {"share": {1}},
    {"upload": {2}},
    {"recover": {3}},
]


def protocol(
    clients: int, field: Field = SOLINAS31, dropouts: int = 1, errors: int = 0
) -> LightSecAgg:
    """A session with one rank lost and one curious."""
    fixed = FixedPoint(clip=1.0, bits=16, clients=clients, max_weight=9, field=field)
    return LightSecAgg(
        clients=clients,
        privacy=1,
        dropouts=dropouts,
        length=LENGTH,
        fixed=fixed,
        errors=errors,
    )


def some_updates(agreed: LightSecAgg) -> list[torch.Tensor]:
    """Vectors of which some elements are clipped."""
    generator = torch.Generator().manual_seed(1)
    p = agreed.parameters
    return [torch.randn(p.length, generator=generator) for _ in range(p.clients)]


def weights(clients: int) -> list[int]:
    """From 1 up, and 0 for one client."""
    return [(3 * index) % 10 for index in range(1, clients + 1)]


def vector(field: Field, length: int, seed: int) -> torch.Tensor:
    """Residues, among them the largest."""
    generator = torch.Generator().manual_seed(seed)
    planes = []
    for plane in field.planes:
        p = plane.modulus
        x = torch.randint(0, p, (length,), generator=generator, dtype=torch.int64)
        x[::3] = p - 1
        planes.append(x.to(torch.int32))
    return torch.stack(planes) if field.lead else planes[0]


def pairs_of_drops(clients: int) -> list[dict[str, set[int]]]:
    """Two clients lost, in every two phases, each pair of neighbours once."""
    phases, drops = ("keys", "share", "upload", "recover"), []
    for first in phases:
        for second in phases:
            one = len(drops) % clients
            drop: dict[str, set[int]] = {first: {one}}
            drop.setdefault(second, set()).add((one + 1 + len(drops) // 6) % clients)
            drops.append(drop)
    return drops


def code() -> LagrangeCode:
    """Five shares of two blocks."""
    return LagrangeCode(shares=5, blocks=2, privacy=1)
