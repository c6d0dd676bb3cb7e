"""The server of FedPrLLM through one round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pyfed.checks import expect_device, expect_int, expect_tensor
from pyfed.errors import ArgumentError, ThresholdError
from pyfed.ops.masks import mask_pack
from pyfed.ops.selection import mask_select
from pyfed.ops.selection_arguments import FLOATS
from pyfed.pruning.fedprllm import NAME, FedPrLLM
from pyfed.pruning.layers import matrix_of, module_of
from pyfed.pruning.messages import PruneDecision, PruneMessage, PruneVote
from pyfed.pruning.party import PruneParty
from pyfed.pruning.plan import MOST_CLIENTS, NARROW, PrunableLayer
from pyfed.pruning.result import PruneResult, packed_tensor
from pyfed.pruning.votes import MaskVotes
from pyfed.secagg.session import SERVER


class FedPrLLMServer(PruneParty):
    """The server in one round: ``handle`` counts votes, ``close_phase`` decides.

    Votes are added to bit planes as they come, about log2(clients) bits a weight, and are not
    kept. A message that is refused raises ProtocolError and changes nothing. Clients may drop:
    a block is decided by those that voted on it. In turns, a client that missed a block may go on
    with the decision on it.

    Args:
        rule: the settings.
        layers: the model, or its layers.
        clients: N, how many clients there are.
        round_: number of the round.
        weights: layer → matrix (out, in), for ties by magnitude; None: those of the model.
        device: where votes are counted.
    """

    expects = PruneVote

    def __init__(
        self,
        rule: FedPrLLM,
        layers: nn.Module | Sequence[PrunableLayer],
        clients: int,
        round_: int,
        weights: Mapping[str, torch.Tensor] | None,
        device: torch.device | str,
    ) -> None:
        expect_int(NAME, "clients", clients, 1, MOST_CLIENTS + 1)
        expect_int(NAME, "round", round_, 0, 2**64)
        if rule.tie_rule == "random" and rule.key is None:
            raise ArgumentError(f"{NAME}: key is None; random ties need it at the server")
        super().__init__("server", SERVER, rule, rule.plan(layers), round_)
        self._clients = clients
        self._device = expect_device(NAME, device)
        self._weights: dict[str, torch.Tensor] = {}
        if rule.tie_rule == "magnitude":
            model = layers if isinstance(layers, nn.Module) else None
            self._weights = {
                layer.name: _weight(layer, model, weights).to(self._device)
                for layer in self._plan.layers
            }
        self._decided: list[PruneDecision] = []
        self._votes: dict[int, MaskVotes] = {}
        self._open([])

    @property
    def waiting(self) -> frozenset[int]:
        """The clients of which a vote is to come; when empty, close the phase."""
        everybody = frozenset(range(self._clients))
        return frozenset().union(
            *(everybody - votes.clients(self._first(block)) for block, votes in self._votes.items())
        )

    def handle(self, message: PruneMessage, source: int) -> list[PruneMessage]:
        """Take a client's vote on a block; the list is empty, since decisions come with the end.

        Args:
            message: what came.
            source: number of the client that the engine authenticated.

        Raises:
            ProtocolError: the vote is malformed, forged, late, repeated, or does not prune exactly
                its share of every group.
        """
        with self._lock:
            self._check_envelope(message, source)
            if source >= self._clients:
                raise self._refusal(f"client {source} is none of the {self._clients}", source)
            votes = self._votes.get(message.block)
            if votes is None:
                raise self._refusal(f"block {message.block} is not open for votes", source)
            if source in votes.clients(self._first(message.block)):
                raise self._refusal(
                    f"client {source} voted on block {message.block} before", source
                )
            self._check_quota(message, self._rule.local_group)
            votes.add(source, {name: packed_tensor(packed) for name, packed in message.masks})
            return []

    def close_phase(self) -> list[PruneMessage]:
        """Decide: on all blocks, or on the one whose turn it is; what to send to every client.

        Raises:
            ThresholdError: nobody voted on a block; the phase stays open.
            ProtocolError: the round is over.
        """
        with self._lock:
            if self._phase != "vote":
                raise self._refusal("there is no phase to close")
            for block, votes in self._votes.items():
                if not votes.clients(self._first(block)):
                    raise ThresholdError(
                        f"{NAME}: no client voted on block {block}; one is needed",
                        missing=range(self._clients),
                        needed=1,
                    )
            decided = {block: self._decide(block) for block in sorted(self._votes)}
            messages = [
                PruneDecision(**self._envelope(client, block), **body)
                for block, body in decided.items()
                for client in range(self._clients)
            ]
            self._open([*self._decided, *(m for m in messages if m.recipient == 0)])
            return list(messages)

    def close(self) -> None:
        """Give the round up; the counts are dropped."""
        with self._lock:
            self._votes = {}
            self._phase = "closed"

    def _first(self, block: int) -> str:
        return self._plan.blocks[block][0].name

    def _open(self, decided: list[PruneDecision]) -> None:
        """Open the next block for votes, or all of them; or finish. All of it, or nothing."""
        block, count = len(decided), len(self._plan.blocks)
        if block == count:
            self._result = PruneResult(self._plan, tuple(decided))
            self._decided, self._votes, self._phase = decided, {}, "done"
            return
        last = block + 1 if self._rule.iterative else count
        votes = {
            number: MaskVotes(
                {layer.name: layer.shape for layer in self._plan.blocks[number]}, self._device
            )
            for number in range(block, last)
        }
        self._decided, self._votes = decided, votes

    def _decide(self, block: int) -> dict[str, Any]:
        """The body of the decision on a block."""
        votes, rule = self._votes[block], self._rule
        voters = len(votes.clients(self._first(block)))
        masks, counted = [], []
        for layer in self._plan.blocks[block]:
            counts = votes.counts(layer.name).flatten()
            mask = mask_select(
                counts,
                layer.shape,
                rule.sparsity,
                rule.group,
                rule.tie_rule,
                weight=self._weights.get(layer.name),
                key=rule.key if rule.tie_rule == "random" else None,
                stream=self._plan.layers.index(layer),
                rounding=rule.rounding,
            )
            masks.append((layer.name, mask_pack(mask.flatten()).cpu().numpy().tobytes()))
            if rule.scaling:
                form = "u1" if voters <= NARROW else "<u2"
                counted.append((layer.name, counts.cpu().numpy().astype(form).tobytes()))
        return {"masks": tuple(masks), "voters": voters, "counts": tuple(counted)}


def _weight(
    layer: PrunableLayer, model: nn.Module | None, weights: Mapping[str, torch.Tensor] | None
) -> torch.Tensor:
    """The matrix of a layer, for ties by magnitude."""
    if weights is None and model is None:
        raise ArgumentError(
            f"{NAME}: weights is None; ties by magnitude need them, or a model: column groups take "
            "these ties by default, or say ties='index'"
        )
    if weights is not None and layer.name not in weights:
        raise ArgumentError(f"{NAME}: weights lacks {layer.name!r}; it must have every layer")
    if weights is not None:
        matrix = weights[layer.name]
    else:
        assert model is not None
        matrix = matrix_of(module_of(model, layer))
    expect_tensor(NAME, f"the weight of {layer.name}", matrix, FLOATS, 2)
    if tuple(matrix.shape) != layer.shape:
        raise ArgumentError(
            f"{NAME}: the weight of {layer.name} has shape {tuple(matrix.shape)}; it must be "
            f"{layer.shape}"
        )
    return matrix.detach().contiguous()
