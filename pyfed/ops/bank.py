"""Clipping the gradients of many clients at once: a row of an arena is all of one client's."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import BAD_COUNT, NOT_FINITE, report
from pyfed.errors import ArgumentError
from pyfed.op import Op
from pyfed.ops.bank_arguments import expect_arena, per_client, write_back, written
from pyfed.ops.dropout import float64_reason

CHUNK = 4096
"""Elements whose squares are summed before they are added to the sum of their row."""

EPSILON = 1e-6
"""Keeps the factor of a row of zeros finite, as torch.nn.utils.clip_grad_norm_ has it."""


def check_limits(max_norm: torch.Tensor) -> None:
    """Report limits that are not more than 0."""
    report("segment_clip_", ~(max_norm > 0), BAD_COUNT)


def _segment_clip_reference(grads: torch.Tensor, max_norm: torch.Tensor) -> torch.Tensor:
    check_limits(max_norm)
    clients, length = grads.shape
    padded = torch.nn.functional.pad(grads.to(torch.float64), (0, -length % CHUNK))
    partial = padded.view(clients, padded.shape[1] // CHUNK, CHUNK).square().sum(2)
    norms = partial.sum(1).sqrt().to(grads.dtype)
    report("segment_clip_", ~torch.isfinite(norms), NOT_FINITE)
    factor = max_norm / (norms + EPSILON)
    clipped = (factor < 1)[:, None]
    grads.copy_(torch.where(clipped, grads * factor[:, None], grads))
    return norms


def _segment_clip_fake(grads: torch.Tensor, max_norm: torch.Tensor) -> torch.Tensor:
    return grads.new_empty(len(grads))


def _describe_norms(names: list[str], args: tuple[Any, ...]) -> str | None:
    limits = torch.nonzero(~(args[1] > 0)).flatten().tolist()
    if limits:
        return f"segment_clip_: max_norm of clients {limits} is not more than 0"
    finite = torch.isfinite(args[0]).all(1)
    rows = torch.nonzero(~finite).flatten().tolist()
    if not rows:
        return "segment_clip_: the norm of a row does not fit in float32"
    return f"segment_clip_: in grads the rows of clients {rows} hold NaN or infinite numbers"


segment_clip_op = Op(
    "segment_clip_(Tensor(a!) grads, Tensor max_norm) -> Tensor",
    fake=_segment_clip_fake,
    reference=_segment_clip_reference,
    describe=_describe_norms,
)


@segment_clip_op.kernel("cpu", lambda g, *rest: native.cpu_reason(g) or float64_reason(g))
@segment_clip_op.kernel("cuda", lambda g, *rest: native.cuda_reason(g) or float64_reason(g))
def _segment_clip_native(grads: torch.Tensor, max_norm: torch.Tensor) -> torch.Tensor:
    check_limits(max_norm)
    clients, length = grads.shape
    dense = written(grads)
    norms = torch.empty(clients, dtype=torch.float32, device=grads.device)
    chunks = -(-length // CHUNK)
    partials = torch.empty(clients, chunks, dtype=torch.float64, device=grads.device)
    native.run(
        *("segment_clip", grads.device, dense, clients, length, max_norm.contiguous(), norms),
        partials,
    )
    write_back([(grads, dense)])
    return norms


@segment_clip_op.kernel("triton", lambda g, *rest: native.triton_reason(g) or float64_reason(g))
def _segment_clip_triton(grads: torch.Tensor, max_norm: torch.Tensor) -> torch.Tensor:
    from pyfed.triton_kernels import bank as kernels

    check_limits(max_norm)
    dense = written(grads)
    with native.TritonReport("segment_clip_", grads.device) as word:
        norms: torch.Tensor = kernels.segment_clip_(dense, max_norm.contiguous(), word)
    write_back([(grads, dense)])
    return norms


@segment_clip_op.public
def segment_clip_(grads: torch.Tensor, max_norm: float | torch.Tensor) -> tuple[Any, ...]:
    """Scale each client's gradient in place so that its 2-norm is at most ``max_norm``.

    A row is multiplied by max_norm / (norm + 1e-6) where that is below 1, and keeps its bits
    otherwise. Squares are summed in float64.

    Args:
        grads: float32 or float64 (clients, length): all of one client's gradients in its row.
        max_norm: more than 0, infinity included; a number, or (clients,) of the dtype of ``grads``.

    Returns:
        Norms before clipping, (clients,) of the dtype of ``grads``.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes or devices do not fit, ``max_norm`` is not more than 0, or a norm is
            not finite; nothing is changed then (on CUDA values are told of by
            :func:`pyfed.check`, after the fact).

    Example:
        >>> import torch, pyfed
        >>> grads = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> pyfed.ops.segment_clip_(grads, 1.0)
        tensor([5.0000, 0.5000])
        >>> grads
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    expect_arena("segment_clip_", "grads", grads)
    limits = per_client("segment_clip_", "max_norm", max_norm, grads).to(grads.dtype)
    if not isinstance(max_norm, torch.Tensor) and not max_norm > 0:
        raise ArgumentError(f"segment_clip_: max_norm is {max_norm}; it must be more than 0")
    return grads, limits
