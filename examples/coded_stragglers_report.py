"""What the runs of all seeds say: tables, a figure, and whether each expectation holds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from coded_stragglers_privacy import KINDS, Noisy
from coded_stragglers_study import METHODS, Run

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NAMES = {
    "wait": "wait for all",
    "drop": "drop stragglers",
    "inverse": "inverse probability",
    "cfl": "CFL (pixels)",
    "codedfedl": "CodedFedL",
    "complement": "SCFL, complement",
    "convex": "SCFL, convex",
    "adaptive": "SCFL, adaptive",
}
NOISY = {
    "scfl": "SCFL, gradients bare",
    "coded": "coded set alone",
    "statistics": "private statistics",
}
ABOVE_DROPPING, BELOW_WAITING = 0.10, 0.02
LEVEL = 0.85  # of accuracy, which takes methods different times to keep


def spread(values: Sequence[float], form: str = ".1f", unit: float = 100.0) -> str:
    """The mean, with the standard deviation where there is one."""
    scaled = [unit * value for value in values]
    deviation = f" ± {statistics.stdev(scaled):{form}}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):{form}}{deviation}"


def of(runs: Sequence[Run], method: str) -> list[Run]:
    """The runs of a method, by seed."""
    return sorted((run for run in runs if run.method == method), key=lambda run: run.seed)


def budget(runs: Sequence[Run]) -> float:
    """The simulated second at which all are compared: when SCFL's last round ends."""
    return min(run.seconds[-1] for run in of(runs, "complement"))


def figures(runs: Sequence[Run], method: str) -> tuple[list[float], list[float], list[float]]:
    """Of each seed: the accuracy at the budget, that at the end, and the seconds until then."""
    own, until = of(runs, method), budget(runs)
    return (
        [run.at(until) for run in own],
        [run.accuracy[-1] for run in own],
        [run.seconds[-1] for run in own],
    )


def time_table(runs: Sequence[Run]) -> str:
    """All methods as Markdown."""
    until = budget(runs)
    lines = [
        f"| method | accuracy after {until:.0f} s | after all rounds | which take, s | setup, s | "
        f"{100 * LEVEL:g} % for good after, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method in METHODS:
        then, last, seconds = figures(runs, method)
        setup = statistics.fmean(run.setup for run in of(runs, method))
        good = [run.settled(LEVEL) for run in of(runs, method)]
        reached = spread(good, ".0f", 1.0) if max(good) < math.inf else "–"
        lines.append(
            f"| {NAMES[method]} | {spread(then)} | {spread(last)} | "
            f"{statistics.fmean(seconds):.0f} | {setup:.0f} | {reached} |"
        )
    return "\n".join(lines) + "\n"


def noise_table(noisy: Sequence[Noisy]) -> str:
    """Accuracies by ε as Markdown."""
    levels = sorted({one.epsilon for one in noisy})
    heads = ["no noise" if math.isinf(e) else f"ε = {e:g}" for e in levels]
    lines = [f"| released | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(levels)]
    for kind in KINDS:
        cells = [spread(accuracies(noisy, kind, e)) for e in levels]
        lines.append(f"| {NOISY[kind]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def accuracies(noisy: Sequence[Noisy], kind: str, epsilon: float) -> list[float]:
    """Of each seed."""
    return [one.accuracy for one in noisy if one.kind == kind and one.epsilon == epsilon]


def verdict(holds: bool, claim: str, figure: str) -> dict[str, str]:
    """One expectation."""
    return {"claim": claim, "verdict": "holds" if holds else "does NOT hold", "figures": figure}


def verdicts(runs: Sequence[Run], noisy: Sequence[Noisy]) -> list[dict[str, str]]:
    """Every expectation: what is claimed, whether it holds, and the figures."""
    means = {
        method: [statistics.fmean(values) for values in figures(runs, method)[:2]]
        for method in METHODS
    }
    scfl = means["complement"]
    above, below = scfl[0] - means["drop"][0], means["wait"][1] - scfl[0]
    rivals = {name: means[name][0] for name in ("wait", "inverse", "cfl", "codedfedl")}
    best = max(rivals, key=lambda name: rivals[name])
    found = [
        verdict(
            above >= ABOVE_DROPPING,
            "SCFL is 10 points above dropping stragglers at equal time",
            f"{100 * above:+.1f} points",
        ),
        verdict(
            below <= BELOW_WAITING,
            "it is within 2 points of waiting for all for as many rounds",
            f"{-100 * below:+.1f} points",
        ),
        verdict(
            scfl[0] >= rivals[best],
            "no other method is better at that time",
            f"{NAMES[best]} {100 * (rivals[best] - scfl[0]):+.1f} points",
        ),
    ]
    for epsilon in sorted({one.epsilon for one in noisy if math.isfinite(one.epsilon)}):
        coded, stats = (
            statistics.fmean(accuracies(noisy, kind, epsilon)) for kind in ("coded", "statistics")
        )
        found.append(
            verdict(
                coded >= stats,
                f"at ε = {epsilon:g} the coded set alone is as good as private statistics",
                f"{100 * (coded - stats):+.1f} points",
            )
        )
    largest = max(one.largest_error for one in noisy)
    found.append(
        verdict(largest < 1e-2, "sums in secret are the plain ones", f"at most {largest:.0e} apart")
    )
    return found


def summary(runs: Sequence[Run], noisy: Sequence[Noisy]) -> dict[str, Any]:
    """The verdicts, and at what simulated time methods were compared."""
    return {"part": "summary", "budget": budget(runs), "judges": verdicts(runs, noisy)}


def plot(runs: Sequence[Run], noisy: Sequence[Noisy], file: Path) -> None:
    """Draw accuracy by simulated time, and by ε."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    until = budget(runs)
    for number, method in enumerate(METHODS):
        own, style = of(runs, method), "-" if method in METHODS[5:] else "--"
        points = [until * i / 120 for i in range(1, 121)]
        rows = [[run.at(second) for second in points] for run in own]
        columns = list(zip(*rows, strict=True))
        means = [statistics.fmean(column) for column in columns]
        left.plot(points, means, style, color=f"C{number}", label=NAMES[method])
        lows, highs = [min(c) for c in columns], [max(c) for c in columns]
        left.fill_between(points, lows, highs, color=f"C{number}", alpha=0.12, linewidth=0)
    left.set(xlabel="simulated seconds", ylabel="accuracy on 1,000 test digits", ylim=(0.4, 0.95))
    levels = sorted({one.epsilon for one in noisy if math.isfinite(one.epsilon)})
    for number, kind in enumerate(KINDS):
        groups = [accuracies(noisy, kind, level) for level in levels]
        errors = [statistics.stdev(group) if len(group) > 1 else 0.0 for group in groups]
        means = [statistics.fmean(group) for group in groups]
        form = f"C{number}o-" if kind != "scfl" else f"C{number}s:"
        right.errorbar(levels, means, errors, fmt=form, capsize=3, label=NOISY[kind])
    right.set(xscale="log", xlabel="ε of the release, δ = 1e-5", ylabel="accuracy")
    right.set_xticks(levels, [f"{level:g}" for level in levels])
    right.set_xticks([], minor=True)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=110)
    plt.close(figure)
