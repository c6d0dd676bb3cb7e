"""Optimiser steps of many clients at once: AdamW and SGD over arenas, a row for each client.

Every client has its own learning rate and number of steps; a row that is skipped keeps its bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pyfed import native
from pyfed.errors import ArgumentError, DtypeError
from pyfed.op import Op
from pyfed.ops.bank_arguments import (
    check_factors,
    describe_factors,
    expect_arena,
    expect_like,
    expect_number,
    per_client,
    steps_of,
    write_back,
    written,
)
from pyfed.ops.dropout import float64_reason


def _bank_adamw_reference(
    params: torch.Tensor,
    grads: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    factors: torch.Tensor,
) -> None:
    check_factors("bank_adamw_", factors)
    active, decay, new1, beta2, new2, size, root, eps = (f[:, None] for f in factors.unbind(1))
    m = exp_avg + (grads - exp_avg) * new1
    v = exp_avg_sq * beta2 + (new2 * grads) * grads
    p = params * decay
    # torch's root of float32 may be off by one place; through float64 it is correctly rounded.
    p = p - size * (m / (v.to(torch.float64).sqrt().to(v.dtype) / root + eps))
    for arena, new in ((params, p), (exp_avg, m), (exp_avg_sq, v)):
        arena.copy_(torch.where(active != 0, new, arena))


def _no_result(*args: Any) -> None:
    return None


bank_adamw_op = Op(
    "bank_adamw_(Tensor(a!) params, Tensor grads, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq,"
    " Tensor factors) -> ()",
    fake=_no_result,
    reference=_bank_adamw_reference,
    describe=describe_factors("bank_adamw_"),
)


@bank_adamw_op.kernel("cpu", lambda p, *rest: native.cpu_reason(p) or float64_reason(p))
@bank_adamw_op.kernel("cuda", lambda p, *rest: native.cuda_reason(p) or float64_reason(p))
def _bank_adamw_native(
    params: torch.Tensor,
    grads: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    factors: torch.Tensor,
) -> None:
    check_factors("bank_adamw_", factors)
    arenas = [(t, written(t)) for t in (params, exp_avg, exp_avg_sq)]
    dense = [d for _, d in arenas]
    native.run(
        *("bank_adamw", params.device, dense[0], grads.contiguous(), dense[1], dense[2]),
        *(*params.shape, factors.contiguous()),
    )
    write_back(arenas)


@bank_adamw_op.kernel("triton", lambda p, *rest: native.triton_reason(p) or float64_reason(p))
def _bank_adamw_triton(
    params: torch.Tensor,
    grads: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    factors: torch.Tensor,
) -> None:
    from pyfed.triton_kernels import bank as kernels

    check_factors("bank_adamw_", factors)
    arenas = [(t, written(t)) for t in (params, exp_avg, exp_avg_sq)]
    dense = [d for _, d in arenas]
    kernels.bank_adamw_(dense[0], grads.contiguous(), *dense[1:], factors.contiguous())
    write_back(arenas)


def _bank_sgd_reference(
    params: torch.Tensor, grads: torch.Tensor, momentum: torch.Tensor | None, factors: torch.Tensor
) -> None:
    check_factors("bank_sgd_", factors)
    columns = (f[:, None] for f in factors.unbind(1))
    active, rate, kept, fresh, decay, nesterov, first, _ = columns
    d = torch.where(decay != 0, grads + decay * params, grads)
    if momentum is not None:
        buffer = torch.where(first != 0, d, momentum * kept + fresh * d)
        momentum.copy_(torch.where(active != 0, buffer, momentum))
        d = torch.where(nesterov != 0, d + kept * buffer, buffer)
    params.copy_(torch.where(active != 0, params - rate * d, params))


bank_sgd_op = Op(
    "bank_sgd_(Tensor(a!) params, Tensor grads, Tensor(b!)? momentum, Tensor factors) -> ()",
    fake=_no_result,
    reference=_bank_sgd_reference,
    describe=describe_factors("bank_sgd_"),
)


@bank_sgd_op.kernel("cpu", lambda p, *rest: native.cpu_reason(p) or float64_reason(p))
@bank_sgd_op.kernel("cuda", lambda p, *rest: native.cuda_reason(p) or float64_reason(p))
def _bank_sgd_native(
    params: torch.Tensor, grads: torch.Tensor, momentum: torch.Tensor | None, factors: torch.Tensor
) -> None:
    check_factors("bank_sgd_", factors)
    arenas = [(t, written(t)) for t in (params, momentum) if t is not None]
    dense = [d for _, d in arenas]
    native.run(
        *("bank_sgd", params.device, dense[0], grads.contiguous()),
        *(dense[1] if momentum is not None else None, *params.shape, factors.contiguous()),
    )
    write_back(arenas)


@bank_sgd_op.kernel("triton", lambda p, *rest: native.triton_reason(p) or float64_reason(p))
def _bank_sgd_triton(
    params: torch.Tensor, grads: torch.Tensor, momentum: torch.Tensor | None, factors: torch.Tensor
) -> None:
    from pyfed.triton_kernels import bank as kernels

    check_factors("bank_sgd_", factors)
    arenas = [(t, written(t)) for t in (params, momentum) if t is not None]
    dense = [d for _, d in arenas]
    buffer = dense[1] if momentum is not None else None
    kernels.bank_sgd_(dense[0], grads.contiguous(), buffer, factors.contiguous())
    write_back(arenas)


@bank_adamw_op.public
def bank_adamw_(
    params: torch.Tensor,
    grads: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    steps: torch.Tensor,
    lr: float | torch.Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | torch.Tensor = 0.01,
) -> tuple[Any, ...]:
    """Take a step of AdamW for every client at once, in place.

    m ← m + (1 - β₁)(g - m);  v ← β₂ v + (1 - β₂) g²;
    p ← (1 - lr·λ) p - lr / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε), with each client's own t and lr.

    Args:
        params: float32 or float64 (clients, length), written.
        grads: like ``params``.
        exp_avg: m, like ``params``, written.
        exp_avg_sq: v, like ``params``, written.
        steps: int64 (clients,): t, the number of this step, from 1 on. With 0 the client is
            skipped: no bit of its rows changes.
        lr: learning rate, from 0 on; a number or (clients,).
        betas: β₁ and β₂, in [0, 1).
        eps: ε, from 0 on.
        weight_decay: λ, from 0 on; a number or (clients,).

    Returns:
        ``params``.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes or devices do not fit, or a number is out of range.

    Example:
        >>> import torch, pyfed
        >>> p, g, m, v = torch.ones(2, 1), torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2, 1)
        >>> pyfed.ops.bank_adamw_(p, g, m, v, torch.tensor([1, 0]), lr=0.1, weight_decay=0.0)
        tensor([[0.9000],
                [1.0000]])

    Source: Loshchilov and Hutter, arXiv 1711.05101.
    """
    op = "bank_adamw_"
    expect_arena(op, "params", params)
    for name, arena in (("grads", grads), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
        expect_like(op, name, arena, params)
    t = steps_of(op, steps, params).to(torch.float64)
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise DtypeError(f"{op}: betas is {betas!r}; it must be a pair")
    for name, value, high in (
        ("betas[0]", betas[0], 1),
        ("betas[1]", betas[1], 1),
        ("eps", eps, math.inf),
    ):
        expect_number(op, name, value, high)
    rate, decay = (
        per_client(op, name, value, params).to(torch.float64)
        for name, value in (("lr", lr), ("weight_decay", weight_decay))
    )
    clamped = t.clamp(min=1)
    ones = torch.ones_like(t)
    # In float64, each rounded once: what torch.optim computes as Python numbers.
    columns = [
        *((t > 0).to(torch.float64), 1 - rate * decay, ones * (1 - betas[0]), ones * betas[1]),
        *(ones * (1 - betas[1]), rate / (1 - betas[0] ** clamped)),
        *((1 - betas[1] ** clamped).sqrt(), ones * eps),
    ]
    return params, grads.detach(), exp_avg, exp_avg_sq, torch.stack(columns, 1).to(params.dtype)


@bank_sgd_op.public
def bank_sgd_(
    params: torch.Tensor,
    grads: torch.Tensor,
    momentum_buffer: torch.Tensor | None,
    steps: torch.Tensor,
    lr: float | torch.Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float | torch.Tensor = 0.0,
    nesterov: bool = False,
) -> tuple[Any, ...]:
    """Take a step of SGD for every client at once, in place.

    d = g + λ p;  with momentum μ: b ← d at a client's first step, else μ b + (1 - dampening) d, and
    d is b, or with Nesterov d + μ b;  p ← p - lr d.

    Args:
        params: float32 or float64 (clients, length), written.
        grads: like ``params``.
        momentum_buffer: b, like ``params``, written; None exactly when ``momentum`` is 0.
        steps: int64 (clients,): the number of this step, from 1 on. With 0 the client is skipped.
        lr: learning rate, from 0 on; a number or (clients,).
        momentum: μ, in [0, 1].
        dampening: in [0, 1].
        weight_decay: λ, from 0 on; a number or (clients,).
        nesterov: needs momentum, and no dampening.

    Returns:
        ``params``.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes or devices do not fit, or a number is out of range.

    Example:
        >>> import torch, pyfed
        >>> p, g = torch.ones(2, 1), torch.ones(2, 1)
        >>> pyfed.ops.bank_sgd_(p, g, None, torch.tensor([1, 0]), lr=0.25)
        tensor([[0.7500],
                [1.0000]])
    """
    op = "bank_sgd_"
    expect_arena(op, "params", params)
    expect_like(op, "grads", grads, params)
    for name, value in (("momentum", momentum), ("dampening", dampening)):
        expect_number(op, name, value, 1, closed=True)
    if not isinstance(nesterov, bool):
        raise DtypeError(f"{op}: nesterov is {type(nesterov).__name__}; it must be a bool")
    if nesterov and (momentum == 0 or dampening != 0):
        raise ArgumentError(f"{op}: nesterov is True; it needs momentum, and dampening 0")
    if (momentum_buffer is None) != (momentum == 0):
        given = "None" if momentum_buffer is None else "given"
        raise ArgumentError(
            f"{op}: momentum is {momentum} and momentum_buffer is {given}; the buffer goes with a "
            "momentum above 0"
        )
    if momentum_buffer is not None:
        expect_like(op, "momentum_buffer", momentum_buffer, params)
    t = steps_of(op, steps, params)
    rate, decay = (
        per_client(op, name, value, params).to(torch.float64)
        for name, value in (("lr", lr), ("weight_decay", weight_decay))
    )
    ones = torch.ones_like(rate)
    columns = [
        *((t > 0).to(torch.float64), rate, ones * momentum, ones * (1 - dampening), decay),
        *(ones * nesterov, (t == 1).to(torch.float64), 0 * ones),
    ]
    return params, grads.detach(), momentum_buffer, torch.stack(columns, 1).to(params.dtype)
