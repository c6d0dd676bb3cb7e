"""The singular value decomposition of a sum of low-rank products, from its factors alone.

Σ_k s_k b_k a_kᵀ has the out × in entries of a whole weight and a rank of R at most. Its singular
vectors lie in the spans of the stacked factors, so a core matrix of R × R has the same singular
values, and no matrix of out × in is ever made.
"""

from __future__ import annotations

import torch

from pyfed.checks import expect_int, expect_one_device, expect_tensor
from pyfed.errors import ArgumentError
from pyfed.lora.adapters import WIDE_FLOATS

_OP = "low_rank_svd"
_STEEP = 1e-4
"""A singular value this small beside ‖a‖·‖b‖ is not taken from Gram matrices.

They square the factors: a vector of the result is off orthogonal by the machine's 1e-16 times
(‖a‖·‖b‖ / σ)², which at this bound is 1e-8, below float32's own rounding.
"""


def low_rank_svd(
    a: torch.Tensor,
    b: torch.Tensor,
    rank: int | None = None,
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decompose b · diag(scale) · a = u · diag(s) · v without making the product.

    Factors of 32 bits or less are decomposed through their Gram matrices in float64, which costs
    two products of R × R; where that would not be exact enough, and for float64, through QR. Both
    give orthonormal vectors, also for directions whose singular value is 0. In every row of ``v``
    the element of the largest absolute value is positive, so the result does not depend on a
    library's choice of signs.

    Args:
        a: floating (…, R, in).
        b: (…, out, R), of the same dtype.
        rank: how many of the largest singular values; None, or one that is too large: all
            min(R, out, in).
        scale: a factor of each rank, floating (…, R) or (R,); None: 1.

    Returns:
        ``u`` (…, out, k), ``s`` (…, k) descending and ``v`` (…, k, in), of the dtype of ``a``; the
        columns of ``u`` and the rows of ``v`` are orthonormal.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes or devices do not fit, ``rank`` is below 1, or a factor is not finite.

    Example:
        >>> import torch
        >>> from pyfed.lora import low_rank_svd
        >>> a, b = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0], [0.0], [4.0]])
        >>> u, s, v = low_rank_svd(a, b)
        >>> s, v
        (tensor([10.]), tensor([[0., 1.]]))
    """
    a, b, scale = _checked(a, b, rank, scale)
    dtype = a.dtype
    wide_a, wide_b = a.to(torch.float64), b.to(torch.float64)
    if scale is not None:
        wide_b = wide_b * scale.to(torch.float64).unsqueeze(-2)
    kept = min(a.shape[-2], a.shape[-1], b.shape[-2])
    kept = kept if rank is None else min(rank, kept)
    # Gram matrices pay where factors are long beside their rank, and are square otherwise.
    found = None
    if dtype != torch.float64 and a.shape[-2] <= min(a.shape[-1], b.shape[-2]):
        found = _by_gram(wide_a, wide_b, kept)
    u, s, v = found or _by_qr(wide_a, wide_b, kept)
    # Of equal largest elements argmax may take any; the first one is what all devices agree on.
    sizes = v.abs()
    place = (sizes == sizes.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1, keepdim=True)
    sign = torch.where(v.gather(-1, place) < 0, -1.0, 1.0)
    return (u * sign.mT).to(dtype), s.to(dtype), (v * sign).to(dtype)


def _by_gram(
    a: torch.Tensor, b: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The decomposition from aaᵀ and bᵀb; None where it would not be exact enough."""
    # a = L V' and b = U' Mᵀ with orthonormal V' and U', never made, so the core is Mᵀ L.
    la, failed_a = torch.linalg.cholesky_ex(a @ a.mT)
    lb, failed_b = torch.linalg.cholesky_ex(b.mT @ b)
    if bool(failed_a.any() | failed_b.any()):
        return None
    left, s, right = torch.linalg.svd(lb.mT @ la)
    left, s, right = left[..., :kept], s[..., :kept], right[..., :kept, :]
    lengths = [torch.linalg.matrix_norm(factor) for factor in (la, lb)]  # ‖a‖ and ‖b‖
    if not bool((s[..., -1] >= _STEEP * lengths[0] * lengths[1]).all()):
        return None
    # U' left s = b a v: what the core says in the basis of the ranks, so nothing is inverted.
    u = b @ (la @ right.mT / s.unsqueeze(-2))
    v = ((lb @ left / s.unsqueeze(-2)).mT) @ a
    return u, s, v


def _by_qr(
    a: torch.Tensor, b: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    qa, ra = torch.linalg.qr(a.mT)  # (in, k), (k, R)
    qb, rb = torch.linalg.qr(b)
    left, s, right = torch.linalg.svd(rb @ ra.mT, full_matrices=False)
    return qb @ left[..., :kept], s[..., :kept], right[..., :kept, :] @ qa.mT


def _checked(
    a: torch.Tensor, b: torch.Tensor, rank: int | None, scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    expect_tensor(_OP, "a", a, WIDE_FLOATS)
    expect_tensor(_OP, "b", b, a.dtype)
    if a.dim() < 2 or b.dim() != a.dim() or a.shape[:-2] != b.shape[:-2] or 0 in a.shape + b.shape:
        raise ArgumentError(
            f"{_OP}: a has shape {tuple(a.shape)} and b {tuple(b.shape)}; they must be (…, R, in) "
            "and (…, out, R), and not empty"
        )
    if a.shape[-2] != b.shape[-1]:
        raise ArgumentError(
            f"{_OP}: a has {a.shape[-2]} rows and b {b.shape[-1]} columns; both count the ranks"
        )
    if rank is not None:
        expect_int(_OP, "rank", rank, 1, 2**31)
    factors = [a, b]
    if scale is not None:
        expect_tensor(_OP, "scale", scale, WIDE_FLOATS)
        if scale.shape not in (a.shape[-2:-1], a.shape[:-1]):
            raise ArgumentError(
                f"{_OP}: scale has shape {tuple(scale.shape)}; it must be {tuple(a.shape[:-1])}"
            )
        factors.append(scale)
    expect_one_device(_OP, factors)
    for name, factor in zip(("a", "b", "scale"), factors, strict=False):
        if not bool(torch.isfinite(factor).all()):
            raise ArgumentError(f"{_OP}: {name} holds NaN or infinity; it must be finite")
    return a.detach(), b.detach(), None if scale is None else scale.detach()
