"""One input of the contract: the arguments of an op's public function, on any device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

import pyfed
from pyfed import Key
from pyfed.ops import Indices

KEY = Key(bytes(range(32)))


@dataclass(frozen=True)
class Case:
    """Arguments of one op's public function."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    large: bool = False  # enough work for two threads, and too much for interpreted Triton

    def on(self, op: str, device: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The public function's arguments on a device: copies, as an op may write to them."""
        kwargs = {name: moved(value, device) for name, value in self.kwargs.items()}
        if op.startswith("random_"):
            kwargs["device"] = device
        return tuple(moved(value, device) for value in self.args), kwargs

    def torch_args(self, op: str, device: str) -> tuple[Any, ...]:
        """The torch op's arguments on a device."""
        args, kwargs = self.on(op, device)
        return public(op).prepare(*args, **kwargs)


def moved(value: Any, device: str) -> Any:
    """A copy on a device of a tensor, or of what holds tensors; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, list):
        return [moved(item, device) for item in value]
    if isinstance(value, Indices):
        return Indices(value.shape, moved(value.indices, device))
    return value


def public(op: str) -> Any:
    """The public function of an op."""
    return getattr(pyfed.ops, op)
