"""Stochastic coded federated learning as a strategy: a coded gradient stands in for who is late."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from pyfed.coded.scfl_server import SCFLServer
from pyfed.engines.flower.arrays import to_arrays, to_tensors
from pyfed.engines.flower.letters import LOGGER
from pyfed.errors import ArgumentError, DtypeError, PyfedError

log = logging.getLogger(LOGGER)

WEIGHT, GRADIENT = "weight", "gradient"
"""Names of the arrays that go out and come back."""
CLIENT = "client"
"""Name of the metric with the number of the client."""


class CodedFedAvg(FedAvg):
    """Gradients of whoever arrives in time, and a coded gradient for those who do not.

    Each node is a client of the :class:`pyfed.coded.SCFL`, under a number of its own. A train
    function gets the array ``weight`` and the config ``server-round``, and returns the array
    ``gradient``, which is ``client.update(weight, round=server_round - 1)``, and the metric
    ``client`` with its number; no mod is needed. How long the server waits is the ``timeout`` of
    ``start``: ``arrival`` of the settings must be the probabilities of arriving within it. What is
    late, an error, or no gradient counts as not arrived. Gradients are in clear.

    Args:
        server: holds the coded set and W, and takes a step in each round.
        options: of ``FedAvg``, of which ``fraction_train`` must be 1: all nodes are asked.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.coded import SCFL, CodedDataset
        >>> from pyfed.engines.flower import CodedFedAvg
        >>> scfl = SCFL(rule="complement", arrival=[0.9, 0.5])
        >>> clients = [scfl.client(i, torch.randn(20, 2), torch.randn(20)) for i in range(2)]
        >>> coded = [client.encode(30, pyfed.Key.generate()) for client in clients]
        >>> strategy = CodedFedAvg(scfl.server(CodedDataset.total(coded)), fraction_evaluate=0.5)
        >>> list(strategy.arrays)
        ['weight']
    """

    def __init__(self, server: SCFLServer, **options: Any) -> None:
        if not isinstance(server, SCFLServer):
            kind = type(server).__name__
            raise DtypeError(f"CodedFedAvg: server is {kind}; it must be what SCFL.server gives")
        if options.get("fraction_train", 1.0) != 1.0:
            raise ArgumentError(
                f"CodedFedAvg: fraction_train is {options['fraction_train']}; it must be 1.0, or "
                "clients would arrive less often than their probabilities say"
            )
        super().__init__(**options)
        self.server = server

    @property
    def arrays(self) -> ArrayRecord:
        """W, as ``start`` takes it for ``initial_arrays``."""
        return to_arrays({WEIGHT: self.server.weight})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send W, as the server has it, to every node."""
        return super().configure_train(server_round, self.arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take a step with what has arrived; the metric ``clients`` counts it.

        Raises:
            PyfedError: W diverges.
        """
        arrived: dict[int, torch.Tensor] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                log.warning("node %d has not arrived: %s", node, reply.error.reason)
                continue
            try:
                client, gradient = self._read(reply)
                if client in arrived:
                    raise ArgumentError(f"client {client} has sent a gradient already")
            except PyfedError as error:
                log.warning("node %d has sent no gradient: %s", node, error)
                continue
            arrived[client] = gradient
        self.server.step(arrived)
        return self.arrays, MetricRecord({"clients": len(arrived)})

    def _read(self, reply: Message) -> tuple[int, torch.Tensor]:
        """A client's number and its gradient; raises where they are unfit."""
        numbers = [r[CLIENT] for r in reply.content.metric_records.values() if CLIENT in r]
        found = [r[GRADIENT] for r in reply.content.array_records.values() if GRADIENT in r]
        if len(numbers) != 1 or len(found) != 1 or not isinstance(numbers[0], int):
            raise ArgumentError(
                f"a reply must have the array {GRADIENT!r} and the metric {CLIENT!r}"
            )
        gradient = to_tensors(ArrayRecord({GRADIENT: found[0]}))[GRADIENT]
        gradient = gradient.to(self.server.weight.device)
        self.server.settings.expect_gradients({numbers[0]: gradient}, self.server.weight)
        return numbers[0], gradient
