"""From raw benchmark results to a summary, a table and a picture.

    python benchmarks/report.py RAW.json [--json FILE] [--markdown FILE] [--plot FILE]
    python benchmarks/report.py --readme README.md

``{machine}`` in a file's name becomes the machine's. The README's table is made from all summaries
in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Summary = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def summarise(raw: dict[str, Any]) -> Summary:
    """The machine, and for each row its medians and what was noted with it; no samples."""
    rows = []
    for bench in raw["benchmarks"]:
        stats = bench["stats"]
        figures = {name: stats[name] for name in ("median", "iqr", "rounds", "iterations")}
        rows.append({"group": bench["group"], **bench["extra_info"], **figures})
    return {"machine": raw["machine_info"], "rows": rows}


def seconds(value: float) -> str:
    """A duration with its unit."""
    for size, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def times(ratio: float) -> str:
    """A ratio in three figures."""
    return f"{ratio:.3g}" if ratio < 1000 else f"{float(f'{ratio:.3g}'):,.0f}"


def rate(row: Row) -> str:
    """Multiply-adds a second where the row counts them, else bytes moved a second."""
    value, unit = (row["macs"], "MAC/s") if row["macs"] else (row["bytes"], "B/s")
    value /= row["median"]
    for size, step in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {step}{unit}"
    return f"{value:.3g} {unit}"


def best_rival(row: Row) -> str | None:
    """The fastest baseline that does the same work; the fastest of all where none does."""
    ratios = row.get("ratios") or {}
    same = {name: r for name, r in ratios.items() if not r["lacks"]} or ratios
    return min(same, key=lambda name: same[name]["median"]) if same else None


def speedups(row: Row, spread: bool) -> str:
    """Every measured ratio with the baseline's name, the hardest baseline first."""
    ratios = sorted((row.get("ratios") or {}).items(), key=lambda item: item[1]["median"])
    parts = []
    for name, r in ratios:
        note = f" ({r['lacks']})" if r["lacks"] else ""
        between = f" [{times(r['low'])} – {times(r['high'])}]" if spread else ""
        parts.append(f"{times(r['median'])}×{between} {name}{note}")
    return "; ".join(parts) or "–"


def floor(row: Row) -> str:
    """The fraction of the floor that was reached."""
    return f"{row['floor']['seconds'] / row['median']:.0%}" if row.get("floor") else "–"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['cpu']} ({machine['simd']}), one thread of {machine['cores']} cores"
    if "gpu" in machine:
        where = f"{machine['gpu']}, driver {machine['driver']}, CUDA {machine['cuda']}; {where}"
    return f"{where}; {versions}"


def full_report(summary: Summary) -> str:
    """Every row, baselines among them, and the peaks that the floors are made of."""
    rows = []
    for row in summary["rows"]:
        cells = [row["op"], row["shape"], row["contestant"], str(row["threads"] or "–")]
        cells += [
            f"{seconds(row['median'])} ± {seconds(row['iqr'])}",
            str(row["rounds"]),
            rate(row),
        ]
        rows.append([*cells, floor(row), speedups(row, spread=True)])
    header = ["work", "shape", "by", "threads", "median ± IQR", "rounds", "rate", "of the floor"]
    header.append("their time / ours, measured in turn [quartiles]")
    lines = [f"# Benchmarks: {summary['machine']['name']}", machine_line(summary["machine"])]
    return "\n\n".join([*lines, table(header, rows), peaks(summary), LEGEND]) + "\n"


LEGEND = (
    "The floor is max(bytes / copy bandwidth at that size, products / peak, keystream / peak), all "
    "measured in the same run; the last two peaks are the best rates of our own kernels on data in "
    "the cache, so noise can lift a row a little above 100 %; sketches by signs are held against a "
    "product of float32, of which tables of sums need a part. CPU times are what the process "
    "computes, on one thread. A ratio is the median of rounds that time both in turn; brackets say "
    "what a baseline leaves undone. Every result was compared with what it must be before it was "
    "timed."
)


