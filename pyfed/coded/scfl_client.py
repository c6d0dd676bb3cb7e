"""A client of stochastic coded federated learning."""

from __future__ import annotations

from typing import Literal

import torch

from pyfed.checks import expect_int, expect_tensor
from pyfed.coded.dataset import CodedDataset, Kind
from pyfed.coded.plain import plain
from pyfed.coded.records import expect_records
from pyfed.coded.scfl import SCFL, batch_of
from pyfed.errors import ArgumentError
from pyfed.keys import Key


class SCFLClient:
    """Its records, their code, and gradients on them; made by :meth:`SCFL.client`.

    Attributes:
        index: its number.
        samples: m_i.
    """

    def __init__(self, settings: SCFL, index: int, x: torch.Tensor, y: torch.Tensor) -> None:
        self._settings = settings
        self._arrival = settings.expect_client(index)
        self.index: int = plain(index)
        self._x, self._y = expect_records("SCFL.client", x, y)
        self.samples = len(self._x)
        batch = settings.client_batch
        if batch is not None and batch > self.samples:
            raise ArgumentError(
                f"SCFL.client: client_batch is {batch}, and client {index} has {self.samples} "
                "records; use a smaller one"
            )

    def encode(
        self,
        rows: int,
        key: Key,
        kind: Kind = "gaussian",
        noise_std: float = 0.0,
        record_norm: float | None = None,
        on_large: Literal["clip", "refuse"] = "refuse",
        public: bool = False,
        noise: Literal["discrete", "gaussian"] = "discrete",
        grid: float | None = None,
        stream: int = 0,
    ) -> CodedDataset:
        """:meth:`CodedDataset.encode` of its records, weighted as the rule wants them.

        What is clipped here is clipped in the code alone; gradients are of the records as given.
        """
        return CodedDataset.encode(
            *(self._x, self._y, rows, key, kind, noise_std, record_norm, on_large, public),
            noise=noise,
            grid=grid,
            stream=stream,
            arrival=self._arrival if self._settings.rule == "complement" else None,
        )

    def update(self, weight: torch.Tensor, round: int = 0) -> torch.Tensor:
        """What the client sends: its gradient at W, or the sum of ``local_steps`` of them.

        Nothing hides it from the server; sum updates in secret, or add noise, where it must not
        be seen.

        Args:
            weight: W, float32 (features, outputs).
            round: number of the round, of which the batches depend.

        Returns:
            float32 (features, outputs): Σ_k X_iᵀ(X_i W_k − Y_i), in sums over its records.

        Raises:
            DtypeError, ArgumentError: an argument is wrong.
        """
        s = self._settings
        expect_tensor("SCFLClient.update", "weight", weight, torch.float32, 2)
        shape = (self._x.shape[1], self._y.shape[1])
        if weight.shape != shape:
            raise ArgumentError(
                f"SCFLClient.update: weight has shape {tuple(weight.shape)}; it must be {shape}"
            )
        expect_int("SCFLClient.update", "round", round, 0, 2**31)
        own, total = weight.detach(), torch.zeros_like(weight)
        for step in range(s.local_steps):
            gradient = self._gradient(own, round * s.local_steps + step)
            total += gradient
            if step + 1 < s.local_steps:
                own = own - (s.lr / self.samples) * gradient
        return total

    def _gradient(self, weight: torch.Tensor, place: int) -> torch.Tensor:
        x, y, size = self._x, self._y, self._settings.client_batch
        if size is None:
            return x.T @ (x @ weight - y)
        seed = self._settings.seed * 1_000_003 + self.index + 1
        rows = batch_of(seed, place, self.samples, size).to(x.device)
        x, y = x[rows], y[rows]
        return (x.T @ (x @ weight - y)) * (self.samples / size)
