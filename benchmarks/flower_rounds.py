"""A round over Flower: pyfed's SecureFedAvg, flwr's legacy SecAgg+ workflow, and plain FedAvg.

    python benchmarks/flower_rounds.py [--clients 10] [--length 1000000] [--rounds 9]

All four play in turn, in one process, over grids that carry every message through its bytes. Each
next model is held against the exact mean before anything is reported. Protocol time is what server
and clients do, without the training, and without waiting for a disk: its offline half, set-up and
shares, needs no update. Engine time is the bytes' way, and what an engine adds to that (polling,
processes, networks) is not in it. A second table shows rounds with a client lost.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import pyfed
from flower_contestants import (
    MAX_WEIGHT,
    Contestant,
    LegacySecAggPlus,
    Plain,
    Secure,
    Task,
    kept_log,
)
from flower_grid import STAGES, Time, watched_disk
from machine import describe
from pyfed.secagg import LightSecAgg, SecAggPlus
from ratios import Ratio
from report import times

CLIP, BITS = 0.5, 16
SUBJECT = "pyfed LightSecAgg"
SECURE = (SUBJECT, "pyfed SecAgg+", "flwr SecAgg+")
RIVALS = ("flwr SecAgg+", "FedAvg")
SHORT = 10_000
"""Values in the rounds in which a client is lost, which nobody times."""


class WrongResultError(Exception):
    """A contestant's model is not the mean."""


@dataclass
class Played:
    """One round: times, and bytes of all clients."""

    server: Time
    clients: dict[str, Time]
    offline: Time
    engine: Time
    upload: int
    shares: tuple[int, int]
    sent: int
    received: int
    error: float

    @property
    def protocol(self) -> Time:
        """What server and clients have done, one after the other."""
        return sum(self.clients.values(), self.server)

    @property
    def online(self) -> Time:
        """What of it comes after set-up and shares."""
        return self.protocol - self.offline


@dataclass
class Fate:
    """A round with a client lost: how many are in the mean, or why there is none."""

    inside: int
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.inside} in the mean" if self.inside else f"lost: {self.reason}"


