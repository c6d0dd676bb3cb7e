"""Linear layers of a frozen base on a CPU, through oneDNN.

Most of a bank's step is products with frozen weights. PyTorch gives float32 products to MKL, which
leaves AVX-512 alone on processors that are not Intel's; oneDNN, which PyTorch carries too, uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def frozen_linears(
    model: nn.Module, outside: set[int]
) -> list[tuple[nn.Module, Callable[..., torch.Tensor]]]:
    """The frozen float32 linear layers of a model on a CPU, each with a faster forward.

    Args:
        model: whose layers are looked at.
        outside: ids of modules that are left as they are.

    Returns:
        Nothing where oneDNN is missing, switched off, or has no AVX-512 to use.
    """
    if not (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return []
    return [
        (module, _forward_of(module, transposed=type(module) is not nn.Linear))
        for module in model.modules()
        if id(module) not in outside and _is_plain(module)
    ]


def _is_plain(module: Any) -> bool:
    """Whether a module does x Wᵀ + bias, or x W + bias as Conv1D of transformers, and no more."""
    transformers = sys.modules.get("transformers.pytorch_utils")
    kinds = (nn.Linear,) if transformers is None else (nn.Linear, transformers.Conv1D)
    if type(module) not in kinds or "forward" in vars(module):
        return False
    parameters = [module.weight] if module.bias is None else [module.weight, module.bias]
    return all(
        p.device.type == "cpu" and p.dtype == torch.float32 and not p.requires_grad
        for p in parameters
    )


def _forward_of(module: Any, transposed: bool) -> Callable[..., torch.Tensor]:
    plain: Callable[..., torch.Tensor] = module.forward

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        x = args[0] if len(args) == 1 and not kwargs else None
        if x is None or x.dtype != torch.float32 or not x.numel() or _autocast():
            return plain(*args, **kwargs)
        weight = module.weight.T if transposed else module.weight
        out: torch.Tensor = _FrozenLinear.apply(x, weight, module.bias)  # type: ignore[no-untyped-call]
        return out

    return forward


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Rows x (…, in) times weight (out, in) transposed, plus bias (out,)."""
    rows = x.reshape(-1, x.shape[-1])
    out = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    result: torch.Tensor = out.view(*x.shape[:-1], weight.shape[0])
    return result


class _FrozenLinear(torch.autograd.Function):
    """A linear layer that has a gradient in its input alone."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(grad, weight.T, None), None, None
