"""Means over the clients that hold an element: one op for masks, rectangles and lists of indices.

out_j = Σ_i a_i m_ij v_ij / den_j. Sums run over the clients in their order, in float32: each
product is rounded, then each sum; so all backends give the same bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from pyfed import native
from pyfed.checks import NOT_FINITE, expect_one_device, report
from pyfed.errors import ArgumentError
from pyfed.op import Op
from pyfed.ops.keepers import (
    DENSE,
    INDICES,
    PACKED,
    RECTANGLES,
    check_places,
    checked_weights,
    client_values,
    clients_of,
    describe_mean,
)
from pyfed.ops.masks import mask_popcount_op
from pyfed.ops.mean_arguments import (
    DENOMINATORS,
    expect_sizes,
    join,
    pack,
    packed_starts,
    rule,
    server_tensor,
    weights_tensor,
)
from pyfed.ops.places import Indices, Rectangles
from pyfed.ops.selection_arguments import KINDS
from pyfed.ops.tiles import expect_shape

BLOCK_BITS, BLOCK_BYTES = 512, 64
"""Values packed by a mask are found through the place of the first value of every block."""


def _masked_mean_reference(
    values: torch.Tensor,
    masks: torch.Tensor | None,
    places: torch.Tensor | None,
    starts: torch.Tensor | None,
    weights: torch.Tensor | None,
    server: torch.Tensor | None,
    shape: list[int],
    columns: int,
    form: int,
    denominator: int,
    min_votes: int,
) -> torch.Tensor:
    length = math.prod(shape)
    check_places(values, masks, places, starts, length, form)
    weights = checked_weights(weights)
    device, clients = values.device, clients_of(values, masks, starts, form)
    total = torch.zeros(length, dtype=torch.float32, device=device)
    votes = torch.zeros(length, dtype=torch.int64, device=device)
    below = torch.zeros(length, dtype=torch.int64, device=device)
    for client in range(clients):
        held, own = client_values(client, values, masks, places, starts, length, columns, form)
        weight = 1 if weights is None else int(weights[client])
        total = torch.where(held, total + own * float(weight), total)
        votes += held
        below += held * weight if denominator == 0 else weight
    if denominator == DENOMINATORS["one"]:
        below = torch.ones_like(below)
    used = (votes >= min_votes) & (below > 0)
    mean = (total / below.clamp(min=1).to(torch.float32)).to(values.dtype)
    report("masked_mean", used & ~torch.isfinite(mean), NOT_FINITE)
    rest = torch.zeros_like(mean) if server is None else server.reshape(-1)
    return torch.where(used, mean, rest).view(shape)


def _masked_mean_fake(
    values: torch.Tensor,
    masks: torch.Tensor | None,
    places: torch.Tensor | None,
    starts: torch.Tensor | None,
    weights: torch.Tensor | None,
    server: torch.Tensor | None,
    shape: list[int],
    *rest: Any,
) -> torch.Tensor:
    return values.new_empty(shape)


masked_mean_op = Op(
    "masked_mean(Tensor values, Tensor? masks, Tensor? places, Tensor? starts, Tensor? weights,"
    " Tensor? server, SymInt[] shape, SymInt columns, int form, int denominator, int min_votes)"
    " -> Tensor",
    fake=_masked_mean_fake,
    reference=_masked_mean_reference,
    describe=describe_mean,
)


def _block_starts(masks: torch.Tensor, length: int) -> torch.Tensor:
    """Where in the packed values each block of each client begins: int64 (clients, blocks)."""
    blocks = -(-length // BLOCK_BITS)
    padded = torch.nn.functional.pad(masks, (0, blocks * BLOCK_BYTES - masks.shape[1]))
    held = mask_popcount_op.torch_op(padded.view(-1, BLOCK_BYTES), BLOCK_BITS)
    return (torch.cumsum(held, 0) - held).view(masks.shape[0], blocks)


def _kernel_arguments(
    values: torch.Tensor,
    masks: torch.Tensor | None,
    places: torch.Tensor | None,
    starts: torch.Tensor | None,
    weights: torch.Tensor | None,
    server: torch.Tensor | None,
    shape: list[int],
    columns: int,
    form: int,
) -> tuple[Any, ...]:
    """Checked, contiguous arguments of compiled kernels up to the server."""
    length = math.prod(shape)
    check_places(values, masks, places, starts, length, form)
    weights = checked_weights(weights)
    if form == PACKED:
        assert masks is not None
        starts = _block_starts(masks, length)
    dense = [None if t is None else t.contiguous() for t in (values, masks, places, starts)]
    clients = clients_of(values, masks, starts, form)
    server = None if server is None else server.contiguous()
    return (*dense, None if weights is None else weights.contiguous(), server, clients, length)


@masked_mean_op.kernel("cpu", lambda values, *rest: native.cpu_reason(values))
@masked_mean_op.kernel("cuda", lambda values, *rest: native.cuda_reason(values))
def _masked_mean_native(*args: Any) -> torch.Tensor:
    shape, columns, form, denominator, min_votes = args[-5:]
    checked = _kernel_arguments(*args[:-2])
    values, masks, places, starts, weights, server, clients, length = checked
    out = values.new_empty(shape)
    native.run(
        *("masked_mean", values.device, values, KINDS[values.dtype], clients, length, columns),
        *(form, masks, places, starts, values.numel(), weights, server, denominator, min_votes),
        out,
    )
    return out


@masked_mean_op.kernel("triton", lambda values, *rest: native.triton_reason(values))
def _masked_mean_triton(*args: Any) -> Any:
    from pyfed.triton_kernels import means as kernels

    shape, columns, form, denominator, min_votes = args[-5:]
    checked = _kernel_arguments(*args[:-2])
    with native.TritonReport("masked_mean", checked[0].device) as word:
        return kernels.masked_mean(*checked, shape, columns, form, denominator, min_votes, word)


@masked_mean_op.public
def masked_mean(
    values: torch.Tensor | Sequence[torch.Tensor],
    masks: torch.Tensor | Rectangles | Indices | None = None,
    weights: torch.Tensor | Sequence[int] | None = None,
    denominator: str = "keepers",
    empty: str = "zero",
    server: torch.Tensor | None = None,
    min_votes: int = 1,
    shape: Sequence[int] | None = None,
) -> tuple[Any, ...]:
    """Average, for every element, the values of the clients that hold it.

    out_j = Σ_i a_i m_ij v_ij / den_j, where m says who holds what, a are the weights, and den_j is
    Σ_i a_i m_ij (keepers), Σ_i a_i (all) or 1 (one). Sums are float32, in the order of the clients.
    What a client's mask leaves out is not looked at.

    Args:
        values: float32, float16 or bfloat16 (clients, …), or a list of one tensor for each client.
            With ``shape``, rectangles or indices: 1-D, the values that clients hold, client after
            client, each in ascending order of place.
        masks: True where a client contributes: bool (clients, …), packed uint8
            (clients, ⌈length / 8⌉) as :func:`mask_pack` gives it, :class:`Rectangles`,
            :class:`Indices`, or None for all.
        weights: integers from 0 to 2^24 - 1 with a sum below 2^31, int32 or int64 (clients,) or a
            list; None: all 1.
        denominator: ``"keepers"``, ``"all"`` or ``"one"``.
        empty: what an element gets that fewer than ``min_votes`` clients hold, or whose denominator
            is 0: ``"zero"``, or ``"keep"`` for that of ``server``.
        server: shaped like the result, of the dtype of ``values``; with ``"keep"`` only. For rules
            by which clients keep their own, each client gives its own tensor here.
        min_votes: from 1 on; counts clients, whatever their weights.
        shape: of the result, when ``values`` hold only what ``masks`` (bool or packed) keep.

    Returns:
        Tensor of shape (…) and the dtype of ``values``, rounded once.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes, counts or devices do not fit; a choice or number is out of range; a
            padding bit is set; indices do not ascend; a value that counts, or a mean, is not
            finite (on CUDA what depends on values is told of by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> values = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
        >>> masks = torch.tensor([[True, False, False], [True, True, False]])
        >>> pyfed.ops.masked_mean(values, masks, weights=[1, 3])
        tensor([2.5000, 4.0000, 0.0000])

    Which published rule is which setting: see the concepts page on masks.
    """
    joined = join(values, masks, shape)
    if joined.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            "masked_mean: values require grad, and the op is not differentiable; detach them"
        )
    bits = places = starts = None
    columns = 0
    if isinstance(masks, Rectangles | Indices):
        if shape is not None and tuple(shape) != masks.shape:
            raise ArgumentError(f"masked_mean: shape is {tuple(shape)}; masks has {masks.shape}")
        dims = masks.shape
        form = RECTANGLES if isinstance(masks, Rectangles) else INDICES
        if isinstance(masks, Rectangles):
            columns, boxes, counts = masks.on_matrix()
            places = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4).to(joined.device)
        else:
            counts = list(masks.counts)
            none = torch.empty(0, dtype=torch.int64, device=joined.device)
            expect_one_device("masked_mean", [none, *masks.indices])
            places = torch.cat([none, *masks.indices])
        first = [0, *itertools.accumulate(counts)]
        starts = torch.tensor(first[: len(first) - (form == RECTANGLES)]).to(joined.device)
        clients = len(counts)
        if joined.shape != (first[-1],):
            raise ArgumentError(
                f"masked_mean: values has shape {tuple(joined.shape)}; masks describe "
                f"({first[-1]},)"
            )
        expect_sizes(values, masks)
    elif shape is not None:
        form, dims = PACKED, expect_shape("masked_mean", shape)
        if masks is None or joined.dim() != 1:
            raise ArgumentError(
                f"masked_mean: shape is {tuple(shape)}, values has shape {tuple(joined.shape)} and "
                f"masks is {'None' if masks is None else 'a tensor'}; packed values are 1-D, with "
                "masks"
            )
        bits = pack(masks, None, dims)
        clients = bits.shape[0]
        starts = packed_starts(values, clients, joined.device)
    else:
        form, dims, clients = DENSE, tuple(joined.shape[1:]), joined.shape[0]
        if masks is not None:
            bits = pack(masks, clients, dims)
    return (
        *(joined.detach(), bits, places, starts),
        *(
            weights_tensor(weights, clients, joined.device),
            server_tensor(empty, server, joined, dims),
        ),
        *(list(dims), columns, form),
        *rule(denominator, min_votes, clients),
    )
