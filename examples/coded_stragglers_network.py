"""Clients of which some are slow: how long a round takes each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyfed.coded import DelayModel, arrival_probabilities

PACKET = 0.1  # seconds in which a gradient goes up once
ERASURE = 0.1  # the chance that it is lost on the way, and sent again
COMPUTE = 0.5  # seconds that every client needs for all its records at least


@dataclass(frozen=True)
class Network:
    """The clients' delays."""

    models: list[DelayModel]

    def times(self, seed: int, loads: Sequence[float], rounds: int) -> np.ndarray:
        """Seconds of every client in every round, (rounds, clients); the same for a seed."""
        generators = np.random.default_rng([seed, 1]).spawn(len(self.models))
        parts = zip(self.models, loads, generators, strict=True)
        return np.stack([model.sample(load, rounds, own) for model, load, own in parts], axis=1)

    def arrival(self, deadline: float, loads: Sequence[float]) -> dict[int, float]:
        """Client → the probability that it is in time, of those for whom it is positive."""
        found = arrival_probabilities(self.models, deadline, loads)
        return {client: p for client, p in enumerate(found) if p > 0}

    def upload(self, gradients: float) -> float:
        """Expected seconds in which something as long as so many gradients goes up."""
        return gradients * PACKET / (1 - ERASURE)


def network(clients: int, slow: int, per_client: int, seed: int) -> Network:
    """The last ``slow`` clients take 20 to 240 times as long on top of the least, on average."""
    generator = np.random.default_rng([seed, 2])
    quick = generator.uniform(0.05, 0.15, clients - slow)
    lazy = generator.uniform(3.0, 12.0, slow)
    return Network(
        [
            DelayModel(COMPUTE / per_client, float(s) / per_client, 0.0, PACKET, 0.0, ERASURE)
            for s in (*quick, *lazy)
        ]
    )
