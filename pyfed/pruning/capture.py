"""What a model hands to its blocks, caught on the way, so that blocks can be run on their own."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pyfed.errors import ArgumentError

_OP = "calibration"
_CACHES = ("past_key_values", "past_key_value", "layer_past")


class Call:
    """The hidden states of one batch before a block, and the other arguments of the blocks.

    Attributes:
        hidden: (samples, length, width).
    """

    def __init__(self, hidden: torch.Tensor, others: list[Others], real: torch.Tensor | None):
        self.hidden = hidden
        self._others = others  # one for all blocks, or one for each
        self._real = None if real is None or bool(real.all()) else real.bool()

    def run(self, module: nn.Module, block: int) -> Any:
        """What the block gives for the hidden states."""
        args, kwargs, by_name = self._others[block if len(self._others) > 1 else 0]
        hidden = self.hidden.clone()  # a block may write what it is given
        if by_name is None:
            return module(hidden, *args, **kwargs)
        return module(*args, **{by_name: hidden}, **kwargs)

    def real_rows(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Rows of what comes into a layer that belong to real tokens: (tokens, in)."""
        if self._real is None:
            return x.reshape(-1, x.shape[-1])
        tokens = self._real.numel()
        shaped = x.dim() > 2 and x.shape[:2] == self._real.shape and x[..., 0].numel() == tokens
        if not shaped and not (x.dim() == 2 and x.shape[0] == tokens):
            raise ArgumentError(
                f"{_OP}: layer {name} gets shape {tuple(x.shape)}, whose rows are not the tokens "
                f"{tuple(self._real.shape)}; give samples without padding, one length at a time"
            )
        return x.reshape(tokens, x.shape[-1])[self._real.to(x.device).reshape(-1)]


Others = tuple[tuple[Any, ...], dict[str, Any], str | None]
"""Arguments beside the hidden states, and the name of those when they are passed by name."""


class _Stopped(Exception):
    """Ends a forward pass once all that is wanted was seen."""


def capture(
    model: nn.Module, blocks: Sequence[nn.Module], batches: Sequence[Mapping[str, torch.Tensor]]
) -> list[Call]:
    """What the first block is given for every batch.

    One sample is run through all blocks first, to see that they form a chain, and whether they
    share their other arguments; then the batches go to the first block only. Where blocks have
    masks of their own (sliding windows in turn with full attention) all of them are run.
    """
    one = {name: value[:1] for name, value in batches[0].items()}
    shared = _expect_chain(_seen(model, blocks, one, len(blocks)))
    calls = []
    for batch in batches:
        seen = _seen(model, blocks, batch, 1 if shared else len(blocks))
        others = [others for _, others, _ in seen]
        calls.append(Call(seen[0][0], others, batch.get("attention_mask")))
    return calls


def first_tensor(module: nn.Module, output: Any) -> torch.Tensor:
    """The hidden states in what a block gives: the tensor, or the first of a tuple."""
    hidden = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(hidden, torch.Tensor):
        raise ArgumentError(
            f"{_OP}: a block ({type(module).__name__}) gives {type(output).__name__}; it must give "
            "its hidden states, alone or as the first of a tuple"
        )
    return hidden


_Seen = tuple[torch.Tensor, Others, torch.Tensor | None]
"""Hidden states that a block was given, its other arguments, and the hidden states it gave."""


def _seen(
    model: nn.Module, blocks: Sequence[nn.Module], batch: Mapping[str, torch.Tensor], until: int
) -> list[_Seen]:
    """Run a batch into the block number ``until`` - 1, and tell what the blocks got."""
    numbers = {block: number for number, block in enumerate(blocks)}
    seen: list[_Seen] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if numbers[module] != len(seen):
            raise ArgumentError(
                f"{_OP}: block {numbers[module]} is called as number {len(seen)}; blocks must be "
                "called once each, in order"
            )
        hidden, others = _split(module, args, kwargs)
        first = hidden.clone() if not seen and until > 1 else hidden
        seen.append((first, others, None))
        if len(seen) == until:
            raise _Stopped

    def after(module: nn.Module, args: Any, output: Any) -> None:
        given, others, _ = seen[-1]
        seen[-1] = given, others, first_tensor(module, output)

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks += [block.register_forward_hook(after) for block in blocks]
    try:
        _forward(model, batch)
    except _Stopped:
        return seen
    finally:
        for hook in hooks:
            hook.remove()
    raise ArgumentError(
        f"{_OP}: the forward pass called {len(seen)} of {len(blocks)} blocks; it must call each "
        "through its module"
    )


def _forward(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> None:
    known = inspect.signature(model.forward).parameters
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items()}
    if "use_cache" in known:
        inputs["use_cache"] = False  # type: ignore[assignment] # a cache would outlive its run
    if "input_ids" in known or len(batch) > 1:
        model(**inputs)
    else:
        model(inputs.pop("input_ids"), **inputs)


def _split(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.Tensor, Others]:
    """The hidden states among the arguments of a block, and the rest."""
    for name in _CACHES:
        if kwargs.get(name) is not None:
            raise ArgumentError(
                f"{_OP}: a block is given {name}; switch the cache off in the model's config"
            )
    if args and isinstance(args[0], torch.Tensor):
        return args[0], (args[1:], kwargs, None)
    rest = dict(kwargs)
    hidden = rest.pop("hidden_states", None)
    if args or not isinstance(hidden, torch.Tensor):
        raise ArgumentError(
            f"{_OP}: a block ({type(module).__name__}) is not given its hidden states as the first "
            "argument or by that name"
        )
    return hidden, ((), rest, "hidden_states")


def _expect_chain(seen: Sequence[_Seen]) -> bool:
    """Whether all blocks share their other arguments; raises unless each feeds the next."""
    for number, ((_, _, given), (got, _, _)) in enumerate(itertools.pairwise(seen)):
        if not _same(given, got):
            raise ArgumentError(
                f"{_OP}: block {number + 1} is not given what block {number} gives; only a chain "
                "of blocks can be calibrated block by block"
            )
    return all(_same(others, seen[0][1]) for _, others, _ in seen)


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are one object or equal; NaN equals nothing."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    return bool(a == b)
