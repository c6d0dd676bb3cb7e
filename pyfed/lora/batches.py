"""The batches of many clients as one: concatenated, padded, and whose each row is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from pyfed.errors import ArgumentError, DtypeError

Batch = Mapping[str, torch.Tensor]
"""What a model is called with, by name; ``labels`` are kept for the loss. Dimension 0: samples."""

IGNORED = -100
_TOKENS = ("input_ids", "inputs_embeds")
_PADDING = {"labels": IGNORED}


def sent(values: object, device: torch.device) -> torch.Tensor:
    """Numbers on a device, without waiting for what it is doing."""
    return torch.as_tensor(values).to(device, non_blocking=True)


class Rows:
    """Whose each sample of a joined batch is, client after client.

    Args:
        first: the first client.
        counts: the samples of each client from ``first`` on; 0 where a client is absent.
        device: of the tensors made here.
        streams: the stream of each of these clients' dropout, int64; None: nothing is dropped.

    Attributes:
        equal: whether all have as many samples.
        edges: where each client's samples begin, and where the last end.
        present: which of these clients, counted from ``first``, have samples.
        absent: which have none, bool (clients,) on the device.
        dropped: whether adapters drop.
    """

    def __init__(
        self,
        first: int,
        counts: Sequence[int],
        device: torch.device,
        streams: torch.Tensor | None = None,
    ) -> None:
        self.first, self.last = first, first + len(counts)
        self.counts = list(counts)
        self.edges = [0, *itertools.accumulate(counts)]
        self.samples = self.edges[-1]
        self.equal = len(set(counts)) == 1
        self.device = device
        self.dropped = streams is not None
        self.streams = (
            torch.zeros(len(counts), dtype=torch.int64, device=device)
            if streams is None
            else sent(streams, device)
        )
        self.present = [i for i, count in enumerate(counts) if count]
        self.absent = sent([count == 0 for count in counts], device)
        self._starts: dict[int, torch.Tensor] = {}
        self._owner: torch.Tensor | None = None

    def starts(self, each: int) -> torch.Tensor:
        """Where each client's rows begin when a sample has ``each`` rows: int64 (clients + 1,)."""
        if each not in self._starts:
            starts = torch.tensor(self.edges, dtype=torch.int64) * each
            self._starts[each] = sent(starts, self.device)
        return self._starts[each]

    @property
    def owner(self) -> torch.Tensor:
        """The client of each sample, counted from ``first``: int64 (samples,)."""
        if self._owner is None:
            counts = torch.tensor(self.counts)
            owner = torch.repeat_interleave(torch.arange(len(self.counts)), counts)
            self._owner = sent(owner, self.device)
        return self._owner

    def rows_of_sample(self, path: str, x: torch.Tensor) -> int:
        """How many rows x (samples, …, features) has for a sample; raises unless it has."""
        if x.dim() < 2 or x.shape[0] != self.samples:
            raise ArgumentError(
                f"ClientBank: layer {path} is given shape {tuple(x.shape)}; dimension 0 must be "
                f"the {self.samples} samples of the batch, so that each row has a client; leave "
                "this layer out of target_modules"
            )
        return x[0, ..., 0].numel()


