"""The rules of aggregation: what each needs of the clients, and what it gives back."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pyfed.errors import ArgumentError
from pyfed.lora.adapters import Adapter, Half
from pyfed.lora.alike import expect_same_values
from pyfed.lora.residual import LowRank
from pyfed.ops.weighted import weighted_mean


@dataclass(frozen=True)
class Rule:
    """A rule of aggregation.

    Args:
        name: as callers give it.
        home: the module that has a function of that name, which computes it.
        means: what clients take over are weighted means, so a server optimiser may follow.
        linear: clients' tensors enter by their weighted sum alone, so secure aggregation does.
        products: pairs must be matrices whose scaled product is the change of a weight.
        mixed: ranks and scalings may differ.
        scaled: s must be known.
        extras: DoRA's magnitudes and lora_bias are averaged too.
        rank: takes ``rank``.
    """

    name: str
    home: str
    means: bool = False
    linear: bool = False
    products: bool = False
    mixed: bool = False
    scaled: bool = False
    extras: bool = False
    rank: bool = False

    def halves(self, number: int) -> tuple[Half, ...]:
        """The halves that clients send in round ``number``."""
        if self.name == "rolora":
            # B begins: while it is 0, as adapters start, A has no gradient.
            return ("A",) if number % 2 else ("B",)
        return {"fedsa": ("A",), "ffa": ("B",), "fedsvd": ("B",)}.get(self.name, ("A", "B"))  # type: ignore[return-value]

    def run(self, given: Round) -> Outcome:
        """What the rule computes from a checked round."""
        outcome: Outcome = getattr(importlib.import_module(self.home), self.name)(given)
        return outcome


_MEANS, _EXACT, _RANK = (f"pyfed.lora.rules_{part}" for part in ("mean", "exact", "rank"))
_PRODUCT: dict[str, Any] = {"products": True, "scaled": True}
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("fedsa", _MEANS, means=True, linear=True),
        Rule("fedit", _MEANS, means=True, linear=True, extras=True),
        Rule("ffa", _MEANS, means=True, linear=True),
        Rule("rolora", _MEANS, means=True, linear=True),
        Rule("flora", _EXACT, mixed=True, **_PRODUCT),
        Rule("fedex", _EXACT, **_PRODUCT),
        Rule("flexlora", _RANK, mixed=True, rank=True, **_PRODUCT),
        Rule("hetlora", _RANK, mixed=True, rank=True, **_PRODUCT),
        Rule("fedsvd", _RANK, linear=True, products=True),
    )
}


@dataclass(frozen=True)
class Round:
    """Checked input of a rule.

    Args:
        op: what messages name.
        rule: the rule.
        everyone: all clients.
        clients: those of a weight above 0, in their order.
        weights: theirs, summing to 1.
        number: of the round, from 0.
        rank: that clients shall have; None: their own.
        previous: what ``shared`` was after the round before; None when not given.
        heads: whether parameters trained in full are averaged.
    """

    op: str
    rule: Rule
    everyone: list[Adapter]
    clients: list[Adapter]
    weights: list[float]
    number: int
    rank: int | None
    previous: Mapping[str, torch.Tensor] | None
    heads: bool

    def mean(self, keys: list[str]) -> dict[str, torch.Tensor]:
        """Key → weighted mean of the clients' tensors."""
        if not keys:
            return {}
        means = weighted_mean(
            [[c.tensors[key] for key in keys] for c in self.clients], self.weights
        )
        return dict(zip(keys, means, strict=True))

    def mean_heads(self) -> dict[str, torch.Tensor]:
        """The means of the heads; integers must be equal and are passed on."""
        if not self.heads:
            return {}
        first = self.clients[0]
        whole = [key for key in first.heads if not first.tensors[key].is_floating_point()]
        expect_same_values(self.op, self.everyone, whole, "of whole numbers")
        means = self.mean([key for key in first.heads if key not in whole])
        return means | {key: first.tensors[key].clone() for key in whole}

    def stack(self, module: str) -> LowRank:
        """Σ w_i s_i B_i A_i of a module as stacked factors, of the sum of the ranks."""
        pairs = [client.pairs[module] for client in self.clients]
        factors = [pair.factors() for pair in pairs]
        shares = [
            torch.full((a.shape[0],), w * s, dtype=torch.float64, device=a.device)
            for w, (a, _, s) in zip(self.weights, factors, strict=True)
        ]
        return LowRank(
            torch.cat([widened(a) for a, _, _ in factors]),
            torch.cat([widened(b) for _, b, _ in factors], dim=1),
            torch.cat(shares),
            pairs[0].kind,
        )


@dataclass
class Outcome:
    """What a rule computed; see :class:`AggregateResult`."""

    shared: dict[str, torch.Tensor]
    residual: dict[str, LowRank] = field(default_factory=dict)
    per_client: list[dict[str, torch.Tensor]] | None = None
    config: dict[str, Any] | None = None
    reset: bool = False


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 at least: what 16-bit factors are computed with."""
    wide = tensor.dtype in (torch.float32, torch.float64)
    return tensor if wide else tensor.to(torch.float32)


def rule_named(op: str, name: object) -> Rule:
    """The rule of a name; raises when there is none."""
    if not isinstance(name, str) or name not in RULES:
        raise ArgumentError(f"{op}: rule is {name!r}; it must be one of {', '.join(RULES)}")
    return RULES[name]
