"""Contracts against a posted price over random settings: the table of docs/concepts/incentives.md.

python benchmarks/incentive_sweep.py
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from pyfed.coded import incentive

CLIENTS = 20
SETTINGS = 40
LINES = tuple(itertools.product((2, 5), (1.5, 4.0, 20.0), ("S", "S²")))
HEADER = (
    "| types | θ_K / θ_1 | loss | first best | Stackelberg | uniform | noise | "
    "cost | cost, drawn | cost, wrong | noise | social cost | surplus |",
    "| ---: | ---: | --- | " + " | ".join(["---:"] * 10) + " |",
)
TIE = 1e-6
"""Relative; closer amounts are called equal."""


def main() -> None:
    print("\n".join(HEADER))
    for line in LINES:
        print(row(*line))


def row(size: int, spread: float, loss: str) -> str:
    """A line of the table: medians of ratios to the contract's, then how often Stackelberg wins."""
    found = np.array([measured(*setting) for setting in settings(size, spread, loss)])
    ratios = " | ".join(f"{value:.3f}" for value in np.median(found[:, :4], axis=0))
    wins = " | ".join(f"{value:.0%}" for value in (found[:, 4:] < 1 - TIE).mean(axis=0))
    return f"| {size} | {spread:g} | {loss} | {ratios} | {wins} |"


def settings(size: int, spread: float, loss: str) -> Iterator[tuple]:
    """Types, shares as assumed, as drawn for the clients and as unrelated to these; the loss."""
    rng = np.random.default_rng([size, round(10 * spread), len(loss)])
    for _ in range(SETTINGS):
        inner = np.sort(rng.uniform(0, 1, size - 2))
        types = spread ** np.array([0.0, *inner, 1.0])
        shares, other = (0.98 * rng.dirichlet(np.ones(size)) + 0.02 / size for _ in range(2))
        drawn = rng.multinomial(CLIENTS, shares) / CLIENTS
        # Weights with which the best ε lie between about 0.3 and 20.
        weight = float(np.exp(rng.uniform(-1, 3))) / 30
        yield types, shares, drawn, other, weighted(weight, loss)


def weighted(weight: float, loss: str):
    """``weight`` · S, or the square that has this slope at S = 1000."""
    return weight if loss == "S" else lambda total: weight * total**2 / 2000


def measured(types, shares, drawn, other, loss) -> list[float]:
    """Four ratios to the contract's amounts; then six that are below 1 where Stackelberg wins."""
    given = types, shares, loss
    best, menu, posted, pooled = (
        make(*given, clients=CLIENTS)
        for make in (
            incentive.first_best,
            incentive.contract,
            incentive.stackelberg,
            incentive.uniform,
        )
    )
    return [
        best.cost / menu.cost,
        posted.cost / menu.cost,
        pooled.cost / menu.cost,
        posted.total_noise / menu.total_noise,
        posted.cost / menu.cost,
        posted.under(drawn).cost / menu.under(drawn).cost,
        posted.under(other).cost / menu.under(other).cost,
        posted.total_noise / menu.total_noise,
        posted.social_cost / menu.social_cost,
        menu.surplus / posted.surplus,
    ]


if __name__ == "__main__":
    main()
