"""Rounds of local training and averaging: in secret, in plain floats, or not at all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from secea_embeddings_model import first_values, heldout, train
from secea_embeddings_text import Corpus

import pyfed
from pyfed.engines.secea import simulate_secea
from pyfed.secagg import SecEA

METHODS = ("alone", "plain", "secea")
CLIP, BITS = 8.0, 24  # steps of 2^-20
LOST = ("upload", "recover")  # before it is in the sum; after, so that it gets no averages

Values = list[torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """The numbers of a run; ``blocks`` is K of SecEA and ``privacy`` T."""

    rounds: int
    steps: int
    batch: int
    lr: float
    dim: int
    privacy: int
    blocks: int
    drop: bool


@dataclass
class Point:
    """One round: means over the clients.

    Attributes:
        trained: How often neighbours beat noise, after the client's own steps.
        trained_loss: Skip-gram loss likewise.
        received: The same with what the client has at the end of the round.
        received_loss: Likewise.
    """

    trained: float
    trained_loss: float
    received: float
    received_loss: float


@dataclass
class Row:
    """One run of one method; a line of metrics.jsonl.

    Attributes:
        method: One of METHODS.
        seed: Of the deal, the training and who is lost.
        union: Words of all clients.
        curve: A point for each round.
        accuracies: Of each client after the last round.
        losses: Likewise.
        error: The largest difference of an average from that of the same floats; 0 but for secea.
        setup: Bytes that a client sent before the first round.
        uplink: Bytes that it sent in each round, the mean over clients.
        training: Seconds of all clients together.
        meeting: Seconds of aggregation.
    """

    method: str
    seed: int
    union: int
    curve: list[Point] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    error: float = 0.0
    setup: float = 0.0
    uplink: list[float] = field(default_factory=list)
    training: float = 0.0
    meeting: float = 0.0

    def json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def average(corpora: Sequence[Corpus], values: Values, inside: set[int]) -> Values:
    """For each client the float mean of every own word over its owners inside.

    A word that has no owner inside stays as it is.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    for client in sorted(inside):
        for word, row in zip(corpora[client].words, values[client].to(torch.float64), strict=True):
            sums[word] = sums[word] + row if word in sums else row
            counts[word] = counts.get(word, 0) + 1
    return [
        torch.stack(
            [
                (sums[word] / counts[word]).to(torch.float32) if word in sums else row
                for word, row in zip(corpus.words, own, strict=True)
            ]
        )
        for corpus, own in zip(corpora, values, strict=True)
    ]


class Secret:
    """Averages through SecEA: a client learns those of its own words, and nobody learns whose."""

    def __init__(self, corpora: Sequence[Corpus], setting: Setting, key: pyfed.Key | None) -> None:
        count = len(corpora)
        fixed = pyfed.FixedPoint(clip=CLIP, bits=BITS, clients=count)
        self.protocol = SecEA(
            clients=count,
            privacy=setting.privacy,
            blocks=setting.blocks,
            dim=2 * setting.dim,
            fixed=fixed,
            dropouts=len(LOST) if setting.drop else 0,
        )
        self.corpora, self.key = corpora, key
        self.setups: dict[int, Any] | None = None  # union and queries serve all rounds

    def average(self, values: Values, drop: dict[str, set[int]], row: Row) -> Values:
        """What every client has after the round; one that gets nothing keeps what it had."""
        entities = [
            dict(zip(corpus.words, own, strict=True))
            for corpus, own in zip(self.corpora, values, strict=True)
        ]
        number = len(row.uplink)
        result = simulate_secea(
            self.protocol, entities, drop=drop, key=self.key, round=number, setups=self.setups
        )
        self.setups, row.union = result.setups, result.union_size
        count = len(values)
        sent = {phase: size for (role, phase), size in result.traffic.items() if role == "client"}
        row.setup += sent.pop("setup", 0) / count
        row.uplink.append(sum(sent.values()) / count)
        wanted = average(self.corpora, values, set(result.included))
        new = []
        for corpus, own, back, near in zip(
            self.corpora, values, result.embeddings, wanted, strict=True
        ):
            if back is None:
                new.append(own)
                continue
            # A word whose only owner was lost has no average, and its owner has got none.
            got = torch.stack(
                [back.get(word, at) for word, at in zip(corpus.words, own, strict=True)]
            )
            row.error = max(row.error, float((got - near).abs().max()))
            new.append(got)
        return new


def lost_in(setting: Setting, clients: int, seed: int, number: int) -> dict[str, set[int]]:
    """Phase → the client that is lost in it, of one round."""
    if not setting.drop:
        return {}
    chosen = np.random.default_rng([seed, number]).permutation(clients)[: len(LOST)]
    return {phase: {int(client)} for phase, client in zip(LOST, chosen, strict=True)}


def run(
    corpora: Sequence[Corpus],
    setting: Setting,
    method: str,
    seed: int,
    step: Callable[[], None] = lambda: None,
    key: pyfed.Key | None = None,
) -> Row:
    """All rounds of one method; ``step`` is called after each, and a key makes it repeatable."""
    row = Row(method, seed, len({word for corpus in corpora for word in corpus.words}))
    secret = Secret(corpora, setting, key) if method == "secea" else None
    values = [first_values(corpus.words, setting.dim) for corpus in corpora]
    for number in range(setting.rounds):
        began = time.perf_counter()
        values = [
            train(
                *(own, corpus, setting.steps, setting.batch, setting.lr),
                seed=10**6 * seed + 1000 * number + at,
            )
            for at, (own, corpus) in enumerate(zip(values, corpora, strict=True))
        ]
        row.training += time.perf_counter() - began
        trained = [heldout(own, corpus) for own, corpus in zip(values, corpora, strict=True)]
        began = time.perf_counter()
        drop = lost_in(setting, len(corpora), seed, number)
        if secret is not None:
            values = secret.average(values, drop, row)
        elif method == "plain":
            inside = set(range(len(corpora))) - drop.get("upload", set())
            gone = set().union(*drop.values())
            means = average(corpora, values, inside)
            values = [
                own if at in gone else mean
                for at, (own, mean) in enumerate(zip(values, means, strict=True))
            ]
        row.meeting += time.perf_counter() - began
        received = trained
        if method != "alone":
            received = [heldout(own, corpus) for own, corpus in zip(values, corpora, strict=True)]
        row.losses, row.accuracies = (list(part) for part in zip(*received, strict=True))
        loss, accuracy = (statistics.fmean(part) for part in zip(*trained, strict=True))
        row.curve.append(
            Point(accuracy, loss, statistics.fmean(row.accuracies), statistics.fmean(row.losses))
        )
        step()
    return row