class Batches:
    """The batches of one step, checked.

    Args:
        op: what an error names.
        batches: for each client a mapping of tensors, or None where the client is absent.
        clients: how many there must be.
        device: where the tensors must be.
        padding: the token that fills up shorter samples.

    Raises:
        DtypeError: a batch is no mapping, or holds something else than tensors.
        ArgumentError: there are not so many batches, they differ in their names or shapes, they
            are on another device, or no client has a sample.
    """

    def __init__(
        self, op: str, batches: object, clients: int, device: torch.device, padding: int = 0
    ) -> None:
        if not isinstance(batches, Sequence) or isinstance(batches, str | bytes):
            kind = type(batches).__name__
            raise DtypeError(f"{op}: batches is {kind}; it must be a list of one for each client")
        if len(batches) != clients:
            raise ArgumentError(f"{op}: there are {len(batches)} batches; it must be {clients}")
        self.op, self.padding = op, padding
        self.counts = [_samples(op, number, batch, device) for number, batch in enumerate(batches)]
        self.batches: list[dict[str, torch.Tensor]] = [
            dict(batch) if count else {} for batch, count in zip(batches, self.counts, strict=True)
        ]
        self.present = [client for client, count in enumerate(self.counts) if count]
        if not self.present:
            raise ArgumentError(
                f"{op}: no batch holds a sample; at least one client must take part"
            )
        self.names = list(self.batches[self.present[0]])
        for client in self.present:
            if set(self.batches[client]) != set(self.names):
                raise ArgumentError(
                    f"{op}: batches[{client}] has {sorted(self.batches[client])}; it must have "
                    f"{sorted(self.names)}, as batches[{self.present[0]}] has"
                )
        self._find_lengths()

    def _find_lengths(self) -> None:
        """The tokens of each client's samples, and which tensors must be filled up."""
        by = next((name for name in _TOKENS if name in self.names), None)
        self.lengths = [
            batch[by].shape[1] if batch and by and batch[by].dim() > 1 else 0
            for batch in self.batches
        ]
        self.longest = max(self.lengths)
        self.filled = set()
        first = self.present[0]
        for name in self.names:
            like = self.batches[first][name]
            for client in self.present:
                value = self.batches[client][name]
                if value.dtype != like.dtype:
                    raise DtypeError(
                        f"{self.op}: batches[{client}][{name!r}] has dtype {value.dtype}; it must "
                        f"be {like.dtype}, as that of batches[{first}]"
                    )
                if value.shape[1:] == like.shape[1:]:
                    continue
                tokens = (self.lengths[client], self.lengths[first])
                along = (value.shape[1:2], like.shape[1:2]) == ((tokens[0],), (tokens[1],))
                if not along or value.shape[2:] != like.shape[2:]:
                    raise ArgumentError(
                        f"{self.op}: batches[{client}][{name!r}] has shape {tuple(value.shape)} "
                        f"and that of batches[{first}] {tuple(like.shape)}; they may differ in "
                        "samples and, where it is that of input_ids, in length"
                    )
                self.filled.add(name)
        if self.filled and "attention_mask" not in self.names:
            for client in self.present:
                count, length = self.counts[client], self.lengths[client]
                device = self.batches[client][str(by)].device
                ones = torch.ones(count, length, dtype=torch.int64, device=device)
                self.batches[client]["attention_mask"] = ones
            self.names.append("attention_mask")
            self.filled.add("attention_mask")

    def join(self, first: int, last: int) -> dict[str, torch.Tensor]:
        """The batches of clients ``first`` to ``last`` - 1, one behind the other.

        Samples are filled up to the longest of all clients, whichever are joined, so that the way
        in which clients are split into tiles changes nothing.
        """
        some = [batch for batch in self.batches[first:last] if batch]
        return {
            name: torch.cat([self._fill(name, batch[name]) for batch in some])
            for name in self.names
        }

    def _fill(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name not in self.filled or value.shape[1] == self.longest:
            return value
        number = self.padding if name == "input_ids" else _PADDING.get(name, 0)
        behind = (0, 0) * (value.dim() - 2) + (0, self.longest - value.shape[1])
        return F.pad(value, behind, value=number)


def _samples(op: str, client: int, batch: object, device: torch.device) -> int:
    """How many samples a batch has; 0 when it is None."""
    if batch is None:
        return 0
    where = f"batches[{client}]"
    if not isinstance(batch, Mapping):
        kind = type(batch).__name__
        raise DtypeError(f"{op}: {where} is {kind}; it must be a mapping of tensors, or None")
    counts = set()
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise DtypeError(f"{op}: {where}[{name!r}] is {kind}; it must be a torch.Tensor")
        if value.device != device:
            raise ArgumentError(
                f"{op}: {where}[{name!r}] is on {value.device}; it must be on {device}, where the "
                "bank is"
            )
        counts.add(value.shape[0] if value.dim() else -1)
    if len(counts) != 1 or -1 in counts:
        shapes = {name: tuple(value.shape) for name, value in batch.items()}
        raise ArgumentError(
            f"{op}: {where} has shapes {shapes}; dimension 0 of each must be the samples"
        )
    return int(counts.pop())
