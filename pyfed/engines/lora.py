"""A round of federated LoRA in one process, through the bytes of its messages."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from pyfed.checks import expect_int
from pyfed.engines.callbacks import RoundCallback, expect_callbacks, round_ended
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.alike import expect_separate
from pyfed.lora.bank import ClientBank
from pyfed.lora.fedsa import FedSALoRA
from pyfed.lora.fedsa_result import LoraResult
from pyfed.lora.fedsa_state import Source
from pyfed.lora.messages import LoraMessage
from pyfed.lora.plan import MOST_WEIGHT

OP = "simulate_lora"
PHASES = ("update", "share")


def simulate_lora(
    rule: FedSALoRA | str,
    adapters: Sequence[Source] | ClientBank,
    weights: Sequence[int] | torch.Tensor | None = None,
    drop: Mapping[str, Collection[int]] | None = None,
    round: int = 0,
    config: Any = None,
    name: str = "default",
    callbacks: Iterable[RoundCallback] = (),
) -> LoraResult:
    """Run one round with all its clients and the server in this process.

    Every message is turned into bytes, counted, and read back as if it came from a stranger. The
    clients load what is shared in place, unless they were dropped.

    Args:
        rule: the settings, or the name of the rule.
        adapters: the clients' own PEFT models or state dicts, in memory of their own, or a bank.
        weights: the sample count of each client, integers; None: all 1.
        drop: phase → clients that are lost from it on: in ``"update"`` they are not in the mean,
            in ``"share"`` they are, and do not get it.
        round: number of the round.
        config: of state dicts: their PEFT configuration, one for all or a list of one each.
        name: of the adapter in models.
        callbacks: told of the round when it is over; see :mod:`pyfed.engines.callbacks`.

    Returns:
        The server's result, with ``.traffic`` {(role, "update" or "share"): bytes sent}.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or two clients' adapters lie in the same
            memory. An adapter that differs from client 0's is named with what differs.
        ThresholdError: no client is left in the update phase, or none with a positive weight.

    Example:
        >>> import torch
        >>> from pyfed.lora import simulate_lora
        >>> path, config = "base_model.model.q", {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
        >>> adapters = [
        ...     {f"{path}.lora_A.weight": torch.tensor([[x, 1.0]]),
        ...      f"{path}.lora_B.weight": torch.tensor([[x], [x]])} for x in (1.0, 5.0)]
        >>> result = simulate_lora("fedsa", adapters, weights=[30, 10], config=config)
        >>> result.shared, adapters[1][f"{path}.lora_B.weight"].flatten()
        ({'base_model.model.q.lora_A.weight': tensor([[2., 1.]])}, tensor([5., 5.]))
    """
    told = expect_callbacks(OP, callbacks)
    settings = rule if isinstance(rule, FedSALoRA) else FedSALoRA(rule)
    sources = _sources(adapters, config)
    count = len(sources)
    weights = _weights(weights, count)
    lost = _lost(drop or {}, count)
    clients = [
        settings.client(index, own, own_config, round, name)
        for index, (own, own_config) in enumerate(sources)
    ]
    plan = clients[0].plan
    for index, client in enumerate(clients):
        odd = plan.difference(client.plan)
        if odd:
            raise ArgumentError(f"{OP}: adapters[{index}] is not like adapters[0]: {odd}")
    expect_separate(
        OP, ((f"adapters[{index}]", client.tensors()) for index, client in enumerate(clients))
    )
    server = settings.server(plan, count, round=round)
    traffic: Counter[tuple[str, str]] = Counter()

    def carried(message: LoraMessage, role: str, phase: str) -> LoraMessage:
        data = message.to_bytes()
        traffic[role, phase] += len(data)
        return LoraMessage.from_bytes(data, plan)

    try:
        for index, client in enumerate(clients):
            if lost.get(index) != "update":
                for message in client.start(weights[index]):
                    server.handle(carried(message, "client", "update"), index)
        for message in server.close_phase():
            if message.recipient not in lost:
                clients[message.recipient].handle(carried(message, "server", "share"), -1)
    finally:
        for client in clients:
            client.close()
    result = dataclasses.replace(server.result, traffic=dict(traffic))
    round_ended(
        told,
        settings.rule,
        round,
        traffic,
        clients=count,
        included=[index for index in range(count) if lost.get(index) != "update"],
        total_weight=result.weight,
    )
    return result


def _sources(adapters: object, config: Any) -> list[tuple[Source, Any]]:
    """Each client's adapter and its configuration."""
    if isinstance(adapters, ClientBank):
        if config is not None:
            raise ArgumentError(f"{OP}: config is given beside a bank, which has its own")
        return [(adapters.state_dict(c), adapters.config) for c in range(adapters.clients)]
    if isinstance(adapters, str | Mapping) or not isinstance(adapters, Sequence):
        kind = type(adapters).__name__
        raise DtypeError(f"{OP}: adapters is {kind}; it must be a list, one a client, or a bank")
    if not adapters:
        raise ArgumentError(f"{OP}: adapters is empty; there must be one client at least")
    configs = config if isinstance(config, list | tuple) else [config] * len(adapters)
    if len(configs) != len(adapters):
        raise ArgumentError(
            f"{OP}: {len(configs)} configurations are given; there are {len(adapters)} adapters"
        )
    return list(zip(adapters, configs, strict=True))


def _weights(weights: Any, clients: int) -> list[int]:
    if weights is None:
        return [1] * clients
    values = weights.tolist() if hasattr(weights, "tolist") else weights
    if not isinstance(values, Sequence):
        kind = type(weights).__name__
        raise DtypeError(f"{OP}: weights is {kind}; it must be a list, one for each client")
    if len(values) != clients:
        raise ArgumentError(f"{OP}: {len(values)} weights are given; there are {clients} adapters")
    for index, weight in enumerate(values):
        expect_int(OP, f"weights[{index}]", weight, 0, MOST_WEIGHT)
    return list(values)


def _lost(drop: Mapping[str, Collection[int]], clients: int) -> dict[int, str]:
    """Client → the phase from which on it is lost."""
    if not isinstance(drop, Mapping):
        kind = type(drop).__name__
        raise DtypeError(f"{OP}: drop is {kind}; it must map phases to clients")
    lost: dict[int, str] = {}
    for phase, dropped in drop.items():
        if phase not in PHASES:
            raise ArgumentError(
                f"{OP}: drop names the phase {phase!r}; phases are {', '.join(PHASES)}"
            )
        if not isinstance(dropped, Collection):
            kind = type(dropped).__name__
            raise DtypeError(f"{OP}: drop[{phase!r}] is {kind}; it must be a set of clients")
        for client in dropped:
            expect_int(OP, "a client in drop", client, 0, clients)
            if client in lost:
                raise ArgumentError(f"{OP}: drop names client {client} in two phases")
            lost[client] = phase
    return lost
