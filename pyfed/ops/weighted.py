"""Weighted means over clients of lists of tensors, whatever their shapes and dtypes.

out_k = Σ_c w_c t_ck / Σ_c w_c. Sums run over the clients in their order, in float32: each product
is rounded, then each sum; so all backends give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyfed import native
from pyfed.checks import NOT_FINITE, report
from pyfed.op import Op
from pyfed.ops.selection_arguments import KINDS
from pyfed.ops.weighted_arguments import expect_alike, flattened, normalised

CPU_CHUNK, CUDA_CHUNK = 8192, 2048
"""Elements that one task of a kernel takes from every client, or more where they would be many."""
MOST_CHUNKS = 8192


def _weighted_mean_reference(
    tensors: list[torch.Tensor], weights: torch.Tensor, clients: int
) -> list[torch.Tensor]:
    expect_alike(tensors, clients)
    means = []
    for own in zip(*_by_client(tensors, clients), strict=True):
        wide = torch.float64 if own[0].dtype == torch.float64 else torch.float32
        total = torch.zeros(own[0].shape, dtype=wide, device=own[0].device)
        for weight, tensor in zip(weights.to(wide), own, strict=True):
            total = total + weight * tensor.to(wide)
        means.append(total.to(own[0].dtype))
        report("weighted_mean", ~torch.isfinite(means[-1]), NOT_FINITE)
    return means


def _by_client(tensors: list[torch.Tensor], clients: int) -> list[list[torch.Tensor]]:
    each = len(tensors) // clients
    return [tensors[client * each : (client + 1) * each] for client in range(clients)]


def _weighted_mean_fake(
    tensors: list[torch.Tensor], weights: torch.Tensor, clients: int
) -> list[torch.Tensor]:
    expect_alike(tensors, clients)
    return [t.new_empty(t.shape) for t in tensors[: len(tensors) // clients]]


def _describe(names: list[str], args: tuple[Any, ...]) -> str | None:
    tensors, weights, clients = args
    if not torch.isfinite(weights).all():
        return (
            "weighted_mean: weights must be finite and 0 or more, and not all of them 0; one is "
            "negative, NaN or infinite, or all are 0"
        )
    for client, own in enumerate(_by_client(tensors, clients)):
        for place, tensor in enumerate(own):
            bad = ~torch.isfinite(tensor)
            if bad.any():
                first = tuple(torch.nonzero(bad)[0].tolist())
                return (
                    f"weighted_mean: in tensor {place} of client {client} {int(bad.sum())} of "
                    f"{tensor.numel()} elements are NaN or infinite; the first is "
                    f"{tensor[first].item()} at index {first}"
                )
    return "weighted_mean: a mean does not fit in the dtype of its tensors"


weighted_mean_op = Op(
    "weighted_mean(Tensor[] tensors, Tensor weights, int clients) -> Tensor[]",
    fake=_weighted_mean_fake,
    reference=_weighted_mean_reference,
    describe=_describe,
)


def _dtype_reason(tensors: list[torch.Tensor], clients: int) -> str | None:
    if any(t.dtype == torch.float64 for t in tensors[: len(tensors) // clients]):
        return "float64 runs on the reference alone"
    return None


def _chunks(sizes: list[int], least: int) -> tuple[int, list[int]]:
    """How many elements are a chunk, and of every chunk its tensor and first element."""
    chunk = least
    while sum(sizes) > MOST_CHUNKS * chunk:
        chunk *= 2
    pairs = (
        word
        for place, size in enumerate(sizes)
        for first in range(0, size, chunk)
        for word in (place, first)
    )
    return chunk, list(pairs)


class _Table:
    """What a kernel takes: tensors for the means, and numbers in the host's memory.

    Args:
        tensors: the clients' lists, one after the other.
        clients: how many.
        least: elements of a chunk, where that gives no more chunks than a kernel needs.
    """

    def __init__(self, tensors: list[torch.Tensor], clients: int, least: int) -> None:
        self.each = len(tensors) // clients
        sources = native.addresses(tensors, self.each)
        if sources is None:
            expect_alike(tensors, clients)
            tensors = [tensor.contiguous() for tensor in tensors]
            sources = torch.tensor([tensor.data_ptr() for tensor in tensors], dtype=torch.int64)
        self.kept = tensors  # as long as their addresses are in use
        self.outs = [
            torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors[: self.each]
        ]
        sizes = [tensor.numel() for tensor in self.outs]
        self.chunk, chunks = _chunks(sizes, least)
        self.chunks = len(chunks) // 2
        targets = [tensor.data_ptr() for tensor in self.outs]
        kinds = [KINDS[tensor.dtype] for tensor in self.outs]
        rest = torch.tensor([*targets, *sizes, *kinds, *chunks], dtype=torch.int64)
        self.words = torch.cat([sources, rest])
        """Addresses (clients, tensors) and of the means, sizes, kinds, chunks (count, 2)."""


@weighted_mean_op.kernel(
    "cpu", lambda tensors, weights, n: native.cpu_reason(weights) or _dtype_reason(tensors, n)
)
def _weighted_mean_cpu(
    tensors: list[torch.Tensor], weights: torch.Tensor, clients: int
) -> list[torch.Tensor]:
    table = _Table(tensors, clients, CPU_CHUNK)
    native.run(
        *("weighted_mean", weights.device, table.words, clients, table.each, table.chunks),
        *(table.chunk, weights.to(torch.float32)),
    )
    return table.outs


@weighted_mean_op.kernel(
    "cuda", lambda tensors, weights, n: native.cuda_reason(weights) or _dtype_reason(tensors, n)
)
def _weighted_mean_cuda(
    tensors: list[torch.Tensor], weights: torch.Tensor, clients: int
) -> list[torch.Tensor]:
    table = _Table(tensors, clients, CUDA_CHUNK)
    room = torch.empty(table.words.shape, dtype=torch.int64, device=weights.device)
    native.run(
        *("weighted_mean", weights.device, table.words, clients, table.each, table.chunks),
        *(table.chunk, weights.to(torch.float32), room),
    )
    return table.outs


@weighted_mean_op.kernel(
    "triton", lambda tensors, weights, n: native.triton_reason(weights) or _dtype_reason(tensors, n)
)
def _weighted_mean_triton(
    tensors: list[torch.Tensor], weights: torch.Tensor, clients: int
) -> list[torch.Tensor]:
    from pyfed.triton_kernels import weighted as kernels

    table = _Table(tensors, clients, CUDA_CHUNK)
    words = table.words
    if weights.device.type == "cuda":  # from pinned memory, which waits for nothing
        words = words.pin_memory().to(weights.device, non_blocking=True)
    each = table.each
    aligned = not bool((table.words[: (clients + 1) * each] % 16).any())
    lists = words.split([clients * each, each, each, each, 2 * table.chunks])
    with native.TritonReport("weighted_mean", weights.device) as word:
        kernels.weighted_mean(
            *(*lists[:4], clients, weights.to(torch.float32), lists[4].view(-1, 2), table.chunk),
            *(word, aligned),
        )
    return table.outs


@weighted_mean_op.public
def weighted_mean(
    tensors: Sequence[Sequence[torch.Tensor]],
    weights: Sequence[float] | torch.Tensor | None = None,
) -> tuple[Any, ...]:
    """Average lists of tensors over clients, in one pass: out_k = Σ_c w_c t_ck / Σ_c w_c.

    The weights are divided by their sum in float64. Sums are float32, in the order of the clients,
    and rounded once to the dtype of the tensors; float64 tensors are summed in float64.

    Args:
        tensors: for each client a list of tensors, float32, float16, bfloat16 or float64, of any
            shapes. The k-th of every client have one shape and dtype.
        weights: (clients,) numbers from 0 on, not all 0; None: all 1.

    Returns:
        List of tensors: the means.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: lists, shapes, dtypes or devices do not fit, a weight is negative or not
            finite, all are 0, or a mean is not finite (on CUDA :func:`pyfed.check` tells of that).

    Example:
        >>> import torch, pyfed
        >>> ones = [torch.ones(2), torch.ones(1, 1)]
        >>> pyfed.ops.weighted_mean([ones, [3 * t for t in ones]], [1, 3])
        [tensor([2.5000, 2.5000]), tensor([[2.5000]])]

    Source: McMahan et al., federated averaging (arXiv 1602.05629).
    """
    flat = flattened(tensors)
    return flat, normalised(weights, len(tensors), flat[0].device), len(tensors)
