"""What a round of aggregation gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from pyfed.lora.residual import LowRank


@dataclass(frozen=True, eq=False)
class AggregateResult:
    """What clients take over after a round; what is not named here they keep.

    A client loads ``shared`` (and ``per_client[i]``, where there is one) into its adapter, merges
    ``residual`` into its base weights, and where ``reset`` says so starts its adapter anew.

    Args:
        rule: the rule that was used.
        shared: state dict that every client loads, with saved PEFT keys; under rules that leave a
            half with the clients it has the other half alone.
        residual: {module: change of its base weight}; empty under most rules.
        per_client: where clients get unlike adapters, a state dict for each; else None.
        config: the fields of ``LoraConfig`` (``r``, ``lora_alpha``, …) with which ``shared`` is
            loaded; None where it is not known, or where clients differ.
        configs: such fields for each client; None without ``per_client``.
        reset: every client starts its adapter anew (A random, B zero), since what it had learnt is
            in ``residual``.
        weights: the share of each client in the means, summing to 1.
    """

    rule: str
    shared: dict[str, torch.Tensor] = field(repr=False)
    residual: dict[str, LowRank] = field(default_factory=dict, repr=False)
    per_client: list[dict[str, torch.Tensor]] | None = field(default=None, repr=False)
    config: dict[str, Any] | None = None
    configs: list[dict[str, Any] | None] | None = None
    reset: bool = False
    weights: tuple[float, ...] = ()
