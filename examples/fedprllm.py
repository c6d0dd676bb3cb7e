"""FedPrLLM on real weights: clients vote on what to prune from a language model, a server counts.

Thirty-two clients calibrate on 256 tokens each of text that ships with Python and upload a mask,
one bit for each weight. The server prunes the weights with the most votes. How good the model
stays is compared with pruning on all text in one place and with each client on its own, for every
comparison group and every rule for ties.

    python examples/fedprllm.py --model smollm2    # SmolLM2-135M: half an hour on two cores
    python examples/fedprllm.py --model minilm     # MiniLM-L6, an encoder: two minutes

Source: Guo et al., arXiv 2505.13547.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

try:
    import fedprllm_report as report
    from fedprllm_models import SPECS, Spec, load, measure_of, weights_path
    from fedprllm_records import Row, VoteFigures
    from fedprllm_study import Study, steps
    from fedprllm_text import cut, documents, split
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ModuleNotFoundError as missing:
    wanted = "transformers accelerate gguf matplotlib rich msgpack"
    raise SystemExit(f"{missing.name} is not installed; run: pip install {wanted}") from missing

COLUMNS = ("seed", "sparsity", "variant", "quality", "by ties", "seconds")
WIDTHS = (4, 8, 28, 10, 8, 8)

Result = Row | VoteFigures


def cells(row: Row, seconds: float) -> list[str]:
    """The cells of a row, in the order of COLUMNS."""
    tied = "" if row.tie_share is None else f"{row.tie_share:.2%}"
    quality = report.short(row.quality)
    return [str(row.seed), f"{row.sparsity:.0%}", row.variant, quality, tied, f"{seconds:.1f}"]


def results(
    options: argparse.Namespace, spec: Spec, step: Callable[[str], None]
) -> Iterator[Result]:
    """Everything that all seeds give."""
    model, tokenizer = load(spec)
    windows = cut(documents(), tokenizer, spec.length)
    for seed in range(options.seeds):
        parts = split(
            *(windows, options.clients, options.windows, spec.heldout, seed),
            by_topic=options.split == "topic",
        )
        study = Study(model, measure_of(spec, model, parts.heldout), parts, seed, step)
        yield study.dense()
        yield from study.run(options.sparsity, full=True)
        for sparsity in options.also:
            yield from study.run(sparsity, full=False)


def follow(
    options: argparse.Namespace, spec: Spec, console: Console, metrics: Path
) -> list[Result]:
    """Run everything: a table and a progress bar on a terminal, plain lines elsewhere."""
    done: list[Result] = []
    began = time.perf_counter()

    def finished(one: Result) -> list[str]:
        nonlocal began
        seconds = time.perf_counter() - began
        began += seconds
        done.append(one)
        with metrics.open("a") as file:
            line = {"kind": type(one).__name__, **asdict(one), "seconds": round(seconds, 2)}
            file.write(json.dumps(line) + "\n")
        return cells(one, seconds) if isinstance(one, Row) else []

    if not console.is_terminal:

        def show(texts: tuple[str, ...] | list[str]) -> None:
            pairs = zip(texts, WIDTHS, strict=True)
            print(" ".join(f"{text:>{width}}" for text, width in pairs), flush=True)

        show(COLUMNS)
        for one in results(options, spec, step=lambda text: None):
            if texts := finished(one):
                show(texts)
        return done
    table = Table(title=f"votes of {options.clients} clients on {options.model}")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    columns = (
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
        TextColumn("{task.description}"),
    )
    progress = Progress(*columns, console=console)
    total = options.seeds * steps(options.clients, len(options.also))
    task = progress.add_task("loading", total=total)

    def step(text: str) -> None:
        progress.update(task, advance=1, description=text)

    with Live(Group(table, progress), console=console, refresh_per_second=4):
        for one in results(options, spec, step):
            if texts := finished(one):
                table.add_row(*texts)
    return done


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=tuple(SPECS), default="smollm2")
    parser.add_argument("--seeds", type=int, help="how many splits of the text; 3, for minilm 1")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--sparsity", type=float, default=0.5, help="with every group and rule")
    parser.add_argument(
        *("--also",), type=float, nargs="*", default=[0.6, 0.7], help="with the layer vote only"
    )
    parser.add_argument(
        *("--split",), choices=("iid", "topic"), default="iid", help="topic: a client has one topic"
    )
    parser.add_argument("--windows", type=int, help="of text for a client; 256 tokens by default")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where results go")
    options = parser.parse_args()
    spec = SPECS[options.model]
    options.seeds = spec.seeds if options.seeds is None else options.seeds
    options.windows = spec.each if options.windows is None else options.windows
    options.also = [sparsity for sparsity in options.also if sparsity != options.sparsity]
    if options.seeds < 1 or options.clients < 2 or options.windows < 1:
        parser.error("seeds and windows must be at least 1, and clients at least 2")
    if not all(0 < sparsity < 1 for sparsity in (options.sparsity, *options.also)):
        parser.error("each sparsity must be between 0 and 1")
    return options


def main() -> None:
    """Run the example and say what it showed."""
    options = arguments()
    spec = SPECS[options.model]
    try:
        weights_path(spec)
    except ModuleNotFoundError as missing:
        raise SystemExit(str(missing)) from missing
    folder = options.out / time.strftime(f"fedprllm-{options.model}-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    began = time.perf_counter()
    done = follow(options, spec, Console(), folder / "metrics.jsonl")
    seconds = time.perf_counter() - began
    rows = [one for one in done if isinstance(one, Row)]
    figures = [one for one in done if isinstance(one, VoteFigures)]
    (folder / "table.md").write_text(report.table(rows, figures, spec))
    report.plot(rows, options.sparsity, spec, folder / "quality.png")
    verdicts = report.judges(rows, options.sparsity, spec)
    setting = {name: getattr(options, name) for name in ("model", "clients", "split", "windows")}
    setting |= {"python": platform.python_version(), "seconds": round(seconds)}
    summary = report.summary(rows, figures, verdicts, spec) | {"setting": setting}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{spec.metric} at {options.sparsity:.0%}, {options.seeds} seeds:")
    for verdict in verdicts:
        print(verdict)
    for name, value in report.vote_lines(figures).items():
        print(f"{name}: {value}")
    print(
        f"written after {seconds:.0f} s: metrics.jsonl, table.md, summary.json and quality.png in"
    )
    print(folder)


if __name__ == "__main__":
    main()
