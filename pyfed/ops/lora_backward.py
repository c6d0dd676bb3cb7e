"""The gradient of lora_linear, and what both directions share."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from pyfed import native
from pyfed.op import Op
from pyfed.ops.clients import check_starts, describe_starts
from pyfed.ops.dropout import (
    dropped_reference,
    float64_reason,
    keep_scale,
    kept_reference,
    threshold_of,
)
from pyfed.ops.selection_arguments import KINDS


def flat_rows(x: torch.Tensor) -> torch.Tensor:
    """X (…, features) as rows."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def dropped(
    x: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor | None,
    streams: torch.Tensor,
    rate: float,
) -> torch.Tensor:
    """The rows x (rows, in) with dropout, or as they are when there is no key."""
    return x if key is None else dropped_reference(x, starts, key, streams, rate)


def bank_rows(bank: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A bank whose matrices are contiguous, and the step from one client's to the next's.

    Views into an arena pass as they are; others are copied.
    """
    stacked = bank[0].is_contiguous() if len(bank) else True
    if not stacked or bank.stride(0) < bank[0].numel():
        bank = bank.contiguous()
    return bank, bank.stride(0)


def dropout_arguments(
    key: torch.Tensor | None, streams: torch.Tensor, rate: float
) -> tuple[object, ...]:
    """Key, streams, threshold and scale, as compiled kernels take them."""
    words = None if key is None else key.contiguous()
    return words, streams.contiguous(), threshold_of(rate), keep_scale(rate)


def kernel_scratch(rows: int, a: torch.Tensor, b: torch.Tensor, backward: bool) -> torch.Tensor:
    """Scratch memory of the compiled kernels: packed factors, and a block of rows a thread."""
    sizes = (rows, a.shape[2], b.shape[1], a.shape[1])
    size = native._C.lora_workspace(*sizes, int(backward), torch.get_num_threads())
    return torch.empty(size, dtype=torch.float32)


def _lora_linear_backward_reference(
    grad: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    hidden: torch.Tensor,
    scale: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor | None,
    streams: torch.Tensor,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, above = flat_rows(x), flat_rows(grad).to(a.dtype)
    check_starts("lora_linear_backward", starts, len(rows))
    inputs = dropped(rows, starts, key, streams, rate).to(a.dtype)
    dx = torch.empty(rows.shape, dtype=a.dtype, device=x.device)
    da = torch.zeros(a.shape, dtype=a.dtype, device=x.device)
    db = torch.zeros(b.shape, dtype=b.dtype, device=x.device)
    edges = starts.tolist()
    for client, (first, last) in enumerate(itertools.pairwise(edges)):
        inner = scale[client] * (above[first:last] @ b[client])
        dx[first:last] = inner @ a[client]
        da[client] = inner.T @ inputs[first:last]
        db[client] = scale[client] * (above[first:last].T @ hidden[first:last])
    if key is not None:
        kept = kept_reference(rows, starts, key, streams, rate)
        factor = torch.tensor(keep_scale(rate), dtype=a.dtype, device=x.device)
        dx = torch.where(kept, dx * factor, 0.0)
    return dx.to(x.dtype).view(x.shape), da, db


def _lora_linear_backward_fake(
    grad: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), a.new_empty(a.shape), b.new_empty(b.shape)


lora_linear_backward_op = Op(
    "lora_linear_backward(Tensor grad, Tensor x, Tensor a, Tensor b, Tensor hidden, Tensor scale,"
    " Tensor starts, Tensor? key, Tensor streams, float rate) -> (Tensor, Tensor, Tensor)",
    fake=_lora_linear_backward_fake,
    reference=_lora_linear_backward_reference,
    describe=describe_starts("lora_linear_backward"),
)


@lora_linear_backward_op.kernel(
    "cpu", lambda grad, x, *rest: native.cpu_reason(x) or float64_reason(x)
)
def _lora_linear_backward_cpu(
    grad: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    hidden: torch.Tensor,
    scale: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor | None,
    streams: torch.Tensor,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    clients, rank, ins = a.shape
    rows = math.prod(x.shape[:-1])
    grad, x, hidden, scale, starts = (t.contiguous() for t in (grad, x, hidden, scale, starts))
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    da = torch.empty(a.shape, dtype=torch.float32, device=x.device)
    db = torch.empty(b.shape, dtype=torch.float32, device=x.device)
    (a, a_step), (b, b_step) = bank_rows(a), bank_rows(b)
    native.run(
        *("lora_linear_backward", x.device, grad, x, KINDS[x.dtype], rows, ins, b.shape[1], rank),
        *(clients, starts, a, a_step, b, b_step, hidden, scale),
        *(*dropout_arguments(key, streams, rate), dx, da, db),
        kernel_scratch(rows, a, b, backward=True),
    )
    return dx, da, db


@lora_linear_backward_op.kernel(
    "triton", lambda grad, x, *rest: native.triton_reason(x) or float64_reason(x)
)
def _lora_linear_backward_triton(*args: Any) -> Any:
    from pyfed.triton_kernels import lora as kernels

    grad, x, a, b, *rest, rate = args
    check_starts("lora_linear_backward", rest[2], math.prod(x.shape[:-1]))
    dense = (None if t is None else t.contiguous() for t in rest)
    return kernels.lora_linear_backward(
        *(grad.contiguous(), x.contiguous(), bank_rows(a)[0], bank_rows(b)[0], *dense),
        *(threshold_of(rate), keep_scale(rate)),
    )


def _twice(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
    raise RuntimeError("lora_linear: its gradient is not differentiable; use create_graph=False")


lora_linear_backward_op.differentiable(_twice)
