"""Adapters of many clients in one pass: each row goes through its own client's factors.

out = base_out + s_c · (drop(x) A_cᵀ) B_cᵀ for the rows of client c, and the gradient of that.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from pyfed import native
from pyfed.checks import expect_key, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.clients import (
    check_starts,
    client_starts,
    client_streams,
    describe_starts,
    expect_rate,
)
from pyfed.ops.dropout import FLOATS, float64_reason, keep_scale, threshold_of
from pyfed.ops.lora_backward import (
    bank_rows,
    dropout_arguments,
    dropped,
    flat_rows,
    kernel_scratch,
    lora_linear_backward_op,
)
from pyfed.ops.selection_arguments import KINDS


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of factors and sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _lora_linear_reference(
    x: torch.Tensor,
    base_out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor | None,
    streams: torch.Tensor,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = flat_rows(x)
    check_starts("lora_linear", starts, len(rows))
    kept = dropped(rows, starts, key, streams, rate).to(a.dtype)
    hidden = torch.empty(len(rows), a.shape[1], dtype=a.dtype, device=x.device)
    out = flat_rows(base_out).to(a.dtype, copy=True)
    edges = starts.tolist()
    for client, (first, last) in enumerate(itertools.pairwise(edges)):
        hidden[first:last] = kept[first:last] @ a[client].T
        out[first:last] += scale[client] * (hidden[first:last] @ b[client].T)
    return out.to(base_out.dtype).reshape(-1).view(base_out.shape), hidden


def _lora_linear_fake(
    x: torch.Tensor, base_out: torch.Tensor, a: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = a.new_empty(math.prod(x.shape[:-1]), a.shape[1])
    return base_out.new_empty(base_out.shape), hidden


lora_linear_op = Op(
    "lora_linear(Tensor x, Tensor base_out, Tensor a, Tensor b, Tensor scale, Tensor starts,"
    " Tensor? key, Tensor streams, float rate) -> (Tensor, Tensor)",
    fake=_lora_linear_fake,
    reference=_lora_linear_reference,
    describe=describe_starts("lora_linear"),
)


@lora_linear_op.kernel("cpu", lambda x, *rest: native.cpu_reason(x) or float64_reason(x))
def _lora_linear_cpu(
    x: torch.Tensor,
    base_out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor | None,
    streams: torch.Tensor,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    clients, rank, ins = a.shape
    rows = math.prod(x.shape[:-1])
    x, base_out, scale, starts = (t.contiguous() for t in (x, base_out, scale, starts))
    out = torch.empty(base_out.shape, dtype=base_out.dtype, device=x.device)
    hidden = torch.empty(rows, rank, dtype=torch.float32, device=x.device)
    (a, a_step), (b, b_step) = bank_rows(a), bank_rows(b)
    native.run(
        *("lora_linear", x.device, x, KINDS[x.dtype], rows, ins, b.shape[1], rank, clients),
        *(starts, a, a_step, b, b_step, scale, *dropout_arguments(key, streams, rate)),
        *(base_out, out, hidden, kernel_scratch(rows, a, b, backward=False)),
    )
    return out, hidden


@lora_linear_op.kernel("triton", lambda x, *rest: native.triton_reason(x) or float64_reason(x))
def _lora_linear_triton(*args: Any) -> Any:
    from pyfed.triton_kernels import lora as kernels

    x, base_out, a, b, *rest, rate = args
    check_starts("lora_linear", rest[1], math.prod(x.shape[:-1]))
    dense = (None if t is None else t.contiguous() for t in rest)
    return kernels.lora_linear(
        *(x.contiguous(), base_out.contiguous(), bank_rows(a)[0], bank_rows(b)[0], *dense),
        *(threshold_of(rate), keep_scale(rate)),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, _, a, b, scale, starts, key, streams, rate = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, a, b, output[1], scale, starts, key, streams)
    ctx.rate = rate


def _backward(ctx: Any, grad: torch.Tensor, unused: torch.Tensor) -> tuple[Any, ...]:
    dx, da, db = lora_linear_backward_op.torch_op(grad, *ctx.saved_tensors, ctx.rate)
    return dx, grad, da, db, None, None, None, None, None


lora_linear_op.differentiable(_backward, _keep)


@lora_linear_op.public
def lora_linear(
    x: torch.Tensor,
    base_out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float | torch.Tensor,
    client: torch.Tensor | None = None,
    dropout: float = 0.0,
    key: Key | None = None,
    stream: int | torch.Tensor = 0,
) -> tuple[Any, ...]:
    """Add to a layer's output what each row's own client's adapter gives.

    out = base_out + s_c · (drop(x) A_cᵀ) B_cᵀ for each row of client c. Sums are float32, rounded
    once. It is differentiable, once, in ``x``, ``base_out``, ``a`` and ``b``; dropout is that of
    :func:`counter_dropout`, made again for the gradient.

    Args:
        x: float32, float16, bfloat16 or float64 (…, in); rows are the leading dimensions.
        base_out: (…, out) of the dtype of ``x``: what the frozen layer gave.
        a: (clients, r, in), float32 (float64 when ``x`` is). Views into a larger tensor pass
            uncopied when each client's matrix is contiguous.
        b: (clients, out, r), likewise.
        scale: s, a number for all clients or (clients,).
        client: int64 (rows,), ascending: whose each row is. Clients may have no rows. None: the
            rows are split equally.
        dropout: the part of ``x`` that is dropped, in [0, 1); it needs a ``key``.
        key: of the dropout.
        stream: of each client's dropout, int64 (clients,); an int s means s + 2^32 · client.

    Returns:
        Tensor like ``base_out``.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes or devices do not fit, a number is out of range, or ``client`` does
            not ascend in [0, clients).

    Example:
        >>> import torch, pyfed
        >>> x, base_out = torch.ones(2, 3), torch.zeros(2, 2)
        >>> a = torch.ones(2, 1, 3)
        >>> b = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
        >>> pyfed.ops.lora_linear(x, base_out, a, b, 0.5)
        tensor([[1.5000, 3.0000],
                [4.5000, 6.0000]])

    Source: Hu et al., LoRA (arXiv 2106.09685).
    """
    expect_tensor("lora_linear", "x", x, FLOATS)
    expect_tensor("lora_linear", "base_out", base_out, x.dtype)
    expect_tensor("lora_linear", "a", a, _wide(x.dtype), 3)
    expect_tensor("lora_linear", "b", b, _wide(x.dtype), 3)
    clients, rank, ins = a.shape
    outs = b.shape[1]
    if b.shape != (clients, outs, rank):
        raise ArgumentError(
            f"lora_linear: a has shape {tuple(a.shape)} and b {tuple(b.shape)}; they must be "
            "(clients, r, in) and (clients, out, r)"
        )
    if x.dim() == 0 or x.shape[-1] != ins:
        raise ArgumentError(f"lora_linear: x has shape {tuple(x.shape)}; it must be (…, {ins})")
    if base_out.shape != (*x.shape[:-1], outs):
        raise ArgumentError(
            f"lora_linear: base_out has shape {tuple(base_out.shape)}; it must be "
            f"{(*x.shape[:-1], outs)}"
        )
    expect_rate("lora_linear", "dropout", dropout)
    words = None
    if dropout > 0:
        if key is None:
            raise ArgumentError(f"lora_linear: key is None; dropout {dropout} needs one")
        expect_key("lora_linear", key)
        words = key.words(x.device)
    rows = math.prod(x.shape[:-1])
    return (
        *(x, base_out, a, b, _client_scale(scale, a)),
        client_starts("lora_linear", client, clients, rows, x),
        *(words, client_streams("lora_linear", stream, clients, x.device), float(dropout)),
    )


def _client_scale(scale: float | torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """The scaling of each client, (clients,) of the dtype of ``a``."""
    if isinstance(scale, torch.Tensor):
        expect_tensor("lora_linear", "scale", scale, (torch.float32, torch.float64), 1)
        if scale.shape[0] != len(a):
            raise ArgumentError(
                f"lora_linear: scale has {scale.shape[0]} elements; there are {len(a)} clients"
            )
        if scale.requires_grad and torch.is_grad_enabled():
            raise ArgumentError("lora_linear: scale requires grad, and has no gradient; detach it")
        return scale.to(a.dtype)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        kind = type(scale).__name__
        raise DtypeError(f"lora_linear: scale is {kind}; it must be a float or a tensor (clients,)")
    return torch.full((len(a),), float(scale), dtype=a.dtype, device=a.device)
