"""Adding a low-rank product to a weight in place: adapters merged, residuals of a mean applied."""

from __future__ import annotations

from typing import Any

import torch

from pyfed import native
from pyfed.checks import NOT_FINITE, expect_tensor, report
from pyfed.errors import ArgumentError, DtypeError
from pyfed.op import Op
from pyfed.ops.dropout import FLOATS, float64_reason
from pyfed.ops.selection_arguments import KINDS


def _accumulator(base: torch.Tensor) -> torch.dtype:
    return torch.float64 if base.dtype == torch.float64 else torch.float32


def _checked(
    base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factors in the dtype of the sums; reports numbers that are not finite."""
    wide = tuple(t.to(_accumulator(base)) for t in (a, b, scale))
    if base.numel():
        bad = [~torch.isfinite(t).all() for t in wide]
        report("lora_merge_", torch.stack(bad), NOT_FINITE)
    return wide[0], wide[1], wide[2]


def _lora_merge_reference(
    base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, transposed: bool
) -> None:
    a, b, scale = _checked(base, a, b, scale)
    product = (b * scale) @ a
    base.copy_(base.to(product.dtype) + (product.T if transposed else product))


def _lora_merge_fake(base: torch.Tensor, *rest: Any) -> None:
    return None


def _describe(names: list[str], args: tuple[Any, ...]) -> str | None:
    for name, value in zip(names, args, strict=True):
        if name in ("a", "b", "scale"):
            bad = ~torch.isfinite(value)
            if bad.any():
                first = tuple(torch.nonzero(bad)[0].tolist())
                return (
                    f"lora_merge_: in {name} {int(bad.sum())} of {value.numel()} elements are NaN "
                    f"or infinite; the first is {value[first].item()} at index {first}"
                )
    return None


lora_merge_op = Op(
    "lora_merge_(Tensor(a!) base, Tensor a, Tensor b, Tensor scale, bool transposed) -> ()",
    fake=_lora_merge_fake,
    reference=_lora_merge_reference,
    describe=_describe,
)


@lora_merge_op.kernel("cpu", lambda base, *rest: native.cpu_reason(base) or float64_reason(base))
def _lora_merge_cpu(
    base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, transposed: bool
) -> None:
    rank = len(scale)
    if base.numel() == 0 or rank == 0:
        return
    # The kernel itself looks for numbers that are not finite, before it writes.
    a, b, scale = (t.to(torch.float32).contiguous() for t in (a, b, scale))
    inplace = base.contiguous()  # a copy where the weight has gaps; then written back
    rows, columns = base.shape
    left = (a, 1, a.shape[1]) if transposed else (b, rank, 1)
    right = (b, 1, rank) if transposed else (a, a.shape[1], 1)
    native.run(
        *("lora_merge", base.device, inplace, KINDS[base.dtype], rows, columns, rank),
        *(*left, *right, scale),
        torch.empty(native._C.merge_workspace(rows, columns, rank), dtype=torch.float32),
    )
    if inplace is not base:
        base.copy_(inplace)


@lora_merge_op.kernel(
    "triton", lambda base, *rest: native.triton_reason(base) or float64_reason(base)
)
def _lora_merge_triton(
    base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, transposed: bool
) -> None:
    from pyfed.triton_kernels import merge as kernels

    _checked(base, a, b, scale)
    if base.numel() == 0 or len(scale) == 0:
        return
    inplace = base.contiguous()
    kernels.lora_merge_(inplace, *(t.contiguous() for t in (a, b, scale)), transposed)
    if inplace is not base:
        base.copy_(inplace)


@lora_merge_op.public
def lora_merge_(
    base: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float | torch.Tensor = 1.0,
    transposed: bool = False,
) -> tuple[Any, ...]:
    """Add a scaled low-rank product to a weight in place: base += (b · scale) @ a.

    Adapters of many clients are merged in one call by stacking them: rows of ``a``, columns of
    ``b``, and for every rank its client's weight times its scaling in ``scale``. Sums are float32,
    rounded once, so bfloat16 weights lose nothing on the way.

    Args:
        base: float32, float16, bfloat16 or float64 (out, in), written in place, or (in, out) with
            ``transposed``; it must not require grad outside ``torch.no_grad()``.
        a: (R, in), of the dtype of ``base`` or float32.
        b: (out, R), likewise.
        scale: a number, or float32 or float64 (R,): one for each rank.
        transposed: the weight is stored (in, out), as GPT-2's Conv1D does.

    Returns:
        ``base``.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes or devices do not fit, ``base`` requires grad or is expanded, or a
            factor is not finite; nothing is changed then (on CUDA values are told of by
            :func:`pyfed.check`, after the fact).

    Example:
        >>> import torch, pyfed
        >>> base = torch.zeros(2, 3)
        >>> pyfed.ops.lora_merge_(base, torch.ones(1, 3), torch.tensor([[1.0], [2.0]]), 0.5)
        tensor([[0.5000, 0.5000, 0.5000],
                [1.0000, 1.0000, 1.0000]])

    Source: Hu et al., LoRA (arXiv 2106.09685); stacked as in FLoRA (Wang et al., arXiv 2409.05976).
    """
    expect_tensor("lora_merge_", "base", base, FLOATS, 2)
    allowed = tuple(dict.fromkeys((base.dtype, torch.float32)))
    expect_tensor("lora_merge_", "a", a, allowed, 2)
    expect_tensor("lora_merge_", "b", b, allowed, 2)
    if not isinstance(transposed, bool):
        kind = type(transposed).__name__
        raise DtypeError(f"lora_merge_: transposed is {kind}; it must be a bool")
    if base.requires_grad and torch.is_grad_enabled():
        raise ArgumentError(
            "lora_merge_: base requires grad; call it under torch.no_grad(), or on weight.data"
        )
    for name, factor in (("a", a), ("b", b), ("scale", scale)):
        if isinstance(factor, torch.Tensor) and factor.requires_grad and torch.is_grad_enabled():
            raise ArgumentError(
                f"lora_merge_: {name} requires grad, and the op is not differentiable; detach it "
                "or call it under torch.no_grad()"
            )
    if any(n > 1 and step == 0 for n, step in zip(base.shape, base.stride(), strict=True)):
        raise ArgumentError(
            "lora_merge_: base shows one number in memory at many places; give a copy of it"
        )
    outs, ins = (base.shape[1], base.shape[0]) if transposed else tuple(base.shape)
    rank = a.shape[0]
    if a.shape != (rank, ins) or b.shape != (outs, rank):
        raise ArgumentError(
            f"lora_merge_: a has shape {tuple(a.shape)} and b {tuple(b.shape)}; for base "
            f"{tuple(base.shape)}{' transposed' if transposed else ''} they must be (R, {ins}) and "
            f"({outs}, R)"
        )
    return base, a.detach(), b.detach(), rank_scale(scale, rank, base), transposed


def rank_scale(scale: float | torch.Tensor, rank: int, base: torch.Tensor) -> torch.Tensor:
    """The factor of each rank, (rank,)."""
    dtype = _accumulator(base)
    if isinstance(scale, torch.Tensor) and scale.dim():
        expect_tensor("lora_merge_", "scale", scale, (torch.float32, torch.float64), 1)
        if scale.shape[0] != rank:
            raise ArgumentError(
                f"lora_merge_: scale has {scale.shape[0]} elements; there are {rank} ranks"
            )
        return scale.detach().to(dtype)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        kind = type(scale).__name__
        raise DtypeError(f"lora_merge_: scale is {kind}; it must be a float or a tensor (R,)")
    return torch.full((rank,), float(scale), dtype=dtype, device=base.device)
