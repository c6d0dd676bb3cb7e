"""Federated LoRA on real weights: ten clients with skewed labels, every rule, one bank.

MiniLM reads docstrings of Python's library and tells which of ten families of modules they are
from. Each client has 80 of them, few labels, and an adapter and a head of its own. All clients are
trained in one pass by pyfed.lora.ClientBank, and meet by one rule after another: FedSA-LoRA with
its variants, where every client keeps its own B, and the rules that make one model for all.

    python examples/fedsa_lora.py              # one seed: a minute and a half
    python examples/fedsa_lora.py --seeds 3    # with spread: four minutes

Sources: Guo et al., arXiv 2410.01463; of the other rules, the concepts page on LoRA.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

try:
    import fedsa_lora_report as report
    from fedsa_lora_model import missing, prepare
    from fedsa_lora_records import Row
    from fedsa_lora_study import GRID, METHODS, VERA, Setting, Study
    from fedsa_lora_text import deal, passages
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ModuleNotFoundError as absent:
    wanted = "transformers peft safetensors matplotlib rich msgpack"
    raise SystemExit(f"{absent.name} is not installed; run: pip install {wanted}") from absent

TUNING = (1000,)  # seeds that choose learning rates, and are not reported
WIDTHS = (4, 18, 7, 9, 23, 13, 11, 11, 8, 8, 8)


def studies(options: argparse.Namespace, seeds: range | tuple[int, ...]) -> Iterator[Study]:
    """The study of each seed."""
    texts = passages()
    samples, top = prepare(texts, options.layers, options.tokens)
    setting = Setting(options.rounds, options.steps, options.batch)
    for seed in seeds:
        parts = deal(texts, options.clients, options.each, options.tests, options.alpha, seed)
        yield Study(samples, top, parts, setting, seed)


def results(options: argparse.Namespace, step: Callable[[str], None]) -> Iterator[Row]:
    """Every method on every seed."""
    for study in studies(options, range(options.seeds)):
        for method in METHODS:
            name = f"{method.name}, seed {study.seed}"
            yield study.run(method, lambda name=name: step(name))


def tune(options: argparse.Namespace) -> None:
    """Print personal accuracy of every method at every learning rate of the grid."""
    found: dict[tuple[str, float], list[float]] = {}
    for study in studies(options, TUNING):
        for method in METHODS:
            for rate in GRID:
                lr = rate * (VERA if method.adapter == "VeRA" else 1)
                row = study.run(replace(method, lr=lr))
                found.setdefault((method.name, lr), []).append(row.mean)
    for (name, lr), values in found.items():
        print(f"{name:18} {lr:.0e} {report.percent(values)}")


def follow(options: argparse.Namespace, console: Console, metrics: Path) -> list[Row]:
    """Run everything: a table and a progress bar on a terminal, plain lines elsewhere."""
    done: list[Row] = []

    def finished(row: Row) -> list[str]:
        done.append(row)
        with metrics.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
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
    table = Table(title=f"{options.clients} clients, accuracy in %, uplink of a client and round")
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
    parser.add_argument("--seeds", type=int, default=1, help="how many splits of the text")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=5, help="of each client in a round")
    parser.add_argument("--batch", type=int, default=4, help="samples of a client in a step")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--each", type=int, default=80, help="training samples of a client")
    parser.add_argument("--tests", type=int, default=100, help="test samples of a client")
    parser.add_argument("--alpha", type=float, default=0.3, help="less is more skewed labels")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--layers", type=int, default=1, help="upper layers with adapters")
    parser.add_argument("--tune", action="store_true", help="try learning rates, on other splits")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where results go")
    options = parser.parse_args()
    counts = ("seeds", "rounds", "steps", "batch", "each", "tests")
    if any(getattr(options, name) < 1 for name in counts) or options.clients < 2:
        parser.error(f"{', '.join(counts)} must be at least 1, and clients at least 2")
    if not (options.alpha > 0 and options.tokens > 2 and 1 <= options.layers <= 6):
        parser.error("alpha must be above 0, tokens above 2, and layers 1 to 6")
    return options


def main() -> None:
    """Run the example and say what it showed."""
    options = arguments()
    if absent := missing():
        raise SystemExit(absent)
    if options.tune:
        tune(options)
        return
    folder = options.out / time.strftime("fedsa-lora-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    began = time.perf_counter()
    rows = follow(options, Console(), folder / "metrics.jsonl")
    seconds = time.perf_counter() - began
    (folder / "table.md").write_text(report.table(rows))
    report.plot(rows, folder / "accuracy.png")
    verdicts = report.judges(rows)
    names = ("rounds", "steps", "batch", "clients", "each", "tests", "alpha", "tokens", "layers")
    setting = {name: getattr(options, name) for name in names}
    setting |= {"python": platform.python_version(), "seconds": round(seconds)}
    summary = report.summary(rows, verdicts) | {"setting": setting}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"\npersonal accuracy, {options.seeds} seeds of {options.clients} clients:")
    for verdict in verdicts:
        print(verdict)
    sent = {row.method: row.uplink for row in rows}
    share = sent["fedsa"] / sent["fedit, own heads"]
    print(f"an upload of fedsa has {share:.3f} of the bytes of one of fedit, heads aside")
    print(f"written after {seconds:.0f} s: metrics.jsonl, table.md, summary.json, accuracy.png in")
    print(folder)


if __name__ == "__main__":
    main()
