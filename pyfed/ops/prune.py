"""Selection by votes that zeroes the weights in place, and can scale those that survive."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch

from pyfed import native
from pyfed.checks import expect_int, expect_tensor
from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.counts import MOST_CLIENTS
from pyfed.ops.selection import (
    check_votes,
    cpu_scratch,
    cuda_scratch,
    describe_selection,
    native_votes,
    selected,
    tie_keys,
)
from pyfed.ops.selection_arguments import FLOATS, KINDS, MAGNITUDE, prepare_selection


def _mask_prune_reference(
    weight: torch.Tensor,
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    factors: torch.Tensor | None,
    rows: int,
    columns: int,
    tile_rows: int,
    tile_columns: int,
    k: int,
    ties: int,
    stream: int,
) -> torch.Tensor:
    most = MOST_CLIENTS if factors is None else len(factors) - 1
    check_votes("mask_prune_", counts, most, weight, tie)
    by = weight if ties == MAGNITUDE else tie
    keys = tie_keys(by, key, counts.numel(), ties, stream, counts.device)
    mask = selected(counts, keys, rows, columns, tile_rows, tile_columns, k).view(weight.shape)
    if factors is not None:
        by_count = factors[counts.reshape(-1).to(torch.int64).clamp(0, len(factors) - 1)]
        weight.copy_(weight.to(torch.float32) * by_count.view(weight.shape))
    weight.masked_fill_(mask, 0.0)
    return mask


def _mask_prune_fake(weight: torch.Tensor, counts: torch.Tensor, *rest: Any) -> torch.Tensor:
    return weight.new_empty(weight.shape, dtype=torch.bool)


mask_prune_op = Op(
    "mask_prune_(Tensor(a!) weight, Tensor counts, Tensor? tie, Tensor? key, Tensor? factors,"
    " SymInt rows, SymInt columns, SymInt tile_rows, SymInt tile_columns, SymInt k, int ties,"
    " int stream) -> Tensor",
    fake=_mask_prune_fake,
    reference=_mask_prune_reference,
    describe=describe_selection("mask_prune_"),
)


@mask_prune_op.kernel("cpu", lambda weight, *rest: native.cpu_reason(weight))
def _mask_prune_cpu(
    weight: torch.Tensor,
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    factors: torch.Tensor | None,
    *rest: int,
) -> torch.Tensor:
    return _mask_prune_native(weight, counts, tie, key, factors, *rest, cpu_scratch())


@mask_prune_op.kernel("cuda", lambda weight, *rest: native.cuda_reason(weight))
def _mask_prune_cuda(
    weight: torch.Tensor,
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    factors: torch.Tensor | None,
    *rest: int,
) -> torch.Tensor:
    scratch = cuda_scratch(counts, *rest[:4])
    return _mask_prune_native(weight, counts, tie, key, factors, *rest, *scratch)


def _mask_prune_native(
    weight: torch.Tensor,
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    factors: torch.Tensor | None,
    *rest: object,
) -> torch.Tensor:
    inplace = weight.contiguous()  # a copy where the weight has gaps; then written back
    mask = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
    votes = native_votes(counts, tie, key)
    factors = None if factors is None else factors.contiguous()
    many = 0 if factors is None else len(factors)
    held = inplace, KINDS[weight.dtype], *votes, factors, many
    native.run("mask_prune", weight.device, *held, *rest, mask)
    if inplace is not weight:
        weight.copy_(inplace)
    return mask


@mask_prune_op.kernel("triton", lambda weight, *rest: native.triton_reason(weight))
def _mask_prune_triton(weight: torch.Tensor, *rest: Any) -> Any:
    from pyfed.triton_kernels import prune as kernels

    with native.TritonReport("mask_prune_", weight.device) as word:
        return kernels.mask_prune_(weight, *rest, word)


@mask_prune_op.public
def mask_prune_(
    weight: torch.Tensor,
    counts: torch.Tensor,
    sparsity: float | Fraction | None,
    group: str = "layer",
    ties: str | None = None,
    score: torch.Tensor | None = None,
    key: Key | None = None,
    stream: int = 0,
    rounding: str = "floor",
    clients: int | None = None,
) -> tuple[Any, ...]:
    """Select by votes as :func:`mask_select` does, and set the selected weights to 0 in place.

    With ``clients`` = m every weight that survives is multiplied by (m - votes) / m, in float32
    with one rounding of the factor and one of the product. That gives the mean of the clients'
    own pruned weights, masked: mean_i W·(1 - M_i)·(1 - M).

    Args:
        weight: float32, float16 or bfloat16 (rows, …), written in place; it must not require grad
            outside ``torch.no_grad()``.
        counts: votes, uint8 or int32 in [0, 65535] ([0, clients] when that is given), shaped like
            ``weight`` or flat.
        sparsity: as for :func:`mask_select`.
        group: as for :func:`mask_select`.
        ties: as for :func:`mask_select`; by magnitude means that of ``weight`` as it was before.
        score: as for :func:`mask_select`.
        key: as for :func:`mask_select`.
        stream: as for :func:`mask_select`.
        rounding: as for :func:`mask_select`.
        clients: how many voted; None: survivors stay as they are, bit for bit.

    Returns:
        bool tensor shaped like ``weight``: True was pruned.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: as for :func:`mask_select`, or a weight is not finite, or is expanded;
            nothing is changed then (on CUDA values are told of by :func:`pyfed.check`, after the
            fact).

    Example:
        >>> import torch, pyfed
        >>> weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> votes = torch.tensor([[4, 0, 1, 2]], dtype=torch.uint8)
        >>> pyfed.ops.mask_prune_(weight, votes, 0.5, clients=4)
        tensor([[ True, False, False,  True]])
        >>> weight
        tensor([[0.0000, 2.0000, 2.2500, 0.0000]])

    Source: steps 5 and 6 of FedPrLLM (Guo et al., arXiv 2505.13547).
    """
    expect_tensor("mask_prune_", "weight", weight, FLOATS)
    if weight.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            "mask_prune_: weight requires grad; call it under torch.no_grad(), or on weight.data"
        )
    if any(
        extent > 1 and step == 0 for extent, step in zip(weight.shape, weight.stride(), strict=True)
    ):
        raise ArgumentError(
            "mask_prune_: weight shows one number in memory at many places; give a copy of it"
        )
    layout = group, sparsity, rounding
    tie, words, *rest = prepare_selection(
        *("mask_prune_", counts, tuple(weight.shape), layout, ties, weight, score, key, stream)
    )
    factors = None
    if clients is not None:
        expect_int("mask_prune_", "clients", clients, 1, MOST_CLIENTS + 1)
        factors = (torch.arange(clients, -1, -1).to(torch.float32) / clients).to(weight.device)
    if rest[-2] == MAGNITUDE:
        tie = None  # the weight itself serves
    return weight, counts, tie, words, factors, *rest