def make_task(clients: int, length: int) -> Task:
    """A random model, random updates within the clip, and weights that differ."""
    generator = torch.Generator().manual_seed(8)
    model = torch.rand(length, generator=generator) - 0.5
    updates = (torch.rand(clients, length, generator=generator) - 0.5) * (2 * CLIP)
    return Task(model, updates, tuple(MAX_WEIGHT * (i + 1) // clients for i in range(clients)))


def make(name: str, task: Task, folder: Path, lost: Mapping[str, int] | None = None) -> Contestant:
    """A contestant; the secure ones bear as many losses, and pyfed's hide as many updates."""
    if name == "FedAvg":
        return Plain(task, lost)
    losses = 3 * task.clients // 10
    if name == "flwr SecAgg+":
        return LegacySecAggPlus(task, task.clients - losses, lost)
    fixed = pyfed.FixedPoint(clip=CLIP, bits=BITS, clients=task.clients, max_weight=MAX_WEIGHT)
    numbers = (task.clients, losses, losses, task.model.numel(), fixed)
    protocol = (
        LightSecAgg(*numbers)
        if name == SUBJECT
        else SecAggPlus(*numbers, degree=task.clients - 1)  # the complete graph, as the rival's
    )
    own = folder / "-".join([name, *(lost or ())])
    own.mkdir()
    return Secure(task, protocol, own, lost)


def error_of(contestant: Contestant, model: torch.Tensor, without: frozenset[int]) -> float:
    """The largest difference from the exact mean; raises where it is too large."""
    error = float((model.double() - contestant.task.mean(without)).abs().max())
    if not error <= contestant.error:
        name = type(contestant).__name__
        raise WrongResultError(f"{name}: off by {error:.2g}, and {contestant.error:.2g} at most")
    return error


def played(contestant: Contestant) -> Played:
    """Play a round in which nobody is lost."""
    grid, total = contestant.grid, Time()
    with total.running():
        grid.forget()
        model = contestant.play()
    if model is None:
        raise WrongResultError(f"{type(contestant).__name__}: the round is lost")
    error = error_of(contestant, model, frozenset())
    clients = {stage: grid.apps[stage] for stage in STAGES if stage in grid.apps}
    engine = sum(clients.values(), Time())
    clients["update"] = clients["update"] - grid.training
    offline = Time()
    if "share" in clients:  # the server deals shares out just before it asks for updates
        parts = clients["keys"], clients["share"], *(grid.before[s] for s in STAGES[:3])
        offline = sum(parts, Time())
    return Played(
        server=total - grid.exchanges,
        clients=clients,
        offline=offline,
        engine=grid.exchanges - engine,
        upload=grid.sent["update"],
        shares=contestant.shares(),
        sent=sum(grid.sent.values()),
        received=sum(grid.received.values()),
        error=error,
    )


def measured(clients: int, length: int, rounds: int) -> dict[str, list[Played]]:
    """Rounds in turn, each contestant first as often as last; one before that is not counted."""
    task, threads = make_task(clients, length), torch.get_num_threads()
    found: dict[str, list[Played]] = {name: [] for name in (*SECURE, "FedAvg")}
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, kept_log(), watched_disk():
            everyone = {name: make(name, task, Path(folder)) for name in found}
            for contestant in everyone.values():
                played(contestant)
            for number in range(rounds):
                for name in list(found)[:: -1 if number % 2 else 1]:
                    gc.collect()
                    gc.disable()
                    found[name].append(played(everyone[name]))
                    gc.enable()
    finally:
        gc.enable()
        torch.set_num_threads(threads)
    return found


def fates(clients: int, length: int) -> dict[str, dict[str, Fate]]:
    """Stage → contestant → what becomes of a first round in which a client is lost there."""
    task = make_task(clients, length)
    found: dict[str, dict[str, Fate]] = {}
    with tempfile.TemporaryDirectory() as folder, kept_log() as errors:
        for stage in STAGES:
            found[stage] = {}
            for name in SECURE:
                node = task.nodes[clients // 2]
                contestant = make(name, task, Path(folder), {stage: node})
                errors.clear()
                model = contestant.play()
                if model is None:
                    reasons = [*errors, *sorted(set(contestant.grid.failures))]
                    found[stage][name] = Fate(0, "; ".join(reasons))
                    continue
                # Who is lost only after the update has come is in the sum.
                without = frozenset() if stage == "recover" else frozenset({node})
                error_of(contestant, model, without)
                found[stage][name] = Fate(clients - len(without))
    return found


def ratio(subject: list[Played], rival: list[Played], part: str, clock: str) -> Ratio:
    """The rival's time for a part of the round over the subject's, round by round."""
    quotients = [
        getattr(getattr(slow, part), clock) / getattr(getattr(fast, part), clock)
        for fast, slow in zip(subject, rival, strict=True)
    ]
    low, median, high = statistics.quantiles(quotients, n=4, method="inclusive")
    return Ratio(median, low, high, len(quotients))


def _ms(rounds: list[Played], part: str, clock: str = "wall") -> str:
    return f"{1e3 * statistics.median(getattr(getattr(one, part), clock) for one in rounds):.0f}"


def print_rounds(found: dict[str, list[Played]], values: int) -> None:
    """Times of a round in ms, medians, and bytes for each value of each client."""
    times_of = ("protocol", "computed", "offline", "online", "server", "disk", "engine")
    heads = (*times_of, "upload", "shares sent", "shares received", "all sent", "all received")
    print("| | " + " | ".join((*heads, "error")) + " |")
    print("| --- |" + " --- |" * (len(heads) + 1))
    for name, rounds in found.items():
        last = rounds[-1]
        sizes = (last.upload, *last.shares, last.sent, last.received)
        cells = (
            *(_ms(rounds, "protocol"), _ms(rounds, "protocol", "computed")),
            *(_ms(rounds, part) for part in ("offline", "online", "server")),
            *(_ms(rounds, "protocol", "disk"), _ms(rounds, "engine")),
            *(f"{size / values:.2f}" for size in sizes),
            f"{max(one.error for one in rounds):.1e}",
        )
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nms of all clients, by stage:")
    for name, rounds in found.items():
        parts = [
            f"{stage} {1e3 * statistics.median(one.clients[stage].wall for one in rounds):.0f}"
            for stage in rounds[0].clients
        ]
        print(f"  {name}: {', '.join(parts)}")


def print_ratios(found: dict[str, list[Played]]) -> None:
    """How many times the rivals' protocol time is pyfed's, with quartiles."""
    for subject in SECURE[:2]:
        for rival in RIVALS:
            for part, clock in itertools.product(("protocol", "online"), ("wall", "computed")):
                r = ratio(found[subject], found[rival], part, clock)
                spread = f"[{times(r.low)} – {times(r.high)}]"
                told = f"the time of {subject} ({part}, {clock})"
                print(f"{rival} takes {times(r.median)}× {spread} {told}")


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--length", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.clients < 7 or options.length < 1 or options.rounds < 5:
        parser.error("clients must be at least 7, length at least 1, and rounds at least 5")
    machine = describe()
    print(f"{machine['cpu']}, one thread; {machine['versions']}")
    print(f"{options.clients} clients, {options.length:,} values, {options.rounds} rounds\n")
    found = measured(options.clients, options.length, options.rounds)
    print_rounds(found, options.clients * options.length)
    print()
    print_ratios(found)
    for name, rival in zip(RIVALS, (LegacySecAggPlus, Plain), strict=True):
        print(f"{name} lacks: {rival.lacks}")
    print("\nA client is lost:")
    for stage, outcomes in fates(options.clients, SHORT).items():
        for name, fate in outcomes.items():
            print(f"  in {stage}: {name}: {fate}")


if __name__ == "__main__":
    main()
