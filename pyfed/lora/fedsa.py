"""FedSA-LoRA: clients share the A halves of their adapters, and each keeps its own B.

Source: Guo et al., Selective Aggregation for Low-Rank Adaptation in Federated Learning, ICLR 2025,
arXiv 2410.01463. The other rules whose server takes a plain mean run over the same messages: FedIT
(both halves), FFA-LoRA (B; A is frozen and equal everywhere) and RoLoRA (B and A by turns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.fedsa_state import Held, Source, expect_float_heads, held
from pyfed.lora.plan import WIDTHS, LoraPlan, LoraTensor
from pyfed.lora.rules import RULES, rule_named
from pyfed.lora.uplink import expect_heads

if TYPE_CHECKING:
    from pyfed.lora.fedsa_client import FedSALoRAClient
    from pyfed.lora.fedsa_server import FedSALoRAServer

NAME = "FedSALoRA"
MEANS = tuple(name for name, rule in RULES.items() if rule.means)

WHY_IN_CLEAR = {
    "flora": "it stacks every client's A and B",
    "fedex": "its residual is the mean of the products B·A less the product of the means",
    "flexlora": "it factorises the weighted sum of the products B·A",
    "hetlora": "its weights are the norms of every client's product B·A",
}
"""Why the server of a rule needs more than a mean."""


@dataclass(frozen=True)
class FedSALoRA:
    """The settings of federated LoRA by means; makes clients and servers, one for a round.

    Whether the adapter is LoRA, rsLoRA or VeRA, its ranks and its scalings are read from the model
    or the configuration; all clients must have the same. A client loads what is shared into its
    adapter in place and writes nothing else, so that what it does not share stays its own, bit for
    bit.

    Args:
        rule: ``"fedsa"``: A is shared (of VeRA λ_d), and B stays; ``"fedit"``: both are;
            ``"ffa"``: B is, and A is frozen; ``"rolora"``: B in rounds 0, 2, … with A frozen, A in
            rounds 1, 3, … with B frozen.
        heads: ``"shared"``: what ``modules_to_save`` names is averaged; ``"local"``: it stays.
        wire: dtype of values on the way: ``"float32"``, ``"float16"`` or ``"bfloat16"``; others
            are rounded to the nearest value of it.

    Raises:
        DtypeError, ArgumentError: a setting has a wrong type or value.

    Example:
        >>> import torch
        >>> from pyfed.lora import FedSALoRA
        >>> path, config = "base_model.model.q", {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
        >>> adapters = [
        ...     {f"{path}.lora_A.weight": torch.tensor([[x, 1.0]]),
        ...      f"{path}.lora_B.weight": torch.tensor([[x], [x]])} for x in (1.0, 5.0)]
        >>> rule = FedSALoRA()
        >>> server = rule.server(adapters[0], clients=2, config=config)
        >>> clients = [rule.client(i, own, config) for i, own in enumerate(adapters)]
        >>> for index, samples in enumerate((30, 10)):
        ...     (update,) = clients[index].start(weight=samples)
        ...     _ = server.handle(update, index)
        >>> for mean in server.close_phase():
        ...     _ = clients[mean.recipient].handle(mean, -1)
        >>> adapters[1][f"{path}.lora_A.weight"], adapters[1][f"{path}.lora_B.weight"].flatten()
        (tensor([[2., 1.]]), tensor([5., 5.]))
    """

    rule: str = "fedsa"
    heads: str = "shared"
    wire: str = "float32"

    def __post_init__(self) -> None:
        expect_rule(NAME, self.rule)
        expect_heads(NAME, self.heads)
        if isinstance(self.wire, torch.dtype):
            object.__setattr__(self, "wire", str(self.wire).removeprefix("torch."))
        if self.wire not in WIDTHS:
            raise ArgumentError(f"{NAME}: wire is {self.wire!r}; it must be one of {list(WIDTHS)}")

    def share(self, round: int) -> tuple[str, ...]:
        """The roles that travel in a round."""
        rule = RULES[self.rule]
        halves = tuple(half.lower() for half in rule.halves(round))
        rest = (("head", self.heads == "shared"), ("extra", rule.extras))
        return (*halves, *(role for role, travels in rest if travels))

    def plan(
        self, adapter: Source, config: Any = None, round: int = 0, name: str = "default"
    ) -> LoraPlan:
        """What clients and server must agree on in a round.

        Args:
            adapter: a PEFT model, or the state dict of an adapter.
            config: of a state dict: its PEFT configuration, or a dict of its fields.
            round: number of the round.
            name: of the adapter in a model.

        Raises:
            DtypeError, ArgumentError: the adapter is not well-formed, or the rule is not defined
                for it.
        """
        return self.plan_of(self.read("the adapter", adapter, config, name), round)

    def read(self, who: str, adapter: Source, config: Any, name: str, op: str = NAME) -> Held:
        """Read a party's adapter; raises unless the rule is defined for it.

        Args:
            who: how messages call the adapter.
            adapter: a PEFT model, the state dict of an adapter, or the path of a saved one.
            config: of a state dict: its PEFT configuration, or a dict of its fields.
            name: of the adapter in a model.
            op: what messages name.
        """
        found = held(op, who, adapter, config, name)
        extra = next((key for key, role in found.roles.items() if role == "extra"), None)
        if extra is not None and not RULES[self.rule].extras:
            raise ArgumentError(
                f"{op}: {who} has {extra!r}; for DoRA and lora_bias rule {self.rule!r} is not "
                "defined, only fedit is"
            )
        if self.heads == "shared":
            expect_float_heads(op, who, found)
        return found

    def plan_of(self, found: Held, round: int) -> LoraPlan:
        """:meth:`plan` of an adapter that was read."""
        expect_int(NAME, "round", round, 0, 2**64)
        share = self.share(round)
        tensors = tuple(
            LoraTensor(key, tuple(found.tensors[key].shape), found.dtype(key), role)
            for key, role in found.roles.items()
            if role != "head" or self.heads == "shared"
        )
        # FFA and RoLoRA are exact only while the half that does not travel is equal everywhere.
        frozen = ("a" if "b" in share else "b",) if self.rule in ("ffa", "rolora") else ()
        return LoraPlan(
            settings=self._settings(),
            tensors=tensors,
            scalings=tuple(found.scalings.items()),
            share=share,
            wire=self.wire,
            projection=found.projection,
            frozen=found.digest(frozen) if frozen else b"",
        )

    def made(self, plan: LoraPlan, round: int) -> bool:
        """Whether these settings can have made a plan for such a round."""
        of_plan = (plan.settings, plan.share, plan.wire)
        return of_plan == (self._settings(), self.share(round), self.wire)

    def _settings(self) -> tuple[tuple[str, str], ...]:
        return (("protocol", NAME), ("rule", self.rule), ("heads", self.heads))

    def client(
        self,
        index: int,
        adapter: Source,
        config: Any = None,
        round: int = 0,
        name: str = "default",
    ) -> FedSALoRAClient:
        """Client number ``index`` in one round.

        Args:
            index: from 0 on.
            adapter: its own PEFT model or state dict; what is shared is loaded into it in place.
            config: of a state dict: its PEFT configuration, or a dict of its fields.
            round: number of the round.
            name: of the adapter in a model.
        """
        from pyfed.lora.fedsa_client import FedSALoRAClient

        return FedSALoRAClient(self, index, adapter, config, round, name)

    def server(
        self,
        adapter: Source | LoraPlan,
        clients: int,
        config: Any = None,
        round: int = 0,
        name: str = "default",
        device: torch.device | str = "cpu",
    ) -> FedSALoRAServer:
        """The server in one round.

        Args:
            adapter: a PEFT model or state dict that is like those of the clients, or the plan of
                this round; it is not changed.
            clients: N, how many there are, from 1 to 65,535.
            config: of a state dict: its PEFT configuration, or a dict of its fields.
            round: number of the round.
            name: of the adapter in a model.
            device: where means are taken.
        """
        from pyfed.lora.fedsa_server import FedSALoRAServer

        if isinstance(adapter, LoraPlan):
            return FedSALoRAServer(self, adapter, clients, round, device)
        plan = self.plan_of(self.read("the server's adapter", adapter, config, name), round)
        return FedSALoRAServer(self, plan, clients, round, device)


def expect_rule(op: str, rule: object) -> None:
    """Raise unless the server of a rule needs nothing but a weighted mean."""
    if not isinstance(rule, str):
        raise DtypeError(f"{op}: rule is {type(rule).__name__}; it must be a str")
    known = rule_named(op, rule)
    if known.means:
        return
    if known.linear:
        raise ArgumentError(
            f"{op}: rule is {rule!r}, whose server takes the mean of B and then factorises it; "
            "take the mean with rule='ffa', in secret or not, and give it to "
            f"pyfed.lora.aggregate(rule={rule!r}, previous=...) as the only client"
        )
    raise ArgumentError(
        f"{op}: rule is {rule!r}, which needs the factors of every client in clear: "
        f"{WHY_IN_CLEAR[rule]}, and a mean does not tell that; use pyfed.lora.aggregate, or one of "
        f"{', '.join(MEANS)}"
    )
