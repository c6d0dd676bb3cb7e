"""The outcome of a round of federated pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.masks import mask_popcount, mask_unpack
from pyfed.pruning.layers import matrix_of, module_of
from pyfed.pruning.local import Verdict
from pyfed.pruning.messages import PruneDecision, counted
from pyfed.pruning.plan import Plan


@dataclass(frozen=True)
class PruneResult:
    """What is pruned in every layer.

    Args:
        plan: the layers and settings.
        decisions: one for each block, in order; to whom they were sent does not matter.
        traffic: {(role, "vote" or "decide"): bytes sent}, where an engine counts them.
    """

    plan: Plan
    decisions: tuple[PruneDecision, ...] = field(repr=False)
    traffic: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def voters(self) -> tuple[int, ...]:
        """How many clients voted on each block."""
        return tuple(decision.voters for decision in self.decisions)

    @property
    def sparsity(self) -> float:
        """The pruned part of all weights."""
        pruned = sum(
            int(mask_popcount(packed_tensor(packed), layer.weights))
            for block, decision in zip(self.plan.blocks, self.decisions, strict=True)
            for layer, (_, packed) in zip(block, decision.masks, strict=True)
        )
        return pruned / self.plan.weights

    def verdict(self, name: str) -> Verdict:
        """What becomes of a layer, as its mask and, with scaling, its counts (out, in)."""
        for block, decision in zip(self.plan.blocks, self.decisions, strict=True):
            if any(layer.name == name for layer in block):
                return block_verdicts(self.plan, decision)[name]
        known = self.plan.layers
        raise ArgumentError(
            f"PruneResult: there is no layer {name!r}; it must be one of the {len(known)} of the "
            f"plan, such as {known[0].name!r}"
        )

    def mask(self, name: str) -> torch.Tensor:
        """The mask of a layer: bool (out, in), True = prune."""
        return self.verdict(name).mask

    def apply_(self, model: nn.Module) -> None:
        """Prune a model in place: pruned weights become +0, with scaling survivors shrink.

        Apply a result with scaling once: survivors shrink by (voters - votes)/voters every time.
        Clients that handled the last decision have applied it to their models already.

        Args:
            model: has the layers of the plan; they are checked before the first is written.

        Raises:
            DtypeError: ``model`` is no module; a state dict has to be loaded into one.
            ArgumentError: a layer is missing, has another shape, or its weight is computed from
                other tensors.
        """
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise DtypeError(f"PruneResult.apply_: model is {kind}; it must be a torch.nn.Module")
        modules = {layer.name: module_of(model, layer) for layer in self.plan.layers}
        for decision in self.decisions:
            for name, verdict in block_verdicts(self.plan, decision).items():
                verdict.apply_(matrix_of(modules[name]))


def block_verdicts(plan: Plan, decision: PruneDecision) -> dict[str, Verdict]:
    """A decision, which was checked, as a verdict for each layer of its block."""
    counts = dict(decision.counts)
    verdicts = {}
    for layer, (name, packed) in zip(plan.blocks[decision.block], decision.masks, strict=True):
        mask = mask_unpack(packed_tensor(packed), layer.weights).view(layer.shape)
        votes = None
        if name in counts:
            found = counted(counts[name], decision.voters)
            wide = found.copy() if found.dtype == np.uint8 else found.astype(np.int32)
            votes = torch.from_numpy(wide).view(layer.shape)
        verdicts[name] = Verdict(mask, votes, decision.voters)
    return verdicts


def packed_tensor(packed: bytes) -> torch.Tensor:
    """Packed bits as a uint8 tensor of its own."""
    return torch.from_numpy(np.frombuffer(packed, dtype=np.uint8).copy())
