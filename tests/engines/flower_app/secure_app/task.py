"""What both sides agree on."""

import torch

import pyfed
from pyfed.secagg import LightSecAgg

CLIENTS, LENGTH = 4, 50_000
"""A masked update is larger than what goes into a ConfigRecord."""

fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=CLIENTS, max_weight=10)
protocol = LightSecAgg(clients=CLIENTS, privacy=1, dropouts=1, length=LENGTH, fixed=fixed)


def update_of(partition: int) -> torch.Tensor:
    """Steps of 2^-15, which rounding leaves as they are."""
    generator = torch.Generator().manual_seed(partition)
    return torch.randint(-(2**14), 2**14, (LENGTH,), generator=generator) / 2.0**15
