"""The client's side: a mod around the train function of an app."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from pyfed.engines.flower.arrays import count_floats, flat_floats, flat_votes
from pyfed.engines.flower.desk import Desk
from pyfed.engines.flower.keyfile import key_path, read_key
from pyfed.engines.flower.letters import LOGGER, TRAIN, Letter, take, write
from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.fixed import FixedPoint
from pyfed.lanes import VoteLanes
from pyfed.secagg.identity import Identity
from pyfed.secagg.protocol import Protocol

log = logging.getLogger(LOGGER)

IDENTITY = "pyfed-identity-file"
"""Name of the path of the identity in a node's configuration."""


class SecureAggMod:
    """Makes what an app has trained part of a secure sum; its train function stays as it is.

    The function takes the model's arrays and returns arrays of the same names, and metrics with
    ``num-examples``. The mod takes the difference to the arrays that came, encodes and masks it; it
    answers the stages between without the app. Neither the arrays nor ``num-examples`` leave the
    node in clear, and other metrics only when they are named in ``clear_metrics``. Messages that
    ask for training without secure aggregation are refused; evaluation passes as it is.

    Where the protocol counts votes, the function returns masks in place of weights; see
    :class:`FedPrLLMStrategy`.

    Mods that change arrays, by clipping or noise, belong behind it in the list; those before it see
    only what is masked.

    Args:
        protocol: the same as the server's, with ``length`` the number of floats in the model.
        key_file: where this machine keeps the key of its state between messages; made, with mode
            600, when it is missing. None: the path ``pyfed-key-file`` of the node's configuration,
            and without that ``~/.pyfed/flower.key``. Beside it, in a folder, are the journals of
            what was released.
        clear_metrics: metrics of the app that the server may see of each node.
        identity_file: under a malicious server, the 32 bytes of the key of this node's
            :class:`pyfed.secagg.Identity`. None: the path ``pyfed-identity-file`` of the node's
            configuration.
        weighted_by: name of the metric that is the weight, of which the server sees the sum; more
            than the ``max_weight`` of the encoding counts as that. A server that asks for the sum
            of another metric is refused.

    Raises:
        DtypeError: ``protocol`` is none, or is no protocol for sums of vectors.

    Example:
        >>> import pyfed
        >>> from flwr.clientapp import ClientApp
        >>> from pyfed.engines.flower import SecureAggMod
        >>> from pyfed.secagg import LightSecAgg
        >>> fixed = pyfed.FixedPoint(clip=0.5, bits=16, clients=10, max_weight=1000)
        >>> protocol = LightSecAgg(clients=10, privacy=3, dropouts=3, length=650, fixed=fixed)
        >>> app = ClientApp(mods=[SecureAggMod(protocol)])
    """

    def __init__(
        self,
        protocol: Protocol,
        key_file: str | os.PathLike[str] | None = None,
        clear_metrics: Sequence[str] = (),
        identity_file: str | os.PathLike[str] | None = None,
        weighted_by: str = "num-examples",
    ) -> None:
        self._protocol = expect_sums("SecureAggMod", protocol)
        self._key_file = key_file
        if isinstance(clear_metrics, str):
            raise DtypeError("SecureAggMod: clear_metrics is a str; it must be a list of names")
        self._clear_metrics = tuple(clear_metrics)
        self._identity_file = identity_file
        self._weighted_by = weighted_by

    def __call__(
        self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        """Answer a message of secure aggregation, or pass on what is none."""
        if not message.metadata.message_type.startswith("train"):
            return call_next(message, context)
        letter = take(message.content)
        if letter is None:
            raise ProtocolError(
                "the server asks for training without secure aggregation, which SecureAggMod "
                "refuses: the update would reach it in clear; use SecureFedAvg on the server"
            )
        desk = Desk(self._protocol, context, self._key_file, self._identity(context))
        update, weight, content = None, 0, RecordDict()
        if letter.stage == TRAIN:
            desk.expect(letter)  # before the work of training
            self._expect_weight(letter)
            given = self._model(message.content, letter.arrays)
            before = {name: copy.copy(array) for name, array in given.items()}
            self._expect_length(before)
            reply = call_next(message, context)
            if reply.has_error():
                return reply
            made = self._model(reply.content, letter.arrays)
            if isinstance(self._protocol.fixed, VoteLanes):
                update, weight = flat_votes(made, letter.names, like=before), 1
            else:
                update = flat_floats(made, like=before, minus=letter.send == "difference")
                weight = self._weight(reply.content)
                self._tell_of_clipping(update)
            content = self._metrics(reply.content)
        answers = desk.answers(letter, update, weight)
        write(Letter(letter.stage, answers), content)
        return Message(content, reply_to=message)

    def _model(self, content: RecordDict, name: str) -> ArrayRecord:
        """The ArrayRecord of that name; or the only one, whatever its name."""
        records = content.array_records
        if name in records:
            return records[name]
        if len(records) != 1:
            raise ArgumentError(
                f"a message has the ArrayRecords {sorted(records)}; one of them must be {name!r}"
            )
        return next(iter(records.values()))

    def _expect_length(self, model: Mapping[str, Array]) -> None:
        """Raise unless the model has as many floats as the protocol sums; votes tell by names."""
        floats, length = count_floats(model), self._protocol.parameters.length
        if not isinstance(self._protocol.fixed, VoteLanes) and floats != length:
            raise ArgumentError(
                f"SecureAggMod: the server's model has {floats} floats and the protocol's length "
                f"is {length}"
            )

    def _expect_weight(self, letter: Letter) -> None:
        """Raise unless the server asks for no sum but that of the weights."""
        votes = isinstance(self._protocol.fixed, VoteLanes)  # which have no weights
        if not votes and letter.weighted_by != self._weighted_by:
            raise ProtocolError(
                f"the server weighs updates by the metric {letter.weighted_by!r}, and this node by "
                f"{self._weighted_by!r}; pass weighted_by to SecureAggMod, or weighted_by_key to "
                "the strategy"
            )

    def _weight(self, content: RecordDict) -> int:
        """The app's weight, up to the largest that the encoding bears.

        Flower sends the text of an error to the server, so it must not tell the value.
        """
        name = self._weighted_by
        for record in content.metric_records.values():
            if name in record:
                value: Any = record[name]
                number = isinstance(value, int | float) and math.isfinite(value)
                if not number or value < 0 or value != int(value):
                    raise ArgumentError(f"the metric {name!r} must be a whole number from 0 on")
                most = self._protocol.fixed.max_weight
                if value > most:
                    log.warning("the metric %r is cut to max_weight=%d of the encoding", name, most)
                return min(int(value), most)
        raise ArgumentError(
            f"the train function's reply has no metric {name!r}, which is the weight of its update"
        )

    def _tell_of_clipping(self, update: torch.Tensor) -> None:
        """Warn, on the node alone, of floats that the encoding cuts."""
        fixed = self._protocol.fixed
        assert isinstance(fixed, FixedPoint)
        ends = torch.stack(torch.aminmax(update)) if len(update) else update
        if len(update) and float(ends.abs().max()) > fixed.clip:
            beyond = int((update.abs() > fixed.clip).sum())
            log.warning(
                "%d of %d floats of the update are beyond clip=%g, and are cut to it",
                beyond,
                len(update),
                fixed.clip,
            )

    def _metrics(self, content: RecordDict) -> RecordDict:
        """What of the app's metrics may leave the node."""
        allowed = {
            name: value
            for record in content.metric_records.values()
            for name, value in record.items()
            if name in self._clear_metrics
        }
        return RecordDict({"metrics": MetricRecord(allowed)} if allowed else {})

    def _identity(self, context: Context) -> Identity | None:
        path = self._identity_file or context.node_config.get(IDENTITY)
        if not self._protocol.parameters.signed:
            return None
        if path is None:
            raise ArgumentError(
                "SecureAggMod: the protocol has server='malicious', and this node no identity; "
                f"pass identity_file, or {IDENTITY} in the node's configuration"
            )
        key = read_key(key_path(str(path), {}))
        try:
            return Identity(key)
        finally:
            key.wipe()


def expect_sums(name: str, protocol: object) -> Protocol:
    """``protocol``; raises DtypeError unless it sums vectors."""
    if not isinstance(protocol, Protocol) or protocol.name == "SecEA":
        kind = type(protocol).__name__
        raise DtypeError(
            f"{name}: protocol is {kind}; it must be a LightSecAgg, SecAggPlus or SwiftAgg"
        )
    return protocol
