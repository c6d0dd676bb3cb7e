"""How many records each client should process, and how long a round should last.

The baselines of stochastic coded federated learning. Coded federated learning (CFL: Dhakal et al.,
2019, arXiv 2002.09574) and CodedFedL (Prakash et al., JSAC 2021, arXiv 2011.06223) give each client
the load ℓ_i with the greatest expected return, and end rounds at the first t* at which these and
the c coded records come to all m records: c + Σ_i ℓ_i · P(T_i(ℓ_i) ≤ t*) = m. Reconstructed from
their descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pyfed.checks import expect_int
from pyfed.coded.delays import Delays, expect_models
from pyfed.coded.loads import best_load
from pyfed.coded.plain import plain, plain_list
from pyfed.errors import ArgumentError

_DOUBLINGS = 200
_HALVINGS = 52


@dataclass(frozen=True)
class Allocation:
    """Loads and the end of a round.

    Args:
        deadline: t*, seconds.
        loads: ℓ_i, records of each client; its first ones are meant.
        returns: ℓ_i · P(T_i(ℓ_i) ≤ t*) of each client.
        records: how many each client has.
        rows: c, coded records.
    """

    deadline: float
    loads: tuple[float, ...]
    returns: tuple[float, ...]
    records: tuple[int, ...]
    rows: int

    @property
    def arrival(self) -> list[float]:
        """P(T_i(ℓ_i) ≤ t*) of every client; 0 for one without load."""
        pairs = zip(self.returns, self.loads, strict=True)
        return [part / load if load else 0.0 for part, load in pairs]

    @property
    def redundancy(self) -> float:
        """δ = c / m."""
        return self.rows / sum(self.records)

    def record_arrival(self, client: int) -> torch.Tensor:
        """For ``CodedDataset.encode(arrival=)``: p of each of a client's records.

        A record that the client processes comes with its probability, one that it never does with
        probability 0; so in the code they weigh √(1 − p_i) and 1.

        Args:
            client: its number.

        Returns:
            float64 (records,).

        Raises:
            ArgumentError: there is no such client, or its load is no whole number.
            DtypeError: it is no int.
        """
        client = plain(client)
        expect_int("record_arrival", "client", client, 0, len(self.loads))
        load = self.loads[client]
        if load != int(load):
            raise ArgumentError(
                f"record_arrival: the load of client {client} is {load:g}; it must be whole: call "
                "allocate with whole=True"
            )
        p = torch.zeros(self.records[client], dtype=torch.float64)
        p[: int(load)] = self.arrival[client]
        return p


def allocate(
    models: Sequence[Delays], records: Sequence[int], rows: int, whole: bool = True
) -> Allocation:
    """The earliest deadline at which coded records and expected returns come to all records.

    Args:
        models: of the clients' delays.
        records: how many each client has.
        rows: c, coded records, in [1, Σ records).
        whole: whether loads are whole numbers of records.

    Returns:
        t* with the loads that are best for it.

    Raises:
        ArgumentError: a number is out of its range, the lengths differ, or no deadline will do,
            since in measured rounds too little came.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import DelayModel, allocate
    >>> quick, slow = DelayModel(0.01, uplink=0.5), DelayModel(0.1, uplink=0.5)
    >>> found = allocate([quick, slow], [100, 100], rows=90)
    >>> round(found.deadline, 6), found.loads, found.arrival
    (1.5, (100.0, 10.0), [1.0, 1.0])
    """
    expect_models("allocate", models)
    counts, coded = plain_list("allocate", "records", records), plain(rows)
    if not models or len(counts) != len(models):
        raise ArgumentError(
            f"allocate: records has {len(counts)} entries; it must have one for each of "
            f"{len(models)} models, of which there must be at least one"
        )
    for count in counts:
        expect_int("allocate", "records", count, 0, 2**53)
    expect_int("allocate", "rows", coded, 1, max(sum(counts), 1))
    needed = sum(counts) - coded

    def found(deadline: float) -> list[tuple[float, float]]:
        pairs = zip(models, counts, strict=True)
        return [best_load(model, deadline, count, whole) for model, count in pairs]

    def enough(deadline: float) -> bool:
        return bool(sum(part for _, part in found(deadline)) >= needed)

    low, high = 0.0, 2.0**-30
    for _ in range(_DOUBLINGS):
        if enough(high):
            break
        low, high = high, 2 * high
    else:
        raise ArgumentError(
            f"allocate: rows is {coded}; at no deadline do the {needed} other records come back on "
            "average: ask for more coded rows"
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    loads, returns = zip(*found(high), strict=True)
    return Allocation(high, loads, returns, tuple(counts), coded)
