"""What coded data are measured against: simpler ways with stragglers, and one-shot statistics."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pyfed.checks import expect_int
from pyfed.coded.discrete_noise import on_grid_
from pyfed.coded.gradients import by_client, expect_gradients, of_client
from pyfed.coded.plain import plain
from pyfed.coded.privacy_grid import fine_grid
from pyfed.coded.records import (
    expect_not_negative,
    expect_number,
    expect_positive,
    expect_probability,
    expect_records,
    source_of,
    within_norm,
)
from pyfed.errors import ArgumentError, DtypeError, ThresholdError
from pyfed.keys import Key


def drop_stragglers(
    gradients: Mapping[int, torch.Tensor], samples: Mapping[int, int] | Sequence[int]
) -> torch.Tensor:
    """Σ_A g_i · m / Σ_A m_i: those that are late count for nothing, as in federated averaging.

    It is biased to the clients that are fast, whatever the others hold.

    Args:
        gradients: client → g_i, in sums over its records, of those that arrived.
        samples: m_i of every client.

    Returns:
        The estimate of Σ g_i over all clients.

    Raises:
        DtypeError: something has a wrong type.
        ArgumentError: nobody arrived, a client has no samples, or gradients differ in shape or
            are not finite.

    Example:
        >>> import torch
        >>> from pyfed.coded.baselines import drop_stragglers
        >>> drop_stragglers({0: torch.ones(1)}, samples=[10, 30])
        tensor([4.])
    """
    op = "drop_stragglers"
    expect_gradients(op, gradients)
    if not gradients:
        raise ArgumentError(f"{op}: gradients is empty; wait for at least one client")
    counts = by_client(op, "samples", samples)
    for client, count in counts.items():
        expect_int(op, f"samples[{client}]", count, 0, 2**53)
    arrived = sum(int(of_client(op, "samples", counts, client)) for client in gradients)
    if not arrived:
        raise ArgumentError(
            f"{op}: samples of clients {sorted(gradients)} are 0; one that arrived must have some"
        )
    return _summed(gradients) * float(sum(counts.values()) / arrived)


def wait_for_all(gradients: Mapping[int, torch.Tensor], clients: Collection[int]) -> torch.Tensor:
    """Σ g_i once everybody is there: exact, and as slow as the slowest.

    Args:
        gradients: client → g_i.
        clients: all of them, at least one.

    Raises:
        DtypeError: something has a wrong type.
        ArgumentError: there is no client, an unknown one answered, or gradients differ in shape or
            are not finite.
        ThresholdError: somebody is not there; ``.missing`` names them.

    Example:
        >>> import torch
        >>> from pyfed.coded.baselines import wait_for_all
        >>> wait_for_all({0: torch.ones(1), 1: torch.ones(1)}, clients=range(2))
        tensor([2.])
    """
    op = "wait_for_all"
    expect_gradients(op, gradients)
    if not isinstance(clients, Collection):
        raise DtypeError(f"{op}: clients is {type(clients).__name__}; it must be a list of them")
    if not len(clients):
        raise ArgumentError(f"{op}: clients is empty; there must be at least one")
    everybody = dict.fromkeys(map(plain, clients), 1)
    for client in gradients:
        of_client(op, "clients", everybody, client)
    missing = sorted(set(everybody) - set(gradients))
    if missing:
        raise ThresholdError(
            f"{op}: {len(missing)} of {len(clients)} clients have not answered",
            missing=missing,
        )
    return _summed(gradients)


def inverse_probability(
    gradients: Mapping[int, torch.Tensor], arrival: Mapping[int, float] | Sequence[float]
) -> torch.Tensor:
    """Σ_A g_i / p_i: unbiased, with variance Σ (1/p_i − 1)·‖g_i‖².

    Args:
        gradients: client → g_i of those that arrived, at least one.
        arrival: p_i in (0, 1] of every client.

    Raises:
        DtypeError: something has a wrong type.
        ArgumentError: nobody arrived, a client has no probability or one out of range, or gradients
            differ in shape or are not finite.

    Example:
        >>> import torch
        >>> from pyfed.coded.baselines import inverse_probability
        >>> inverse_probability({1: torch.ones(1)}, arrival=[0.9, 0.25])
        tensor([4.])
    """
    op = "inverse_probability"
    expect_gradients(op, gradients)
    if not gradients:
        raise ArgumentError(f"{op}: gradients is empty; the estimate is 0 then")
    known = by_client(op, "arrival", arrival)
    weighted = {
        client: gradient
        / expect_probability(op, f"p of client {client}", of_client(op, "arrival", known, client))
        for client, gradient in gradients.items()
    }
    return _summed(weighted)


def _summed(gradients: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The sum in the order of the clients' numbers, so that it does not depend on who was first."""
    return torch.stack([gradients[client] for client in sorted(gradients)]).sum(0)


