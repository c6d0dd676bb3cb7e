"""What a user would write without pyfed to average, clip and step many clients' adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from contests import Baseline

DICT_LOOP = "torch loop over keys and clients"
FOREACH_MEAN = "torch._foreach_add_"
CLIP = "clip_grad_norm_, client by client"
ADAMW_FOREACH = "AdamW(foreach), client by client"
ADAMW_FUSED = "AdamW(fused), client by client"
SGD_FOREACH = "SGD(foreach), client by client"
SGD_FUSED = "SGD(fused), client by client"

State = dict[str, torch.Tensor]
TENSOR = (8, 1024)
"""Shape of a factor A in RoBERTa-large: rank 8, 1024 features; B has as many elements."""


def states(clients: int, tensors: int, device: str) -> list[State]:
    """State dicts of adapters, from a fixed seed."""
    generator = torch.Generator(device).manual_seed(20)
    return [
        {
            f"layer.{i}.lora_A.weight": torch.randn(TENSOR, device=device, generator=generator)
            for i in range(tensors)
        }
        for _ in range(clients)
    ]


def _means_are_close(output: Any, expected: list[torch.Tensor]) -> None:
    for mean, right in zip(output, expected, strict=True):
        torch.testing.assert_close(mean, right, rtol=1e-5, atol=1e-6)


def mean_by_loops(clients: list[State], weights: list[float]) -> Baseline:
    """Key by key and client by client, as runtimes of federated learning do it."""

    def run() -> list[torch.Tensor]:
        mean = {}
        for key in clients[0]:
            for number, (state, weight) in enumerate(zip(clients, weights, strict=True)):
                if number == 0:
                    mean[key] = state[key] * weight
                else:
                    mean[key] += state[key] * weight
        return list(mean.values())

    return Baseline(run, _means_are_close)


def mean_by_foreach(clients: list[State], weights: list[float]) -> Baseline:
    """One call for each client's list; the lists are ready."""
    lists = [list(state.values()) for state in clients]

    def run() -> Any:
        total = torch._foreach_mul(lists[0], weights[0])
        for own, weight in zip(lists[1:], weights[1:], strict=True):
            torch._foreach_add_(total, own, alpha=weight)
        return total

    return Baseline(run, _means_are_close)


def parameters(rows: torch.Tensor, grads: torch.Tensor) -> list[list[torch.nn.Parameter]]:
    """Each client's own parameters, with gradients, from rows of whole tensors."""
    shape = (-1, *TENSOR)
    found = []
    for row, grad in zip(rows, grads, strict=True):
        own = [torch.nn.Parameter(t.clone()) for t in row.view(shape)]
        for parameter, piece in zip(own, grad.view(shape), strict=True):
            parameter.grad = piece.clone()
        found.append(own)
    return found


def _rows(clients: list[list[torch.nn.Parameter]]) -> torch.Tensor:
    return torch.stack([torch.cat([p.detach().flatten() for p in own]) for own in clients])


def clip_each(grads: torch.Tensor, limits: Callable[[], float]) -> Baseline:
    clients = parameters(grads, grads)

    def run() -> list[list[torch.nn.Parameter]]:
        limit = limits()
        for own in clients:
            torch.nn.utils.clip_grad_norm_(own, limit)
        return clients

    def check(output: list[list[torch.nn.Parameter]], expected: torch.Tensor) -> None:
        found = [[torch.nn.Parameter(p.grad) for p in own] for own in output]
        torch.testing.assert_close(_rows(found), expected, rtol=1e-5, atol=1e-7)

    return Baseline(run, check)


def step_each(
    params: torch.Tensor, grads: torch.Tensor, optimizer: Callable[..., Any], **how: Any
) -> Baseline:
    """An optimiser of torch.optim for each client."""
    clients = parameters(params, grads)
    optimizers = [optimizer(own, **how) for own in clients]

    def run() -> list[list[torch.nn.Parameter]]:
        for own in optimizers:
            own.step()
        return clients

    def check(output: list[list[torch.nn.Parameter]], expected: torch.Tensor) -> None:
        torch.testing.assert_close(_rows(output), expected, rtol=1e-5, atol=1e-6)

    return Baseline(run, check)
