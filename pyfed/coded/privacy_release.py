"""One release of a coded data set, and what it says about a record."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pyfed.checks import expect_int
from pyfed.coded.dataset import KINDS
from pyfed.coded.privacy_curves import (
    Vector,
    composed_curve,
    least,
    renyi_delta,
    renyi_epsilon,
    renyi_orders,
    secret_delta,
)
from pyfed.coded.privacy_public import (
    SAMPLER,
    discrete_ratio,
    gaussian_delta,
    gaussian_epsilon,
)
from pyfed.coded.records import expect_not_negative, expect_number, expect_positive
from pyfed.errors import ArgumentError

LARGEST_EPSILON = 1e6
_ROUNDS = 100


def expect_delta(op: str, value: object) -> float:
    """``value`` as a float; raises unless it lies in (0, 1)."""
    number = expect_number(op, "delta", value)
    if not 0 < number < 1:
        raise ArgumentError(f"{op}: delta is {value}; it must be in (0, 1)")
    return number


@dataclass(frozen=True)
class Release:
    """G·[X, Y] + noise, released once; neighbours differ in one record being there or not.

    Args:
        rows: c, the rows of G.
        noise_std: σ of the noise in every entry; of a sum of coded sets, all that an observer
            cannot subtract.
        record_norm: C, which no ‖[x_j, y_j]‖ exceeds.
        secret: whether G is secret, known to nobody who sees the release.
        kind: the law of G. A guarantee from the secrecy of G is known for ``"gaussian"`` alone.
        min_eigenvalue: a lower bound of the least eigenvalue of [X, Y]ᵀ[X, Y], with secret G. It
            depends on the data: 0, which always holds, unless a bound is public.
        column_norm: the greatest column norm of G, which a public Gaussian G needs; see
            :func:`pyfed.coded.privacy.column_norm`. The others have √c.
        grid: with discrete noise its step; None: noise is continuous.
        columns: with discrete noise, features and labels together.
        clients: with discrete noise, how many clients' independent noises of standard deviation
            ``noise_std`` / √clients make it up; only those that an observer cannot subtract.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or arguments do not fit together.

    Example:
        >>> from pyfed.coded.privacy import Release
        >>> release = Release(rows=1000, noise_std=10.0, record_norm=1.0)
        >>> round(release.epsilon(delta=1e-5), 4)
        0.8649
    """

    rows: int
    noise_std: float
    record_norm: float
    secret: bool = True
    kind: str = "gaussian"
    min_eigenvalue: float = 0.0
    column_norm: float | None = None
    grid: float | None = None
    columns: int | None = None
    clients: int = 1

    def __post_init__(self) -> None:
        op = "privacy"
        expect_int(op, "rows", self.rows, 1, 2**31 + 1)
        noise = expect_not_negative(op, "noise_std", self.noise_std)
        norm = expect_positive(op, "record_norm", self.record_norm)
        least_eigenvalue = expect_not_negative(op, "min_eigenvalue", self.min_eigenvalue)
        if not isinstance(self.secret, bool):
            raise ArgumentError(f"{op}: secret is {self.secret!r}; it must be True or False")
        if self.kind not in KINDS:
            raise ArgumentError(f"{op}: kind is {self.kind!r}; it must be one of {KINDS}")
        expect_int(op, "clients", self.clients, 1, 2**31)
        if self.clients > 1 and self.grid is None:
            raise ArgumentError(
                f"{op}: clients is {self.clients}; without a grid it must be 1: continuous noises "
                "add up to noise_std"
            )
        if self.secret:
            self._check_secret(op, noise, norm, least_eigenvalue)
        else:
            self._check_public(op, noise, least_eigenvalue)
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise ArgumentError(
                f"{op}: noise_std is {self.noise_std} and record_norm {self.record_norm}; their "
                "ratio must be within the range of floats"
            )

    def _check_secret(self, op: str, noise: float, norm: float, least_eigenvalue: float) -> None:
        if self.kind != "gaussian":
            raise ArgumentError(
                f"{op}: kind is {self.kind!r} and secret True; the secrecy of G is known to "
                "protect only with kind='gaussian': use that, or secret=False"
            )
        if self.grid is not None or self.columns is not None or self.column_norm is not None:
            raise ArgumentError(
                f"{op}: column_norm is {self.column_norm}, grid {self.grid} and columns "
                f"{self.columns}; they must be None with secret=True"
            )
        if noise == 0 and least_eigenvalue <= norm * norm:
            raise ArgumentError(
                f"{op}: noise_std is 0; it must be positive unless min_eigenvalue exceeds "
                "record_norm²: without noise no epsilon holds"
            )

    def _check_public(self, op: str, noise: float, least_eigenvalue: float) -> None:
        if noise == 0:
            raise ArgumentError(
                f"{op}: noise_std is 0; it must be positive: without noise no epsilon holds"
            )
        if least_eigenvalue > 0:
            raise ArgumentError(
                f"{op}: min_eigenvalue is {self.min_eigenvalue}; it must be 0 with secret=False"
            )
        if self.kind == "gaussian" and self.column_norm is None:
            raise ArgumentError(
                f"{op}: column_norm is None; a public Gaussian G needs its greatest column norm: "
                "compute it by privacy.column_norm"
            )
        if self.kind != "gaussian" and self.column_norm is not None:
            raise ArgumentError(
                f"{op}: column_norm is {self.column_norm}; it must be None with kind="
                f"{self.kind!r}, whose columns all have norm √rows"
            )
        if self.column_norm is not None:
            expect_positive(op, "column_norm", self.column_norm)
        if (self.grid is None) != (self.columns is None):
            raise ArgumentError(
                f"{op}: grid is {self.grid} and columns {self.columns}; both must be given, for "
                "discrete noise, or neither"
            )
        if self.grid is None:
            return
        grid = expect_positive(op, "grid", self.grid)
        expect_int(op, "columns", self.columns, 1, 2**31 + 1)
        if self.clients > 1 and noise / math.sqrt(self.clients) < grid / 2:
            raise ArgumentError(
                f"{op}: noise_std is {self.noise_std} with {self.clients} clients; each client's "
                f"part of it, noise_std / √clients, must be at least grid / 2 = {grid / 2:g}"
            )

    @property
    def ratio(self) -> float:
        """What the curve depends on besides rows: q of a secret G, μ of a public one.

        q = C² / (σ² + max(λ − C², 0)): in the direction of a record alone the data contribute its
        own norm C², in all others at least λ. μ = greatest column norm · C / σ.
        """
        squared = self.record_norm**2
        if self.secret:
            floor = self.noise_std**2 + max(self.min_eigenvalue - squared, 0.0)
            return squared / floor if floor > 0 else math.inf
        column = self._column
        if self.grid is None:
            return column * self.record_norm / self.noise_std
        return discrete_ratio(
            *(column, self.record_norm, self.noise_std, self.grid, self._touched, self.clients)
        )

    @property
    def _column(self) -> float:
        if self.column_norm is not None:
            return self.column_norm
        root = math.sqrt(self.rows)
        # The op's CountSketch has the float32 next to √c.
        return max(root, float(np.float32(root))) if self.kind == "countsketch" else root

    @property
    def _touched(self) -> int:
        """Entries that a record can change: one row of a CountSketch, else all."""
        assert self.columns is not None
        return self.columns * (1 if self.kind == "countsketch" else self.rows)

    @property
    def distance(self) -> float:
        """Total variation between noise as sampled and its law; 0 unless it is discrete."""
        if self.columns is None:
            return 0.0
        return self.clients * self.rows * self.columns * SAMPLER

    def epsilon(self, delta: float) -> float:
        """The least ε ≥ 0 with which the release is (ε, δ)-private.

        Exact, but for discrete noise, where it is an upper bound.

        Raises:
            DtypeError, ArgumentError: delta is not in (0, 1), or no ε ≤ 10^6 gives it.
        """
        delta = expect_delta("privacy.epsilon", delta)
        if self.grid is not None:
            return bounded_epsilon((self,), delta)
        if self.delta(0.0) <= delta:
            return 0.0
        found = None if self.secret else gaussian_epsilon(self.ratio, delta)
        if found is None or self.delta(found) > delta * (1 + 1e-9):
            found = least(lambda epsilon: self.delta(epsilon) <= delta, 1.0, LARGEST_EPSILON)
        if found is None or found > LARGEST_EPSILON:
            raise ArgumentError(
                f"privacy.epsilon: noise_std is {self.noise_std}; it must be larger for an epsilon "
                f"of at most 10^6 at delta = {delta}"
            )
        return found

    def delta(self, epsilon: float) -> float:
        """The least δ with which the release is (ε, δ)-private; for discrete noise a bound of it.

        Raises:
            DtypeError, ArgumentError: epsilon is negative or not finite.
        """
        epsilon = expect_not_negative("privacy.delta", "epsilon", epsilon)
        if self.secret:
            return secret_delta(self.rows, self.ratio, epsilon)
        if self.grid is None:
            return gaussian_delta(self.ratio, epsilon)
        return bounded_delta((self,), epsilon)

    def renyi(self, order: float) -> float:
        """Rényi divergence of order α > 1 between neighbours, of the worse direction; may be ∞.

        Raises:
            DtypeError, ArgumentError: order is not a finite number above 1.
        """
        order = expect_number("privacy.renyi", "order", order)
        if order <= 1:
            raise ArgumentError(f"privacy.renyi: order is {order}; it must be above 1")
        return float(_curve((self,), np.array([order]))[0])


def _curve(releases: tuple[Release, ...], orders: Vector) -> Vector:
    secret = [(release.rows, release.ratio) for release in releases if release.secret]
    return composed_curve(orders, secret, sum(r.ratio**2 for r in releases if not r.secret))


def _orders(releases: tuple[Release, ...]) -> Vector:
    return renyi_orders(min((1 + 1 / r.ratio for r in releases if r.secret), default=math.inf))


def bounded_delta(releases: tuple[Release, ...], epsilon: float) -> float:
    """δ at ε of releases together, by the sum of their Rényi curves and what sampling adds."""
    orders = _orders(releases)
    exact = renyi_delta(orders, _curve(releases, orders), epsilon)
    distance = sum(release.distance for release in releases)
    return min(1.0, exact + (1 + math.exp(min(epsilon, 700.0))) * distance) if distance else exact


def bounded_epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """ε at δ of releases together, by the sum of their Rényi curves and what sampling adds."""
    orders = _orders(releases)
    curve = _curve(releases, orders)
    distance = sum(release.distance for release in releases)
    epsilon = 0.0
    for _ in range(_ROUNDS):
        # Of δ sampling takes (1 + e^ε) of its distance, which grows with the ε that the rest gives.
        rest = delta - (1 + math.exp(min(epsilon, 700.0))) * distance
        if rest <= 0:
            break
        found = renyi_epsilon(orders, curve, rest)
        if found <= epsilon * (1 + 1e-9):
            return max(epsilon, found)
        epsilon = found
    raise ArgumentError(
        f"privacy.epsilon: delta is {delta}; it must be larger for this noise and grid: sampling "
        f"takes (1 + e^epsilon) · {distance:.3g} of it"
    )
