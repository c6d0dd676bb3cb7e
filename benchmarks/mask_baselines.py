"""What a user would write without pyfed to count votes, select and average: torch and numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from baselines import _equal
from contests import Baseline

TABLE = "torch, streamed, table of bytes"
UNPACKBITS = "torch, streamed, numpy.unpackbits"
TOPK = "torch stack–sum–topk"
SORT = "torch.sort"
EXPRESSION = "torch expression"
LOOP = "torch loop of addcmul"
PACKBITS = "numpy.packbits"
UNPACK = "numpy.unpackbits"
BITWISE = "numpy.bitwise_count"

Counter = Callable[[torch.Tensor, int], torch.Tensor]


def _byte_table(device: torch.device) -> torch.Tensor:
    """For every byte its 8 bits as the bytes of one int64: (256,)."""
    shifts = torch.arange(8, dtype=torch.uint8, device=device)
    bits = torch.arange(256, dtype=torch.uint8, device=device)[:, None] >> shifts & 1
    return bits.contiguous().view(torch.int64).flatten()


def count_by_table(packed: torch.Tensor, length: int) -> torch.Tensor:
    """Add client after client, 8 elements at a time: sums of up to 255 bits never carry."""
    table = _byte_table(packed.device)
    total = torch.zeros(packed.shape[1], dtype=torch.int64, device=packed.device)
    for row in packed:
        total += table[row.int()]
    return total.view(torch.uint8)[:length]


def count_by_unpackbits(packed: torch.Tensor, length: int) -> torch.Tensor:
    """Add client after client as uint8."""
    total = torch.zeros(length, dtype=torch.uint8)
    for row in packed.numpy():
        total += torch.from_numpy(np.unpackbits(row, count=length, bitorder="little"))
    return total


def count_votes(packed: torch.Tensor, length: int, counter: Counter) -> Baseline:
    return Baseline(lambda: counter(packed, length), _equal())


def vote(packed: torch.Tensor, length: int, k: int, counter: Counter) -> Baseline:
    """Count, then the threshold from a histogram, then compare; ties by index."""

    def run() -> torch.Tensor:
        counts = counter(packed, length)
        at_least = torch.bincount(counts, minlength=packed.shape[0] + 1).flip(0).cumsum(0).flip(0)
        threshold = int((at_least >= k).nonzero()[-1])
        mask = counts > threshold
        tied = torch.nonzero(counts == threshold).flatten()
        mask[tied[: k - int(mask.sum())]] = True
        return mask

    return Baseline(run, _equal())


def stack_sum_topk(packed: torch.Tensor, length: int, k: int) -> Baseline:
    """Every client's mask as bytes at once; uint8 sums, which are the fast ones."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        masks = torch.stack([(row[:, None] >> shifts & 1).flatten()[:length] for row in packed])
        counts = masks.sum(0, dtype=torch.uint8)
        mask = torch.zeros(length, dtype=torch.bool, device=packed.device)
        mask[torch.topk(counts, k, sorted=False).indices] = True
        return mask, counts

    def check(output: Any, expected: torch.Tensor) -> None:
        mask, counts = output
        assert int(mask.sum()) == k
        assert int(counts[mask].sum()) == int(counts[expected.view(-1)].sum())

    return Baseline(run, check, lacks="ties as they fall")


def sort_groups(counts: torch.Tensor, shape: tuple[int, int], k: int, dim: int) -> Baseline:
    """A stable sort of every row or column."""
    matrix = counts.view(shape)

    def run() -> torch.Tensor:
        order = torch.sort(matrix, dim=dim, descending=True, stable=True).indices
        mask = torch.zeros(shape, dtype=torch.bool, device=counts.device)
        return mask.scatter_(dim, order.narrow(dim, 0, k), True)

    return Baseline(run, _equal())


def sort_and_prune(weight: torch.Tensor, counts: torch.Tensor, k: int) -> Baseline:
    """A stable sort of all counts, then masked_fill_."""

    def run() -> torch.Tensor:
        order = torch.sort(counts.view(-1), descending=True, stable=True).indices
        mask = torch.zeros(counts.numel(), dtype=torch.bool, device=counts.device)
        mask[order[:k]] = True
        weight.masked_fill_(mask.view(weight.shape), 0)
        return mask.view(weight.shape)

    return Baseline(run, _equal())


def _close(output: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(output, expected)


def mean_expression(values: torch.Tensor, masks: torch.Tensor) -> Baseline:
    """(values · masks).sum / masks.sum; the masks are bool tensors already."""

    def run() -> torch.Tensor:
        return (values * masks).sum(0) / masks.sum(0, dtype=torch.uint8).clamp(min=1)

    return Baseline(run, _close, lacks="masks come unpacked, NaN leaks out of masked values")


def mean_loop(values: torch.Tensor, masks: torch.Tensor) -> Baseline:
    """Client after client into one sum; the masks are bool tensors already."""

    def run() -> torch.Tensor:
        total = torch.zeros_like(values[0])
        held = torch.zeros(values.shape[1:], dtype=torch.uint8, device=values.device)
        for own, mask in zip(values, masks, strict=True):
            total.addcmul_(own, mask)
            held += mask
        return total / held.clamp(min=1)

    return Baseline(run, _close, lacks="masks come unpacked, NaN leaks out of masked values")


def packbits(mask: torch.Tensor) -> Baseline:
    plain = mask.numpy()
    return Baseline(lambda: np.packbits(plain, axis=-1, bitorder="little"), _equal())


def unpackbits(packed: torch.Tensor, length: int) -> Baseline:
    plain = packed.numpy()
    how: dict[str, Any] = {"axis": -1, "count": length, "bitorder": "little"}
    return Baseline(lambda: np.unpackbits(plain, **how).view(bool), _equal())


def bitwise_count(packed: torch.Tensor) -> Baseline:
    plain = packed.numpy()
    wide = plain.view(np.uint64) if plain.shape[-1] % 8 == 0 else plain
    return Baseline(lambda: np.bitwise_count(wide).sum(-1, dtype=np.int64), _equal())
