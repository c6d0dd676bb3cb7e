"""CFL and CodedFedL: clients process what is likely to come back in time, the code makes up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyfed.checks import expect_int
from pyfed.coded.allocation import Allocation, allocate
from pyfed.coded.dataset import CodedDataset, Kind
from pyfed.coded.delays import Delays
from pyfed.coded.plain import plain
from pyfed.coded.records import expect_records
from pyfed.coded.scfl import SCFL
from pyfed.coded.scfl_client import SCFLClient
from pyfed.errors import ArgumentError
from pyfed.keys import Key


class CodedFedL:
    """Coded federated learning with loads and a deadline of its own choice, and without noise.

    The deadline t* is the first at which c coded records and the expected returns Σ ℓ_i·P(T_i ≤ t*)
    come to all m records. A client processes its first ℓ_i records; in the code these weigh
    √(1 − P(T_i ≤ t*)), and the others, which no client ever processes, 1. On records as they are
    this is CFL (Dhakal et al., 2019, arXiv 2002.09574); on random Fourier features it is CodedFedL
    (Prakash et al., JSAC 2021, arXiv 2011.06223). Reconstructed from their descriptions.

    Args:
        models: of the clients' delays.
        records: m_i of each client.
        rows: c.
        settings: further arguments of :class:`SCFL`, but for ``rule`` and ``arrival``.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or no deadline is long enough.

    Example:
        >>> from pyfed.coded import CodedFedL, DelayModel
        >>> quick, slow = DelayModel(0.01, uplink=0.1), DelayModel(0.1, uplink=0.1)
        >>> scheme = CodedFedL([quick, slow], records=[100, 100], rows=60)
        >>> scheme.allocation.loads, round(scheme.allocation.deadline, 3)
        ((100.0, 40.0), 4.1)
    """

    def __init__(
        self, models: Sequence[Delays], records: Sequence[int], rows: int, **settings: Any
    ) -> None:
        self.allocation: Allocation = allocate(models, records, rows)
        arrival = {i: p for i, p in enumerate(self.allocation.arrival) if p > 0}
        self.scfl = SCFL("complement", arrival, **settings)
        self._rows = self.allocation.rows

    def client(self, index: int, x: torch.Tensor, y: torch.Tensor) -> SCFLClient:
        """A client, with all its records; its updates are of the first ℓ_i.

        Raises:
            DtypeError, ArgumentError: an argument is wrong, or it has no load.
        """
        features, labels = self._expect(index, x, y)
        load = int(self.allocation.loads[index])
        if not load:
            raise ArgumentError(
                f"CodedFedL: client {index} has load 0, so that it processes nothing; it encodes "
                "and is never waited for"
            )
        return self.scfl.client(index, features[:load], labels[:load])

    def encode(
        self, index: int, x: torch.Tensor, y: torch.Tensor, key: Key, kind: Kind = "gaussian"
    ) -> CodedDataset:
        """The coded set of all records of a client.

        Raises:
            DtypeError, ArgumentError: an argument is wrong.
        """
        features, labels = self._expect(index, x, y)
        arrival = self.allocation.record_arrival(index)
        return CodedDataset.encode(features, labels, self._rows, key, kind, arrival=arrival)

    def _expect(
        self, index: int, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The records; raises unless they are as many as were said."""
        records = self.allocation.records
        expect_int("CodedFedL", "index", plain(index), 0, len(records))
        features, labels = expect_records("CodedFedL", x, y)
        if len(features) != records[index]:
            raise ArgumentError(
                f"CodedFedL: client {index} has {len(features)} records; records says "
                f"{records[index]}"
            )
        return features, labels
