"""A round of federated pruning in one process, through the bytes of its messages."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import nn

from pyfed.checks import expect_int
from pyfed.engines.callbacks import RoundCallback, expect_callbacks, round_ended
from pyfed.errors import ArgumentError, DtypeError
from pyfed.pruning.fedprllm import FedPrLLM
from pyfed.pruning.messages import PruneMessage
from pyfed.pruning.result import PruneResult


def simulate_pruning(
    rule: FedPrLLM,
    model: nn.Module,
    samples: Sequence[torch.Tensor | Mapping[str, torch.Tensor] | None],
    drop: Mapping[int, Collection[int]] | None = None,
    round: int = 0,
    batch_size: int = 8,
    callbacks: Iterable[RoundCallback] = (),
) -> PruneResult:
    """Run one round with all its clients and the server in this process.

    All clients share one model, which is not changed; ``result.apply_(model)`` prunes it. Every
    message is turned into bytes, counted, and read back as if it came from a stranger. Votes are
    counted client by client, so that no more than one client's are held; when blocks are decided
    in turn, every client keeps its hidden states.

    Args:
        rule: the settings.
        model: the model.
        samples: the calibration samples of each client.
        drop: block → clients whose votes are lost from that block on.
        round: number of the round.
        batch_size: how many samples are run at once.
        callbacks: told of the round when it is over; see :mod:`pyfed.engines.callbacks`.

    Returns:
        The server's result, with ``.traffic`` {(role, "vote" or "decide"): bytes sent}.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.
        ThresholdError: nobody is left to vote on a block.

    Example:
        >>> import torch
        >>> from pyfed.pruning import FedPrLLM, simulate_pruning
        >>> model = torch.nn.Module()
        >>> model.blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(2)])
        >>> result = simulate_pruning(FedPrLLM(score="magnitude"), model, [None] * 3, drop={1: {2}})
        >>> result.voters, result.sparsity
        ((3, 2), 0.5)
    """
    told = expect_callbacks("simulate_pruning", callbacks)
    if not isinstance(rule, FedPrLLM):
        raise DtypeError(f"simulate_pruning: rule is {type(rule).__name__}; it must be a FedPrLLM")
    if not isinstance(samples, Sequence | torch.Tensor):
        kind = type(samples).__name__
        raise DtypeError(f"simulate_pruning: samples is {kind}; it must be a list, one a client")
    count = len(samples)
    server = rule.server(model, count, round)
    blocks = len(server.plan.blocks)
    lost = _lost(drop or {}, blocks, count)
    clients = [
        rule.client(index, model, own, round, batch_size) for index, own in enumerate(samples)
    ]
    traffic: Counter[tuple[str, str]] = Counter()

    def carried(message: PruneMessage, role: str, phase: str) -> PruneMessage:
        data = message.to_bytes()
        traffic[role, phase] += len(data)
        return PruneMessage.from_bytes(data, server.plan)

    def vote(index: int, messages: Sequence[PruneMessage]) -> None:
        for message in messages:
            if message.block < lost.get(index, blocks):
                server.handle(carried(message, "client", "vote"), index)

    try:
        for index, client in enumerate(clients):
            if lost.get(index, blocks) > 0:
                vote(index, client.start())
            if not rule.iterative:
                client.close()  # what is kept of it would only take memory
        while server.phase != "done":
            for message in server.close_phase():
                decision = carried(message, "server", "decide")
                index = decision.recipient
                # The last decision prunes the model, which is for the caller to do, once.
                if server.phase != "done" and decision.block + 1 < lost.get(index, blocks):
                    vote(index, clients[index].handle(decision, -1))
    finally:
        for client in clients:
            client.close()
    result = dataclasses.replace(server.result, traffic=dict(traffic))
    round_ended(
        told,
        "FedPrLLM",
        round,
        traffic,
        clients=count,
        voters=list(result.voters),
        sparsity=result.sparsity,
    )
    return result


def _lost(drop: Mapping[int, Collection[int]], blocks: int, clients: int) -> dict[int, int]:
    """Client → the block from which on it sends nothing."""
    if not isinstance(drop, Mapping):
        kind = type(drop).__name__
        raise DtypeError(f"simulate_pruning: drop is {kind}; it must map blocks to clients")
    lost: dict[int, int] = {}
    for block, dropped in drop.items():
        expect_int("simulate_pruning", "a block in drop", block, 0, blocks)
        if not isinstance(dropped, Collection):
            kind = type(dropped).__name__
            raise DtypeError(
                f"simulate_pruning: drop[{block}] is {kind}; it must be a set of clients"
            )
        for client in dropped:
            expect_int("simulate_pruning", "a client in drop", client, 0, clients)
            if client in lost:
                raise ArgumentError(f"simulate_pruning: drop names client {client} in two blocks")
            lost[client] = block
    return lost
