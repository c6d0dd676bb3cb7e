"""One release of a coded data set, and what it says about a record."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pyfed.checks import expect_int
from pyfed.coded.dataset import KINDS, CodedDataset
from pyfed.coded.privacy_curves import least, secret_delta
from pyfed.coded.privacy_grid import COARSEST, FINEST, TAIL, closeness, fine_grid
from pyfed.coded.privacy_public import gaussian_delta, gaussian_epsilon
from pyfed.coded.records import expect_not_negative, expect_number, expect_positive
from pyfed.errors import ArgumentError

LARGEST_EPSILON = 1e6


def expect_delta(op: str, value: object) -> float:
    """``value`` as a float; raises unless it lies in (0, 1)."""
    number = expect_number(op, "delta", value)
    if not 0 < number < 1:
        raise ArgumentError(f"{op}: delta is {value}; it must be in (0, 1)")
    return number


@dataclass(frozen=True)
class Release:
    """G·[X, Y] + noise, released once; neighbours differ in one record, which may be zeros.

    Args:
        rows: c, the rows of G.
        noise_std: σ of the noise in every entry; of a sum of coded sets, all that an observer
            cannot subtract.
        record_norm: C, which no ‖[x_j, y_j]‖ exceeds, as it is coded.
        secret: whether G is secret, known to nobody who sees the release.
        kind: the law of G. A guarantee from the secrecy of G is known for ``"gaussian"`` alone.
        min_eigenvalue: a lower bound of the least eigenvalue of [X, Y]ᵀ[X, Y], as it is coded, with
            secret G and ideal noise. It depends on the data: 0, which always holds, unless a bound
            is public.
        column_norm: the greatest column norm of G, which a public Gaussian G needs; see
            :func:`pyfed.coded.privacy.column_norm`. The others have √c.
        columns: features and labels together: then noise is discrete, as it is on machines, and
            what that costs is counted. None: noise is ideal, of real numbers.
        grid: the step of discrete noise, between σ/2^20 and σ/4 of each client; None: that of
            :meth:`pyfed.coded.CodedDataset.encode`, the least power of two in that range.
        clients: how many clients' independent discrete noises, each of standard deviation
            ``noise_std`` / √clients, make it up; only those that an observer cannot subtract.

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
    columns: int | None = None
    grid: float | None = None
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
        self._check_grid(op, noise)
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
        if self.column_norm is not None:
            raise ArgumentError(
                f"{op}: column_norm is {self.column_norm}; it must be None with secret=True"
            )
        if self.columns is not None and least_eigenvalue > 0:
            raise ArgumentError(
                f"{op}: min_eigenvalue is {self.min_eigenvalue} and columns {self.columns}; of "
                "discrete noise it must be 0"
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

    def _check_grid(self, op: str, noise: float) -> None:
        expect_int(op, "clients", self.clients, 1, 2**31)
        if self.columns is None:
            if self.grid is not None or self.clients > 1:
                raise ArgumentError(
                    f"{op}: grid is {self.grid} and clients {self.clients}; without columns, of "
                    "which there are features and labels, noise is ideal: grid must be None and "
                    "clients 1"
                )
            return
        expect_int(op, "columns", self.columns, 1, 2**31 + 1)
        own = noise / math.sqrt(self.clients)
        if self.grid is None or noise == 0:
            return
        grid = expect_positive(op, "grid", self.grid)
        if not COARSEST * grid <= own * (1 + 1e-9) <= FINEST * grid * (1 + 2e-9):
            raise ArgumentError(
                f"{op}: grid is {grid} and each client's noise_std {own:g}; it must be from "
                f"{COARSEST:g} to 2^20 times the grid"
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
        return self._column * self.record_norm / self.noise_std

    @property
    def _column(self) -> float:
        if self.column_norm is not None:
            return self.column_norm
        root = math.sqrt(self.rows)
        # The op's CountSketch has the float32 next to √c.
        return max(root, float(np.float32(root))) if self.kind == "countsketch" else root

    @property
    def entries(self) -> int:
        """Entries of which a record may change the rounding: one row of a CountSketch, else all."""
        if self.columns is None:
            return 0
        return self.columns * (1 if self.kind == "countsketch" else self.rows)

    @property
    def off(self) -> tuple[float, float]:
        """How far the release is from the ideal one: μ, and total variation beside it."""
        if self.columns is None:
            return 0.0, 0.0
        own = self.noise_std / math.sqrt(self.clients)
        grid = fine_grid(own) if self.grid is None else self.grid
        mu = closeness(self.entries, self.noise_std / grid, self.clients)
        return mu, self.clients * self.entries * TAIL

    def epsilon(self, delta: float) -> float:
        """The least ε ≥ 0 with which the release is (ε, δ)-private.

        Exact, but for discrete noise, where it is an upper bound, mostly by less than 1 %.

        Raises:
            DtypeError, ArgumentError: delta is not in (0, 1), or no ε ≤ 10^6 gives it.
        """
        delta = expect_delta("privacy.epsilon", delta)
        if self.columns is not None:
            from pyfed.coded.privacy_composed import composed_epsilon

            return composed_epsilon((self,), delta)
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
        if self.columns is not None:
            from pyfed.coded.privacy_composed import composed_delta

            return composed_delta((self,), epsilon)
        if self.secret:
            return secret_delta(self.rows, self.ratio, epsilon)
        return gaussian_delta(self.ratio, epsilon)

    def renyi(self, order: float) -> float:
        """Rényi divergence of order α > 1 between neighbours, of the worse direction; may be ∞.

        Of ideal noise.

        Raises:
            DtypeError, ArgumentError: order is not a finite number above 1.
        """
        order = expect_number("privacy.renyi", "order", order)
        if order <= 1:
            raise ArgumentError(f"privacy.renyi: order is {order}; it must be above 1")
        from pyfed.coded.privacy_composed import curve_of

        return float(curve_of((self,), np.array([order]))[0])


def release_of(coded: CodedDataset, colluders: int, column_norm: float | None) -> Release:
    """See :meth:`CodedDataset.release`."""
    op = "CodedDataset.release"
    expect_int(op, "colluders", colluders, 0, coded.clients)
    if coded.record_norm is None:
        raise ArgumentError(
            f"{op}: record_norm is None; a guarantee is about records of a known norm: encode with "
            "record_norm="
        )
    if coded.grid == 0:
        raise ArgumentError(
            f"{op}: the noise is continuous, or there is none; encode with noise_std > 0 and "
            "noise='discrete'"
        )
    honest = coded.clients - colluders
    return Release(
        *(coded.rows, coded.noise_std * math.sqrt(honest / coded.clients), coded.record_norm),
        *(not coded.public, coded.kind),
        column_norm=column_norm,
        columns=coded.features + coded.outputs,
        grid=coded.grid,
        clients=honest,
    )
