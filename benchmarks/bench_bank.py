"""Clipping and optimiser steps of many clients at once, a row for each client."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch

import pyfed
import update_baselines as user
from contests import Contest, sizes

LR = 1e-3


def arenas(size: tuple[int, int], device: str, count: int) -> list[torch.Tensor]:
    """Rows of so many clients, with so many tensors each."""
    generator = torch.Generator(device).manual_seed(20)
    length = size[1] * user.TENSOR[0] * user.TENSOR[1]
    return [torch.randn(size[0], length, device=device, generator=generator) for _ in range(count)]


def shape_of(size: tuple[int, int]) -> str:
    return f"{size[0]} clients × {size[1]} of 8×1024"


def shrinking() -> Callable[[], float]:
    """A limit that the gradients, clipped to the last, are above again."""
    return functools.partial(next, (0.9999**i for i in itertools.count()))


@sizes(cpu={(8, 96): (user.CLIP,)}, cuda={(32, 96): (user.CLIP,)}, small=(2, 3))
def bench_segment_clip_(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    (start,) = arenas(size, device, 1)
    grads, limits = start.clone(), shrinking()

    def clip(grads: torch.Tensor, limit: float) -> torch.Tensor:
        pyfed.ops.segment_clip_(grads, limit)
        return grads

    def expected() -> torch.Tensor:
        with pyfed.use_backend("reference"):
            return clip(start.clone(), 1.0)

    measure(
        Contest(
            op="segment_clip_",
            shape=shape_of(size),
            dtype="float32",
            run=lambda: clip(grads, limits()),
            bytes=3 * grads.nbytes,
            baselines={user.CLIP: lambda: user.clip_each(start, shrinking())},
            expected=expected,
        )
    )


ADAMW = (user.ADAMW_FOREACH, user.ADAMW_FUSED)


@sizes(cpu={(8, 96): ADAMW}, cuda={(32, 96): ADAMW}, small=(2, 3))
def bench_bank_adamw_(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    start, grads = arenas(size, device, 2)
    state = [start.clone(), grads, torch.zeros_like(start), torch.zeros_like(start)]
    steps = torch.zeros(size[0], dtype=torch.int64, device=device)

    def step(state: list[torch.Tensor], steps: torch.Tensor) -> torch.Tensor:
        return pyfed.ops.bank_adamw_(*state, steps.add_(1), LR)

    def expected() -> torch.Tensor:
        with pyfed.use_backend("reference"):
            return step([t.clone() for t in state], steps.clone())

    measure(
        Contest(
            op="bank_adamw_",
            shape=shape_of(size),
            dtype="float32",
            run=lambda: step(state, steps),
            bytes=7 * start.nbytes,
            baselines={
                user.ADAMW_FOREACH: lambda: user.step_each(
                    start, grads, torch.optim.AdamW, lr=LR, foreach=True
                ),
                user.ADAMW_FUSED: lambda: user.step_each(
                    start, grads, torch.optim.AdamW, lr=LR, fused=True
                ),
            },
            expected=expected,
        )
    )


SGD = (user.SGD_FOREACH, user.SGD_FUSED)


@sizes(cpu={(8, 96): SGD}, cuda={(32, 96): SGD}, small=(2, 3))
def bench_bank_sgd_(measure: Callable[[Contest], None], device: str, size: tuple[int, int]) -> None:
    start, grads = arenas(size, device, 2)
    state = [start.clone(), grads, torch.zeros_like(start)]
    steps = torch.zeros(size[0], dtype=torch.int64, device=device)

    def step(state: list[torch.Tensor], steps: torch.Tensor) -> torch.Tensor:
        return pyfed.ops.bank_sgd_(*state, steps.add_(1), LR, 0.9)

    def expected() -> torch.Tensor:
        with pyfed.use_backend("reference"):
            return step([t.clone() for t in state], steps.clone())

    measure(
        Contest(
            op="bank_sgd_",
            shape=shape_of(size),
            dtype="float32",
            run=lambda: step(state, steps),
            bytes=5 * start.nbytes,
            baselines={
                user.SGD_FOREACH: lambda: user.step_each(
                    start, grads, torch.optim.SGD, lr=LR, momentum=0.9, foreach=True
                ),
                user.SGD_FUSED: lambda: user.step_each(
                    start, grads, torch.optim.SGD, lr=LR, momentum=0.9, fused=True
                ),
            },
            expected=expected,
        )
    )
