"""The experiment on one model and one split: who prunes, by whose votes, and how good it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from fedprllm_models import Measure
from fedprllm_records import Row, VoteFigures
from fedprllm_text import Split
from torch import nn

import pyfed
from pyfed.ops import mask_pack, mask_prune_, mask_select, mask_unpack
from pyfed.pruning import (
    FedPrLLM,
    MaskVotes,
    decode_mask,
    encode_mask,
    local_votes,
    prunable_layers,
)

Masks = dict[str, torch.Tensor]
"""Layer → packed mask, uint8 (⌈weights / 8⌉,); a set bit prunes."""

RULES = ("index", "random", "magnitude")
GROUPS = ("layer", "row", "column")
JUDGED = 4  # clients whose own models are judged


class Study:
    """The experiment at one sparsity after another.

    Args:
        model: The dense model; it is the same after each call.
        measure: Judges a model.
        split: Who calibrates on what.
        seed: Of the split, and of random ties.
        step: Called after each calibration and each judgement, with a few words.
    """

    def __init__(
        self,
        model: nn.Module,
        measure: Measure,
        split: Split,
        seed: int,
        step: Callable[[str], None] = lambda done: None,
    ) -> None:
        self.model, self.measure, self.split, self.seed = model, measure, split, seed
        self.step = step
        self.shapes = {layer.name: layer.shape for layer in prunable_layers(model)}
        self.total = sum(rows * columns for rows, columns in self.shapes.values())

    def dense(self) -> Row:
        """The model as it came."""
        return self._row("dense", 0.0, [self._judge("dense", {})])

    def run(self, sparsity: float, full: bool) -> Iterator[Row | VoteFigures]:
        """All that one sparsity gives; every federated row counts the same votes.

        Args:
            sparsity: The part of each row that clients vote to prune.
            full: Every group and rule, survivor scaling and the figures of the votes; else the
                layer vote alone.
        """
        central = self._vote(self.split.pooled, sparsity, "centralised")
        yield self._row("centralised", sparsity, [self._judge_masks("centralised", central)])
        votes, own, received = self._round(sparsity)
        each = [self._judge_masks(f"client {i} alone", masks) for i, masks in enumerate(own)]
        yield self._row("local-only", sparsity, each)
        yield self._federated(votes, sparsity, "layer", "index", received=received)
        if not full:
            return
        for group in GROUPS:
            for ties in RULES:
                if (group, ties) != ("layer", "index"):
                    yield self._federated(votes, sparsity, group, ties)
        yield self._federated(votes, sparsity, "layer", "index", scaling=True)
        yield self._vote_figures(votes, sparsity, own)

    def _vote(self, samples: torch.Tensor, sparsity: float, who: str) -> Masks:
        """Calibrate the model, every block behind the pruned ones before it."""
        masks: Masks = {}
        for block in local_votes(self.model, samples, sparsity):
            masks |= {name: mask_pack(mask.view(-1)) for name, mask in block.items()}
        self.step(f"{who} calibrated")
        return masks

    def _round(self, sparsity: float) -> tuple[MaskVotes, list[Masks], dict[str, torch.Tensor]]:
        """One round of FedPrLLM in messages, with the layer vote and ties by index.

        Returns:
            The counted votes, for the other variants; the masks of the clients that are judged; and
            the weights of a client's model after the round.
        """
        rule = FedPrLLM(sparsity, ties="index")
        server = rule.server(prunable_layers(self.model), clients=len(self.split.clients))
        copy = deepcopy(self.model)  # a client's own: the decision prunes it
        votes, own, first = MaskVotes(self.shapes), list[Masks](), None
        for number, samples in enumerate(self.split.clients):
            client = rule.client(number, copy if number == 0 else self.model, samples)
            masks: Masks = {}
            for vote in client.start():
                server.handle(vote, number)
                masks |= {
                    name: torch.frombuffer(bytearray(bits), dtype=torch.uint8)
                    for name, bits in vote.masks
                }
            votes.add(number, masks)
            own += [masks] if number < JUDGED else []
            first = first or client
            self.step(f"client {number} calibrated")
        for decision in server.close_phase():
            if decision.recipient == 0:
                first.handle(decision, -1)
        return votes, own, {name: copy.get_submodule(name).weight.data for name in self.shapes}

    def _federated(
        self,
        votes: MaskVotes,
        sparsity: float,
        group: str,
        ties: str,
        scaling: bool = False,
        received: Mapping[str, torch.Tensor] | None = None,
    ) -> Row:
        """Select by the votes, and judge what is left; ``received`` must be the same, if given."""
        pruned, by_ties = {}, 0
        for stream, (name, shape) in enumerate(self.shapes.items()):
            counts = votes.counts(name).view(shape)
            weight = self._weight(name).detach().clone()
            mask = mask_prune_(
                *(weight, counts, sparsity, group, ties),
                key=pyfed.Key(self.seed.to_bytes(32, "little")) if ties == "random" else None,
                stream=stream,
                clients=len(self.split.clients) if scaling else None,
            )
            if received is not None and not torch.equal(weight, received[name]):
                raise RuntimeError(f"{name} is not what the messages of a round made it")
            pruned[name] = weight
            by_ties += decided_by_ties(counts, mask, group)
        losses = self._judge(f"{group} by {ties}", pruned)
        share = by_ties / self.total
        how = {"group": group, "ties": ties, "scaling": scaling, "tie_share": share}
        return self._row("federated", sparsity, [losses], **how)

    def _row(self, method: str, sparsity: float, losses: list[torch.Tensor], **how: Any) -> Row:
        """The row of one model, or of the models of several clients."""
        each = [self.measure.figure(one) for one in losses]
        mean = torch.stack(losses).mean(0).tolist()
        row = Row(self.seed, method, sparsity, sum(each) / len(each), mean, **how)
        row.each = each if method == "local-only" else []
        return row

    def _vote_figures(self, votes: MaskVotes, sparsity: float, own: list[Masks]) -> VoteFigures:
        """How much the clients agree, and what their masks take on the wire."""
        clients = len(self.split.clients)
        unanimous, minority = 0, 0
        outcome: Masks = {}
        for name, shape in self.shapes.items():
            counts = votes.counts(name).view(shape)
            unanimous += int(((counts == 0) | (counts == clients)).sum())
            minority += int(torch.minimum(counts, clients - counts).sum(dtype=torch.int64))
            outcome[name] = mask_pack(mask_select(counts, shape, sparsity).view(-1))
        public = self._vote(self.split.public, sparsity, "the server")
        bits = {
            "nothing": self._upload_bits(own, {}),
            "public text": self._upload_bits(own, public),
            "outcome": self._upload_bits(own, outcome),
        }
        figures = (unanimous / self.total, minority / (clients * self.total))
        return VoteFigures(self.seed, sparsity, *figures, bits)

    def _upload_bits(self, uploads: list[Masks], references: Masks) -> float:
        """Bits for a weight that masks take, coded against reference masks; checks them too."""
        size = 0
        for masks in uploads:
            for name, mask in masks.items():
                length, reference = self._weight(name).numel(), references.get(name)
                data = encode_mask(mask, length, reference)
                if not torch.equal(decode_mask(data, length, reference), mask):
                    raise RuntimeError(f"the mask of {name} was not read as it was written")
                size += len(data)
        return 8 * size / (self.total * len(uploads))

    def _judge_masks(self, what: str, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Judge the model without what packed masks prune."""
        pruned = {}
        for name, packed in masks.items():
            weight = self._weight(name).detach()
            mask = mask_unpack(packed, weight.numel()).view(weight.shape)
            pruned[name] = weight.masked_fill(mask, 0.0)
        return self._judge(what, pruned)

    def _judge(self, what: str, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Judge the model with other weights in some layers."""
        with self._replaced(weights):
            losses = self.measure.losses(self.model)
        self.step(f"{what} judged")
        return losses

    @contextmanager
    def _replaced(self, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        own = {name: self._weight(name).data for name in weights}
        try:
            for name, weight in weights.items():
                self._weight(name).data = weight
            yield
        finally:
            for name, weight in own.items():
                self._weight(name).data = weight

    def _weight(self, name: str) -> nn.Parameter:
        return self.model.get_submodule(name).weight


def steps(clients: int, also: int) -> int:
    """How often a study calls ``step``: one sparsity in full, and ``also`` others."""
    each = 2 + clients + min(JUDGED, clients) + 1  # centralised, clients, their own, layer vote
    return 1 + (1 + also) * each + len(GROUPS) * len(RULES) + 1  # scaling; the server's own votes


def decided_by_ties(counts: torch.Tensor, mask: torch.Tensor, group: str) -> int:
    """How many weights the rule for ties has pruned: others with as many votes were kept.

    Args:
        counts: Votes (rows, columns).
        mask: bool (rows, columns), what was selected by them.
        group: ``layer``, ``row`` or ``column``.
    """
    groups = {"layer": (1, -1), "row": counts.shape, "column": counts.shape}[group]
    counts, mask = counts.int().reshape(groups), mask.reshape(groups)
    if group == "column":
        counts, mask = counts.T, mask.T  # (groups, members)
    most = torch.iinfo(torch.int32)
    lowest_pruned = counts.masked_fill(~mask, most.max).amin(1, keepdim=True)
    highest_kept = counts.masked_fill(mask, most.min).amax(1, keepdim=True)
    tied = lowest_pruned == highest_kept
    return int((mask & tied & (counts == lowest_pruned)).sum())
