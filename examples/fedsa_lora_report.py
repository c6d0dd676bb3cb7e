"""What the rows of all seeds say: a table, a figure, and whether each expectation holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from fedsa_lora_records import Row

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DRAWN = ("local-only", "fedit", "fedit, own heads", "fedsa", "fedsa, VeRA")
CLAIMS = (
    ("fedsa is better than local-only", "personal", "fedsa", "local-only"),
    ("fedsa is better than fedit's one model", "personal", "fedsa", "fedit"),
    (
        *("fedsa is better than fedit's model tuned to the client", "trained"),
        *("fedsa", "fedit"),
    ),
    (
        *("fedsa is better than fedit with own heads: own B pay", "personal"),
        *("fedsa", "fedit, own heads"),
    ),
    (
        *("fedsa with one head is better than fedit with one head", "personal"),
        *("fedsa, one head", "fedit"),
    ),
    ("rsLoRA is better than LoRA under fedsa", "personal", "fedsa, rsLoRA", "fedsa"),
    ("VeRA is better than LoRA under fedsa", "personal", "fedsa, VeRA", "fedsa"),
)


@dataclass(frozen=True)
class Judge:
    """One expectation about personal accuracy, and what the seeds say.

    Attributes:
        claim: What is expected.
        seeds: For each seed by how much the first method's mean is above the second's.
        clients: Likewise for each client of each seed.
    """

    claim: str
    seeds: tuple[float, ...]
    clients: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the differences."""
        return statistics.fmean(self.clients)

    @property
    def error(self) -> float:
        """Its standard error over clients, which are taken as independent."""
        return statistics.stdev(self.clients) / len(self.clients) ** 0.5

    @property
    def verdict(self) -> str:
        """``holds``, ``does NOT hold`` or ``open``: within two standard errors of nothing."""
        if abs(self.mean) <= 2 * self.error:
            return "open"
        return "holds" if self.mean > 0 else "does NOT hold"

    def __str__(self) -> str:
        count = sum(value > 0 for value in self.seeds)
        return (
            f"{self.verdict:>13}: {self.claim} ({100 * self.mean:+.1f} points, standard error "
            f"{100 * self.error:.1f} over {len(self.clients)} clients; above on {count} of "
            f"{len(self.seeds)} seeds)"
        )


def of_method(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of one method, by seed."""
    return sorted((row for row in rows if row.method == name), key=lambda row: row.seed)


def judges(rows: Sequence[Row]) -> list[Judge]:
    """Every claim on the same clients: their splits, first values and batches are equal."""
    found = []
    for claim, field, better, worse in CLAIMS:
        pairs = [
            [a - b for a, b in zip(getattr(high, field), getattr(low, field), strict=True)]
            for high, low in zip(of_method(rows, better), of_method(rows, worse), strict=True)
        ]
        seeds = tuple(statistics.fmean(pair) for pair in pairs)
        found.append(Judge(claim, seeds, tuple(value for pair in pairs for value in pair)))
    return found


def percent(values: Sequence[float | None]) -> str:
    """The mean in percent, with the standard deviation where there is one; empty without values."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{spread}"


def cells(rows: Sequence[Row]) -> list[str]:
    """The cells of one method, in the order of HEADINGS, over its seeds."""
    first = rows[0]
    return [
        first.method,
        first.heads,
        percent([row.mean for row in rows]),
        percent([statistics.fmean(row.trained) for row in rows]),
        percent([row.global_accuracy for row in rows]),
        percent([row.mean_model for row in rows]),
        percent([row.own_models for row in rows]),
        f"{statistics.fmean(row.uplink for row in rows) / 1000:.1f}",
        f"{statistics.fmean(row.downlink for row in rows) / 1000:.1f}",
        f"{statistics.fmean(row.seconds for row in rows):.1f}",
    ]


HEADINGS = (
    *("method", "heads", "personal", "before the last upload", "global model", "mean model"),
    *("own models", "kB up", "kB down", "seconds"),
)


def table(rows: Sequence[Row]) -> str:
    """All results as Markdown: means over the seeds, with standard deviations."""
    lines = [f"| {' | '.join(HEADINGS)} |", "| --- | --- |" + " ---: |" * (len(HEADINGS) - 2)]
    for name in dict.fromkeys(row.method for row in rows):
        lines.append(f"| {' | '.join(cells(of_method(rows, name)))} |")
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row], verdicts: Sequence[Judge]) -> dict[str, Any]:
    """All of it as JSON: for each method its figures on every seed."""

    def rounded(values: Sequence[float | None]) -> list[float | None]:
        return [None if value is None else round(value, 4) for value in values]

    methods = []
    for name in dict.fromkeys(row.method for row in rows):
        same = of_method(rows, name)
        methods.append(
            {
                "method": name,
                "rule": same[0].rule,
                "heads": same[0].heads,
                "adapter": same[0].adapter,
                "learning_rate": same[0].lr,
                "personal": rounded([row.mean for row in same]),
                "before_last_upload": rounded([statistics.fmean(row.trained) for row in same]),
                "global_model": rounded([row.global_accuracy for row in same]),
                "mean_model": rounded([row.mean_model for row in same]),
                "own_models": rounded([row.own_models for row in same]),
                "uplink_bytes": [round(row.uplink) for row in same],
                "downlink_bytes": [round(row.downlink) for row in same],
                "seconds": [round(row.seconds, 1) for row in same],
                "curve": {at: rounded([row.curve[at] for row in same]) for at in same[0].curve},
            }
        )
    claims = [
        {
            "claim": judge.claim,
            "verdict": judge.verdict,
            "difference": round(judge.mean, 4),
            "standard_error": round(judge.error, 4),
            "seeds": rounded(judge.seeds),
        }
        for judge in verdicts
    ]
    return {"methods": methods, "judges": claims}


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw personal and global accuracy of every method, and how personal accuracy rises."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    names = list(dict.fromkeys(row.method for row in rows))
    labels = []
    for place, name in enumerate(names):
        same = of_method(rows, name)
        own = [100 * row.mean for row in same]
        left.barh(place, statistics.fmean(own), color="C0" if same[0].heads == "local" else "C1")
        left.plot(own, [place] * len(own), "k.", markersize=4)
        everyone = [
            100 * (row.mean_model if row.global_accuracy is None else row.global_accuracy)
            for row in same
            if (row.mean_model, row.global_accuracy) != (None, None)
        ]
        left.plot(statistics.fmean(everyone), place, "D", color="white", markeredgecolor="black")
        labels.append(f"{name}  ({statistics.fmean(row.uplink for row in same) / 1000:.0f} kB)")
    left.set_yticks(range(len(names)), labels)
    left.invert_yaxis()
    lowest = min(min(row.mean, row.global_accuracy or row.mean_model or 1) for row in rows)
    left.set(xlabel="accuracy, %", xlim=(max(0, 100 * lowest - 8), None))
    left.set_title("on clients' own tests (bars), of the global or mean model (◇)", fontsize=10)
    for name in [name for name in DRAWN if name in names]:
        same = of_method(rows, name)
        rounds = list(same[0].curve)
        groups = [[100 * row.curve[at] for row in same] for at in rounds]
        errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in groups]
        means = [statistics.fmean(values) for values in groups]
        right.errorbar(rounds, means, errors, marker="o", capsize=3, label=name)
    right.set(xlabel="round", ylabel="personal accuracy, %", title="how it rises")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
