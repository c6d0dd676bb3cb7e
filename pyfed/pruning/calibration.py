"""Calibration: what comes into each layer of a block, one block after the other.

Kept between blocks are the hidden states of the real samples, nothing else: (samples × length ×
width) numbers in the model's dtype. Statistics are running sums over batches. Outside of a call
the model is as it was: weights are swapped in for a run and out again, hooks and modes too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pyfed.errors import ArgumentError
from pyfed.pruning.capture import Call, capture, first_tensor
from pyfed.pruning.layers import find_blocks, module_of
from pyfed.pruning.plan import PrunableLayer
from pyfed.pruning.samples import Samples

_OP = "calibration"
_ROWS = 1024
"""Tokens that are widened to float32 at once."""


class Calibration:
    """The hidden states of some samples before one block of a model.

    Args:
        model: the model; it must not be changed by others while a method runs.
        layers: what is pruned, of all blocks.
        samples: the real samples; nothing else is run.
        batch_size: how many samples are run at once.
        blocks: dotted name of the list of blocks; None finds it.

    Raises:
        ArgumentError: the blocks of the model do not form a chain, its layers are others, or
            samples have tokens that the model has not.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[PrunableLayer],
        samples: Samples,
        batch_size: int,
        blocks: str | None = None,
    ) -> None:
        _, self._blocks = find_blocks(model, blocks)
        self._modules = {layer.name: module_of(model, layer) for layer in layers}
        samples.expect_known(_OP, model)
        with evaluating(model):
            self._batches = capture(model, list(self._blocks), samples.batches(batch_size))

    def statistics(self, block: int, names: Sequence[str], second: bool) -> dict[str, torch.Tensor]:
        """What comes into layers of a block, over all real tokens.

        Args:
            block: number of the block before which the hidden states are.
            names: layers of this block.
            second: XᵀX, float32 (in, in); otherwise the norms ‖x_j‖₂, float32 (in,).

        Raises:
            ArgumentError: a layer is not called in the forward pass, or what comes into it cannot
                be told apart from padding, or is not finite.
        """
        sums = _Sums(second)
        hooks = [self._modules[name].register_forward_pre_hook(sums.hook(name)) for name in names]
        try:
            for _ in self._outputs(block, sums):
                pass
        finally:
            for hook in hooks:
                hook.remove()
        return {name: sums.result(name) for name in names}

    def advance(self, block: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Go on to the next block.

        Args:
            block: number of the block before which the hidden states are.
            weights: layer → matrix (out, in) that takes the place of its weight for this run.
        """
        with swapped({self._modules[name]: matrix for name, matrix in weights.items()}):
            for call, hidden in zip(self._batches, self._outputs(block), strict=True):
                call.hidden = hidden

    def _outputs(self, block: int, sums: _Sums | None = None) -> Iterator[torch.Tensor]:
        """The block's hidden states, batch by batch."""
        module = self._blocks[block]
        with evaluating(module):
            for call in self._batches:
                if sums is not None:
                    sums.enter(call)
                yield first_tensor(module, call.run(module, block))


class _Sums:
    """Running Σx² or Σxxᵀ of what comes into layers, over real tokens."""

    def __init__(self, second: bool) -> None:
        self._second = second
        self._call: Call | None = None
        self._sums: dict[str, torch.Tensor] = {}
        # Query, key and value read one tensor: its sum is made once, unless it was written since.
        self._last: tuple[torch.Tensor, int, torch.Tensor] | None = None

    def enter(self, call: Call) -> None:
        """A new batch begins."""
        self._call, self._last = call, None

    def hook(self, name: str) -> Any:
        """A forward pre-hook that adds what comes into the layer ``name``."""

        def add(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0]
            last = self._last
            if last is None or last[0] is not x or last[1] != x._version:
                last = self._last = x, x._version, self._summed(name, x)
            summed = last[2]
            old = self._sums.get(name)
            self._sums[name] = summed.clone() if old is None else old.add_(summed)

        return add

    def _summed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        assert self._call is not None
        total: torch.Tensor | None = None
        for rows in self._call.real_rows(name, x).split(_ROWS):
            part = rows.float()
            # Norms go on in float64: over millions of tokens a sum in float32 would drift.
            part = part.T @ part if self._second else part.square().sum(0).double()
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def result(self, name: str) -> torch.Tensor:
        """The statistic of a layer."""
        if name not in self._sums:
            raise ArgumentError(
                f"{_OP}: layer {name} was not called in the forward pass, so nothing is known of "
                "its inputs; skip it, or use the magnitude score"
            )
        total = self._sums[name]
        found = total if self._second else total.sqrt().float()
        if not bool(torch.isfinite(found).all()):
            raise ArgumentError(f"{_OP}: what comes into {name} is not finite; it must be")
        return found


@contextmanager
def swapped(weights: Mapping[nn.Module, torch.Tensor]) -> Iterator[None]:
    """Let modules compute with other matrices (out, in); the weights themselves are not written."""
    originals = []
    try:
        for module, matrix in weights.items():
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            originals.append((weight, weight.data))
            weight.data = matrix if isinstance(module, nn.Linear) else matrix.t()
        yield
    finally:
        for weight, data in originals:
            weight.data = data


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run without gradients and without dropout; every submodule gets its mode back."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
