"""Noise, privacy and accuracy side by side, before anything is released."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from pyfed.checks import expect_int
from pyfed.coded import privacy
from pyfed.coded.planner_law import RidgeLaw
from pyfed.coded.privacy_release import expect_delta
from pyfed.coded.records import (
    expect_not_negative,
    expect_positive,
    expect_records,
)
from pyfed.errors import ArgumentError

LARGEST_PERTURBATION = 0.7
"""Up to here the law is trusted; it is up to a third low there."""


@dataclass(frozen=True)
class Choice:
    """What one way of releasing the data needs, and what it comes to.

    Args:
        noise_std: σ in every entry that is released, all clients together.
        ridge: the λ with the least predicted excess.
        excess: predicted rise of ½‖XW − Y‖² per record over least squares on the data themselves.
        perturbation: what noise takes from the least eigenvalue of the Hessian, relative to it.
            The prediction is right within a tenth up to 0.4, and up to a third low at 0.7.
    """

    noise_std: float
    ridge: float
    excess: float
    perturbation: float


@dataclass(frozen=True)
class Row:
    """One ε: by a coded set, and by one release of XᵀX and XᵀY with noise, at the same (ε, δ)."""

    epsilon: float
    coded: Choice
    statistics: Choice


@dataclass(frozen=True)
class Plan:
    """A table of privacies, the noise that they need, and the excess that it is predicted to cost.

    Args:
        rows: one for each ε, as asked.
        delta: δ of all of them.
        loss: ½‖XW − Y‖² per record of least squares on the data.
    """

    rows: tuple[Row, ...]
    delta: float
    loss: float

    def __str__(self) -> str:
        head = f"delta {self.delta:g}, loss of least squares {self.loss:.4g}"
        columns = f"{'epsilon':>9}" + "".join(
            f"{name:>16}{'ridge':>10}{'excess':>11}" for name in ("coded noise", "statistics")
        )
        lines = [
            f"{row.epsilon:>9.4g}"
            + "".join(
                f"{way.noise_std:>16.4g}{way.ridge:>10.3g}{way.excess:>11.3g}"
                for way in (row.coded, row.statistics)
            )
            for row in self.rows
        ]
        return "\n".join([head, columns, *lines])


def plan(
    x: torch.Tensor,
    y: torch.Tensor,
    rows: int,
    epsilons: Iterable[float],
    delta: float,
    record_norm: float,
    kind: str = "gaussian",
    secret: bool = True,
    *,
    samples: int | None = None,
    ridges: Iterable[float] | None = None,
    column_norm: float | None = None,
) -> Plan:
    """Predict what ridge regression on coded data costs at each ε, and on private statistics.

    It reads the records without noise: give it public ones that are like those to be protected.
    Noise is that of one release by everybody together, discrete on its finest grid; when N clients'
    sets are only seen summed, each adds 1/√N of it.

    Args:
        x: float32 (records, features).
        y: float32 (records,) or (records, outputs).
        rows: c, of the coded set.
        epsilons: each positive; ``math.inf`` for no noise at all.
        delta: in (0, 1).
        record_norm: C, which no ‖[x_j, y_j]‖ exceeds.
        kind: the law of G.
        secret: whether G is secret.
        samples: m, records that will be coded; None: as many as are given here.
        ridges: λ ≥ 0 to choose from, of the problem with ``samples`` records; None: a grid.
        column_norm: with a public Gaussian G its greatest column norm.

    Returns:
        The table; ``print`` shows it.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, a record is above the norm, or no λ keeps
            the problem well-posed.

    Example:
        >>> import torch
        >>> from pyfed.coded import plan
        >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(1)).clamp(-2, 2) / 4
        >>> y = x @ torch.tensor([1.0, -1.0, 0.5, 0.0]) + 0.1 * x.square().sum(1)
        >>> print(plan(x, y, 2000, [1, 8], delta=1e-5, record_norm=2.0, samples=50_000))
        delta 1e-05, loss of least squares 0.0003892
          epsilon     coded noise     ridge     excess      statistics     ridge     excess
                1           22.11       2.9   3.92e-05           14.92     0.454   5.85e-06
                8           8.822     0.461   6.07e-06           2.401    0.0107   1.51e-07
    """
    features, labels = expect_records("plan", x, y)
    norm = expect_positive("plan", "record_norm", record_norm)
    expect_int("plan", "rows", rows, 1, 2**31 + 1)
    expect_int("plan", "samples", len(x) if samples is None else samples, 1, 2**36 + 1)
    expect_delta("plan", delta)
    privacy.Release(rows, norm, norm, secret, kind, column_norm=column_norm)  # tells what is wrong
    asked = [_expect_epsilon(number, value) for number, value in enumerate(epsilons)]
    greatest = float(torch.cat([features, labels], 1).to(torch.float64).norm(dim=1).max())
    if greatest > norm * (1 + 1e-6):
        raise ArgumentError(
            f"plan: record_norm is {norm}; it must be at least {greatest:.6g}, the greatest norm "
            "of a record here: raise it or scale the data"
        )
    law = RidgeLaw(features, labels, (samples or len(x)) / len(x))
    if float(law.eigenvalues[-1]) == 0:
        raise ArgumentError("plan: x is zero everywhere; it must hold some record")
    grid = None
    if ridges is not None:
        grid = [expect_not_negative("plan", f"ridges[{i}]", r) for i, r in enumerate(ridges)]
        if not grid:
            raise ArgumentError("plan: ridges is empty; it must hold at least one, or be None")
    table, width = [], features.shape[1] + labels.shape[1]
    for epsilon in asked:
        sigma = tau = 0.0
        if epsilon < math.inf:
            sigma = privacy.noise(
                rows,
                epsilon=epsilon,
                delta=delta,
                record_norm=norm,
                secret=secret,
                kind=kind,
                column_norm=column_norm,
                columns=width,
            )
            tau = privacy.statistics_noise(
                epsilon=epsilon, delta=delta, record_norm=norm, columns=width
            )
        coded = _best(
            grid or _grid(law, sigma**2),
            sigma,
            partial(law.coded, rows=rows, noise_std=sigma, kind=kind),
            partial(law.coded_perturbation, rows=rows, noise_std=sigma),
        )
        statistics = _best(
            grid or _grid(law, tau * math.sqrt(features.shape[1])),
            tau,
            partial(law.statistics, noise_std=tau),
            partial(law.statistics_perturbation, noise_std=tau),
        )
        table.append(Row(epsilon, coded, statistics))
    return Plan(tuple(table), delta, law.loss)


def _expect_epsilon(number: int, value: object) -> float:
    name = f"epsilons[{number}]"
    return math.inf if value == math.inf else expect_positive("plan", name, value)


def _grid(law: RidgeLaw, noise: float) -> list[float]:
    """λ from far below what the data hold to far above them and the noise."""
    top = float(law.eigenvalues[-1]) + noise
    return [top * 10 ** (step / 8) for step in range(-64, 25)]


def _best(
    ridges: list[float],
    noise_std: float,
    excess: Callable[[float], float],
    perturbation: Callable[[float], float],
) -> Choice:
    """The λ with the least excess among those that keep the problem well-posed."""
    held = [(ridge, perturbation(ridge)) for ridge in ridges]
    choices = [
        Choice(noise_std, ridge, excess(ridge), size)
        for ridge, size in held
        if size <= LARGEST_PERTURBATION
    ]
    if not choices:
        ridge, size = min(held, key=lambda pair: pair[1])
        raise ArgumentError(
            f"plan: with noise {noise_std:.4g} noise takes {size:.3g} of the Hessian even at "
            f"ridge = {ridge:.4g}; that must be at most {LARGEST_PERTURBATION}: use more rows, a "
            "larger ridge or a larger epsilon"
        )
    return min(choices, key=lambda choice: choice.excess)
