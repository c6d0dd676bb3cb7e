"""The server of stochastic coded federated learning."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from pyfed.checks import expect_tensor
from pyfed.coded.dataset import CodedDataset
from pyfed.coded.guard import RoundMap
from pyfed.coded.scfl import SCFL, batch_of
from pyfed.coded.spectrum import expect_coded, extreme_eigenvalues
from pyfed.coded.variance import best_alpha
from pyfed.errors import ArgumentError, PyfedError

MARGIN = 1.001
"""ridge="least" is so much above what the guard asks for."""
GROWTH = 1e6
"""A gradient that has become so many times the first one shows divergence."""


class SCFLServer:
    """The coded set, the model, and a step for each round; made by :meth:`SCFL.server`.

    Attributes:
        weight: W, float32 (features, outputs).
        round: rounds done.
        ridge: λ.
        alpha: α of the coming round, under "convex" and "adaptive".
        spectrum: bounds of the eigenvalues of X̃ᵀX̃/c − σ²I; None when the guard is off.
    """

    def __init__(self, settings: SCFL, coded: CodedDataset, weight: torch.Tensor | None) -> None:
        expect_coded("SCFL.server", coded)
        if coded.complement != (settings.rule == "complement"):
            raise ArgumentError(
                f"SCFL.server: rule is {settings.rule!r}, and the coded set has "
                f"{'weights of √(1 − p)' if coded.complement else 'weights of 1'}; encode with "
                "arrival=p for 'complement' and without it for the others"
            )
        _expect_all_clients(settings, coded)
        shape = (coded.features, coded.outputs)
        if weight is None:
            weight = torch.zeros(shape, device=coded.device)
        expect_tensor("SCFL.server", "weight", weight, torch.float32, 2)
        if weight.shape != shape or weight.device != coded.device:
            raise ArgumentError(
                f"SCFL.server: weight has shape {tuple(weight.shape)} on {weight.device}; it must "
                f"have {shape} on {coded.device}"
            )
        if settings.batch is not None and settings.batch > coded.rows:
            raise ArgumentError(
                f"SCFL.server: batch is {settings.batch}; the coded set has {coded.rows} rows"
            )
        self._settings, self._coded = settings, coded
        self.weight = weight.detach().clone()
        self.round, self.alpha = 0, settings.alpha
        self._v_coded: float | None = None
        self._v_arrivals: float | None = None
        self._first: float | None = None
        self.spectrum: tuple[float, float] | None = None
        self.ridge = self._guarded()

    def _guarded(self) -> float:
        """The ridge; raises when the mean of W would diverge.

        What the clients add to the Hessian is positive semidefinite, and may be 0 in any
        direction, so the coded part must not make W grow by itself; its share is 1, or 1 − α.
        """
        s, coded = self._settings, self._coded
        if not s.guard and s.ridge != "least":
            return float(s.ridge)
        most = 1 - s.alpha if s.rule == "convex" else 1.0
        least = 0.0 if s.rule == "adaptive" else most
        self.spectrum = low, high = extreme_eigenvalues(coded)
        turn = RoundMap(low, high, least, most, s.local_steps)
        step = s.lr / coded.samples
        needed = turn.least_ridge(step)
        ridge = MARGIN * needed if s.ridge == "least" else float(s.ridge)
        if not s.guard and math.isfinite(ridge):
            return ridge
        rounds = f"lr is {s.lr:g} with {s.local_steps} local steps"
        if ridge < needed:
            advice = (
                f"use ridge ≥ {needed:.6g} or ridge='least', less noise, more rows, or "
                "rule='convex' with a larger alpha"
            )
            if turn.too_long(step, needed):
                longest = turn.longest(step, None) * coded.samples
                advice = (
                    f"no ridge makes up for it as {rounds}: take less noise, more rows, fewer "
                    f"local_steps, or ridge='least' and lr < {longest:.6g}"
                )
            raise ArgumentError(
                f"SCFL.server: W would diverge: the coded Hessian X̃ᵀX̃/c − σ²I has an eigenvalue "
                f"near {low:.6g} (σ² = {coded.variance:.6g}, {coded.rows} rows, "
                f"{coded.features} features), times its share {most:g}; {advice}"
            )
        if turn.too_long(step, ridge):
            fewer = "take fewer local_steps, or " if s.local_steps > 1 else ""
            longest = turn.longest(step, None if s.ridge == "least" else ridge) * coded.samples
            raise ArgumentError(
                f"SCFL.server: W would diverge: {rounds}, and the coded Hessian has eigenvalues "
                f"from {low:.6g} to {high:.6g} over {coded.samples} records, times its share "
                f"{least:g}, beside a ridge of {ridge:.6g}; {fewer}use lr < {longest:.6g}"
            )
        return ridge

    @property
    def settings(self) -> SCFL:
        """What clients and server have in common."""
        return self._settings

    def coded_gradient(self, weight: torch.Tensor | None = None, place: int = 0) -> torch.Tensor:
        """The corrected gradient on coded data, g_s: X̃_Sᵀ(X̃_S W − Ỹ_S)/b − σ²W.

        Args:
            weight: W; None: the server's.
            place: which batch, of those that the seed gives.

        Returns:
            float32 (features, outputs).
        """
        return self._measured(self.weight if weight is None else weight, place)[0]

    def _measured(self, weight: torch.Tensor, place: int) -> tuple[torch.Tensor, float]:
        """g_s and an estimate of its variance V_s from the same rows.

        Of the law in :mod:`pyfed.coded.variance` the mean squares of coded residuals and coded
        features estimate both factors; κ's part is left out, so that V_s is not too small.
        """
        s, coded = self._settings, self._coded
        x, y = coded.x, coded.y
        if s.batch is not None:
            rows = batch_of(s.seed * 1_000_003, place, coded.rows, s.batch).to(x.device)
            x, y = x[rows], y[rows]
        residual = x @ weight - y
        mean = x.T @ residual / len(x)
        variance = 0.0
        if s.rule == "adaptive":
            wide = torch.float64  # in which the squares of float32 cannot overflow
            parts = (float(torch.linalg.vector_norm(t, dtype=wide)) for t in (residual, x, mean))
            spread, energy, bias = (norm**2 for norm in parts)
            variance = (spread * energy / len(x) ** 2 + bias) / len(x)
        return mean - coded.variance * weight, variance

    def step(self, gradients: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """One round: aggregate what arrived with the coded gradient, and move W.

        Args:
            gradients: client → its update at ``weight``; clients that are late are not in it.

        Returns:
            The new W, which is also ``weight``.

        Raises:
            DtypeError, ArgumentError: a gradient is unfit; nothing has changed then.
            PyfedError: W diverges; nothing has changed.
        """
        s, coded = self._settings, self._coded
        s.expect_gradients(gradients, self.weight)
        scale = s.lr / coded.samples
        own, total, variance = self.weight, torch.zeros_like(self.weight), 0.0
        for step in range(s.local_steps):
            gradient, spread = self._measured(own, self.round * s.local_steps + step)
            total += gradient
            variance += spread * s.local_steps  # the same G: errors of the steps add up
            if step + 1 < s.local_steps:
                own = own - scale * gradient
        summed = s.combined(gradients, total, self.alpha)
        summed += (s.local_steps * self.ridge) * self.weight
        first = self._expect_no_growth(float(summed.norm()))
        weight = self.weight - scale * summed
        if s.radius is not None:
            weight *= min(1.0, s.radius / max(float(weight.norm()), 1e-30))
        if s.rule == "adaptive":
            self._learn(gradients, variance)
        self.weight, self.round, self._first = weight, self.round + 1, first
        return self.weight

    def _expect_no_growth(self, norm: float) -> float | None:
        """The first gradient's norm; raises when this one is not finite, or far larger."""
        known = self._first
        if known is None and 0 < norm < float("inf"):
            known = norm
        first = 1.0 if known is None else known
        if not norm <= GROWTH * first:  # NaN fails too
            raise PyfedError(
                f"SCFL: W diverges: in round {self.round} the gradient has norm {norm:.3g}, in the "
                f"first it had {first:.3g}; use a smaller lr, more ridge or less noise"
            )
        return known

    def _learn(self, gradients: Mapping[int, torch.Tensor], coded: float) -> None:
        """Update the variances and so α of the next round.

        V_c = Σ (1/p_i − 1)·‖g_i‖² over all clients, estimated without bias by those that arrived.
        """
        if not gradients and self._v_arrivals is None:
            return  # nobody has ever arrived
        arrivals = 0.0
        for client, gradient in gradients.items():
            p = self._settings.probabilities[client]
            arrivals += (1 / p - 1) / p * float(gradient.to(torch.float64).square().sum())
        keep = self._settings.decay
        old_c, old_s = self._v_arrivals, self._v_coded
        v_c = arrivals if old_c is None else keep * old_c + (1 - keep) * arrivals
        v_s = coded if old_s is None else keep * old_s + (1 - keep) * coded
        alpha = best_alpha(v_s, v_c)  # which raises when one is not finite
        self._v_arrivals, self._v_coded, self.alpha = v_c, v_s, alpha


def _expect_all_clients(settings: SCFL, coded: CodedDataset) -> None:
    """Raise when arrivals and coded sets are of different clients, as far as numbers tell.

    A client that is in one of the two parts alone would count for less than the others.
    """
    wanted, found = len(settings.probabilities), coded.clients
    if found < wanted:
        raise ArgumentError(
            f"SCFL.server: coded is the sum of {found} clients' sets, and arrival is of {wanted} "
            "clients; where a set was lost let its client encode again under a fresh key or "
            "stream, or drop it from arrival, which leaves its records out"
        )
    alone = settings.alpha == 0 and (settings.rule == "convex" or not wanted)
    if found > wanted and settings.rule != "complement" and not alone:
        raise ArgumentError(
            f"SCFL.server: coded is the sum of {found} clients' sets, and arrival is of {wanted} "
            f"clients; under {settings.rule!r} one that never arrives would count for 1 − α of "
            "itself: use rule='complement' and let it encode with arrival=0, or 'convex' with "
            "alpha=0"
        )
