"""The layers of a base model under its adapters, and whether their weights may be written."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import nn

from pyfed.errors import ArgumentError
from pyfed.lora.adapters import WIDE_FLOATS

_QUANTISERS = (
    "aqlm",
    "auto_gptq",
    "autoawq",
    "awq",
    "bitsandbytes",
    "eetq",
    "gptqmodel",
    "hqq",
    "optimum",
    "torchao",
)
"""Packages whose layers hold codes, or will once they are on a GPU."""


@dataclass(frozen=True)
class Base:
    """A base model, bare or inside a PEFT model."""

    module: nn.Module

    def matrix(self, op: str, name: str) -> tuple[torch.Tensor, bool]:
        """The weight of a layer, to be written in place, and whether it is stored (in, out).

        Raises:
            ArgumentError: there is no such layer, or its weight cannot take a change.
        """
        try:
            layer = self.module.get_submodule(name)
        except AttributeError:
            raise ArgumentError(
                f"{op}: model has no layer {name!r}; it must be the one that was trained"
            ) from None
        while isinstance(layer._modules.get("base_layer"), nn.Module):
            layer = layer.get_submodule("base_layer")
        self._expect_float(op, name, layer)
        home = sys.modules.get("transformers.pytorch_utils")
        transposed = isinstance(layer, nn.Embedding) or (
            home is not None and isinstance(layer, home.Conv1D)
        )
        if not transposed and not isinstance(layer, nn.Linear):
            raise ArgumentError(
                f"{op}: layer {name!r} is {_qualified(layer)}; it must be a torch.nn.Linear, a "
                "Conv1D of transformers or a torch.nn.Embedding"
            )
        weight = layer._parameters.get("weight")
        if weight is None:
            raise ArgumentError(
                f"{op}: layer {name!r} has a weight that is computed from other tensors; remove "
                "the parametrisation first"
            )
        if weight.is_meta:
            raise ArgumentError(f"{op}: layer {name!r} is on the meta device; load it first")
        return weight.data, transposed

    @staticmethod
    def _expect_float(op: str, name: str, layer: nn.Module) -> None:
        """Raise where the layer holds codes of a quantised weight."""
        weight = layer._parameters.get("weight")
        home, kind = type(layer).__module__, _qualified(layer)
        reason = ""
        # torch's own are in torch.ao.nn.quantized and torch.ao.nn.intrinsic.quantized.
        if home.partition(".")[0] in _QUANTISERS or "quantized" in home.split("."):
            reason = f"a {kind}"
        elif weight is not None and weight.dtype not in WIDE_FLOATS:
            reason = f"of dtype {weight.dtype}"
        elif weight is not None and type(weight.data) is not torch.Tensor:
            reason = f"a {type(weight.data).__name__}"
        elif weight is not None and type(weight) not in (nn.Parameter, torch.Tensor):
            reason = f"a {type(weight).__name__}"
        elif weight is None and any(
            buffer in layer._buffers for buffer in ("qweight", "qzeros", "scales", "codes")
        ):
            reason = f"a {kind} with packed codes"
        if reason:
            raise ArgumentError(
                f"{op}: layer {name!r} is quantised ({reason}): a low-rank change would be lost in "
                "the rounding of its codes; load it as an adapter instead (residual_adapter)"
            )


@dataclass(frozen=True)
class Weights:
    """Which parameters of a model lie in one memory."""

    names: dict[int, list[str]]

    def expect_alone(self, op: str, name: str, weight: torch.Tensor) -> None:
        """Raise where a weight is also another layer's, which must not change with it."""
        found = self.names.get(weight.data_ptr(), [])
        if len(found) > 1:
            raise ArgumentError(
                f"{op}: the weight of layer {name!r} is tied: {' and '.join(found)} are one "
                "tensor; untie them first, or load the change as an adapter (residual_adapter)"
            )


def _qualified(layer: nn.Module) -> str:
    """The class of a layer with its module, since many classes are called Linear."""
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def base_of(model: nn.Module) -> Base:
    """The base model; of a PEFT model the one inside."""
    # Many models offer their body as a property base_model; only PEFT's is a child.
    tuner = model._modules.get("base_model")
    inner = None if tuner is None else tuner._modules.get("model")
    inside = inner is not None and hasattr(model, "peft_config")
    return Base(inner if inside and inner is not None else model)


def weights_of(model: nn.Module) -> Weights:
    """The names of all parameters, by where they lie."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        # Tensor subclasses of quantisers have no address; they are refused by their class.
        if type(parameter.data) is torch.Tensor and not parameter.is_meta and parameter.numel():
            names.setdefault(parameter.data_ptr(), []).append(name)
    return Weights(names)
