"""What weighted means are given: lists of tensors for every client, and weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pyfed.checks import expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.dropout import FLOATS

WEIGHTS = (torch.float32, torch.float64, torch.int32, torch.int64)


def flattened(tensors: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """The clients' lists one after the other; raises unless they are lists of as many tensors.

    Whether they are alike is left to the op, which sees it where it takes their addresses: to look
    at thousands of tensors takes as long as to add them.
    """
    if isinstance(tensors, torch.Tensor) or not isinstance(tensors, Sequence) or not tensors:
        kind = "empty" if isinstance(tensors, Sequence) else type(tensors).__name__
        raise DtypeError(f"weighted_mean: tensors is {kind}; it must be a list for each client")
    for client, own in enumerate(tensors):
        if isinstance(own, torch.Tensor) or not isinstance(own, Sequence):
            raise DtypeError(
                f"weighted_mean: tensors[{client}] is {type(own).__name__}; it must be a list of "
                "tensors"
            )
        if len(own) != len(tensors[0]):
            raise ArgumentError(
                f"weighted_mean: client {client} has {len(own)} tensors; client 0 has "
                f"{len(tensors[0])}"
            )
    if not tensors[0]:
        raise ArgumentError(
            "weighted_mean: the clients' lists are empty; there is nothing to average"
        )
    for place, first in enumerate(tensors[0]):
        expect_tensor("weighted_mean", f"tensors[0][{place}]", first, FLOATS)
    flat = [tensor for own in tensors for tensor in own]
    if not all(issubclass(kind, torch.Tensor) for kind in set(map(type, flat))):
        for number, tensor in enumerate(flat):
            client, place = divmod(number, len(tensors[0]))
            name = f"tensors[{client}][{place}]"
            expect_tensor("weighted_mean", name, tensor, tensors[0][place].dtype)
    if torch.is_grad_enabled() and any(t.requires_grad for t in flat):
        raise ArgumentError(
            "weighted_mean: a tensor requires grad, and the op is not differentiable; detach it or "
            "call it under torch.no_grad()"
        )
    return flat


def expect_alike(tensors: list[torch.Tensor], clients: int) -> None:
    """Raise unless tensors are dense, on one device, and shaped and typed as those of client 0."""
    each, device = len(tensors) // clients, tensors[0].device
    for number, tensor in enumerate(tensors):
        client, place = divmod(number, each)
        name, first = f"tensors[{client}][{place}]", tensors[place]
        expect_tensor("weighted_mean", name, tensor, first.dtype)
        if tensor.shape != first.shape:
            raise ArgumentError(
                f"weighted_mean: {name} has shape {tuple(tensor.shape)}; that of client 0 has "
                f"{tuple(first.shape)}"
            )
        if tensor.device != device:
            raise ArgumentError(
                f"weighted_mean: {name} is on {tensor.device}; tensors[0][0] is on {device}"
            )


def normalised(
    weights: Sequence[float] | torch.Tensor | None, clients: int, device: torch.device
) -> torch.Tensor:
    """The weights divided by their sum, float64 (clients,)."""
    if weights is None:
        return torch.full((clients,), 1.0 / clients, dtype=torch.float64, device=device)
    if isinstance(weights, torch.Tensor):
        expect_tensor("weighted_mean", "weights", weights, WEIGHTS, 1)
        if weights.shape[0] != clients:
            raise ArgumentError(
                f"weighted_mean: weights has {weights.shape[0]} elements; there are {clients} "
                "clients"
            )
        given = weights.detach().to(torch.float64)
        # What is wrong becomes NaN, which the op tells of: to look here would wait for the device.
        return torch.where(given >= 0, given, math.nan) / given.sum()
    if not isinstance(weights, Sequence) or isinstance(weights, str | bytes):
        kind = type(weights).__name__
        raise DtypeError(f"weighted_mean: weights is {kind}; it must be a list of numbers")
    numbers = list(weights)
    if len(numbers) != clients:
        raise ArgumentError(
            f"weighted_mean: weights has {len(numbers)} elements; there are {clients} clients"
        )
    for client, weight in enumerate(numbers):
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            kind = type(weight).__name__
            raise DtypeError(f"weighted_mean: weights[{client}] is {kind}; it must be a number")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ArgumentError(
                f"weighted_mean: weights[{client}] is {weight}; it must be finite and 0 or more"
            )
    total = math.fsum(numbers)
    if not 0 < total < math.inf:
        raise ArgumentError(f"weighted_mean: the weights sum to {total}; it must be more than 0")
    return torch.tensor([w / total for w in numbers], dtype=torch.float64, device=device)