def peaks(summary: Summary) -> str:
    """The rates that the floors rest on."""
    names = {"copy_rate": "copy", "mac_rate": "field products", "chacha_rate": "ChaCha20"}
    names |= {"butterfly_rate": "butterflies", "float_rate": "float32 products"}
    units = {"mac_rate": "MAC", "butterfly_rate": "", "float_rate": "MAC"}
    found: dict[str, list[float]] = {}
    for row in summary["rows"]:
        for name, value in (row.get("floor") or {}).items():
            found.setdefault(name, []).append(value / 1e9)
    parts = []
    for name, words in names.items():
        if name in found:
            low, high = min(found[name]), max(found[name])
            span = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g} by size"
            parts.append(f"{words} {span} G{units.get(name, 'B')}/s")
    return f"Peaks: {', '.join(parts)}." if parts else "No floor was measured."


def short_table(summary: Summary) -> str:
    """The rows of pyfed alone."""
    rows = [
        [
            f"`{row['op']}`" if row["op"].isidentifier() else row["op"],
            row["shape"],
            row["contestant"],
            seconds(row["median"]),
            rate(row),
            floor(row),
            speedups(row, spread=False),
        ]
        for row in summary["rows"]
        if row["kind"] == "pyfed"
    ]
    header = ["work", "shape", "backend", "median", "rate", "of the floor", "their time / ours"]
    return table(header, rows)


def write_readme(readme: Path, results: Path) -> None:
    """Put the tables of all summaries between the README's markers."""
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{readme} has no {BEGIN} … {END}")
    parts = []
    for path in sorted(results.glob("*.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"{machine_line(summary['machine'])}.", short_table(summary)]
    body = "\n\n".join([*parts, LEGEND])
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    readme.write_text(between.sub(lambda _: f"{BEGIN}\n{body}\n{END}", text), encoding="utf-8")


def plot(summary: Summary, path: Path) -> None:
    """Bars of the speed-up over the best named baseline."""
    from matplotlib.figure import Figure

    bars = []
    for row in summary["rows"]:
        rival = best_rival(row) if row["kind"] == "pyfed" else None
        if rival is not None:
            bars.append((f"{row['op']}\n{row['shape']}", row["contestant"], rival, row))
    if not bars:
        return
    backends = list(dict.fromkeys(backend for _, backend, _, _ in bars))
    colours = dict(zip(backends, ("#2f6690", "#e08e45"), strict=False))
    figure = Figure(figsize=(9, 0.62 * len(bars) + 1.4), layout="constrained")
    axes = figure.subplots()
    for place, (_, backend, rival, row) in enumerate(bars):
        ratio = row["ratios"][rival]
        axes.barh(place, ratio["median"] - 1, left=1, height=0.6, color=colours[backend])
        axes.hlines(place, ratio["low"], ratio["high"], color="black", linewidth=1)
        note = f", {ratio['lacks']}" if ratio["lacks"] else ""
        text = f" {times(ratio['median'])}×  {rival}{note}"
        axes.annotate(text, (max(ratio["high"], 1), place), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [label for label, _, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}×")
    highest = max(row["ratios"][rival]["high"] for _, _, rival, row in bars)
    lowest = min(row["ratios"][rival]["low"] for _, _, rival, row in bars)
    axes.set_xlim(min(0.8, lowest / 1.2), highest * 8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("times faster than the best baseline (log scale; line: quartiles)")
    axes.set_title(f"pyfed on {summary['machine']['name']}", fontsize=10, loc="left")
    if len(backends) > 1:
        handles = [axes.barh(0, 0, color=colours[backend]) for backend in backends]
        axes.legend(handles, backends, fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the command line, write what it asks for, and print the table."""
    parser = argparse.ArgumentParser(description="Summarise raw benchmark results.")
    parser.add_argument("raw", nargs="?", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--json", help="write the summary here")
    parser.add_argument("--markdown", help="write the full table here")
    parser.add_argument("--plot", help="write a picture here")
    parser.add_argument("--readme", type=Path, help="put the short tables into this file")
    options = parser.parse_args()
    if options.raw is None and options.readme is None:
        parser.error("give RAW.json or --readme")
    if options.raw is not None:
        summary = summarise(json.loads(options.raw.read_text(encoding="utf-8")))

        def target(name: str) -> Path:
            path = Path(name.replace("{machine}", summary["machine"]["name"]))
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        if options.json:
            text = json.dumps(summary, indent=1, ensure_ascii=False)
            target(options.json).write_text(text + "\n", encoding="utf-8")
        if options.markdown:
            target(options.markdown).write_text(full_report(summary), encoding="utf-8")
        if options.plot:
            plot(summary, target(options.plot))
        print(full_report(summary))
    if options.readme is not None:
        write_readme(options.readme, RESULTS)


if __name__ == "__main__":
    main()
