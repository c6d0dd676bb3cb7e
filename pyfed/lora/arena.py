"""One row of memory for each client: all that it trains, one parameter behind another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

ALIGNMENT = 16
"""Parameters begin at multiples of so many elements: a cache line of float32."""

GROUPS = ("a", "b", "head")
"""What can be frozen alone: A (of VeRA: λ_d), B (λ_b), and trained copies of whole modules."""


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies in every client's row.

    Args:
        key: its name in a saved adapter.
        group: one of GROUPS.
        shape: of one client's parameter.
        start: of its first element.
    """

    key: str
    group: str
    shape: tuple[int, ...]
    start: int

    @property
    def end(self) -> int:
        """Behind its last element."""
        return self.start + math.prod(self.shape)


class Arena:
    """The parameters of all clients and their gradients, each one tensor (clients, length).

    Args:
        clients: how many rows.
        parameters: (key, group, shape) of every parameter. Those of a group lie side by side.
        dtype: float32 or float64.
        device: of both tensors.

    Attributes:
        data: (clients, length).
        grad: likewise.
        slots: key → Slot.
        trainable: the groups that get gradients and steps.
    """

    def __init__(
        self,
        clients: int,
        parameters: Iterable[tuple[str, str, Sequence[int]]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.slots: dict[str, Slot] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        at = 0
        found = list(parameters)
        for group in GROUPS:
            first = at
            for key, kind, shape in found:
                if kind == group:
                    slot = Slot(key, group, tuple(shape), at)
                    self.slots[key] = slot
                    at = -(-slot.end // ALIGNMENT) * ALIGNMENT
            if at > first:
                self.spans[group] = (first, at)
        self.trainable = frozenset(self.spans)
        self.data = torch.zeros(clients, at, dtype=dtype, device=device)
        self.grad = torch.zeros(clients, at, dtype=dtype, device=device)
        self._views: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
        self._anchor = torch.zeros((), requires_grad=True)  # makes autograd visit _Parameters

    @property
    def clients(self) -> int:
        """How many rows there are."""
        return len(self.data)

    def train(self, groups: Iterable[str]) -> None:
        """Give gradients and steps to these groups alone."""
        self.trainable = frozenset(groups)

    def view(
        self, memory: torch.Tensor, key: str, first: int = 0, last: int | None = None
    ) -> torch.Tensor:
        """One parameter of clients ``first`` to ``last`` - 1 in ``memory``: (clients, *shape).

        Args:
            memory: (clients, length), such as ``data``, ``grad`` or an optimiser's moments.
            key: of the parameter.
            first: the first client.
            last: behind the last client; None: all from ``first`` on.
        """
        slot = self.slots[key]
        rows = memory[first:last]
        return rows[:, slot.start : slot.end].view(len(rows), *slot.shape)

    def parameters(self, first: int, last: int) -> dict[str, torch.Tensor]:
        """Key → parameter of some clients (clients, *shape), for one pass.

        A backward pass through those that train adds to ``grad``.

        Args:
            first: the first client.
            last: behind the last client.
        """
        if (first, last) not in self._views:
            self._views[first, last] = {
                key: self.view(self.data, key, first, last) for key in self.slots
            }
        views = self._views[first, last]
        if not torch.is_grad_enabled():
            return views
        keys = [key for key, slot in self.slots.items() if slot.group in self.trainable]
        leaves = _Parameters.apply(self._anchor, self, keys, first, last)  # type: ignore[no-untyped-call]
        return views | dict(zip(keys, leaves, strict=True))


class _Parameters(torch.autograd.Function):
    """Parameters of some clients, whose gradients are written at once to where they belong.

    Autograd's own way would want gradients that are laid out as a parameter of its own is.
    """

    @staticmethod
    def forward(
        ctx: Any, anchor: torch.Tensor, arena: Arena, keys: list[str], first: int, last: int
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.arena, ctx.keys, ctx.span = arena, keys, (first, last)
        return tuple(arena._views[first, last][key].detach() for key in keys)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[None, ...]:
        arena: Arena = ctx.arena
        for key, grad in zip(ctx.keys, grads, strict=True):
            if grad is not None:
                arena.view(arena.grad, key, *ctx.span).add_(grad)
        return (None,) * 5
