"""What clients minimise: the mean over each client's own samples, so that gradients do not mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.batches import IGNORED, Rows, sent

Losses = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[Any, Mapping[str, torch.Tensor]], Losses]
"""loss(outputs, batch) → losses (samples, …), or a pair (losses, weights) of the same shape."""


class UnknownLabel(ArgumentError):
    """A label is no number of a class; the bank adds whose it is.

    Args:
        sample: of the joined batch.
        label: what it got.
        classes: how many there are.
    """

    def __init__(self, sample: int, label: int, classes: int) -> None:
        super().__init__(
            f"is {label}; it must be {IGNORED}, or 0 to {classes - 1}: the logits have {classes} "
            "classes"
        )
        self.sample = sample


def logits_of(op: str, outputs: Any) -> torch.Tensor:
    """The logits in what a model gives, or the tensor that it gives."""
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, torch.Tensor):
        raise ArgumentError(
            f"{op}: the model gives {type(outputs).__name__}, which has no logits; say what to "
            "take from it with a function"
        )
    return logits


def cross_entropy(causal: bool) -> Loss:
    """Cross entropy of each label under the logits; labels of -100 do not count.

    Args:
        causal: logits of a token are held against the label of the next one.
    """

    def loss(outputs: Any, batch: Mapping[str, torch.Tensor]) -> Losses:
        logits = logits_of("ClientBank", outputs)
        if "labels" not in batch:
            raise ArgumentError(
                "ClientBank: the batches have no labels; give them, or a loss of your own"
            )
        labels = batch["labels"]
        if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
            raise ArgumentError(
                f"ClientBank: labels are {labels.dtype} of shape {tuple(labels.shape)} and the "
                f"logits have shape {tuple(logits.shape)}; cross entropy needs integers of shape "
                f"{tuple(logits.shape[:-1])}; for another loss give loss="
            )
        if causal:
            logits, labels = logits[:, :-1], labels[:, 1:]
        counted = labels != IGNORED
        classes = logits.shape[-1]
        bad = counted & ((labels < 0) | (labels >= classes))
        if bool(bad.any()):  # asked before: on a GPU the kernel's own check ends the process
            place = torch.nonzero(bad)[0]
            raise UnknownLabel(int(place[0]), int(labels[tuple(place)]), classes)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        each = F.cross_entropy(
            wide.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return each.view(labels.shape), counted

    return loss


def client_means(found: object, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Each client's mean loss, 0 where nothing counts, and how much counts: both (clients,).

    Args:
        found: what a loss gave.
        rows: whose the samples are.
    """
    losses, weights = found if isinstance(found, tuple) else (found, None)
    for name, value in (("losses", losses), ("weights", weights)):
        if value is None and name == "weights":
            continue
        if not isinstance(value, torch.Tensor):
            raise DtypeError(
                f"ClientBank: the loss gives {type(value).__name__} for {name}; it must give a "
                "tensor (samples, …), or a pair of such"
            )
        if value.dim() == 0 or value.shape[0] != rows.samples:
            raise ArgumentError(
                f"ClientBank: the loss gives {name} of shape {tuple(value.shape)}; dimension 0 "
                f"must be the {rows.samples} samples: losses must not be averaged over clients"
            )
    if weights is None:
        weights = torch.ones_like(losses, requires_grad=False)
    if weights.shape != losses.shape:
        raise ArgumentError(
            f"ClientBank: the loss gives losses of shape {tuple(losses.shape)} and weights of "
            f"shape {tuple(weights.shape)}; they must be the same"
        )
    # What does not count must not matter, even where it is NaN.
    weighted = torch.where(weights != 0, losses * weights, 0)
    sums = _client_sums(weighted.flatten(1).sum(1) if losses.dim() > 1 else weighted, rows)
    weights = weights.to(losses.dtype)
    counts = _client_sums(weights.flatten(1).sum(1) if losses.dim() > 1 else weights, rows)
    return sums / torch.where(counts == 0, 1, counts), counts


def _client_sums(x: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Sums of x (samples,) over each client's samples, (clients,), in the order of the samples."""
    clients = len(rows.counts)
    if rows.equal:
        return x.view(clients, -1).sum(1)
    most = max(rows.counts)
    places = torch.full((clients, most), rows.samples)  # one behind the last: a zero
    for client, count in enumerate(rows.counts):
        places[client, :count] = torch.arange(count) + rows.edges[client]
    return F.pad(x, (0, 1))[sent(places, x.device)].sum(1)
