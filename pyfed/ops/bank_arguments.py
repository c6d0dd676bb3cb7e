"""Arguments of the ops on arenas: rows of clients, their steps, numbers for each of them."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyfed.checks import NOT_FINITE, expect_tensor, report
from pyfed.errors import ArgumentError, DtypeError

ARENAS = (torch.float32, torch.float64)


def written(arena: torch.Tensor) -> torch.Tensor:
    """The arena, or a copy where it has gaps; that is then written back."""
    return arena.contiguous()


def write_back(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Put what was computed in copies into the arenas they are copies of."""
    for arena, dense in pairs:
        if dense is not arena:
            arena.copy_(dense)


def expect_arena(op: str, name: str, arena: object) -> None:
    """Raise unless ``arena`` can be written: (clients, length), one number at one place."""
    expect_tensor(op, name, arena, ARENAS, 2)
    assert isinstance(arena, torch.Tensor)
    if arena.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            f"{op}: {name} requires grad; call it under torch.no_grad(), or on its .data"
        )
    if any(n > 1 and step == 0 for n, step in zip(arena.shape, arena.stride(), strict=True)):
        raise ArgumentError(
            f"{op}: {name} shows one number in memory at many places; give a copy of it"
        )


def expect_like(op: str, name: str, arena: object, params: torch.Tensor) -> None:
    """Raise unless ``arena`` has the shape and dtype of the parameters."""
    expect_arena(op, name, arena)
    assert isinstance(arena, torch.Tensor)
    if arena.shape != params.shape or arena.dtype != params.dtype:
        raise ArgumentError(
            f"{op}: {name} has shape {tuple(arena.shape)} and dtype {arena.dtype}; it must have "
            f"{tuple(params.shape)} and {params.dtype}"
        )


def expect_number(op: str, name: str, value: object, high: float, closed: bool = False) -> None:
    """Raise unless ``value`` is a number in [0, high), or [0, high] when closed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a number")
    if not (0 <= value < high or (closed and value == high)):
        raise ArgumentError(
            f"{op}: {name} is {value}; it must be in [0, {high}{']' if closed else ')'}"
        )


def steps_of(op: str, steps: object, params: torch.Tensor) -> torch.Tensor:
    """The steps of the clients; raises unless they are int64 (clients,)."""
    expect_tensor(op, "steps", steps, torch.int64, 1)
    assert isinstance(steps, torch.Tensor)
    if steps.shape[0] != len(params):
        raise ArgumentError(
            f"{op}: steps has {steps.shape[0]} elements; there are {len(params)} clients"
        )
    return steps


def per_client(op: str, name: str, value: object, params: torch.Tensor) -> torch.Tensor:
    """A number for each client, (clients,) of the dtype of ``params`` or wider."""
    if isinstance(value, torch.Tensor) and value.dim():
        expect_tensor(op, name, value, ARENAS, 1)
        if value.shape[0] != len(params):
            raise ArgumentError(
                f"{op}: {name} has {value.shape[0]} elements; there are {len(params)} clients"
            )
        # What is wrong becomes NaN, which the op tells of: to look here would wait for the device.
        return torch.where(value >= 0, value, math.nan).detach()
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(value).__name__
        raise DtypeError(f"{op}: {name} is {kind}; it must be a number or a tensor (clients,)")
    if not value >= 0:
        raise ArgumentError(f"{op}: {name} is {value}; it must be 0 or more")
    return torch.full((len(params),), float(value), dtype=torch.float64, device=params.device)


def check_factors(op: str, factors: torch.Tensor) -> None:
    """Report factors that are not finite, as a NaN among learning rates makes them."""
    report(op, ~torch.isfinite(factors), NOT_FINITE)


def describe_factors(op: str) -> Any:
    """What an optimiser says of learning rates that are not numbers."""

    def describe(names: list[str], args: tuple[Any, ...]) -> str | None:
        rows = torch.nonzero(~torch.isfinite(args[names.index("factors")]).all(1)).flatten()
        return (
            f"{op}: lr or weight_decay of clients {rows.tolist()} is negative, NaN, infinite or "
            "too large; they must be finite and 0 or more"
        )

    return describe
