"""Federated LoRA in secret: what a rule shares through LightSecAgg, as one vector.

Rules whose server takes a weighted mean are linear, so the sum of the clients' updates is all that
it needs: fedsa, fedit, ffa and rolora. FedSVD is a mean of B and then a factorisation, which the
server may do on the mean. FLoRA, FedEx, FlexLoRA and HetLoRA need every client's factors in clear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import SOLINAS31, Field
from pyfed.fixed import FixedPoint
from pyfed.lora.fedsa import FedSALoRA
from pyfed.lora.fedsa_result import LoraResult
from pyfed.lora.fedsa_state import Held, Source
from pyfed.lora.plan import LoraPlan
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.result import RoundResult

NAME = "SecureLora"
PRECISION = 256
"""A step is at most clip / PRECISION."""


@dataclass(frozen=True)
class AdapterFixedPoint(FixedPoint):
    """Fixed point whose form holds a plan's digest, so that a session is bound to the plan.

    Clients whose adapters differ in rank, targets, dtype or scaling have other parameters then,
    and are refused before anything secret is made.
    """

    plan: bytes = field(default=b"", repr=False)

    @property
    def form(self) -> tuple[object, ...]:
        """What a session is bound to: clip, bits, scale, and the plan."""
        return (*super().form, "lora", self.plan)


class SecureLora:
    """One round of a linear rule in which the server learns the weighted sum and the total only.

    The shared tensors follow one another in one vector, in the order of the plan. Weights are the
    clients' sample counts; values are multiplied by them in the field, so that of the weights, too,
    the server learns the sum alone.

    Args:
        rule: the settings, or the name of the rule; values do not travel as floats here, so its
            wire dtype must be float32.
        adapter: a PEFT model, state dict or path of a saved adapter like those of the clients (of
            a :class:`ClientBank` ``bank.state_dict(client)``, with ``config=bank.config``), or the
            plan of this round.
        clients: N, from 3 on.
        privacy: T ≥ 1: the server and T clients together learn nothing but the sum.
        dropouts: D ≥ 0: how many clients may be lost.
        max_weight: the largest sample count of a client.
        clip: the largest magnitude of a value; a larger one is refused, not cut off.
        bits: of a value, with its sign; None: as many as sums of all clients bear, 24 at most. They
            must leave a step of clip / 256 at most, so 8 bits of the clip's magnitude: a coarser
            step rounds most factors, which are far below the clip, to noise.
        config: of a state dict: its PEFT configuration, or a dict of its fields.
        round: number of the round, which says what rolora shares.
        name: of the adapter in a model.
        field: the prime field.
        protocol: what makes the session: called as LightSecAgg is, and with its interface.
        options: further arguments of the protocol, such as ``errors`` and ``detect``.

    Raises:
        DtypeError, ArgumentError: an argument is wrong; the rule is not linear; or the numbers do
            not fit, and the message says what to change.

    Example:
        >>> import torch
        >>> from pyfed.lora import SecureLora
        >>> from pyfed.secagg import simulate
        >>> path, config = "base_model.model.q", {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
        >>> adapters = [
        ...     {f"{path}.lora_A.weight": torch.tensor([[x, 0.5]]),
        ...      f"{path}.lora_B.weight": torch.tensor([[x], [x]])} for x in (0.0, 0.25, 0.5)]
        >>> secure = SecureLora("fedsa", adapters[0], 3, 1, 0, max_weight=10, config=config)
        >>> updates = [secure.update(own, config) for own in adapters]
        >>> result = secure.result(simulate(secure.protocol, updates, weights=[10, 4, 2]))
        >>> for own in adapters:
        ...     result.load_(own, config)
        >>> adapters[2][f"{path}.lora_A.weight"], result.weight
        (tensor([[0.1250, 0.5000]]), 16)
    """

    def __init__(
        self,
        rule: FedSALoRA | str,
        adapter: Source | LoraPlan,
        clients: int,
        privacy: int,
        dropouts: int,
        max_weight: int = 1,
        clip: float = 1.0,
        bits: int | None = None,
        config: Any = None,
        round: int = 0,
        name: str = "default",
        field: Field = SOLINAS31,
        protocol: Callable[..., Any] = LightSecAgg,
        **options: Any,
    ) -> None:
        self.rule = rule if isinstance(rule, FedSALoRA) else FedSALoRA(rule)
        if self.rule.wire != "float32":
            raise ArgumentError(
                f"{NAME}: the rule's wire is {self.rule.wire!r}; it must be 'float32', for values "
                "travel in fixed point; bits says how many bits they have"
            )
        if isinstance(adapter, LoraPlan):
            if not self.rule.made(adapter, round):
                raise ArgumentError(
                    f"{NAME}: adapter is the plan of other settings or of another kind of round"
                )
            self.plan = adapter
        else:
            found = self.rule.read("the adapter", adapter, config, name, NAME)
            self.plan = self.rule.plan_of(found, round)
        expect_int(NAME, "clients", clients, 3, 2**31)
        expect_int(NAME, "max_weight", max_weight, 1, 2**31)
        self.round = round
        self.fixed = AdapterFixedPoint(
            clip=clip,
            bits=_affordable(clip, clients, max_weight, field) if bits is None else bits,
            clients=clients,
            max_weight=max_weight,
            field=field,
            plan=self.plan.digest,
        )
        _expect_precise(self.fixed)
        self.protocol = protocol(
            clients, privacy, dropouts, length=self.plan.values, fixed=self.fixed, **options
        )

    @property
    def step(self) -> float:
        """The step of the fixed point; the mean is nearer than that to the mean in clear."""
        return 1 / self.fixed.scale

    def update(self, adapter: Source, config: Any = None, name: str = "default") -> torch.Tensor:
        """What a client shares of its adapter, float32 (values,): the update of its session.

        Args:
            adapter: its PEFT model, state dict or path; of a client of a :class:`ClientBank`
                ``bank.state_dict(client)``.
            config: of a state dict: its PEFT configuration, or a dict of its fields; of a bank
                ``bank.config``.
            name: of the adapter in a model.

        Raises:
            DtypeError, ArgumentError: it is not well-formed or differs from the plan; or a value
                is NaN, infinite or beyond the clip. The tensor and its index are named.
        """
        op = f"{NAME}.update"
        found: Held = self.rule.read("the adapter", adapter, config, name, op)
        odd = self.plan.difference(self.rule.plan_of(found, self.round))
        if odd:
            raise ArgumentError(f"{op}: the adapter is not that of the plan: {odd}")
        vector = found.vector(self.plan)
        good = vector.abs() <= self.fixed.clip  # of NaN this is False
        if not bool(good.all()):
            first = int((~good).to(torch.uint8).argmax())
            tensor, index = self.plan.place(first)
            raise ArgumentError(
                f"{op}: {tensor.name} holds {float(vector[first])} at {index}; values must be "
                f"finite and at most clip = {self.fixed.clip} in magnitude, so raise clip"
            )
        return vector

    def result(self, outcome: RoundResult) -> LoraResult:
        """What all clients share, of the outcome of the session.

        Raises:
            DtypeError: ``outcome`` is no result of a session.
            ArgumentError: it is of another session, or all weights in it are 0.
        """
        op = f"{NAME}.result"
        if not isinstance(outcome, RoundResult):
            kind = type(outcome).__name__
            raise DtypeError(f"{op}: outcome is {kind}; it must be a RoundResult")
        if (outcome.fixed, outcome.length) != (self.fixed, self.plan.values):
            raise ArgumentError(f"{op}: outcome is of another session, plan or fixed point")
        return LoraResult(
            self.plan,
            outcome.mean,
            len(outcome.included),
            outcome.total_weight,
            outcome.traffic,
        )


def _affordable(clip: object, clients: int, max_weight: int, field: Field) -> int:
    """The most bits, 24 at most, with which no sum of all clients can wrap."""
    for bits in range(24, 2, -1):
        try:
            FixedPoint(clip, bits, clients, max_weight, field)  # type: ignore[arg-type]
        except ArgumentError:
            continue
        return bits
    return 2  # and FixedPoint says what does not fit


def _expect_precise(fixed: FixedPoint) -> None:
    """Raise where the step is too coarse, with what must change for one that is not."""
    if fixed.clip * fixed.scale >= PRECISION:
        return
    finer = 2.0 ** math.ceil(math.log2(PRECISION / fixed.clip))
    # Σ w_c of all clients may reach this, and none of their sums (p - 1) / 2.
    most = (fixed.field.modulus - 1) // 2 // math.ceil(fixed.clip * finer)
    told = f"clients · max_weight is {fixed.clients} · {fixed.max_weight}"
    if fixed.clients * fixed.max_weight <= most:
        remedy = f"bits is {fixed.bits}: give more, or None"
    elif fixed.clients <= most:
        remedy = (
            f"{told}: lower max_weight to {most // fixed.clients} at most (divide all sample "
            "counts by one number), or have fewer clients in a session; the step grows with the "
            "clip, so a smaller one does not help"
        )
    else:
        remedy = f"{told}: even with max_weight = 1 clients must be at most {most}"
    raise ArgumentError(
        f"{NAME}: the step of the fixed point is clip / {fixed.clip * fixed.scale:.4g} for clip = "
        f"{fixed.clip}; it must be at most clip / {PRECISION}, or little is left of the values: "
        f"{remedy}"
    )
