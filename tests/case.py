"""One input of the contract: the arguments of an op's public function, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import pyfed
from pyfed import Key
from pyfed.ops import Indices

KEY = Key(bytes(range(32)))
FROM_NOTHING = ("random_words", "random_residues", "discrete_gaussian")
"""Ops that are given no tensor, and are told where to make their result."""


@dataclass(frozen=True)
class Case:
    """Arguments of one op's public function; of the gradient of one, see :data:`GRADIENTS`."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    large: bool = False  # enough work for two threads, and too much for interpreted Triton

    def on(self, op: str, device: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The public function's arguments on a device: copies, as an op may write to them."""
        kwargs = {name: moved(value, device) for name, value in self.kwargs.items()}
        if op in FROM_NOTHING:
            kwargs["device"] = device
        return tuple(moved(value, device) for value in self.args), kwargs

    def torch_args(self, op: str, device: str) -> tuple[Any, ...]:
        """The torch op's arguments on a device."""
        args, kwargs = self.on(op, device)
        return prepared(op, *args, **kwargs)


def moved(value: Any, device: str) -> Any:
    """A copy on a device of a tensor, or of what holds tensors; anything else as it is."""
    if isinstance(value, Indices):
        return Indices(value.shape, moved(value.indices, device))
    return with_tensors(value, lambda t: t.to(device, copy=True))


def public(op: str) -> Any:
    """The public function of an op."""
    return getattr(pyfed.ops, op)


def _lora_linear_backward(grad: Any, hidden: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """From a gradient, what the forward kept, and the arguments of lora_linear."""
    x, _, a, b, *rest = public("lora_linear").prepare(*args, **kwargs)
    return grad, x, a, b, hidden, *rest


GRADIENTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "lora_linear_backward": _lora_linear_backward
}
"""Ops that users reach through autograd alone; they give the torch op's arguments."""


def prepared(op: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """The torch op's arguments, from those of a case."""
    prepare = GRADIENTS.get(op) or public(op).prepare
    return tuple(prepare(*args, **kwargs))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors that an argument or a result holds, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for item in value for t in tensors_in(item)]
    return []


def with_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same argument, each tensor in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return [with_tensors(item, change) for item in value] if isinstance(value, list) else value
