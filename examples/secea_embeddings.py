"""Word embeddings from Python's documentation, averaged so that nobody learns whose words they are.

Ten clients each have the documentation of other modules, and a vocabulary of their own. They train
skip-gram embeddings with negative sampling; SecEA averages those of every word over its owners,
and a client gets the averages of its own words only, and trains on. In every round two clients are
lost. The same is done with plain averages, to show what the secrecy costs, and by every client
alone, to show what meeting is good for.

    python examples/secea_embeddings.py            # three seeds: two minutes
    python examples/secea_embeddings.py --quick    # less of everything: 20 seconds

Source: Tang et al., Secure embedding aggregation for federated representation learning,
arXiv 2206.09097; of the embeddings, Mikolov et al., arXiv 1310.4546.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import secea_embeddings_report as report
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from secea_embeddings_study import LOST, METHODS, Row, Setting, run
    from secea_embeddings_text import deal, documentation
except ModuleNotFoundError as absent:
    wanted = "cryptography msgpack matplotlib rich"
    raise SystemExit(f"{absent.name} is not installed; run: pip install {wanted}") from absent

QUICK = {"seeds": 1, "rounds": 5, "lr": 0.02, "each": 80, "words": 150}
FIRST = 10  # seeds below it chose the learning rate and the sizes
WIDTHS = (4, 14, 9, 11, 9, 10, 11, 8)


def results(options: argparse.Namespace, step: Callable[[str], None]) -> Iterator[Row]:
    """Every method on every seed."""
    texts = documentation()
    names = ("rounds", "steps", "batch", "lr", "dim", "privacy", "blocks", "drop")
    setting = Setting(**{name: getattr(options, name) for name in names})
    for seed in range(FIRST, FIRST + options.seeds):
        corpora = deal(texts, options.clients, options.each, options.words, seed)
        for method in METHODS:
            label = f"{report.NAMES[method]}, seed {seed}"
            yield run(corpora, setting, method, seed, lambda label=label: step(label))


def follow(options: argparse.Namespace, console: Console, metrics: Path) -> list[Row]:
    """Run everything: a table and a progress bar on a terminal, plain lines elsewhere."""
    done: list[Row] = []

    def finished(row: Row) -> list[str]:
        done.append(row)
        with metrics.open("a") as file:
            file.write(json.dumps(row.json()) + "\n")
        return [str(row.seed), *report.cells([row])]

    headings = ("seed", *report.HEADINGS)
    if not console.is_terminal:

        def show(texts: tuple[str, ...] | list[str]) -> None:
            pairs = zip(texts, WIDTHS, strict=True)
            print(" ".join(f"{text:>{width}}" for text, width in pairs), flush=True)

        show(headings)
        for row in results(options, lambda name: None):
            show(finished(row))
        return done
    table = Table(title=f"{options.clients} clients; how often neighbours score above noise, in %")
    for name in headings:
        table.add_column(name, justify="right")
    columns = (
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
        TextColumn("{task.description}"),
    )
    progress = Progress(*columns, console=console)
    total = options.seeds * len(METHODS) * options.rounds
    task = progress.add_task("reading", total=total)

    def step(name: str) -> None:
        progress.update(task, advance=1, description=name)

    with Live(Group(table, progress), console=console, refresh_per_second=4):
        for row in results(options, step):
            table.add_row(*finished(row))
    return done


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many deals of the modules")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--privacy", type=int, default=2, help="T: colluders that learn nothing")
    parser.add_argument("--blocks", type=int, default=2, help="K: more make shorter shares")
    parser.add_argument("--steps", type=int, default=40, help="of each client in a round")
    parser.add_argument("--batch", type=int, default=256, help="pairs of words in a step")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--dim", type=int, default=32, help="of a word as center, and as context")
    parser.add_argument("--each", type=int, default=100, help="paragraphs of a client")
    parser.add_argument("--words", type=int, default=250, help="of a client's vocabulary")
    parser.add_argument("--no-drop", dest="drop", action="store_false", help="lose no client")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where results go")
    quick = parser.parse_known_args()[0].quick
    if quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    counts = ("seeds", "rounds", "privacy", "blocks", "steps", "batch", "dim", "words")
    if any(getattr(options, name) < 1 for name in counts) or options.each < 20:
        parser.error(f"{', '.join(counts)} must be at least 1, and each at least 20")
    drops = len(LOST) if options.drop else 0
    if options.clients < 3 or 2 * (options.blocks + options.privacy) - 1 > options.clients - drops:
        parser.error(
            f"clients must be at least 2·blocks + 2·privacy - 1 = "
            f"{2 * (options.blocks + options.privacy) - 1}, and {drops} more for the lost ones"
        )
    return options


def main() -> None:
    """Run the example and say what it showed."""
    options = arguments()
    folder = options.out / time.strftime("secea-embeddings-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    began = time.perf_counter()
    rows = follow(options, Console(), folder / "metrics.jsonl")
    seconds = time.perf_counter() - began
    (folder / "table.md").write_text(report.table(rows))
    report.plot(rows, folder / "embeddings.png")
    names = ("rounds", "clients", "privacy", "blocks", "steps", "batch", "lr", "dim", "each")
    setting = {name: getattr(options, name) for name in (*names, "words", "drop")}
    setting |= {"python": platform.python_version(), "seconds": round(seconds)}
    summary = report.summary(rows) | {"setting": setting}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    unions = [row.union for row in report.of_method(rows, "secea")]
    print(f"\n{options.seeds} seeds, {options.clients} clients of at most {options.words} words,")
    print(f"of which there are {min(unions)} to {max(unions)} together:")
    for one in summary["judges"]:
        print(f"{one['verdict']:>13}: {one['claim']} ({one['figures']})")
    print(
        f"written after {seconds:.0f} s: metrics.jsonl, table.md, summary.json, embeddings.png in"
    )
    print(folder)


if __name__ == "__main__":
    main()
