"""A Grid within this process, with real apps behind it, and nodes that are lost when told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

import pyfed
from pyfed import Key
from pyfed.engines.flower import SecureAggMod, SecureFedAvg, to_arrays
from pyfed.engines.flower.letters import RECORD
from pyfed.secagg import LightSecAgg, SecAggPlus, SwiftAgg
from pyfed.secagg.protocol import Protocol

RUN = 2**63 + 5
SECRET = bytes(range(32))
NODES = (2**64 - 9, 11, 12, 13, 14)
"""Node ids; Flower draws them from 64 bits."""

Loss = Callable[[int, str, int], str | None]
"""(call, stage, node) → None, or "silent", "error", or "late": it acts, but its reply is lost."""


class FakeGrid:
    """Runs each node's app at once; every content goes through its bytes, as between machines."""

    def __init__(self, apps: Mapping[int, ClientApp], loss: Loss = lambda *_: None) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
        self.apps, self.loss = dict(apps), loss
        self.contexts = {
            node: Context(RUN, node, node_config={}, state=RecordDict(), run_config={})
            for node in apps
        }
        self.stages: list[tuple[str, tuple[int, ...]]] = []
        self.replies: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        assert timeout is not None
        replies = [self.reply(message) for message in self.sent(list(messages))]
        self.replies = [reply for reply in replies if reply is not None]
        return self.replies

    def sent(self, messages: list[Message]) -> list[Message]:
        nodes = tuple(message.metadata.dst_node_id for message in messages)
        if messages:
            stages = {stage_of(message) for message in messages}
            self.stages.append((" ".join(sorted(stages)), nodes))
        return messages

    def reply(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        fate = self.loss(len(self.stages), stage_of(message), node)
        if fate == "silent":
            return None
        message.content = through_bytes(message.content)
        context = self.contexts[node]
        context.state = through_bytes(context.state)
        before = copy.deepcopy(context.state)
        try:
            if fate == "error":
                raise RuntimeError("the node has no memory left")
            reply = self.apps[node](message, context)
        except Exception as error:
            context.state = before
            return Message(Error(code=0, reason=repr(error)), reply_to=message)
        reply.content = through_bytes(reply.content)
        return None if fate == "late" else reply


def stage_of(message: Message) -> str:
    record = message.content.config_records.get(RECORD, {})
    return str(record.get("stage", message.metadata.message_type)).removeprefix("train.pyfed_")


def through_bytes(content: RecordDict) -> RecordDict:
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    data = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(type(recorddict_to_proto(content)).FromString(data))


def app_of(protocol: Protocol, update: torch.Tensor, weight: int, folder: Path) -> ClientApp:
    """An app that adds a fixed update to its model."""
    app = ClientApp(mods=[SecureAggMod(protocol, key_file=folder / "key", clear_metrics=["loss"])])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = message.content["arrays"].to_torch_state_dict()
        assert set(message.content) == {"arrays", "config"}
        trained = {
            name: value + piece
            for (name, value), piece in zip(
                model.items(),
                update.split([value.numel() for value in model.values()]),
                strict=True,
            )
        }
        metrics = MetricRecord({"num-examples": weight, "loss": 0.5, "secret": 7.0})
        return Message(
            RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1, "accuracy": 1.0})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def keyed(kind: type[Protocol]) -> type[Protocol]:
    """A protocol whose parties have the keys that ``simulate(..., key=Key(SECRET))`` gives them."""

    class Keyed(kind):  # type: ignore[valid-type, misc]
        def client(
            self, index: int, round: int, key: Key | None = None, *more: Any, **named: Any
        ) -> Any:
            own = Key(SECRET).derive("client", round, index) if key is None else key
            return super().client(index, round, own, *more, **named)

        def server(self, round: int, nonce: bytes | None = None, *more: Any) -> Any:
            nonce = Key(SECRET).derive("nonce", round).reveal()
            return super().server(round, nonce, *more)

    return Keyed


def protocol_of(name: str, length: int = 6, clients: int = 5, **more: Any) -> Protocol:
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=clients, max_weight=9)
    numbers: dict[str, Any] = {"clients": clients, "length": length, "fixed": fixed, "privacy": 1}
    kinds = {"LightSecAgg": LightSecAgg, "SecAggPlus": SecAggPlus, "SwiftAgg": SwiftAgg}
    if name == "SwiftAgg":
        numbers["blocks"] = 1
    return keyed(kinds[name])(**(numbers | {"dropouts": 1} | more))


def zeros(length: int) -> ArrayRecord:
    return to_arrays({"w": torch.zeros(length - 2), "b": torch.zeros(2)})


def grid_of(
    protocol: Protocol,
    updates: Sequence[torch.Tensor],
    weights: Sequence[int],
    folder: Path,
    loss: Loss = lambda *_: None,
) -> FakeGrid:
    nodes = sorted(NODES[: len(updates)])
    return FakeGrid(
        {
            node: app_of(protocol, update, weight, folder)
            for node, update, weight in zip(nodes, updates, weights, strict=True)
        },
        loss,
    )


def from_one(strategy: SecureFedAvg) -> SecureFedAvg:
    """The strategy, whose rounds then have the numbers from 1 on."""
    strategy.rounds._clock = lambda: 0
    return strategy
