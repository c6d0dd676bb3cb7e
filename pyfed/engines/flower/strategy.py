"""The server's side as a strategy: FedAvg whose server sees nothing but the sum."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from pyfed.encoding import Encoding
from pyfed.engines.callbacks import RoundCallback, expect_callbacks, round_ended
from pyfed.engines.flower.arrays import count_floats, flat_floats, with_floats
from pyfed.engines.flower.letters import LOGGER, SENDS, TRAIN, write
from pyfed.engines.flower.mod import expect_sums
from pyfed.engines.flower.rounds import SecureRounds
from pyfed.errors import ArgumentError, DecodeError, ThresholdError
from pyfed.fixed import FixedPoint
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.result import RoundResult

log = logging.getLogger(LOGGER)


class SecureFedAvg(FedAvg):
    """Federated averaging under secure aggregation; the clients run a :class:`SecureAggMod`.

    The server learns the weighted mean of what the clients in the sum have trained, who they are,
    and the sum of their weights. The set-up of the first round takes place in ``configure_train``,
    that of every other one during the round before; ``aggregate_train`` uncovers the sum. A client
    that is lost in any stage, by an error or beyond the timeout, is left out as long as the
    protocol bears it. A round that fails leaves the model as it is, and the next one begins with
    the set-up.

    Args:
        protocol: the session's numbers, equal to the clients'; ``length`` is the number of floats
            in the model (other arrays are not averaged), ``clients`` the most nodes in a round.
        send: ``"difference"``: clients send what training has changed, within the ``clip`` of the
            encoding, and the mean is added to the model; ``"weights"``: they send the model, and
            the mean takes its place.
        stage_timeout: seconds for each stage but the training, whose own are the ``timeout`` of
            ``start`` (3600 by default); and the longest wait for nodes in the beginning.
        on_failure: when a round fails: ``"skip"`` it, with an error in the log, or ``"raise"``.
        fraction_evaluate: of the nodes, for evaluation; see ``FedAvg``.
        min_evaluate_nodes: see ``FedAvg``.
        min_available_nodes: see ``FedAvg``; for evaluation.
        weighted_by_key: name of the metric by which clients weigh their updates, up to the
            ``max_weight`` of the encoding; that of the clients' mod.
        arrayrecord_key: name of the ArrayRecord with the model.
        configrecord_key: name of the ConfigRecord for the app.
        evaluate_metrics_aggr_fn: see ``FedAvg``.
        callbacks: told of each round that succeeds, see :mod:`pyfed.engines.callbacks`: who is
            included, the total weight, bytes, and seconds.

    Attributes:
        result: the RoundResult of the last round; None before, and where it failed. Its ``traffic``
            are the bytes of protocol messages, its ``seconds`` the server's own, without waiting.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import pyfed
        >>> from pyfed.engines.flower import SecureFedAvg
        >>> from pyfed.secagg import LightSecAgg
        >>> fixed = pyfed.FixedPoint(clip=0.5, bits=16, clients=10, max_weight=1000)
        >>> protocol = LightSecAgg(clients=10, privacy=3, dropouts=3, length=650, fixed=fixed)
        >>> strategy = SecureFedAvg(protocol, stage_timeout=30.0)
    """

    _encoding: ClassVar[type[Encoding]] = FixedPoint
    names: tuple[str, ...] = ()
    """The arrays that clients vote on, where they do."""

    def __init__(
        self,
        protocol: Protocol,
        send: str = "difference",
        stage_timeout: float = 60.0,
        on_failure: str = "skip",
        fraction_evaluate: float = 1.0,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        evaluate_metrics_aggr_fn: Callable[[list[RecordDict], str], MetricRecord] | None = None,
        callbacks: Iterable[RoundCallback] = (),
    ) -> None:
        name = type(self).__name__
        self._callbacks = expect_callbacks(name, callbacks)
        expect_sums(name, protocol)
        if not isinstance(protocol.fixed, self._encoding):
            raise ArgumentError(
                f"{name}: the protocol's encoding is {type(protocol.fixed).__name__}; it must be "
                f"{self._encoding.__name__}"
            )
        if send not in SENDS:
            raise ArgumentError(f"SecureFedAvg: send is {send!r}; it must be one of {SENDS}")
        if on_failure not in ("skip", "raise"):
            raise ArgumentError(
                f"SecureFedAvg: on_failure is {on_failure!r}; it must be 'skip' or 'raise'"
            )
        if not stage_timeout > 0:
            raise ArgumentError(
                f"SecureFedAvg: stage_timeout is {stage_timeout}; it must be positive seconds"
            )
        super().__init__(
            fraction_evaluate=fraction_evaluate,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            weighted_by_key=weighted_by_key,
            arrayrecord_key=arrayrecord_key,
            configrecord_key=configrecord_key,
            evaluate_metrics_aggr_fn=evaluate_metrics_aggr_fn,
        )
        self.protocol = protocol
        self.send = send
        self.on_failure = on_failure
        self.result: RoundResult | None = None
        self.rounds = SecureRounds(protocol, stage_timeout)
        self._last: int | None = None  # round of the run, where it is known
        self._grid: Grid | None = None  # of the round that is going on
        self._model = ArrayRecord()

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        """Run the rounds; takes and gives what ``Strategy.start`` does.

        Clients prepare no round after the last. Where every round fails, the result has the arrays
        that were given.
        """
        self._last = kwargs.get("num_rounds", args[1] if len(args) > 1 else 3)
        result = super().start(grid, *args, **kwargs)
        if not result.arrays:
            result.arrays = kwargs["initial_arrays"] if "initial_arrays" in kwargs else args[0]
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Set the round up where the one before has not, and write to its clients.

        Raises:
            ArgumentError: the model has another number of floats than the protocol.
            ThresholdError: the set-up failed, with ``on_failure="raise"``.
        """
        self._expect_model(arrays)
        self._grid, self._model, self.result = None, arrays, None
        try:
            letters = self.rounds.begin(grid, more=server_round != self._last)
        except (ThresholdError, DecodeError) as error:
            self._fail(server_round, error)
            return []
        self._grid = grid
        config["server-round"] = server_round
        messages = []
        for node, letter in letters.items():
            content = RecordDict()
            if letter.stage == TRAIN:
                content[self.arrayrecord_key] = arrays
                content[self.configrecord_key] = config
            write(
                dataclasses.replace(
                    letter,
                    send=self.send,
                    arrays=self.arrayrecord_key,
                    weighted_by=self.weighted_by_key,
                    names=self.names,
                ),
                content,
            )
            messages.append(Message(content, node, "train", group_id=str(server_round)))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Uncover the sum, and give the next model, or None where the round failed.

        The metrics are ``clients``, those in the sum; their total weight under the name of
        ``weighted_by_key``; and of metrics that clients send in clear the mean over them.

        Raises:
            ThresholdError, DecodeError: the round failed, with ``on_failure="raise"``.
        """
        grid, self._grid = self._grid, None
        if grid is None:
            return None, None
        replies = list(replies)
        try:
            result = self.rounds.finish(grid, replies)
        except (ThresholdError, DecodeError) as error:
            self._fail(server_round, error)
            return None, None
        self.result = result
        round_ended(
            self._callbacks,
            self.protocol.name,
            server_round,
            result.traffic,
            clients=len(self.rounds.numbers),
            included=sorted(result.included),
            total_weight=result.total_weight,
            wrong=list(result.wrong),
            seconds=result.seconds,
        )
        if result.total_weight == 0:
            log.error("round %d: all weights are 0, and the model stays as it is", server_round)
            return None, None
        return self._moved(result), self._metrics(replies, result)

    def _expect_model(self, arrays: ArrayRecord) -> None:
        """Raise unless the model is as long as the protocol says."""
        self._expect_floats(arrays, "the model has {} floats")

    def _expect_floats(self, arrays: ArrayRecord, told: str) -> None:
        """Raise unless as many floats as the protocol sums are there; ``told`` says how many."""
        floats, length = count_floats(arrays), self.protocol.parameters.length
        if floats != length:
            raise ArgumentError(
                f"{type(self).__name__}: {told.format(floats)} and the protocol's length is "
                f"{length}; make it with length={floats}"
            )

    def _moved(self, result: RoundResult) -> ArrayRecord:
        """The next model."""
        mean = result.mean.cpu()
        flat = mean if self.send == "weights" else flat_floats(self._model) + mean
        return with_floats(self._model, flat)

    def _metrics(self, replies: list[Message], result: RoundResult) -> MetricRecord:
        told: dict[str, list[float]] = {}
        for reply in replies:
            number = self.rounds.numbers.get(reply.metadata.src_node_id)
            if reply.has_error() or number not in result.included:
                continue
            for record in reply.content.metric_records.values():
                for name, value in record.items():
                    if isinstance(value, int | float):
                        told.setdefault(name, []).append(value)
        metrics = MetricRecord({name: sum(told[name]) / len(told[name]) for name in told})
        metrics["clients"] = len(result.included)
        metrics[self.weighted_by_key] = result.total_weight
        return metrics

    def _fail(self, server_round: int, error: ThresholdError | DecodeError) -> None:
        """Give the round up, and what is prepared of the next."""
        self.rounds.abandon()
        if self.on_failure == "raise":
            raise error
        log.error("round %d failed, and the model stays as it is: %s", server_round, error)
