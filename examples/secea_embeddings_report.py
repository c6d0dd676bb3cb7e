"""What the rows of all seeds say: a table, a figure, and whether each expectation holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from secea_embeddings_study import METHODS, Row

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NAMES = {"alone": "no aggregation", "plain": "plain averages", "secea": "SecEA"}
HEADINGS = ("method", "received", "trained on", "loss", "MB set up", "MB a round", "seconds")
WITHIN = 0.01  # of plain averaging


def of_method(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of one method, by seed."""
    return sorted((row for row in rows if row.method == name), key=lambda row: row.seed)


def spread(values: Sequence[float], form: str) -> str:
    """The mean, with the standard deviation where there is one."""
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{deviation}"


def cells(rows: Sequence[Row]) -> list[str]:
    """The cells of one method, in the order of HEADINGS, over its seeds."""
    last = [row.curve[-1] for row in rows]
    uplink = [statistics.fmean(row.uplink) / 1e6 if row.uplink else 0.0 for row in rows]
    return [
        NAMES[rows[0].method],
        spread([100 * point.received for point in last], ".2f"),
        spread([100 * point.trained for point in last], ".2f"),
        spread([point.received_loss for point in last], ".4f"),
        f"{statistics.fmean(row.setup for row in rows) / 1e6:.2f}",
        f"{statistics.fmean(uplink):.2f}",
        f"{statistics.fmean(row.training + row.meeting for row in rows):.1f}",
    ]


def table(rows: Sequence[Row]) -> str:
    """All results as Markdown: means over the seeds, with standard deviations."""
    lines = [f"| {' | '.join(HEADINGS)} |", "| --- |" + " ---: |" * (len(HEADINGS) - 1)]
    lines += [f"| {' | '.join(cells(of_method(rows, name)))} |" for name in METHODS]
    return "\n".join(lines) + "\n"


def apart(rows: Sequence[Row]) -> float:
    """The largest relative difference of SecEA from plain averages: loss or accuracy, any seed."""
    pairs = zip(of_method(rows, "secea"), of_method(rows, "plain"), strict=True)
    ends = [(one.curve[-1], other.curve[-1]) for one, other in pairs]
    return max(
        abs(getattr(one, name) / getattr(other, name) - 1)
        for one, other in ends
        for name in ("received", "received_loss", "trained", "trained_loss")
    )


def gain(rows: Sequence[Row]) -> tuple[float, float]:
    """By how much SecEA's accuracy is above that of no aggregation, over all clients and seeds.

    Returns:
        The mean and its standard error, where clients are taken as independent.
    """
    pairs = zip(of_method(rows, "secea"), of_method(rows, "alone"), strict=True)
    differences = [
        a - b for one, other in pairs for a, b in zip(one.accuracies, other.accuracies, strict=True)
    ]
    return statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5


def verdicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every expectation: what is claimed, whether it holds, and the figures."""
    away, (more, error) = apart(rows), gain(rows)
    alone, secea = of_method(rows, "alone"), of_method(rows, "secea")
    pairs = list(zip(secea, alone, strict=True))
    above = statistics.fmean(
        one.curve[-1].received - max(point.received for point in other.curve)
        for one, other in pairs
    )
    lower = statistics.fmean(
        min(point.received_loss for point in other.curve)
        - min(point.received_loss for point in one.curve)
        for one, other in pairs
    )
    largest = max(row.error for row in of_method(rows, "secea"))
    open_ = "open" if abs(more) <= 2 * error else "does NOT hold"
    return [
        {
            "claim": "SecEA is within 1 % of plain averages",
            "verdict": "holds" if away <= WITHIN else "does NOT hold",
            "figures": f"at most {away:.1e} apart; an average at most {largest:.1e}",
        },
        {
            "claim": "a client tells neighbours better than with no aggregation",
            "verdict": "holds" if more > 2 * error else open_,
            "figures": f"{100 * more:+.2f} points, standard error {100 * error:.2f}",
        },
        {
            "claim": "so it does against the best round that no aggregation has",
            "verdict": "holds" if above > 0 else "does NOT hold",
            "figures": f"{100 * above:+.2f} points, mean of the seeds",
        },
        {
            "claim": "its loss is lower, both in their best round",
            "verdict": "holds" if lower > 0 else "does NOT hold",
            "figures": f"{lower:+.4f} lower, mean of the seeds",
        },
    ]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """All of it as JSON: for each method its figures on every seed."""

    def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
        return [round(value, digits) for value in values]

    methods = []
    for name in METHODS:
        same = of_method(rows, name)
        curves = {
            part: [rounded([getattr(point, part) for point in row.curve], 6) for row in same]
            for part in ("trained", "trained_loss", "received", "received_loss")
        }
        methods.append(
            {
                "method": name,
                "accuracy": rounded([row.curve[-1].received for row in same], 6),
                "loss": rounded([row.curve[-1].received_loss for row in same], 6),
                "union": [row.union for row in same],
                "largest_error": [row.error for row in same],
                "setup_bytes": [round(row.setup) for row in same],
                "uplink_bytes": [[round(size) for size in row.uplink] for row in same],
                "seconds_training": rounded([row.training for row in same], 1),
                "seconds_meeting": rounded([row.meeting for row in same], 1),
                "curves": curves,
            }
        )
    return {"methods": methods, "judges": verdicts(rows)}


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw accuracy and loss by round, and what a client sends."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    styles = {"alone": "C7s:", "plain": "C1o-", "secea": "C0x--"}
    curves: tuple[tuple[str, Callable[[Row], list[float]]], ...] = (
        ("neighbour above noise, %", lambda row: [100 * point.received for point in row.curve]),
        ("held-out skip-gram loss", lambda row: [point.received_loss for point in row.curve]),
    )
    for axis, (label, values) in zip(axes, curves, strict=False):
        for name in METHODS:
            groups = list(zip(*(values(row) for row in of_method(rows, name)), strict=True))
            errors = [statistics.stdev(group) if len(group) > 1 else 0.0 for group in groups]
            means = [statistics.fmean(group) for group in groups]
            at, size = range(1, len(means) + 1), 9 if name == "secea" else 5
            axis.errorbar(
                at, means, errors, fmt=styles[name], capsize=3, markersize=size, label=NAMES[name]
            )
        axis.set(xlabel="round", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    sent = list(zip(*(row.uplink for row in of_method(rows, "secea")), strict=True))
    heights = [statistics.fmean(group) / 1e6 for group in sent]
    axes[2].bar(range(1, len(heights) + 1), heights, color="C0")
    axes[2].set(xlabel="round", ylabel="MB that a client sends", title="queries are sent once")
    axes[2].grid(alpha=0.3, axis="y")
    figure.savefig(file, dpi=110)
    plt.close(figure)
