"""Federated averaging over Flower by pyfed, by flwr's legacy SecAgg+, and without secrecy."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.server import LegacyContext, ServerConfig
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp.strategy import FedAvg

from flower_grid import RUN, STAGES, TimedGrid
from pyfed.engines.flower import SecureAggMod, SecureFedAvg, to_arrays, to_tensors
from pyfed.engines.flower.letters import RECORD
from pyfed.secagg.protocol import Protocol

MAX_WEIGHT = 1000
STAGE_SECONDS = 60.0


@dataclass(frozen=True)
class Task:
    """What every contestant has to average: a model, and each client's update and weight.

    Args:
        model: float32 (length,).
        updates: float32 (clients, length).
        weights: of the clients, at most MAX_WEIGHT.
    """

    model: torch.Tensor
    updates: torch.Tensor
    weights: tuple[int, ...]

    @property
    def clients(self) -> int:
        return len(self.weights)

    @property
    def nodes(self) -> range:
        """Node ids: client i is node 101 + i."""
        return range(101, 101 + self.clients)

    def mean(self, without: frozenset[int] = frozenset()) -> torch.Tensor:
        """The next model in float64: the exact weighted mean, without those nodes."""
        inside = [i for i, node in enumerate(self.nodes) if node not in without]
        weights = torch.tensor([self.weights[i] for i in inside], dtype=torch.float64)
        return self.model.double() + weights @ self.updates[inside].double() / weights.sum()


class Contestant(ABC):
    """One way to play a round.

    Attributes:
        grid: the nodes.
        error: that the next model may have, at most.
        lacks: what it leaves undone.
    """

    lacks = ""

    def __init__(self, task: Task, error: float, lost: Mapping[str, int] | None) -> None:
        self.task, self.error = task, error
        self.grid = TimedGrid(self.stage_of, lost)
        for client, node in enumerate(task.nodes):
            self.grid.join(node, self.app(client))

    @abstractmethod
    def app(self, client: int) -> ClientApp:
        """The app of one client."""

    @abstractmethod
    def stage_of(self, content: RecordDict) -> str:
        """The stage that a message's content begins."""

    @abstractmethod
    def play(self) -> torch.Tensor | None:
        """One round from the task's model on: the next model, or None where it is lost."""

    def shares(self) -> tuple[int, int]:
        """Bytes of shares that clients have sent and received for one round."""
        return 0, 0


class _MessageContestant(Contestant):
    """Has a strategy of Flower's Message API."""

    strategy: FedAvg

    def _app_with(self, client: int, mods: list[Any]) -> ClientApp:
        app, task = ClientApp(mods=[*mods, self.grid.train]), self.task

        @app.train()
        def train(message: Message, context: Context) -> Message:
            model = to_tensors(message.content["arrays"])["w"]
            arrays = to_arrays({"w": model + task.updates[client]})
            metrics = MetricRecord({"num-examples": task.weights[client]})
            return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

        return app

    def play(self) -> torch.Tensor | None:
        grid: Any = self.grid
        model = to_arrays({"w": self.task.model})
        arrays = self.strategy.start(grid, model, num_rounds=1).arrays
        return to_tensors(arrays)["w"] if arrays else None


class Plain(_MessageContestant):
    """Flower's FedAvg."""

    lacks = "all secrecy"

    def __init__(self, task: Task, lost: Mapping[str, int] | None = None) -> None:
        super().__init__(task, 1e-6, lost)
        self.strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=task.clients)

    def app(self, client: int) -> ClientApp:
        return self._app_with(client, [])

    def stage_of(self, content: RecordDict) -> str:
        return "update"


class Secure(_MessageContestant):
    """pyfed's SecureFedAvg, in runs of one round, whose offline half stands alone before it."""

    def __init__(
        self, task: Task, protocol: Protocol, folder: Path, lost: Mapping[str, int] | None = None
    ) -> None:
        self._protocol, self._key_file = protocol, folder / "key"
        # Every client's rounding is less than one step away.
        super().__init__(task, 1 / protocol.fixed.scale + 1e-6, lost)
        self.strategy: SecureFedAvg = SecureFedAvg(
            protocol, stage_timeout=STAGE_SECONDS, fraction_evaluate=0.0
        )

    def app(self, client: int) -> ClientApp:
        return self._app_with(client, [SecureAggMod(self._protocol, key_file=self._key_file)])

    def stage_of(self, content: RecordDict) -> str:
        return str(content.config_records[RECORD]["stage"]).removeprefix("train.pyfed_")

    def shares(self) -> tuple[int, int]:
        assert self.strategy.result is not None
        traffic = self.strategy.result.traffic
        return traffic["client", "share"], traffic["server", "share"]


class _Trainer(NumPyClient):
    """What a user of the legacy workflow writes."""

    def __init__(self, update: np.ndarray, weight: int) -> None:
        self._update, self._weight = update, weight

    def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> Any:
        return [parameters[0] + self._update], self._weight, {}


class LegacySecAggPlus(Contestant):
    """flwr's SecAggPlusWorkflow with secaggplus_mod, over the complete graph."""

    lacks = (
        "mask seeds of 28 and 32 bits; weights in clear; a loss in set-up or share ends the round"
    )
    _stages: ClassVar[dict[str, str]] = dict(zip(Stage.all(), STAGES, strict=True))

    def __init__(self, task: Task, threshold: int, lost: Mapping[str, int] | None = None) -> None:
        super().__init__(task, 0.0, lost)
        self._workflow = SecAggPlusWorkflow(1.0, threshold, max_weight=float(MAX_WEIGHT))
        # One step for each client, over the sum of weights; the weights are rounded as well.
        step = 2 * self._workflow.clipping_range / self._workflow.quantization_range
        self.error = 2 * step * task.clients * MAX_WEIGHT / sum(task.weights)
        strategy = LegacyFedAvg(min_fit_clients=task.clients, min_available_clients=task.clients)
        bare = Context(RUN, RUN, {}, RecordDict(), {})
        grid: Any = self.grid
        managed = SimpleClientManager()
        for node in task.nodes:
            managed.register(GridClientProxy(node, grid, RUN))
        self._context = LegacyContext(bare, ServerConfig(num_rounds=1), strategy, managed)
        self._round = 0

    def app(self, client: int) -> ClientApp:
        trainer = _Trainer(self.task.updates[client].numpy(), self.task.weights[client])
        return ClientApp(lambda context: trainer.to_client(), [secaggplus_mod, self.grid.train])

    def stage_of(self, content: RecordDict) -> str:
        return self._stages[str(content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])]

    def play(self) -> torch.Tensor | None:
        self._round += 1
        state, before = self._context.state, ArrayRecord([self.task.model.numpy()])
        state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord(
            {WorkflowKey.CURRENT_ROUND: self._round}
        )
        state.array_records[MAIN_PARAMS_RECORD] = before
        grid: Any = self.grid
        self._workflow(grid, self._context)
        after = state.array_records[MAIN_PARAMS_RECORD]
        return None if after is before else torch.from_numpy(after.to_numpy_ndarrays()[0])

    def shares(self) -> tuple[int, int]:
        model = 4 * self.task.clients * self.task.model.numel()
        return self.grid.sent["share"], self.grid.received["update"] - model


@contextmanager
def kept_log() -> Iterator[list[str]]:
    """Keep flwr's errors, in place of printing its log."""
    logger, errors = logging.getLogger("flwr"), list[str]()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [Keep(logging.ERROR)], False
    try:
        yield errors
    finally:
        logger.handlers, logger.propagate = handlers, propagate
