"""Stragglers who alone hold whole digits, made up for by coded data, on real MNIST.

Twenty clients hold 200 digits each, sorted by label; the last eight, who have all digits from 6 on,
are slow. Everyone learns a linear classifier on random Fourier features by gradient descent. Ways
to deal with the stragglers are compared by accuracy against simulated time: waiting for all,
dropping the late, weighing by inverse probability, CFL, CodedFedL, and SCFL by its three rules.
Then the coded sets get noise for three ε and are summed in secret, beside private statistics.

    python examples/coded_stragglers.py            # three seeds: some minutes
    python examples/coded_stragglers.py --quick    # less of everything: seconds

Sources: Sun et al., Stochastic coded federated learning, arXiv 2201.10092 and 2211.04132; Dhakal et
al., Coded federated learning, arXiv 2002.09574; Prakash et al., CodedFedL, arXiv 2011.06223.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import coded_stragglers_report as report
    import dp_accounting  # noqa: F401 - which privacy needs after a while
    from coded_stragglers_data import TRAIN, deal
    from coded_stragglers_network import COMPUTE, PACKET, network
    from coded_stragglers_privacy import Noisy, noisy_runs
    from coded_stragglers_study import METHODS, Run, Setting, play
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ModuleNotFoundError as absent:
    wanted = "cryptography dp-accounting msgpack matplotlib mlxtend rich scipy"
    raise SystemExit(f"{absent.name} is not installed; run: pip install {wanted}") from absent

QUICK = {"seeds": 1, "rounds": 60, "rows": 200, "features": 120}
LENGTH_SCALE = 5.0
PER_CLIENT = 200
KINDS = ("gaussian", "rademacher", "countsketch")
LEAST_EPSILON = 0.1


def results(options: argparse.Namespace, step: Callable[[str], None]) -> Iterator[Run | Noisy]:
    """Every method on every seed, then every ε."""
    setting = Setting(options.rows, options.rounds, options.deadline, options.kind)
    for seed in range(options.seeds):
        digits = deal(options.clients, options.features, LENGTH_SCALE, seed, PER_CLIENT)
        pixels = deal(options.clients, 0, LENGTH_SCALE, seed, PER_CLIENT)
        net = network(options.clients, options.slow, PER_CLIENT, seed)
        for method in METHODS:
            step(f"{report.NAMES[method]}, seed {seed}")
            yield play(method, pixels if method == "cfl" else digits, net, setting, seed)
        step(f"noise, seed {seed}")
        yield from noisy_runs(digits, net, setting, seed, tuple(options.epsilons))


def follow(options: argparse.Namespace, console: Console, file: Path) -> list[Run | Noisy]:
    """Run everything; a progress bar on a terminal, nothing elsewhere."""
    done: list[Run | Noisy] = []
    columns = (
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
        TextColumn("{task.description}"),
    )
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        file.open("w") as lines,
    ):
        task = progress.add_task("digits", total=options.seeds * (len(METHODS) + 1))
        for one in results(
            options, lambda name: progress.update(task, advance=1, description=name)
        ):
            done.append(one)
            lines.write(json.dumps(one.json()) + "\n")
            lines.flush()
    return done


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of deals, features and networks")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--deadline", type=float, default=1.5, help="simulated seconds of a round")
    parser.add_argument("--rows", type=int, default=1000, help="coded records")
    parser.add_argument("--features", type=int, default=500, help="random Fourier features")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--slow", type=int, default=8, help="clients that are slow")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="gaussian",
        help="law of G in the runs against time; those with noise are always gaussian",
    )
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 16.0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where results go")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    if min(options.seeds, options.rounds, options.rows, options.features) < 1:
        parser.error("seeds, rounds, rows and features must be at least 1")
    if not 0 < options.slow < options.clients or not 10 <= options.clients <= 20:
        parser.error("clients must be from 10 to 20, and some but not all of them slow")
    records = min(TRAIN, options.clients * PER_CLIENT)
    if options.rows >= records:
        parser.error(f"rows must be fewer than the {records} records of all clients")
    if not COMPUTE + PACKET < options.deadline < math.inf:
        least = f"{COMPUTE + PACKET:g} s, which everybody takes at least"
        parser.error(f"the deadline must be above {least}: nobody would ever arrive")
    if not all(LEAST_EPSILON <= epsilon < math.inf for epsilon in options.epsilons):
        parser.error(f"epsilons must be finite and at least {LEAST_EPSILON:g}")
    return options


def main() -> None:
    """Run the example and say what it showed."""
    options = arguments()
    folder = options.out / time.strftime("coded-stragglers-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    began, file = time.perf_counter(), folder / "coded-stragglers.jsonl"
    done = follow(options, Console(), file)
    runs = [one for one in done if isinstance(one, Run)]
    noisy = [one for one in done if isinstance(one, Noisy)]
    summary = report.summary(runs, noisy)
    with file.open("a") as lines:
        lines.write(json.dumps(summary) + "\n")
    tables = report.time_table(runs) + "\n" + report.noise_table(noisy)
    (folder / "tables.md").write_text(tables)
    report.plot(runs, noisy, folder / "coded-stragglers.png")
    print(f"{options.seeds} seeds; accuracy in % on 1,000 test digits\n\n{tables}")
    for one in summary["judges"]:
        print(f"{one['verdict']:>13}: {one['claim']} ({one['figures']})")
    print(f"written after {time.perf_counter() - began:.0f} s: {folder}")


if __name__ == "__main__":
    main()
