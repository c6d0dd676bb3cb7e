"""Where each parameter's gradient stands among all, however DistributedDataParallel buckets it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from pyfed.errors import ArgumentError


class Run(NamedTuple):
    """Elements that follow one another both in a bucket and among all parameters.

    Args:
        at: the first element's place in the bucket.
        start: its place among all parameters.
        size: how many they are.
    """

    at: int
    start: int
    size: int


class Positions:
    """Numbers the elements of parameters, the last parameter first, as gradients become ready.

    Buckets are made anew after the first step, so a bucket's index says nothing about what is in
    it. A parameter's number depends on the model alone, and is the same on every rank.

    Args:
        parameters: of the model, in its order.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        self._first: dict[torch.Tensor, int] = {}
        self.total = 0
        for parameter in reversed(list(parameters)):
            self._first[parameter] = self.total
            self.total += parameter.numel()

    def runs(self, parameters: Sequence[torch.Tensor]) -> list[Run]:
        """The elements of a bucket that holds the gradients of these parameters, in order.

        Raises:
            ArgumentError: a parameter is none of the model's.
        """
        runs: list[Run] = []
        at = 0
        for parameter in parameters:
            if parameter not in self._first:
                raise ArgumentError(
                    "mask_gradients: a bucket holds a parameter that the state does not know; make "
                    "MaskedGradients of the same model"
                )
            start, count = self._first[parameter], parameter.numel()
            if runs and runs[-1].start + runs[-1].size == start:
                runs[-1] = runs[-1]._replace(size=runs[-1].size + count)
            elif count:
                runs.append(Run(at, start, count))
            at += count
        return runs


class Spent:
    """The stretches of a step's masks that have served.

    A position serves once in a step; when one comes again, as after a backward pass that broke
    off, it belongs to a new step.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def overlaps(self, runs: Iterable[Run]) -> bool:
        """Whether an element of these runs has served."""
        return any(
            one.start < old.start + old.size and old.start < one.start + one.size
            for one in runs
            for old in self._runs
        )

    def add(self, runs: Iterable[Run]) -> None:
        """Note that these runs have served."""
        self._runs.extend(runs)

    def clear(self) -> None:
        """A new step begins."""
        self._runs = []
