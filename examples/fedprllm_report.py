"""What the rows of all seeds say: a table, a figure, and whether each expectation holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from fedprllm_models import Spec
from fedprllm_records import Row, VoteFigures
from fedprllm_study import GROUPS, RULES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MARKS = {"centralised": "o", "local-only": "s", "layer, ties by index": "^"}


@dataclass(frozen=True)
class Judge:
    """One expectation, and the seeds that it was looked at on.

    Attributes:
        claim: What is expected.
        values: For each seed the figure that decides.
        limit: What the figure must be above, or at most.
        above: Whether above.
        unit: Said behind the figures.
        paired: For each held-out window of each seed, by how much the worse model's loss is above.
    """

    claim: str
    values: tuple[float, ...]
    limit: float = 0.0
    above: bool = True
    unit: str = ""
    paired: tuple[float, ...] = ()

    @property
    def seeds(self) -> int:
        """On how many seeds it holds."""
        return sum((value > self.limit) == self.above for value in self.values)

    @property
    def holds(self) -> bool:
        """Whether it holds on every seed."""
        return self.seeds == len(self.values)

    @property
    def t(self) -> float:
        """The mean of the paired differences, in standard errors of the held-out text."""
        error = statistics.stdev(self.paired) / len(self.paired) ** 0.5
        return statistics.fmean(self.paired) / error if error else 0.0

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does NOT hold"
        found = f"{spread(self.values)}{self.unit}, {self.seeds} of {len(self.values)} seeds"
        if self.paired:
            found += f"; t = {self.t:.1f} over {len(self.paired)} windows"
        return f"{verdict:>13}: {self.claim} ({found})"


def short(value: float, like: float | None = None) -> str:
    """A figure of any size in few characters, with the decimals of one ``like`` it."""
    size = abs(value if like is None else like)
    return f"{value:.3g}" if size >= 1e4 else f"{value:.2f}" if size >= 5 else f"{value:.3f}"


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation where there is one."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return short(mean)
    return f"{short(mean)} ± {short(statistics.stdev(values), like=mean)}"


def chosen(rows: Sequence[Row], sparsity: float, variant: str) -> list[Row]:
    """The rows of one variant, by seed."""
    wanted = (row for row in rows if (row.sparsity, row.variant) == (sparsity, variant))
    return sorted(wanted, key=lambda row: row.seed)


def judges(rows: Sequence[Row], sparsity: float, spec: Spec) -> list[Judge]:
    """What is expected of every seed at one sparsity; see the paper and its rules for ties."""

    def values(variant: str) -> list[float]:
        return [row.quality for row in chosen(rows, sparsity, variant)]

    def more(claim: str, worse: str, better: str) -> Judge:
        pairs = list(
            zip(chosen(rows, sparsity, worse), chosen(rows, sparsity, better), strict=True)
        )
        windows = [zip(high.losses, low.losses, strict=True) for high, low in pairs]
        return Judge(
            claim,
            tuple(high.quality - low.quality for high, low in pairs),
            paired=tuple(high - low for seed in windows for high, low in seed),
        )

    layer = "layer, ties by index"

    def ratio(variant: str) -> tuple[float, ...]:
        return tuple(x / y for x, y in zip(values(variant), values(layer), strict=True))

    index, magnitude = ratio("column, ties by index"), ratio("column, ties by magnitude")
    ruined = f"{spec.explodes:g} times the layer vote's"
    return [
        more("centralised is better than the layer vote", layer, "centralised"),
        more("the layer vote is better than local-only", "local-only", layer),
        more("scaling the survivors hurts", f"{layer}, scaled", layer),
        Judge(f"column, ties by index: above {ruined}", index, spec.explodes, unit=" times"),
        Judge(
            f"column, ties by magnitude: at most {ruined}",
            *(magnitude, spec.explodes, False, " times"),
        ),
    ]


def table(rows: Sequence[Row], figures: Sequence[VoteFigures], spec: Spec) -> str:
    """All results as Markdown: means over the seeds, with standard deviations."""
    lines = [
        f"| sparsity | variant | {spec.metric} | decided by ties |",
        "| ---: | --- | ---: | ---: |",
    ]
    for sparsity, variant in dict.fromkeys((row.sparsity, row.variant) for row in rows):
        same = chosen(rows, sparsity, variant)
        shares = [row.tie_share for row in same if row.tie_share is not None]
        tied = f"{statistics.fmean(shares):.2%}" if shares else ""
        quality = spread([row.quality for row in same])
        lines.append(f"| {sparsity:.0%} | {variant} | {quality} | {tied} |")
    if figures:
        lines += ["", "| votes | |", "| --- | ---: |"]
        lines += [f"| {name} | {value} |" for name, value in vote_lines(figures).items()]
    return "\n".join(lines) + "\n"


def summary(
    rows: Sequence[Row],
    figures: Sequence[VoteFigures],
    verdicts: Sequence[Judge],
    spec: Spec,
) -> dict[str, Any]:
    """All of it as JSON: for each variant its figure on every seed."""
    variants = []
    for sparsity, variant in dict.fromkeys((row.sparsity, row.variant) for row in rows):
        same = chosen(rows, sparsity, variant)
        variants.append(
            {
                "sparsity": sparsity,
                "variant": variant,
                "quality": [round(row.quality, 5) for row in same],
                "tie_share": [row.tie_share and round(row.tie_share, 6) for row in same],
            }
        )
    claims = [
        {
            "claim": judge.claim,
            "holds": judge.holds,
            "values": [round(value, 5) for value in judge.values],
            "t": round(judge.t, 2) if judge.paired else None,
        }
        for judge in verdicts
    ]
    votes = [asdict(one) for one in figures]
    return {"metric": spec.metric, "variants": variants, "judges": claims, "votes": votes}


def vote_lines(figures: Sequence[VoteFigures]) -> dict[str, str]:
    """The means over the seeds of what votes cost and reveal."""
    mean = statistics.fmean
    lines = {
        "unanimous weights": f"{mean(one.unanimous for one in figures):.1%}",
        "votes against the majority": f"{mean(one.disagreement for one in figures):.1%}",
    }
    for against in figures[0].upload_bits:
        bits = mean(one.upload_bits[against] for one in figures)
        lines[f"upload, coded against {against}"] = f"{bits:.3f} bits for a weight"
    return lines


def plot(rows: Sequence[Row], sparsity: float, spec: Spec, file: Path) -> None:
    """Draw the variants of the server's selection, and the main ones over all sparsities."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, ties in enumerate(RULES):
        for j, group in enumerate(GROUPS):
            values = [r.quality for r in chosen(rows, sparsity, f"{group}, ties by {ties}")]
            label = f"ties by {ties}" if j == 0 else None
            x = j + 0.25 * (i - 1)
            left.bar(x, statistics.fmean(values), width=0.22, color=f"C{i}", label=label)
            left.plot([x] * len(values), values, "k.", markersize=4)
    for method, style in (("centralised", "--"), ("local-only", ":")):
        mean = statistics.fmean(row.quality for row in chosen(rows, sparsity, method))
        left.axhline(mean, color="black", linestyle=style, linewidth=1, label=method)
    left.set(yscale="log", ylabel=spec.metric, title=f"server's selection at {sparsity:.0%}")
    left.set_xticks(range(len(GROUPS)), [f"by {group}" for group in GROUPS])
    left.legend(fontsize=8)
    sparsities = sorted({row.sparsity for row in rows} - {0.0})
    for variant, mark in MARKS.items():
        groups = [[row.quality for row in chosen(rows, at, variant)] for at in sparsities]
        means = [statistics.fmean(values) for values in groups]
        errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in groups]
        right.errorbar(
            [100 * at for at in sparsities], means, errors, marker=mark, capsize=3, label=variant
        )
    right.set(xlabel="sparsity, %", ylabel=spec.metric, yscale="log", title="who prunes")
    right.grid(alpha=0.3, which="both")
    right.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
