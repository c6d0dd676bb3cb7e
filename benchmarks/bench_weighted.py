"""Weighted means of adapters, from lists of thousands of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch

import pyfed
import update_baselines as user
from contests import Contest, sizes

RIVALS = (user.DICT_LOOP, user.FOREACH_MEAN)


@sizes(
    cpu={(100, 48): RIVALS, (100, 96): RIVALS},
    cuda={(100, 96): RIVALS, (100, 1536): RIVALS},
    small=(3, 4),
)
def bench_weighted_mean(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    """Adapters of RoBERTa-large: 48 factors A, as FedSA sends them, or as many of B too."""
    clients, tensors = size
    states = user.states(clients, tensors, device)
    samples = torch.arange(1, clients + 1).tolist()
    weights = [n / sum(samples) for n in samples]
    lists = [list(state.values()) for state in states]
    measure(
        Contest(
            op="weighted_mean",
            shape=f"{clients} clients × {tensors} of 8×1024",
            dtype="float32",
            run=lambda: pyfed.ops.weighted_mean(lists, samples),  # type: ignore[return-value]
            bytes=(clients + 1) * sum(tensor.nbytes for tensor in lists[0]),
            baselines={
                user.DICT_LOOP: lambda: user.mean_by_loops(states, weights),
                user.FOREACH_MEAN: lambda: user.mean_by_foreach(states, weights),
            },
        )
    )
