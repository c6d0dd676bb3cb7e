"""A round of aggregation inside a bank: the rules of federated LoRA on its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.aggregation import aggregate
from pyfed.lora.residual import merge_residual_
from pyfed.lora.result import AggregateResult

if TYPE_CHECKING:
    from pyfed.lora.bank import ClientBank
    from pyfed.lora.optim import BankOptimizer

_OP = "ClientBank.aggregate"


def aggregate_bank(
    bank: ClientBank,
    rule: str,
    weights: Any,
    merge: bool | None,
    reset: BankOptimizer | None,
    settings: Mapping[str, Any],
) -> AggregateResult:
    """Combine the clients of a bank and write what they take over; see ClientBank.aggregate."""
    if merge is not None and not isinstance(merge, bool):
        raise DtypeError(f"{_OP}: merge is {type(merge).__name__}; it must be a bool or None")
    if reset is not None:
        bank.expect_own(_OP, "reset", reset)
    _expect_cloned(bank, settings.get("previous"))
    clients = [bank.state_dict(client) for client in range(bank.clients)]
    result = aggregate(clients, weights, rule, bank.config, **settings)
    if result.reset and not merge:
        raise ArgumentError(
            f"{_OP}: merge is {merge}; under rule {rule!r} all that clients have learnt goes into "
            "the base and their adapters start anew, so it must be True"
        )
    if result.residual and merge is None:
        raise ArgumentError(
            f"{_OP}: merge is None; rule {rule!r} leaves a residual, without which clients get "
            "another model: it must be True, which merges it into the base, or False where you "
            "merge the result's residual yourself"
        )
    if merge and not result.residual:
        raise ArgumentError(f"{_OP}: merge is True; rule {rule!r} leaves no residual to merge")
    _expect_same_form(bank, result)
    anew = _first_factors(bank) if result.reset else {}
    states: dict[int | None, Mapping[str, torch.Tensor]] = {}
    for client in range(bank.clients):
        own = {} if result.per_client is None else result.per_client[client]
        states[client] = {**anew, **result.shared, **own}
    for whose, state in states.items():
        bank.expect_state(whose, state, partial=True)
    if merge:
        merge_residual_(bank.model, result.residual)
        bank.base_changed = True
    bank.write(states)
    if reset is not None:
        reset.reset()
    return result


def _expect_cloned(bank: ClientBank, previous: object) -> None:
    """Raise when what was shared before is a view of what the clients have now."""
    if not isinstance(previous, Mapping):
        return
    memory = bank.arena.data.untyped_storage().data_ptr()
    for key, value in previous.items():
        if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() == memory:
            raise ArgumentError(
                f"{_OP}: previous[{key!r}] is a view of the bank, which training changes; it must "
                "be a copy made before: {k: v.clone() for k, v in bank.state_dict(0).items()}"
            )


def _expect_same_form(bank: ClientBank, result: AggregateResult) -> None:
    """Raise when the rule gives another rank or scaling than the bank trains with."""
    configs = [result.config] if result.configs is None else result.configs
    for client, config in enumerate(configs):
        for name, value in (config or {}).items():
            own = getattr(bank.config, name, value)
            if (own or None) != (value or None):
                whose = "all clients" if result.configs is None else f"client {client}"
                raise ArgumentError(
                    f"{_OP}: rule {result.rule!r} gives {name} {value!r} to {whose}; the bank has "
                    f"{own!r}: call pyfed.lora.aggregate on bank.state_dict(client) instead"
                )


def _first_factors(bank: ClientBank) -> dict[str, torch.Tensor]:
    """Factors as PEFT makes them at first: A uniform within 1 / √in, one for all, and B zero."""
    factors = {}
    for key, slot in bank.arena.slots.items():
        if slot.group in ("a", "b"):
            factors[key] = torch.zeros(slot.shape, dtype=bank.arena.data.dtype)
        if slot.group == "a":
            torch.nn.init.kaiming_uniform_(factors[key], a=math.sqrt(5))
    return factors
