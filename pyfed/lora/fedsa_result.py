"""The outcome of a round of federated LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from pyfed.errors import ArgumentError
from pyfed.lora.fedsa_state import Held, Source, held, split
from pyfed.lora.plan import LoraPlan

OP = "LoraResult.load_"


@dataclass(frozen=True, eq=False)
class LoraResult:
    """What all clients share after a round.

    Args:
        plan: the tensors and settings.
        vector: the weighted mean as it travels: flat, of the wire dtype.
        included: how many clients are in it.
        weight: the sum of their weights.
        traffic: {(role, "update" or "share"): bytes sent}, where an engine counts them.
    """

    plan: LoraPlan
    vector: torch.Tensor = field(repr=False)
    included: int
    weight: int
    traffic: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @cached_property
    def shared(self) -> dict[str, torch.Tensor]:
        """The shared tensors by the keys that PEFT saves: a state dict to load partially."""
        return split(self.plan, self.vector)

    def load_(self, adapter: Source, config: Any = None, name: str = "default") -> None:
        """Write what is shared into an adapter, and nothing else. Clients of the round have it.

        Args:
            adapter: a PEFT model, or a state dict, whose tensors are written in place.
            config: of a state dict: its PEFT configuration, or a dict of its fields.
            name: of the adapter in a model.

        Raises:
            DtypeError, ArgumentError: it is not well-formed, or has other shapes than the plan.
        """
        found = held(OP, "the adapter", adapter, config, name)
        expect_fit(OP, "the adapter", found, self.plan)
        found.load_(self.plan, self.vector)


def expect_fit(op: str, who: str, found: Held, plan: LoraPlan) -> None:
    """Raise unless an adapter has all that the plan shares, in its shapes."""
    for tensor in plan.shared:
        own = found.tensors.get(tensor.name)
        if own is None:
            raise ArgumentError(f"{op}: {who} lacks {tensor.name}; it must have all that is shared")
        if tuple(own.shape) != tensor.shape:
            raise ArgumentError(
                f"{op}: {tensor.name} of {who} has shape {tuple(own.shape)}; it must be "
                f"{tensor.shape}"
            )
