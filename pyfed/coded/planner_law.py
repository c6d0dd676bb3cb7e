"""What ridge regression on noisy releases costs, to first order in what they add.

A release gives H̃ and b̃ for H = XᵀX and b = XᵀY, and the server solves W̃ = (H̃ + λI)⁻¹b̃. With the
solution W of the exact problem and the gradient g̃ = (H̃ + λI)W − b̃ of the released one at W, whose
mean is zero,

    W̃ − W ≈ −(H + λI)⁻¹ g̃,   E ½‖X(W̃ − W)‖² ≈ ½ Σ_outputs tr(M · Cov g̃),  M = (H+λ)⁻¹H(H+λ)⁻¹,

and the bias of λ adds to it. The law holds while H̃ − H is small beside H + λI, of which the
perturbations are estimates: up to 0.4 it is right within a tenth, at 0.7 it is up to a third low,
and from 1 on H̃ + λI need not even be positive definite. Everything is derived here, in the
eigenbasis of H.
"""

from __future__ import annotations

import math

import torch


class RidgeLaw:
    """The quadratic problem of some records, as if each stood for ``weight`` of them.

    Args:
        x: float32 (records, features).
        y: float32 (records, outputs).
        weight: how many records each stands for.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, weight: float) -> None:
        wide, labels = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
        values, vectors = torch.linalg.eigh(weight * (wide.T @ wide))
        self.weight = weight
        self.samples = len(x) * weight
        self.eigenvalues = values.clamp(min=0)  # (features,), ascending
        self.vectors = vectors
        self.cross = weight * (vectors.T @ (wide.T @ labels))  # (features, outputs)
        self.projected = wide @ vectors  # (records, features)
        self.labels = labels
        # Directions that no record has, but for rounding, hold nothing to fit.
        seen = values > values[-1] * len(values) * 1e-15
        inverse = torch.where(seen, 1 / torch.where(seen, values, 1.0), 0.0)
        self.fitted: torch.Tensor = inverse[:, None] * self.cross
        self.least = max(
            0.0, float(weight * labels.square().sum() - (self.cross * self.fitted).sum())
        )

    @property
    def loss(self) -> float:
        """½‖XW − Y‖² per record at the least-squares solution."""
        return self.least / 2 / self.samples

    def solution(self, ridge: float) -> torch.Tensor:
        """W of the exact ridge problem, in the eigenbasis: float64 (features, outputs)."""
        if ridge == 0:
            return self.fitted
        solution: torch.Tensor = self.cross / (self.eigenvalues + ridge)[:, None]
        return solution

    def bias(self, ridge: float) -> float:
        """What λ alone adds to ½‖XW − Y‖² per record."""
        away = self.solution(ridge) - self.fitted
        return float((self.eigenvalues[:, None] * away.square()).sum()) / 2 / self.samples

    def _sensitivity(self, ridge: float) -> torch.Tensor:
        """Eigenvalues of M, float64 (features,)."""
        total = self.eigenvalues + ridge
        return torch.where(total > 0, self.eigenvalues / total.square(), 0.0)

    def coded(self, ridge: float, rows: int, noise_std: float, kind: str) -> float:
        """Excess of ½‖XW − Y‖² per record on a coded set with the make-up term: bias and variance.

        Features and labels have noise σ. For each output, with residual u and
        v² = ‖u‖² + σ²‖w‖² + σ², and since Xᵀu = −λw at the ridge solution,
        c·Cov g̃ = v²·(H + σ²I) + (σ² − λ)²·wwᵀ − κ·Σ_j u_j²·x_j·x_jᵀ,
        κ = 0 for Gaussian G and 2 for the others.
        """
        variance = noise_std**2
        w, h, m = self.solution(ridge), self.eigenvalues, self._sensitivity(ridge)
        away = w - self.fitted
        residual = self.least + float((h[:, None] * away.square()).sum())
        spread = residual + variance * float(w.square().sum()) + w.shape[1] * variance
        total = spread * float((m * (h + variance)).sum())
        total += (variance - ridge) ** 2 * float((m[:, None] * w.square()).sum())
        if kind != "gaussian":
            squares = (self.projected @ w - self.labels).square().sum(1)  # (records,)
            total -= 2 * self.weight * float(m @ (self.projected.square().T @ squares))
        return self.bias(ridge) + total / rows / 2 / self.samples

    def coded_perturbation(self, ridge: float, rows: int, noise_std: float) -> float:
        """How far the least eigenvalue of H̃ + λI, beside H + λI, is about to fall below 1.

        A sample covariance of c rows with the spectrum s = (h + σ²)/(h + λ) falls by
        max(s)·(2√e − e), e = Σs / (max(s)·c): exact in the limit of many columns for a flat s
        (Bai and Yin), else a rule of thumb.
        """
        total = self.eigenvalues + ridge
        if float(total[0]) <= 0:
            return math.inf
        spectrum = (self.eigenvalues + noise_std**2) / total
        top = float(spectrum.max())
        effective = min(1.0, float(spectrum.sum()) / top / rows)
        return top * (2 * math.sqrt(effective) - effective)

    def statistics(self, ridge: float, noise_std: float) -> float:
        """Excess of ½‖XW − Y‖² per record on XᵀX and XᵀY with noise τ, and τ/√2 off the diagonal.

        Cov g̃ = τ²/2·((‖w‖² + 1)·I + wwᵀ), in every basis.
        """
        w, m = self.solution(ridge), self._sensitivity(ridge)
        total = float(m.sum()) * (float(w.square().sum()) + w.shape[1])
        total += float((m[:, None] * w.square()).sum())
        return self.bias(ridge) + noise_std**2 * total / 4 / self.samples

    def statistics_perturbation(self, ridge: float, noise_std: float) -> float:
        """The same for a symmetric matrix of noise, whose least eigenvalue is about −τ√(2d)."""
        if float(self.eigenvalues[0]) + ridge <= 0:
            return math.inf
        inverse = 1 / (self.eigenvalues + ridge)
        return noise_std * math.sqrt(2 * float(inverse.max() * inverse.sum()))
