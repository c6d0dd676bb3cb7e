"""One pass of a PEFT model with a bank's layers in the place of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pyfed.errors import ArgumentError
from pyfed.lora.bank_base import frozen_linears
from pyfed.lora.bank_layers import BankedHead, BankedLayer, Frame
from pyfed.lora.batches import Rows


class Passes:
    """Runs a model with banked layers, and leaves it as it was.

    A layer is replaced by giving it a ``forward`` of its own, so that names, parameters and hooks
    of the model stay what they are.

    Args:
        model: the PEFT model.
        frame: what the layers read.
        layers: that are replaced.
        base_dropout: whether the base's own dropout is on in training passes.
        checkpointed: whether blocks keep nothing but their inputs for the backward pass.
    """

    def __init__(
        self,
        model: Any,
        frame: Frame,
        layers: list[BankedLayer],
        base_dropout: bool,
        checkpointed: bool,
    ) -> None:
        self.model, self.frame, self.base_dropout = model, frame, base_dropout
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = [
            (layer.module, layer.forward) for layer in layers
        ]
        heads = [layer.head for layer in layers if isinstance(layer, BankedHead)]
        outside = {id(module) for head in heads for module in head.modules()}
        self._forwards += frozen_linears(model, outside)
        if checkpointed:
            blocks = _blocks(model, [layer.module for layer in layers])
            self._forwards += [(block, self._checkpointed(block)) for block in blocks]
        known = inspect.signature(model.get_base_model().forward).parameters
        self._more = {"use_cache": False} if "use_cache" in known else {}

    def run(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """The model's outputs, inside :meth:`of`."""
        return self.model(**inputs, **self._more)

    @contextmanager
    def of(self, rows: Rows, leaves: Mapping[str, torch.Tensor], training: bool) -> Iterator[None]:
        """Passes inside are those of these rows' clients.

        Args:
            rows: whose each sample is.
            leaves: the clients' parameters by key.
            training: whether dropout is on, of the base too when that is wanted.
        """
        before = self.frame.rows, self.frame.leaves
        undo = [] if before[0] is not None else self._enter(training and self.base_dropout)
        self.frame.rows, self.frame.leaves = rows, leaves
        try:
            yield
        finally:
            self.frame.rows, self.frame.leaves = before
            for action in reversed(undo):
                action()

    def _enter(self, base_dropout: bool) -> list[Callable[[], None]]:
        """Replace the forwards and set the mode; gives what undoes it."""
        undo: list[Callable[[], None]] = []
        for module in self.model.modules():
            if module.training != base_dropout:
                module.training = base_dropout
                undo.append(lambda m=module: setattr(m, "training", not base_dropout))  # type: ignore[misc]
        for module, forward in self._forwards:
            undo.append(_replace(module, forward))
        return undo

    def _checkpointed(self, block: nn.Module) -> Callable[..., Any]:
        """The forward of a block that is run again in the backward pass, for the same rows."""
        forward = block.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            rows, leaves = self.frame.rows, self.frame.leaves
            assert rows is not None
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)

            def again(*args: Any, **kwargs: Any) -> Any:
                with self.of(rows, leaves, rows.dropped):
                    return forward(*args, **kwargs)

            return checkpoint(
                again,
                *args,
                use_reentrant=False,
                preserve_rng_state=self.base_dropout,
                **kwargs,
            )

        return run


def _replace(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Give a module a forward of its own; gives what takes it away again."""
    own = vars(module)
    before = own.get("forward")
    own["forward"] = forward

    def undo() -> None:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before

    return undo


def _blocks(model: nn.Module, banked: list[nn.Module]) -> list[nn.Module]:
    """The blocks of a model: what its longest list of modules with banked layers holds."""
    wanted = {id(module) for module in banked}
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > len(found):
            inner = (id(part) for child in module for part in child.modules())
            if any(part in wanted for part in inner):
                found = list(module)
    if not found:
        raise ArgumentError(
            "ClientBank: checkpoint is True, but no torch.nn.ModuleList of the model holds adapted "
            "layers; give checkpoint=False"
        )
    return found
