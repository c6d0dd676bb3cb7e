"""One run of one way with stragglers: accuracy against simulated time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from coded_stragglers_data import Digits
from coded_stragglers_network import Network

import pyfed
from pyfed.coded import SCFL, CodedDataset, CodedFedL
from pyfed.coded.baselines import drop_stragglers, inverse_probability, wait_for_all

PLAIN = ("wait", "drop", "inverse")
ALLOCATED = ("cfl", "codedfedl")
RULES = ("complement", "convex", "adaptive")
METHODS = (*PLAIN, *ALLOCATED, *RULES)
Gradients = dict[int, torch.Tensor]
Step = Callable[[Gradients, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """The numbers of a run.

    Attributes:
        rows: c, coded records.
        rounds: How many; waiting for all has as many, which take longer.
        deadline: Seconds of a round, but where the method chooses them.
        kind: The law of G.
    """

    rows: int
    rounds: int
    deadline: float
    kind: str


@dataclass
class Run:
    """One run; a line of the JSONL file.

    Attributes:
        method: One of METHODS.
        seed: Of the deal, the features, the network and who is late.
        deadline: Seconds of a round; 0 when it waits for all.
        setup: Seconds until the coded sets are there.
        seconds: When each round ended.
        accuracy: After each round.
        alpha: Of the last round, under "adaptive".
    """

    method: str
    seed: int
    deadline: float
    setup: float = 0.0
    seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    alpha: float | None = None

    def json(self) -> dict[str, object]:
        """As plain values."""
        return {"part": "time"} | asdict(self)

    def at(self, second: float) -> float:
        """The accuracy that it has then; that of a guess before the first round."""
        pairs = zip(self.seconds, self.accuracy, strict=True)
        done = [value for when, value in pairs if when <= second]
        return done[-1] if done else 0.1

    def settled(self, level: float) -> float:
        """The second from which on the accuracy is never below ``level``; infinite if it is."""
        when = math.inf
        for second, value in zip(reversed(self.seconds), reversed(self.accuracy), strict=True):
            if value < level:
                break
            when = second
        return when


def key_of(seed: int, client: int) -> pyfed.Key:
    """The key of a client's code, the same in every run; in production it is generated."""
    return pyfed.Key(bytes(32)).derive("example", seed, client)


def rounds(
    run: Run,
    digits: Digits,
    network: Network,
    setting: Setting,
    loads: Sequence[float],
    step: Step,
) -> Run:
    """Play all rounds: who arrives, when the round ends, and what becomes of W."""
    weight = torch.zeros(digits.x[0].shape[1], digits.y[0].shape[1])
    clock = run.setup
    parts = [(x[: int(n)], y[: int(n)]) for x, y, n in zip(digits.x, digits.y, loads, strict=True)]
    for times in network.times(run.seed, loads, setting.rounds):
        clock += run.deadline or float(times.max())
        gradients = {}
        for client, (x, y) in enumerate(parts):
            if len(x) and (not run.deadline or times[client] <= run.deadline):
                gradients[client] = x.T @ (x @ weight - y)
        weight = step(gradients, weight)
        run.seconds.append(round(clock, 2))
        run.accuracy.append(round(digits.accuracy(weight), 4))
    return run


def play(method: str, digits: Digits, network: Network, setting: Setting, seed: int) -> Run:
    """One method on one deal of the digits."""
    lr = 1 / digits.curvature()
    if method in ALLOCATED:
        return allocated(method, digits, network, setting, seed, lr)
    if method in RULES:
        return coded(method, digits, network, setting, seed, lr)
    counts = [len(own) for own in digits.x]
    arrival = network.arrival(setting.deadline, counts)

    def step(gradients: Gradients, weight: torch.Tensor) -> torch.Tensor:
        if not gradients:
            return weight
        if method == "wait":
            total = wait_for_all(gradients, range(len(counts)))
        elif method == "drop":
            total = drop_stragglers(gradients, counts)
        else:
            total = inverse_probability(gradients, arrival)
        return weight - lr / digits.samples * total

    run = Run(method, seed, 0.0 if method == "wait" else setting.deadline)
    return rounds(run, digits, network, setting, counts, step)


def coded(
    method: str, digits: Digits, network: Network, setting: Setting, seed: int, lr: float
) -> Run:
    """SCFL by one of its rules."""
    counts = [len(own) for own in digits.x]
    scfl = SCFL(method, network.arrival(setting.deadline, counts), lr=lr)
    sets = [
        scfl.client(i, x, y).encode(setting.rows, key_of(seed, i), setting.kind)
        for i, (x, y) in enumerate(zip(digits.x, digits.y, strict=True))
    ]
    run = Run(method, seed, setting.deadline)
    return with_server(run, scfl, sets, digits, network, setting, counts)


def allocated(
    method: str, digits: Digits, network: Network, setting: Setting, seed: int, lr: float
) -> Run:
    """CFL, which is on the pixels, or CodedFedL, which is on the features."""
    counts = [len(own) for own in digits.x]
    scheme = CodedFedL(network.models, counts, setting.rows, lr=lr)
    sets = [
        scheme.encode(i, x, y, key_of(seed, i), setting.kind)
        for i, (x, y) in enumerate(zip(digits.x, digits.y, strict=True))
    ]
    run = Run(method, seed, scheme.allocation.deadline)
    loads = scheme.allocation.loads
    return with_server(run, scheme.scfl, sets, digits, network, setting, loads)


def with_server(
    run: Run,
    scfl: SCFL,
    sets: list[CodedDataset],
    digits: Digits,
    network: Network,
    setting: Setting,
    loads: Sequence[float],
) -> Run:
    """All rounds with a coded set, which has to be uploaded first."""
    server = scfl.server(CodedDataset.total(sets))
    run.setup = network.upload(len(sets[0].vector()) / server.weight.numel())
    rounds(run, digits, network, setting, loads, lambda gradients, weight: server.step(gradients))
    if run.method == "adaptive":
        run.alpha = server.alpha
    return run
