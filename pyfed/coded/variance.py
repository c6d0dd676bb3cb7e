"""The exact law of a coded gradient: how far it is from the gradient of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.checks import expect_int, expect_tensor
from pyfed.coded.dataset import KINDS, Kind
from pyfed.coded.records import expect_not_negative, expect_probability, expect_records
from pyfed.errors import ArgumentError


def gradient_variance(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    rows: int,
    noise_std: float = 0.0,
    kind: Kind = "gaussian",
    label_noise_std: float | None = None,
) -> float:
    """E‖g̃ − g‖² of the coded gradient g̃ = X̃ᵀ(X̃W − Ỹ)/c − σ²W, over G and the noise.

    With residuals u = XW − Y, noise σ on features and ν on labels, summed over outputs,

        V = (1/c)·[(‖u‖² + σ²‖w‖² + ν²)·(‖X‖_F² + d·σ²) + ‖Xᵀu + σ²w‖²] − (κ/c)·Σ_j u_j²‖x_j‖²,

    κ = 0 for Gaussian G, and 2 for Rademacher and CountSketch, whose squared entries are constant.
    A mini-batch of b rows that are independent, as of Gaussian and Rademacher G, has ``rows=b``.

    Args:
        x: float32 (samples, features): what is coded, weights and all.
        y: float32 (samples,) or (samples, outputs).
        weight: float32 (features,) or (features, outputs): W.
        rows: c.
        noise_std: σ.
        kind: the law of G.
        label_noise_std: ν; None: σ.

    Returns:
        V, by float64 arithmetic. Derived here; measured in the tests.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import torch
        >>> from pyfed.coded import gradient_variance
        >>> gradient_variance(torch.ones(4, 1), torch.zeros(4), torch.ones(1), rows=8)
        4.0
    """
    u, x64, w, (sigma2, nu2) = _checked(
        "gradient_variance", x, y, weight, rows, noise_std, kind, label_noise_std
    )
    spread = float(u.square().sum() + sigma2 * w.square().sum()) + u.shape[1] * nu2
    energy = float(x64.square().sum()) + x64.shape[1] * sigma2
    mean = x64.T @ u + sigma2 * w
    total = spread * energy + float(mean.square().sum())
    if kind != "gaussian":
        total -= 2 * float((u.square().sum(1) * x64.square().sum(1)).sum())
    return total / rows


def gradient_covariance(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    rows: int,
    noise_std: float = 0.0,
    kind: Kind = "gaussian",
    label_noise_std: float | None = None,
) -> torch.Tensor:
    """The covariance of the coded gradient, of which :func:`gradient_variance` is the trace.

    With M = XᵀX + σ²I, h = Xᵀu + σ²w and s_ab = u_aᵀu_b + σ²w_aᵀw_b + ν²[a = b], Isserlis's theorem
    for a row gives c·Cov[g̃_ka, g̃_lb] = s_ab·M_kl + h_kb·h_la − κ·Σ_j x_jk u_ja x_jl u_jb.

    Args:
        x: as in :func:`gradient_variance`, like all arguments.
        y: labels.
        weight: W.
        rows: c.
        noise_std: σ.
        kind: the law of G.
        label_noise_std: ν.

    Returns:
        float64 (features, outputs, features, outputs).

    Raises:
        DtypeError, ArgumentError: an argument is wrong.
    """
    u, x64, w, (sigma2, nu2) = _checked(
        "gradient_covariance", x, y, weight, rows, noise_std, kind, label_noise_std
    )
    eye = torch.eye
    m = x64.T @ x64 + sigma2 * eye(x64.shape[1], dtype=torch.float64)
    s = u.T @ u + sigma2 * (w.T @ w) + nu2 * eye(u.shape[1], dtype=torch.float64)
    h = x64.T @ u + sigma2 * w
    total = torch.einsum("ab,kl->kalb", s, m) + torch.einsum("kb,la->kalb", h, h)
    if kind != "gaussian":
        total -= 2 * torch.einsum("jk,ja,jl,jb->kalb", x64, u, x64, u)
    return total / rows


def _checked(
    op: str,
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    rows: int,
    noise_std: float,
    kind: str,
    label_noise_std: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[float, float]]:
    """Residuals u (samples, outputs), X and W in float64 on the CPU, and (σ², ν²)."""
    features, labels = expect_records(op, x, y)
    expect_tensor(op, "weight", weight, torch.float32)
    expect_int(op, "rows", rows, 1, 2**31)
    sigma = expect_not_negative(op, "noise_std", noise_std)
    nu = sigma
    if label_noise_std is not None:
        nu = expect_not_negative(op, "label_noise_std", label_noise_std)
    if kind not in KINDS:
        raise ArgumentError(f"{op}: kind is {kind!r}; it must be one of {KINDS}")
    shape = (features.shape[1], labels.shape[1])
    if weight.shape != shape and not (weight.dim() == 1 and (len(weight), 1) == shape):
        raise ArgumentError(f"{op}: weight has shape {tuple(weight.shape)}; it must be {shape}")
    wide = features.to("cpu", torch.float64)
    w = weight.detach().to("cpu", torch.float64).reshape(shape)
    return wide @ w - labels.to("cpu", torch.float64), wide, w, (sigma**2, nu**2)


def arrival_variance(
    gradients: Sequence[torch.Tensor], arrival: Sequence[float], rule: str = "convex"
) -> float:
    """E‖·‖² of what arrivals at random do to the clients' part of an aggregate.

    Under "convex" and "adaptive" Σ (1/p_i − 1)·‖g_i‖², before α; under "complement"
    Σ p_i(1 − p_i)·‖g_i‖². Clients arrive independently.

    Args:
        gradients: g_i of every client.
        arrival: p_i in (0, 1].
        rule: of :class:`SCFL`.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import torch
        >>> from pyfed.coded import arrival_variance
        >>> arrival_variance([torch.ones(2), torch.ones(2)], [0.5, 1.0])
        2.0
    """
    op = "arrival_variance"
    if rule not in ("complement", "convex", "adaptive"):
        raise ArgumentError(
            f"{op}: rule is {rule!r}; it must be 'complement', 'convex' or 'adaptive'"
        )
    if len(gradients) != len(arrival):
        raise ArgumentError(
            f"{op}: {len(gradients)} gradients are given and {len(arrival)} probabilities"
        )
    total = 0.0
    for index, (gradient, given) in enumerate(zip(gradients, arrival, strict=True)):
        p = expect_probability(op, f"arrival[{index}]", given)
        norm2 = float(gradient.to(torch.float64).square().sum())
        total += norm2 * (p * (1 - p) if rule == "complement" else 1 / p - 1)
    return total


def best_alpha(coded: float, arrivals: float) -> float:
    """α* = V_s / (V_s + V_c), which makes the variance of α·clients + (1 − α)·coded least.

    Both parts are unbiased and independent, so it is α²·V_c + (1 − α)²·V_s. With no variance at
    all α is 1: clients alone.

    Args:
        coded: V_s, of the coded gradient.
        arrivals: V_c, of the clients' part.

    Raises:
        DtypeError, ArgumentError: a variance is negative or not finite.

    Example:
        >>> from pyfed.coded import best_alpha
        >>> best_alpha(coded=3.0, arrivals=1.0)
        0.75
    """
    v_s = expect_not_negative("best_alpha", "coded", coded)
    v_c = expect_not_negative("best_alpha", "arrivals", arrivals)
    return v_s / (v_s + v_c) if v_s + v_c > 0 else 1.0
