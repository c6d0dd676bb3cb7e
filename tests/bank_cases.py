"""Cases of the ops on arenas: clients that are skipped, begin or go on, each in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from case import Case

SHAPES = ((3, 7), (1, 1), (0, 5), (3, 0), (4, 33), (2, 65), (5, 130), (1, 1003), (7, 3), (2, 4097))
SPECIAL = (0.0, -0.0, 1.4e-45, -1.4e-45, 1.1e-38, -1.1e-38, 1e-20, 3e18, -3e18)


def arena(clients: int, length: int) -> torch.Tensor:
    """Normal numbers, with zeros, subnormal and large ones among them."""
    values = torch.randn(clients, length)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), values.shape)]
    return torch.where(torch.rand(values.shape) < 0.1, special, values)


def steps(clients: int) -> torch.Tensor:
    """The first client goes on, the second is skipped, the third begins, and so on."""
    return torch.tensor([3, 0, 1, 1000, 2, 0, 10**6])[torch.arange(clients) % 7]


def _segment_clip() -> Iterator[Case]:
    for number, (clients, length) in enumerate(SHAPES):
        grads = torch.randn(clients, length)
        norms = grads.norm(dim=1)
        limits: Any = (1.5, norms * torch.linspace(0.5, 1.5, clients), float("inf"), 1e-3)[
            number % 4
        ]
        yield Case(f"({clients}, {length}), {type(limits)}", (grads, limits))
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.4e-45, 0.0], [2e38, -2e38], [-0.0, 7.0]])
    for limit in (5.0, 5.000001, 1e-30, 7.0):
        yield Case(f"zeros, subnormal and large rows to {limit}", (rows.clone(), limit))
    for length in (4095, 4096, 4097, 8193, 50_001):
        grads = torch.randn(4, length) * torch.tensor([[1e-3], [1.0], [1e3], [0.0]])
        yield Case(f"large (4, {length})", (grads, 10.0), large=True)


def _adamw() -> Iterator[Case]:
    for number, (clients, length) in enumerate(SHAPES):
        arenas = arena(clients, length), arena(clients, length), arena(clients, length)
        squares = arena(clients, length).square()
        rates: Any = (0.1, torch.linspace(0.001, 0.5, clients), 0, 1e-3)[number % 4]
        how: dict[str, Any] = (
            {},
            {"betas": (0.8, 0.99), "weight_decay": 0.0},
            {"eps": 1e-3, "weight_decay": torch.linspace(0, 0.3, clients, dtype=torch.float64)},
            {"betas": (0.0, 0.0), "eps": 1e-6},
        )[number % 4]
        name = f"({clients}, {length}), {how}"
        yield Case(name, (*arenas, squares, steps(clients), rates), how)
    big = 5, 20_011
    args = arena(*big), arena(*big), arena(*big), arena(*big).square(), steps(5), 0.01
    yield Case("large", args, large=True)


def _sgd() -> Iterator[Case]:
    for number, (clients, length) in enumerate(SHAPES * 2):
        params, grads, buffer = arena(clients, length), arena(clients, length), None
        rates: Any = (0.1, torch.linspace(0.001, 0.5, clients), 3)[number % 3]
        how: dict[str, Any] = (
            {"momentum": 0.9},
            {},
            {"momentum": 0.9, "dampening": 0.25, "weight_decay": 0.1},
            {"momentum": 0.5, "nesterov": True, "weight_decay": torch.linspace(0, 1, clients)},
            {"weight_decay": 0.01},
            {"momentum": 1, "dampening": 1},
        )[number % 6]
        if how.get("momentum"):
            buffer = arena(clients, length)
        name = f"({clients}, {length}), {how}"
        yield Case(name, (params, grads, buffer, steps(clients), rates), how)
    big = 5, 20_011
    args = arena(*big), arena(*big), arena(*big), steps(5), 0.01, 0.9
    yield Case("large", args, {"nesterov": True, "weight_decay": 0.1}, large=True)
    yield Case("large, plain", (*args[:2], None, *args[3:5]), large=True)


BANK_MAKERS: dict[str, Callable[[], Iterator[Case]]] = {
    "segment_clip_": _segment_clip,
    "bank_adamw_": _adamw,
    "bank_sgd_": _sgd,
}
