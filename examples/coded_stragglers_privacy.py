"""Coded sets with noise, summed in secret, at several ε; beside one-shot private statistics."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from coded_stragglers_data import Digits
from coded_stragglers_network import Network
from coded_stragglers_study import Run, Setting, key_of, rounds

import pyfed
from pyfed.coded import (
    SCFL,
    CodedDataset,
    PrivateStatistics,
    coded_solution,
    extreme_eigenvalues,
    privacy,
    simulate_coded,
)
from pyfed.secagg import LightSecAgg

DELTA = 1e-5
RECORD_NORM = 1.45  # ‖φ(x)‖² is about 1 and a one-hot label has norm 1; longer records are clipped
COLLUDERS, LOST = 3, 1  # whose noise is not counted on
CLIP, BITS = 512.0, 26
KINDS = ("scfl", "coded", "statistics")


@dataclass
class Noisy:
    """What one ε gave; a line of the JSONL file.

    Attributes:
        kind: "scfl": rounds with stragglers, whose gradients nothing hides; "coded": the solution
            on the coded sum alone; "statistics": that of noisy XᵀX and XᵀY.
        seed: Of the deal.
        epsilon: What was asked for; at infinity there is no noise.
        noise_std: Of the sum over all clients.
        accuracy: At the end.
        ridge: What it took; of statistics AdaSSP's is not told.
        largest_error: Of the sum in secret against the same sets added in plain.
        megabytes: That a client sends once.
    """

    kind: str
    seed: int
    epsilon: float
    noise_std: float
    accuracy: float
    ridge: float
    largest_error: float
    megabytes: float

    def json(self) -> dict[str, object]:
        """As plain values."""
        return {"part": "noise"} | asdict(self)


def share_of(noise_std: float, clients: int) -> float:
    """σ of one client, so that those who neither collude nor are lost have ``noise_std``."""
    return noise_std / math.sqrt(clients - COLLUDERS - LOST)


def form(clients: int) -> pyfed.FixedPoint:
    """What is summed in secret; its step is the grid of the noise, so that nothing is rounded."""
    return pyfed.FixedPoint(clip=CLIP, bits=BITS, clients=clients)


def secret_sum(sets: list[CodedDataset], seed: int) -> tuple[CodedDataset, float, float]:
    """The sum through LightSecAgg, how far it is from the plain one, and a client's megabytes."""
    clients, length = len(sets), len(sets[0].vector())
    fixed = form(clients)
    protocol = LightSecAgg(
        clients=clients, privacy=COLLUDERS, dropouts=LOST, length=length, fixed=fixed
    )
    result = simulate_coded(protocol, sets, key=pyfed.Key(bytes(32)).derive("sum", seed))
    plain = CodedDataset.total(sets).vector()
    sent = sum(size for (role, _), size in result.traffic.items() if role == "client")
    error = float((result.coded.vector() - plain).abs().max())
    return result.coded, error, sent / clients / 1e6


def noisy_runs(
    digits: Digits, network: Network, setting: Setting, seed: int, epsilons: tuple[float, ...]
) -> list[Noisy]:
    """All kinds at every ε, and without noise."""
    found, columns = [], digits.x[0].shape[1] + digits.y[0].shape[1]
    for number, epsilon in enumerate((*epsilons, math.inf)):
        sigma = tau = 0.0
        if epsilon < math.inf:
            given = {"epsilon": epsilon, "delta": DELTA, "record_norm": RECORD_NORM}
            noise = {"columns": columns, "clients": len(digits.x) - COLLUDERS - LOST}
            sigma = privacy.noise(setting.rows, **given, **noise, grid=1 / form(1).scale)
            tau = privacy.statistics_noise(**given, **noise)
        # A stream of a client's key serves one release.
        streams = 1 + 2 * number, 2 + 2 * number
        found.append(stragglers(digits, network, setting, seed, epsilon, sigma, streams[0]))
        found.append(alone(digits, setting, seed, epsilon, sigma, streams[1]))
        found.append(statistics(digits, seed, epsilon, tau))
    return found


def stragglers(
    digits: Digits,
    network: Network,
    setting: Setting,
    seed: int,
    epsilon: float,
    sigma: float,
    stream: int,
) -> Noisy:
    """SCFL by "complement" with as little ridge as the guard asks for."""
    loads = [len(own) for own in digits.x]
    arrival = network.arrival(setting.deadline, loads)
    scfl = SCFL("complement", arrival, lr=1 / digits.curvature(), ridge="least")
    noise = (share_of(sigma, len(loads)), RECORD_NORM, "clip")
    how = {"grid": 1 / form(1).scale if sigma else None, "stream": stream}
    sets = [
        scfl.client(i, x, y).encode(setting.rows, key_of(seed, i), "gaussian", *noise, **how)
        for i, (x, y) in enumerate(zip(digits.x, digits.y, strict=True))
    ]
    coded, error, sent = secret_sum(sets, seed)
    server = scfl.server(coded)
    run = Run("complement", seed, setting.deadline)
    rounds(run, digits, network, setting, loads, lambda gradients, weight: server.step(gradients))
    return Noisy(
        *("scfl", seed, epsilon, coded.noise_std, run.accuracy[-1], server.ridge, error, sent)
    )


def alone(
    digits: Digits, setting: Setting, seed: int, epsilon: float, sigma: float, stream: int
) -> Noisy:
    """The solution on the coded sum: one release, and no gradients at all."""
    share = share_of(sigma, len(digits.x))
    how = {"grid": 1 / form(1).scale if sigma else None, "stream": stream}
    sets = [
        CodedDataset.encode(
            *(x, y, setting.rows, key_of(seed, i), "gaussian", share, RECORD_NORM, "clip"),
            **how,
        )
        for i, (x, y) in enumerate(zip(digits.x, digits.y, strict=True))
    ]
    coded, error, sent = secret_sum(sets, seed)
    # Twice what keeps the Hessian positive: it was best, or near it, at every ε of a first seed.
    ridge = 2 * max(0.0, -extreme_eigenvalues(coded)[0]) + 1
    accuracy = digits.accuracy(coded_solution(coded, ridge))
    return Noisy("coded", seed, epsilon, coded.noise_std, accuracy, ridge, error, sent)


def statistics(digits: Digits, seed: int, epsilon: float, tau: float) -> Noisy:
    """Noisy XᵀX and XᵀY of all clients, with the ridge of AdaSSP."""
    total = None
    for client, (x, y) in enumerate(zip(digits.x, digits.y, strict=True)):
        key = pyfed.Key(bytes(32)).derive("statistics", seed, client)
        share = share_of(tau, len(digits.x))
        own = PrivateStatistics.encode(x, y, share, key, RECORD_NORM, "clip")
        total = own if total is None else total + own
    assert total is not None
    size = len(total.gram)
    accuracy = digits.accuracy(total.solve())
    std, megabytes = math.sqrt(total.noise_variance), 4 * size * (size + 1) / 2 / 1e6
    return Noisy("statistics", seed, epsilon, std, accuracy, 0.0, 0.0, megabytes)
