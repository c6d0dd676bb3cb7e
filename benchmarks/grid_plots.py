"""Pictures of a grid: a roofline, cost against length, and what a second thread brings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Summary = dict[str, Any]
TOLERANCE = 0.15
"""Within which the cost of a value stays, from a million values on."""
FROM = 10**6
COLOURS = {
    **{"encode": "#2f6690", "decode": "#e08e45", "matmul": "#3a7d44"},
    **{"field_sum": "#8c5383", "masks": "#b23a48"},
}


def series(rows: list[Row]) -> dict[tuple[Any, ...], dict[int, float]]:
    """Seconds a value by length, for every setting that was measured at several lengths."""
    names = ("work", "field", "shares", "blocks", "privacy", "backend")
    found: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in rows:
        if row["length"] >= FROM:
            costs = found.setdefault(tuple(row[name] for name in names), {})
            costs[row["length"]] = row["median"] / row["length"]
    return {key: costs for key, costs in found.items() if len(costs) > 1}


def deviation(costs: dict[int, float]) -> float:
    """The largest relative distance of a cost from the middle of the least and the most."""
    low, high = min(costs.values()), max(costs.values())
    return (high - low) / (high + low)


def _axes(title: str, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    return figure, axes


def roofline(summary: Summary, path: Path) -> None:
    """Multiply-adds a second against multiply-adds a byte, under the roofs of the same run."""
    rows = [row for row in summary["rows"] if row["macs"]]
    if not rows:
        return
    figure, axes = _axes(f"roofline of pyfed on {summary['machine']['name']}", (8, 5))
    copy = min(row["floor"]["copy_rate"] for row in rows)  # that of memory, beyond the caches
    peak = max(row["floor"]["mac_rate"] for row in rows)
    places = [row["macs"] / row["bytes"] for row in rows]
    low, high = min([*places, peak / copy]) / 2, max([*places, peak / copy]) * 2
    axes.plot([low, peak / copy, high], [low * copy / 1e9, peak / 1e9, peak / 1e9], color="black")
    axes.annotate(f"memory, {copy / 1e9:.3g} GB/s", (low, low * copy / 1e9), fontsize=8)
    axes.annotate(f"products, {peak / 1e9:.3g} GMAC/s", (high, peak / 1e9), fontsize=8, ha="right")
    for work in dict.fromkeys(row["work"] for row in rows):
        own = [row for row in rows if row["work"] == work]
        axes.scatter(
            [row["macs"] / row["bytes"] for row in own],
            [row["macs"] / row["median"] / 1e9 for row in own],
            s=[8 + 4 * math.log10(row["length"]) for row in own],
            color=COLOURS[work],
            alpha=0.6,
            label=work,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity: multiply-adds of a matrix product / byte that must move")
    axes.set_ylabel("GMAC/s (above the roof: transforms do with fewer)")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def cost(summary: Summary, path: Path) -> None:
    """Nanoseconds a value against the length, one line for each setting."""
    found = series(summary["rows"])
    if not found:
        return
    figure, axes = _axes(f"cost of a value on {summary['machine']['name']}", (8, 5))
    labelled = set()
    for key, costs in found.items():
        lengths = sorted(costs)
        label = key[0] if key[0] not in labelled else None
        labelled.add(key[0])
        values = [1e9 * costs[length] for length in lengths]
        axes.plot(lengths, values, color=COLOURS[key[0]], marker=".", lw=0.8, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("values L; a line for each N, K, T, field and backend")
    axes.set_ylabel("nanoseconds a value")
    within = sum(deviation(costs) <= TOLERANCE for costs in found.values())
    axes.annotate(
        f"within ± {TOLERANCE:.0%} of its middle: {within} of {len(found)} lines",
        (0.02, 0.02),
        xycoords="axes fraction",
        fontsize=8,
    )
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def threads(summary: Summary, path: Path) -> None:
    """How many times faster two threads are than one."""
    found = summary.get("threads") or {}
    if not found:
        return
    figure, axes = _axes(f"two threads on {summary['machine']['name']}", (7, 0.5 * len(found) + 1))
    for place, ratio in enumerate(found.values()):
        axes.barh(place, ratio["median"], height=0.6, color="#2f6690")
        axes.hlines(place, ratio["low"], ratio["high"], color="black", linewidth=1)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times faster than one thread (line: quartiles)")
    figure.savefig(path, dpi=150)


def write_plots(summary: Summary, stem: Path) -> None:
    """``<stem>-roofline.png``, ``-cost.png``, ``-threads.png``: those with something to show."""
    for name, draw in (("roofline", roofline), ("cost", cost), ("threads", threads)):
        draw(summary, stem.with_name(f"{stem.name}-{name}.png"))
