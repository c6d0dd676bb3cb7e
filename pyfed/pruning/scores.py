"""How much each weight of a linear layer matters: float32 scores, the lowest is pruned first.

All of them look at the weight as a matrix (out, in), and at what came into the layer.
"""

from __future__ import annotations

import math

import torch

from pyfed.checks import expect_one_device, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.selection_arguments import FLOATS


def magnitude_scores(weight: torch.Tensor) -> torch.Tensor:
    """Score weights by their size, abs(w_ij).

    Args:
        weight: float32, float16 or bfloat16 (out, in); finite.

    Returns:
        float32 (out, in) on the weight's device.

    Raises:
        DtypeError, ArgumentError: the weight has a wrong type or shape, or is not finite.

    Example:
        >>> import torch
        >>> from pyfed.pruning import magnitude_scores
        >>> magnitude_scores(torch.tensor([[1.0, -2.0]]))
        tensor([[1., 2.]])
    """
    return _magnitudes("magnitude_scores", weight)


def wanda_scores(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Score weights by size times input, abs(w_ij)·‖x_j‖₂.

    Source: Sun et al., A simple and effective pruning approach for large language models, ICLR
    2024. Meant to be compared within rows, where it is the change of the layer's output that a
    single pruned weight causes.

    Args:
        weight: float32, float16 or bfloat16 (out, in); finite.
        norms: float32 (in,), ‖x_j‖₂ over the calibration tokens, or any common multiple of it;
            finite, not negative.

    Returns:
        float32 (out, in) on the weight's device.

    Raises:
        DtypeError, ArgumentError: an argument has a wrong type, shape or device, a norm is
            negative, or a value or a score is not finite.

    Example:
        >>> import torch
        >>> from pyfed.pruning import wanda_scores
        >>> wanda_scores(torch.tensor([[1.0, -2.0]]), torch.tensor([3.0, 0.5]))
        tensor([[3., 1.]])
    """
    sizes = _magnitudes("wanda_scores", weight)
    return _finite("wanda_scores", sizes.mul_(_norms("wanda_scores", sizes, norms)))


def ria_scores(weight: torch.Tensor, norms: torch.Tensor, power: float = 0.5) -> torch.Tensor:
    """Score weights by their share of row and column, times input.

    (abs(w_ij)/Σ_iabs(w_ij) + abs(w_ij)/Σ_jabs(w_ij))·‖x_j‖^a.

    Source: Zhang et al., Plug-and-play: an efficient post-training pruning method for large
    language models, ICLR 2024 (relative importance and activations). In a row or column of zeros
    the share is 0.

    Args:
        weight: float32, float16 or bfloat16 (out, in); finite.
        norms: float32 (in,), ‖x_j‖₂ over the calibration tokens; finite, not negative.
        power: a, from 0 to 4; at 0 the inputs do not count.

    Returns:
        float32 (out, in) on the weight's device.

    Raises:
        DtypeError, ArgumentError: as for :func:`wanda_scores`, or the power is out of range.

    Example:
        >>> import torch
        >>> from pyfed.pruning import ria_scores
        >>> ria_scores(torch.tensor([[1.0, -3.0], [0.0, 1.0]]), torch.tensor([4.0, 1.0]))
        tensor([[2.5000, 1.5000],
                [0.0000, 1.2500]])
    """
    sizes = _magnitudes("ria_scores", weight)
    norms = _norms("ria_scores", sizes, norms)
    expect_power("ria_scores", power)
    # Sums of up to 2^31 float32 magnitudes: in float64, so that they neither drift nor overflow.
    rows = sizes.sum(1, keepdim=True, dtype=torch.float64)  # (out, 1)
    columns = sizes.sum(0, keepdim=True, dtype=torch.float64)  # (1, in)
    # Where a sum is 0, all that is divided by it is 0 too; any divisor gives the share 0.
    shares = sizes / torch.where(rows == 0, 1, rows) + sizes / torch.where(columns == 0, 1, columns)
    return _finite("ria_scores", (shares * norms.double().pow(power)).float())


def sparsegpt_scores(
    weight: torch.Tensor, hessian: torch.Tensor, damping: float = 0.01
) -> torch.Tensor:
    """Score weights by the error of removing them in order, w_ij² / U_jj².

    U is the upper triangular factor of H⁻¹ = UᵀU for H = XᵀX + damping·mean(diag XᵀX)·I, so U_jj²
    is the corner of the inverse of H with the first j inputs taken out. Source: Frantar and
    Alistarh, SparseGPT: massive language models can be accurately pruned in one-shot, ICML 2023.
    This is the score alone, for masks that are voted on: the update of the surviving weights,
    which is the other half of SparseGPT, is not done.

    Args:
        weight: float32, float16 or bfloat16 (out, in); finite.
        hessian: float32 or float64 (in, in), XᵀX over the calibration tokens; symmetric, finite.
        damping: a number above 0.

    Returns:
        float32 (out, in) on the weight's device; all 0 when XᵀX is.

    Raises:
        DtypeError, ArgumentError: an argument has a wrong type, shape or device, is not finite, or
            the Hessian is not positive semidefinite.

    Example:
        >>> import torch
        >>> from pyfed.pruning import sparsegpt_scores
        >>> sparsegpt_scores(torch.tensor([[1.0, -2.0]]), torch.eye(2), damping=1.0)
        tensor([[2., 8.]])
    """
    op = "sparsegpt_scores"
    sizes = _magnitudes(op, weight)
    expect_tensor(op, "hessian", hessian, (torch.float32, torch.float64), 2)
    inputs = sizes.shape[1]
    if hessian.shape != (inputs, inputs):
        raise ArgumentError(
            f"{op}: hessian has shape {tuple(hessian.shape)}; for a weight with {inputs} inputs it "
            f"must be {(inputs, inputs)}"
        )
    expect_one_device(op, (weight, hessian))
    expect_positive(op, "damping", damping)
    # In float64, in × in × 8 bytes: float32 loses the small eigenvalues that the score is made of.
    h = _finite(op, hessian, "hessian").double()
    added = damping * h.diagonal().mean() if inputs else h.new_zeros(())
    if not added:
        return torch.zeros_like(sizes)
    # With the inputs in reverse order, H = LLᵀ, and 1/U_jj is L_kk at j's place there.
    reverse = h.flip(0, 1)
    reverse.diagonal().add_(added)
    factor, wrong = torch.linalg.cholesky_ex(reverse)
    if wrong:
        raise ArgumentError(f"{op}: hessian is not positive semidefinite; it must be XᵀX")
    return _finite(op, (sizes * factor.diagonal().flip(0)).square().float())


def expect_power(op: str, power: object) -> None:
    """Raise unless ``power`` is a number from 0 to 4."""
    if isinstance(power, bool) or not isinstance(power, int | float):
        raise DtypeError(f"{op}: power is {type(power).__name__}; it must be a float")
    if not 0 <= power <= 4:
        raise ArgumentError(f"{op}: power is {power}; it must be from 0 to 4")


def expect_positive(op: str, name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a float")
    if not 0 < value < math.inf:
        raise ArgumentError(f"{op}: {name} is {value}; it must be above 0 and finite")


def _magnitudes(op: str, weight: torch.Tensor) -> torch.Tensor:
    """|weight| as fresh float32 (out, in)."""
    expect_tensor(op, "weight", weight, FLOATS, 2)
    return _finite(op, weight.detach().to(torch.float32, copy=True).abs_(), "weight")


def _norms(op: str, sizes: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    expect_tensor(op, "norms", norms, torch.float32, 1)
    if norms.shape[0] != sizes.shape[1]:
        raise ArgumentError(
            f"{op}: norms has {norms.shape[0]} elements; weight has {sizes.shape[1]} inputs"
        )
    expect_one_device(op, (sizes, norms))
    _finite(op, norms, "norms")
    if bool((norms < 0).any()):
        raise ArgumentError(f"{op}: norms has a negative element; a norm is 0 at least")
    return norms


def _finite(op: str, values: torch.Tensor, name: str = "scores") -> torch.Tensor:
    """``values``; raises unless all are finite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ArgumentError(
            f"{op}: in {name} {bad} of {values.numel()} elements are NaN or infinite; all must be "
            "finite"
        )
    return values
