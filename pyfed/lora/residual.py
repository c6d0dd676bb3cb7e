"""Changes of base weights as factors, and how they get into a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pyfed.checks import expect_one_device, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.adapters import WIDE_FLOATS
from pyfed.lora.keys import Kind, saved_name
from pyfed.lora.layers import base_of, weights_of
from pyfed.ops.merge import lora_merge_


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix b · diag(scale) · a of low rank, seen as (out, in) whatever the layer's own form.

    Args:
        a: floating (R, in).
        b: (out, R), of the same dtype.
        scale: float64 (R,).
        kind: ``"linear"``, or ``"embedding"`` where ``in`` counts the words.

    Raises:
        DtypeError, ArgumentError: dtypes, shapes or devices do not fit.

    Example:
        >>> import torch
        >>> from pyfed.lora import LowRank
        >>> change = LowRank(torch.eye(2), torch.ones(3, 2), torch.tensor([1.0, 2.0]).double())
        >>> change.dense()[0], change.norm()
        (tensor([1., 2.]), tensor(3.8730, dtype=torch.float64))
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: torch.Tensor
    kind: Kind = "linear"

    def __post_init__(self) -> None:
        expect_tensor("LowRank", "a", self.a, WIDE_FLOATS, 2)
        expect_tensor("LowRank", "b", self.b, self.a.dtype, 2)
        expect_tensor("LowRank", "scale", self.scale, torch.float64, 1)
        rank = self.scale.shape[0]
        if self.a.shape[0] != rank or self.b.shape[1] != rank:
            raise ArgumentError(
                f"LowRank: a has shape {tuple(self.a.shape)}, b {tuple(self.b.shape)} and scale "
                f"({rank},); they must be (R, in), (out, R) and (R,)"
            )
        if self.kind not in ("linear", "embedding"):
            raise ArgumentError(f"LowRank: kind is {self.kind!r}; it must be linear or embedding")
        expect_one_device("LowRank", (self.a, self.b, self.scale))

    @property
    def rank(self) -> int:
        """R, the rank that the factors allow."""
        return self.scale.shape[0]

    def norm(self) -> torch.Tensor:
        """Its Frobenius norm, float64 (), from Gram matrices of (R, R): ⟨bᵀb, aaᵀ⟩ scaled."""
        a = self.a.to(torch.float64)
        b = self.b.to(torch.float64) * self.scale
        return ((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt()

    def dense(self) -> torch.Tensor:
        """The whole matrix (out, in), of the dtype of the factors; for small layers and tests."""
        b = self.b.to(torch.float64) * self.scale
        return (b @ self.a.to(torch.float64)).to(self.a.dtype)


def merge_residual_(model: nn.Module, residual: Mapping[str, LowRank]) -> nn.Module:
    """Add low-rank changes to the base weights of a model, in place, with ``lora_merge_``.

    Linear layers, Conv1D of transformers and embeddings are told apart by the layers themselves, so
    a square weight is never added transposed. Everything is checked before anything is written.

    Args:
        model: a PEFT model, or a base model.
        residual: {dotted name in the base model: change}, as :func:`aggregate` gives it.

    Returns:
        ``model``.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: a layer is missing, of another kind or shape, quantised (a low-rank change
            cannot be added to codes: load :func:`residual_adapter` as an adapter), parametrised,
            not loaded, or its weight is tied to another layer's; or a factor is not finite.

    Example:
        >>> import torch
        >>> from pyfed.lora import LowRank, merge_residual_
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
        >>> torch.nn.init.zeros_(model[0].weight).sum().item()
        0.0
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> change = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]), one)
        >>> merge_residual_(model, {"0": change})[0].weight.data
        tensor([[1., 2.],
                [0., 0.]])
    """
    if not isinstance(model, nn.Module):
        raise DtypeError(f"merge_residual_: model is {type(model).__name__}; it must be a module")
    if not isinstance(residual, Mapping):
        kind = type(residual).__name__
        raise DtypeError(f"merge_residual_: residual is {kind}; it must be a dict of LowRank")
    base, owners = base_of(model), weights_of(model)
    merges: list[tuple[Any, ...]] = []
    for name, change in residual.items():
        if not isinstance(change, LowRank):
            kind = type(change).__name__
            raise DtypeError(f"merge_residual_: residual[{name!r}] is {kind}; it must be LowRank")
        weight, transposed = base.matrix("merge_residual_", name)
        owners.expect_alone("merge_residual_", name, weight)
        shape = (change.b.shape[0], change.a.shape[1])
        wanted = tuple(weight.shape[::-1] if transposed else weight.shape)
        if shape != wanted:
            raise ArgumentError(
                f"merge_residual_: residual[{name!r}] is of shape {shape}; the layer's matrix is of"
                f" shape {wanted}"
            )
        for factor in (change.a, change.b, change.scale):
            if not bool(torch.isfinite(factor).all()):
                raise ArgumentError(
                    f"merge_residual_: residual[{name!r}] holds NaN or infinity; it must be finite"
                )
        merges.append((weight, change, transposed))
    with torch.no_grad():
        for weight, change, transposed in merges:
            wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
            dtype = weight.dtype if change.a.dtype == weight.dtype else wide
            a, b = (t.to(weight.device, dtype) for t in (change.a, change.b))
            lora_merge_(weight, a, b, change.scale.to(weight.device), transposed)
    return model


def residual_adapter(
    residual: Mapping[str, LowRank],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Write low-rank changes as an ordinary PEFT adapter: the stack that FLoRA sends.

    It is what a client loads, beside or merged into its base, when the base is quantised and cannot
    take the changes itself. ``scale`` is folded into A, so its s is 1: ``r = lora_alpha`` = R,
    without rsLoRA.

    Args:
        residual: {dotted name in the base model: change}.

    Returns:
        A state dict with saved PEFT keys, and the fields of its ``peft.LoraConfig``.

    Raises:
        ArgumentError: there is no change.
    """
    if not residual:
        raise ArgumentError("residual_adapter: residual is empty; there must be one change")
    state: dict[str, torch.Tensor] = {}
    for name, change in residual.items():
        scaled = change.a.to(torch.float64) * change.scale.unsqueeze(1)
        state[saved_name(name, change.kind, "A")] = scaled.to(change.a.dtype)
        state[saved_name(name, change.kind, "B")] = change.b.clone()
    ranks = {name: change.rank for name, change in residual.items()}
    most = max(ranks.values())
    # PEFT takes patterns for the ends of names; ^ makes one a whole name.
    others = {f"^{name}": rank for name, rank in ranks.items() if rank != most}
    config = {
        "peft_type": "LORA",
        "r": most,
        "lora_alpha": most,
        "use_rslora": False,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "target_modules": sorted(ranks),
    }
    return state, config