@dataclass(frozen=True, eq=False)
class PrivateStatistics:
    """XᵀX and XᵀY of one client or of many, with noise, once and for all.

    For least squares they are all that a server needs. They take d² numbers where coded data take
    c·d, and at the same guarantee their noise is often less harmful: compare before using code.
    After AdaSSP (Wang, Revisiting differentially private linear regression, UAI 2018), with one
    joint release instead of three, which is ours.

    Args:
        gram: float64 (d + o, d + o), symmetric: [X, Y]ᵀ[X, Y] with noise.
        features: d.
        noise_variance: τ², of an entry of the diagonal, all clients together; those off it have
            half of it.
        sources: 8 bytes for each key in the sum, which say nothing about it.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.coded.baselines import PrivateStatistics
        >>> x = torch.randn(900, 2, generator=torch.Generator().manual_seed(1))
        >>> y, key = x @ torch.tensor([1.0, -1.0]), pyfed.Key(bytes(range(32)))
        >>> one = PrivateStatistics.encode(x, y, noise_std=1.0, key=key)
        >>> one.solve(ridge=0.0).flatten().round(decimals=1)
        tensor([ 1., -1.])
    """

    gram: torch.Tensor
    features: int
    noise_variance: float
    sources: frozenset[bytes] = frozenset()

    @classmethod
    def encode(
        cls,
        x: torch.Tensor,
        y: torch.Tensor,
        noise_std: float,
        key: Key,
        record_norm: float | None = None,
        on_large: Literal["clip", "refuse"] = "refuse",
    ) -> PrivateStatistics:
        """The statistics of one client.

        With noise τ on the diagonal and τ/√2 above it, a record z = [x, y] moves the release, in
        units of its noise, by √(Σ z_i⁴ + 2·Σ_{i<j} z_i²z_j²)/τ = ‖z‖²/τ: a Gaussian mechanism of
        sensitivity C², C = ``record_norm``, whose noise has one law in every basis. Noise is
        discrete, on a grid of τ/2^20, so that every bit is hidden.

        Args:
            x: float32 (samples, d).
            y: float32 (samples,) or (samples, o).
            noise_std: τ, see :func:`pyfed.coded.privacy.statistics_noise`.
            key: makes the noise; used for nothing else.
            record_norm: C; None: not looked at.
            on_large: whether a record above it is an error, or is scaled down to it.

        Raises:
            DtypeError, ArgumentError: an argument is wrong.
        """
        op = "PrivateStatistics.encode"
        features, labels = expect_records(op, x, y)
        std = expect_not_negative(op, "noise_std", noise_std)
        source = source_of(op, key, 0, public=False)
        assert isinstance(key, Key)
        joint = within_norm(op, torch.cat([features, labels], 1), record_norm, on_large)
        wide = joint.to(torch.float64)
        gram = wide.T @ wide
        if std > 0:
            own, grid, size = key.derive("statistics"), fine_grid(std), len(gram)
            diagonal = on_grid_(gram.diagonal().clone(), std, grid, own, 0)
            row, column = torch.triu_indices(size, size, 1, device=gram.device)
            above = on_grid_(gram[row, column], std / math.sqrt(2), grid, own, 1)
            gram[row, column] = gram[column, row] = above
            gram.diagonal().copy_(diagonal)
            own.wipe()
        return cls(gram, features.shape[1], std**2, frozenset([source]))

    def __add__(self, other: object) -> PrivateStatistics:
        """Those of both; only the total noise counts when the sum is made in secret."""
        if not isinstance(other, PrivateStatistics):
            return NotImplemented
        if self.gram.shape != other.gram.shape or self.features != other.features:
            raise ArgumentError(
                f"PrivateStatistics: shapes {tuple(self.gram.shape)} and "
                f"{tuple(other.gram.shape)} with {self.features} and {other.features} features "
                "do not add"
            )
        if self.sources & other.sources:
            raise ArgumentError(
                "PrivateStatistics: both have noise of one key, so that it is the same; give every "
                "client a key of its own"
            )
        variance = self.noise_variance + other.noise_variance
        sources = self.sources | other.sources
        return PrivateStatistics(self.gram + other.gram, self.features, variance, sources)

    def solve(self, ridge: float | None = None, failure: float = 0.05) -> torch.Tensor:
        """W = (XᵀX + λI)⁻¹ XᵀY of the noisy statistics.

        Args:
            ridge: λ; None: as AdaSSP's, max(0, t − λ_min) for t = τ·(√(2d) + √(2·ln(2/failure))),
                which bounds the norm of the noise (its mean by Slepian's inequality, the rest by
                concentration), and the least eigenvalue λ_min that XᵀX has at least then.
            failure: the chance that t is too small.

        Returns:
            float32 (features, outputs).

        Raises:
            DtypeError, ArgumentError: an argument is wrong, or the matrix is singular.
        """
        op, d = "PrivateStatistics.solve", self.features
        expect_int(op, "features", d, 1, len(self.gram))
        hessian, cross = self.gram[:d, :d].clone(), self.gram[:d, d:]
        if ridge is None:
            chance = expect_positive(op, "failure", failure)
            most = math.sqrt(2 * d) + math.sqrt(2 * math.log(2 / min(chance, 1.0)))
            t = math.sqrt(self.noise_variance) * most
            least = max(0.0, float(torch.linalg.eigvalsh(hessian)[0]) - t)
            extra = max(0.0, t - least)
        else:
            extra = expect_number(op, "ridge", ridge)
        hessian.diagonal().add_(extra)
        factors, pivots, failed = torch.linalg.lu_factor_ex(hessian)
        if int(failed):
            raise ArgumentError(
                f"{op}: XᵀX + ridge·I is singular with ridge = {extra:g}; use a larger one"
            )
        solution: torch.Tensor = torch.linalg.lu_solve(factors, pivots, cross)
        return solution.to(torch.float32)
