"""HetLoRA's self-pruning: a client gives up ranks that its training has made small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.adapters import Adapter, read_adapters
from pyfed.lora.alike import expect_mixed_forms, expect_products
from pyfed.lora.settings import Settings

_OP = "hetlora_prune"


def hetlora_prune(
    state: Mapping[str, torch.Tensor],
    config: Any,
    before: Mapping[str, torch.Tensor],
    gamma: float = 0.99,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Cut an adapter to γ of its rank where its last ranks have become smaller in training.

    With r' = ⌈γ r⌉, the tail is Σ over modules of ‖B[:, r':]‖_F · ‖A[r':]‖_F. When that is below
    what it was before the local training, those ranks are given up; else nothing changes. The
    scaling s stays as it was.

    Args:
        state: the client's PEFT state dict after its training.
        config: its ``peft.LoraConfig`` or dict; without patterns.
        before: its state dict before.
        gamma: γ, above 0 and up to 1.

    Returns:
        The state dict, with saved keys, and the fields of ``LoraConfig`` to load it with.

    Raises:
        DtypeError, ArgumentError: an argument has a wrong type or value, or the two states are not
            of one adapter.

    Source: Cho et al., Heterogeneous LoRA (EMNLP 2024), rank self-pruning.
    """
    if isinstance(gamma, bool) or not isinstance(gamma, int | float):
        raise DtypeError(f"{_OP}: gamma is {type(gamma).__name__}; it must be a number")
    if not 0 < gamma <= 1:
        raise ArgumentError(f"{_OP}: gamma is {gamma}; it must be above 0 and at most 1")
    settings = Settings.read(_OP, "config", config)
    for field in ("rank_pattern", "alpha_pattern"):
        if settings.fields.get(field):
            raise ArgumentError(f"{_OP}: config has {field}; the adapter must have one rank")
    now, then = read_adapters(_OP, [state, before], settings.fields)
    for adapter in (now, then):
        if set(adapter.pairs) != set(now.pairs):
            raise ArgumentError(f"{_OP}: before has other target modules than state")
    expect_products(_OP, [now, then], _OP)
    expect_mixed_forms(_OP, [now, then])
    rank = int(settings.fields["r"])
    kept = math.ceil(gamma * rank)
    if not _tail(now, kept) < _tail(then, kept):
        kept = rank
    pruned = dict(now.tensors)
    for pair in now.pairs.values():
        a, b, _ = pair.factors()
        pruned[pair.key_a], pruned[pair.key_b] = a[:kept].clone(), b[:, :kept].clone()
    alpha = settings.fields["lora_alpha"]
    power = 0.5 if settings.fields.get("use_rslora") else 1.0
    config_now = settings.numbers() | {"r": kept, "lora_alpha": alpha * (kept / rank) ** power}
    return pruned, config_now


def _tail(adapter: Adapter, kept: int) -> float:
    factors = [pair.factors() for pair in adapter.pairs.values()]
    norms = [b[:, kept:].double().norm() * a[kept:].double().norm() for a, b, _ in factors]
    return float(torch.stack(norms).sum())
