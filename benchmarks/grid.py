"""Every kernel over the grid of sizes, fields and backends, with rivals and floors of the same run.

    python benchmarks/grid.py --estimate           # what it would measure, and for how long
    python benchmarks/grid.py                      # all of it, for the device that is there
    python benchmarks/grid.py --small              # one tiny point of each kind: does it all run?
    python benchmarks/grid.py --works encode --numbers 100 --lengths 1000000

Writes results/grid/<machine>.json after every point, and pictures beside it at the end. What the
file holds of other points stays. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's BLAS reads it when it is loaded

import torch

import floors
import pyfed
import report
from contests import Contest, backends
from grid_plots import write_plots
from grid_points import FAMILIES, FIELDS, NUMBERS, WORKS, Point, points
from grid_work import affordable, contest_of
from machine import describe
from ratios import interleaved, seconds_per_call, timer_of
from scaling import COLUMNS, second_thread

RESULTS = Path(__file__).parent / "results" / "grid"
ROUNDS, FEWEST, LONG = 9, 5, 0.5
"""Rounds of short calls, and of those that take more than so many seconds."""
ROUND_SECONDS = 0.01
CALLS = 25
"""What a point costs beside its rivals, in calls: making its data, its check, and its rounds."""
RIVAL_SECONDS = 6.0
"""What the rivals of a point cost together, where they are measured."""

Row = dict[str, Any]


def spread(call: Callable[[], Any], first: float, timer: Callable[[], float]) -> dict[str, Any]:
    """Median and quartiles of the seconds of a call; ``first``: what it took the first time."""
    calls = max(1, math.ceil(ROUND_SECONDS / max(first, 1e-9)))
    rounds = ROUNDS if first < LONG else FEWEST
    found = [seconds_per_call(call, calls, timer) for _ in range(rounds)]
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "rounds": rounds}


def measured(point: Point, contest: Contest, device: str, backend: str) -> Row:
    """One point by one backend, right before it is timed: AssertionError where it is not."""
    timer = timer_of(device)
    with pyfed.use_backend(backend):
        contest.reference()  # checked, and warm
        pyfed.check()
        first = seconds_per_call(contest.run, 1, timer)
        row = point.summary() | {"backend": backend, "device": device}
        row |= {"op": contest.op, "shape": contest.shape, "kind": "pyfed"}
        row |= {"bytes": contest.bytes, "macs": contest.macs, "chacha": contest.chacha}
        row |= spread(contest.run, first, timer)
        row["floor"] = floors.floor_of(contest, device)
        row["ratios"], row["not_measured"] = {}, {}
        for name, prepare in contest.baselines.items():
            reason = affordable(name, point)
            if reason is not None:
                row["not_measured"][name] = reason
                continue
            rival = prepare()
            rival.check(rival.run(), contest.run())
            torch.set_num_threads(1)  # numba sets OpenMP's thread count when it starts
            rounds = ROUNDS if first < LONG else FEWEST
            ratio = interleaved(contest.run, rival.run, timer, rounds)
            row["ratios"][name] = ratio.summary() | {"lacks": rival.lacks}
    return row


def line(row: Row) -> str:
    """A row for the terminal."""
    best = report.best_rival(row)
    ratio = f"{report.times(row['ratios'][best]['median'])}× {best}" if best else "–"
    between = f"[{report.seconds(row['low'])} – {report.seconds(row['high'])}]"
    return (
        f"{row['op']:9} {row['shape']:52} {row['backend']:6} {report.seconds(row['median']):>8}"
        f" {between:>21}"
        f" {report.rate(row):>12} {report.floor(row):>5} of the floor; {ratio}"
    )


def estimate(grid: list[Point], device: str) -> float:
    """Seconds that the grid takes, as roughly as its rates are known."""
    total = 0.0
    for point in grid:
        calls = CALLS if point.seconds(device) < LONG else FEWEST + 6
        rivals = RIVAL_SECONDS if point.bytes < 2e8 and point.macs < 4e9 else 0.0
        most = RIVAL_SECONDS / 60 + 60 * point.seconds(device)
        total += len(backends(device)) * (calls * point.seconds(device) + min(rivals, most))
    return total


def save(summary: dict[str, Any], path: Path) -> None:
    """Write what has been measured so far."""
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def begun(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """What earlier runs of the same set-up wrote to a file, or nothing yet."""
    if not path.exists():
        return {"machine": machine, "rows": [], "left_out": []}
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if summary["machine"] != machine:
        raise SystemExit(
            f"{path} holds figures of other versions or another build: move it, or give another "
            "folder with --results"
        )
    return summary


def place(rows: list[Row], row: Row, point: Point) -> None:
    """Put a row in the place of the one of the same point and backend, or at the end."""
    same = point.summary() | {name: row[name] for name in ("backend", "device") if name in row}
    for number, old in enumerate(rows):
        if same.items() <= old.items():
            rows[number] = row
            return
    rows.append(row)


def choose(options: argparse.Namespace, device: str) -> tuple[list[Point], list[tuple[Point, str]]]:
    """The points to measure, and those that are left out, with the reason."""
    chosen, left = [], []
    lengths = (1003,) if options.small else tuple(options.lengths) or None
    numbers = (4,) if options.small else tuple(options.numbers)
    families = tuple(options.families)[:1] if options.small else tuple(options.families)
    grid = points(device, tuple(options.works), tuple(options.fields), families, numbers, lengths)
    for point in grid:
        reason = point.left_out(device)
        if reason is None:
            chosen.append(point)
        else:
            left.append((point, reason))
    return chosen, left


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--estimate", action="store_true", help="measure nothing, tell the time")
    parser.add_argument("--small", action="store_true", help="one tiny point of each kind")
    for name, every in (("works", WORKS), ("fields", FIELDS), ("families", FAMILIES)):
        parser.add_argument(f"--{name}", nargs="+", choices=tuple(every), default=tuple(every))
    parser.add_argument("--numbers", nargs="+", type=int, default=NUMBERS, help="N")
    parser.add_argument("--lengths", nargs="+", type=int, default=(), help="L")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path | None:
    """Measure what the command line asks for; gives the file of the results."""
    options = parsed(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen, left = choose(options, device)
    minutes = estimate(chosen, device) / 60
    print(f"{len(chosen)} points, {len(left)} left out, about {minutes:.0f} min", flush=True)
    if options.estimate:
        return None
    torch.set_num_threads(1)
    machine = describe()
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{machine['name']}.json"
    summary = begun(path, machine)
    for point, reason in left:
        place(summary["left_out"], point.summary() | {"reason": reason}, point)
    began = time.monotonic()
    for point in chosen:
        contest = contest_of(point, device)
        for backend in backends(device):
            row = measured(point, contest, device, backend)
            place(summary["rows"], row, point)
            print(line(row), flush=True)
        save(summary, path)
    if device == "cpu" and summary["machine"]["cores"] > 1:
        found = second_thread(8 if options.small else COLUMNS)
        summary["threads"] = {name: ratio.summary() for name, ratio in found.items()}
    save(summary, path)
    write_plots(summary, path.with_suffix(""))
    print(f"{path}: {(time.monotonic() - began) / 60:.1f} minutes")
    return path


if __name__ == "__main__":
    main()
