"""How much noise gives which (ε, δ): for coded data sets with a secret or a public G.

A guarantee covers what is released as a coded data set, and nothing else that a client sends: the
gradients of every round need one of their own. Two data sets are neighbours when one has a record,
features and labels together, that the other lacks (or has as zeros).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np

from pyfed.checks import expect_int
from pyfed.coded import privacy_composed
from pyfed.coded.mutual import distinguishing, entry_information, mutual_information
from pyfed.coded.privacy_curves import least
from pyfed.coded.privacy_grid import COARSEST, FINEST, TAIL, closeness, fine_grid, near_delta
from pyfed.coded.privacy_public import column_norm, gaussian_delta, gaussian_ratio
from pyfed.coded.privacy_release import Release, expect_delta
from pyfed.coded.records import expect_not_negative, expect_positive
from pyfed.errors import ArgumentError, DtypeError

__all__ = [
    "Release",
    "column_norm",
    "composed_delta",
    "composed_epsilon",
    "delta",
    "distinguishing",
    "entry_information",
    "epsilon",
    "mutual_information",
    "noise",
    "statistics_noise",
]

LARGEST_NOISE = 2.0**60
"""In units of the record norm; beyond it float32 holds nothing of the data."""


def epsilon(
    rows: int,
    *,
    noise_std: float,
    record_norm: float,
    delta: float,
    secret: bool = True,
    kind: str = "gaussian",
    min_eigenvalue: float = 0.0,
    column_norm: float | None = None,
    columns: int | None = None,
    grid: float | None = None,
    clients: int = 1,
) -> float:
    """The ε of one release at δ.

    With a secret Gaussian G it is exact over all data sets with that least eigenvalue; with a
    public G it is that of the Gaussian mechanism with sensitivity (greatest column norm of G)·C;
    with discrete noise an upper bound.

    Args:
        rows: c.
        noise_std: σ; of a sum of coded sets √Σσ_i² over the clients whose noise stays unknown.
        record_norm: C, see :class:`Release`, like the arguments below.
        delta: in (0, 1).
        secret: whether G is secret.
        kind: the law of G.
        min_eigenvalue: with a secret G.
        column_norm: with a public Gaussian G.
        columns: features and labels together, for the noise of machines; None: ideal noise.
        grid: of discrete noise.
        clients: of discrete noise.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or no ε ≤ 10^6 holds.

    Example:
        >>> from pyfed.coded import privacy
        >>> round(privacy.epsilon(rows=1000, noise_std=10.0, record_norm=1.0, delta=1e-5), 4)
        0.8649
        >>> round(privacy.epsilon(rows=1000, noise_std=10.0, record_norm=1.0, delta=1e-5,
        ...                       secret=False, kind="rademacher"), 4)
        17.8566
    """
    release = Release(
        *(rows, noise_std, record_norm, secret, kind, min_eigenvalue, column_norm, columns, grid),
        clients,
    )
    return release.epsilon(delta)


def delta(
    rows: int,
    *,
    noise_std: float,
    record_norm: float,
    epsilon: float,
    secret: bool = True,
    kind: str = "gaussian",
    min_eigenvalue: float = 0.0,
    column_norm: float | None = None,
    columns: int | None = None,
    grid: float | None = None,
    clients: int = 1,
) -> float:
    """The δ of one release at ε ≥ 0; all other arguments as of :func:`epsilon`.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> from pyfed.coded import privacy
        >>> f"{privacy.delta(rows=1000, noise_std=10.0, record_norm=1.0, epsilon=1.0):.3e}"
        '9.984e-07'
    """
    release = Release(
        *(rows, noise_std, record_norm, secret, kind, min_eigenvalue, column_norm, columns, grid),
        clients,
    )
    return release.delta(epsilon)


def noise(
    rows: int,
    *,
    epsilon: float,
    delta: float,
    record_norm: float,
    secret: bool = True,
    kind: str = "gaussian",
    min_eigenvalue: float = 0.0,
    column_norm: float | None = None,
    columns: int | None = None,
    grid: float | None = None,
    clients: int = 1,
) -> float:
    """The least σ, of those that float32 holds, with which a release is (ε, δ)-private.

    When N clients' sets are only seen summed, each adds σ/√N; when T of them may tell what theirs
    was, σ/√(N − T).

    Args:
        rows: c.
        epsilon: ε > 0.
        delta: in (0, 1).
        record_norm: C; the others as of :func:`epsilon`.
        secret: whether G is secret.
        kind: the law of G.
        min_eigenvalue: with a secret G.
        column_norm: with a public Gaussian G.
        columns: features and labels together, for the noise of machines; None: ideal noise.
        grid: of discrete noise.
        clients: of discrete noise.

    Returns:
        σ; 0 when ``min_eigenvalue`` alone suffices.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or no noise up to 2^60·C gives it.

    Example:
        >>> from pyfed.coded import privacy
        >>> round(privacy.noise(rows=1000, epsilon=1.0, delta=1e-5, record_norm=1.0), 3)
        9.36
    """
    op = "privacy.noise"
    epsilon = expect_positive(op, "epsilon", epsilon)
    delta = expect_delta(op, delta)
    norm = expect_positive(op, "record_norm", record_norm)
    rest = (min_eigenvalue, column_norm, columns, grid, clients)
    expect_int(op, "clients", clients, 1, 2**31)
    low, high = 0.0, LARGEST_NOISE * norm
    if grid is not None:
        step = expect_positive(op, "grid", grid) * math.sqrt(clients)
        low, high = COARSEST * step, min(FINEST * step, high)
    start = min(max(norm, low), high)
    unit = Release(rows, start, norm, secret, kind, *rest)  # finds all that is wrong

    def holds(sigma: float) -> bool:
        if sigma < low or sigma == 0 >= min_eigenvalue - norm * norm:
            return False
        return Release(rows, sigma, norm, secret, kind, *rest).delta(epsilon) <= delta

    if secret and columns is None and holds(0.0):
        return 0.0
    found = None
    if not secret and columns is None:
        found = unit.ratio * start / gaussian_ratio(epsilon, delta)
    if found is None or not holds(found * (1 + 1e-9)):
        found = least(holds, start, high)
    if found is None or found > high:
        raise ArgumentError(
            f"{op}: epsilon is {epsilon} and delta {delta}; no noise up to {high:.4g} gives them: "
            "allow a larger epsilon or delta, or a coarser grid where one is given"
        )
    sigma = np.float32(found)
    while float(sigma) < found or not holds(float(sigma)):
        sigma = np.nextafter(sigma, np.float32(np.inf))
    return float(sigma)


def composed_epsilon(releases: Iterable[Release], delta: float) -> float:
    """The ε at δ of several releases about the same records, each with a G and noise of its own.

    Of ideal noise it is exact when all have a public G (their μ² add up), or all a secret one with
    one ratio C²/σ² (their rows add up); else by the sum of their Rényi curves, an upper bound. What
    discrete noise adds is counted once for all. Releases from one stream of one key are not
    covered: their G, or noise, is the same.

    Args:
        releases: at least one.
        delta: in (0, 1).

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or no ε holds.

    Example:
        >>> from pyfed.coded.privacy import Release, composed_epsilon
        >>> coded = Release(rows=1000, noise_std=10.0, record_norm=1.0)
        >>> round(composed_epsilon([coded, coded], delta=1e-5), 4)
        1.2461
    """
    delta = expect_delta("privacy.composed_epsilon", delta)
    return privacy_composed.composed_epsilon(_given("privacy.composed_epsilon", releases), delta)


def composed_delta(releases: Iterable[Release], epsilon: float) -> float:
    """The δ at ε ≥ 0 of several releases; see :func:`composed_epsilon`."""
    epsilon = expect_not_negative("privacy.composed_delta", "epsilon", epsilon)
    return privacy_composed.composed_delta(_given("privacy.composed_delta", releases), epsilon)


def _given(op: str, releases: Iterable[Release]) -> tuple[Release, ...]:
    """The releases; raises unless there are some, and nothing else."""
    given = tuple(releases)
    for number, release in enumerate(given):
        if not isinstance(release, Release):
            kind = type(release).__name__
            raise DtypeError(f"{op}: releases[{number}] is {kind}; it must be a Release")
    if not given:
        raise ArgumentError(f"{op}: releases is empty; it must hold at least one")
    return given


def statistics_noise(
    *,
    epsilon: float,
    delta: float,
    record_norm: float,
    columns: int | None = None,
    clients: int = 1,
) -> float:
    """The least τ for one release of [X, Y]ᵀ[X, Y] with noise τ on its diagonal and τ/√2 above it.

    A record z moves it, in units of the noise, by ‖z‖²/τ ≤ C²/τ: a Gaussian mechanism.

    Args:
        epsilon: ε > 0.
        delta: in (0, 1).
        record_norm: C.
        columns: features and labels together, for the discrete noise of
            :class:`pyfed.coded.PrivateStatistics`; None: ideal noise.
        clients: of how many noises of deviation τ/√clients it is the sum, with ``columns``.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or no noise gives it.

    Example:
        >>> from pyfed.coded import privacy
        >>> round(privacy.statistics_noise(epsilon=1.0, delta=1e-5, record_norm=1.0), 3)
        3.731
    """
    op = "privacy.statistics_noise"
    norm = expect_positive(op, "record_norm", record_norm)
    ideal = noise(
        1, epsilon=epsilon, delta=delta, record_norm=norm**2, secret=False, kind="rademacher"
    )
    if columns is None:
        return ideal
    expect_int(op, "columns", columns, 1, 2**31)
    expect_int(op, "clients", clients, 1, 2**31)
    entries = columns * (columns + 1) // 2

    def holds(tau: float) -> bool:
        own = tau / math.sqrt(clients)
        steps = tau / math.sqrt(2) / fine_grid(own)
        mu = closeness(entries, steps, clients)
        tail = clients * entries * TAIL
        return near_delta(partial(gaussian_delta, norm**2 / tau), mu, tail, epsilon) <= delta

    found = least(holds, ideal, LARGEST_NOISE * norm**2, 1e-9)
    if found is None:
        raise ArgumentError(
            f"{op}: epsilon is {epsilon} and delta {delta}; no noise gives them with {columns} "
            "columns: allow a larger epsilon or delta"
        )
    return found
