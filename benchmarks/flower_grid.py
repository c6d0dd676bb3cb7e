"""A Grid of Flower within this process that tells whose time is whose."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

RUN = 1
STAGES = ("keys", "share", "update", "recover")
"""Keys, shares, the masked update, what uncovers the sum: by these names in every protocol."""

Stage = Callable[[RecordDict], str]
"""Content of a message from the server → the stage that it begins."""


_waited = [0.0]
"""Seconds in fsync, as long as :func:`watched_disk` counts them."""


@contextmanager
def watched_disk() -> Iterator[None]:
    """Count the time in which this process waits until files are safe on the disk."""
    original = os.fsync

    def timed(file: Any) -> None:
        began = time.perf_counter()
        original(file)
        _waited[0] += time.perf_counter() - began

    os.fsync = timed
    try:
        yield
    finally:
        os.fsync = original


@dataclass
class Time:
    """Seconds by the wall clock without the disk, those computed, and those of the disk."""

    wall: float = 0.0
    computed: float = 0.0
    disk: float = 0.0

    @classmethod
    def now(cls) -> Time:
        """The clocks as they stand."""
        return cls(time.perf_counter() - _waited[0], time.process_time(), _waited[0])

    def __add__(self, other: Time) -> Time:
        return Time(self.wall + other.wall, self.computed + other.computed, self.disk + other.disk)

    def __sub__(self, other: Time) -> Time:
        return Time(self.wall - other.wall, self.computed - other.computed, self.disk - other.disk)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time that is spent within."""
        began = Time.now()
        try:
            yield
        finally:
            total = self + (Time.now() - began)
            self.wall, self.computed, self.disk = total.wall, total.computed, total.disk


class TimedGrid:
    """Runs each node's app in turn; every content goes through its bytes, as between machines.

    What an engine adds beyond that, polling, processes and networks, depends on the engine, and is
    not imitated.

    Args:
        stage_of: tells the stage of a message from its content.
        lost: stage → node that gives no reply in it.
    """

    def __init__(self, stage_of: Stage, lost: Mapping[str, int] | None = None) -> None:
        # Messages take the sender from here, which an engine sets when it starts a process.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, RUN, RUN
        self._stage_of, self._lost = stage_of, dict(lost or {})
        self._apps: dict[int, ClientApp] = {}
        self._contexts: dict[int, Context] = {}
        self.forget()

    def join(self, node: int, app: ClientApp) -> None:
        """Add a node with its app, which has :meth:`train` as the last of its mods."""
        self._apps[node] = app
        self._contexts[node] = Context(RUN, node, {}, RecordDict(), {})

    def forget(self) -> None:
        """Begin to count anew."""
        self.training, self.exchanges = Time(), Time()
        self.apps: defaultdict[str, Time] = defaultdict(Time)  # stage → with the training
        self.sent: defaultdict[str, int] = defaultdict(int)  # stage → bytes of all clients
        self.received: defaultdict[str, int] = defaultdict(int)
        self.before: defaultdict[str, Time] = defaultdict(Time)  # stage → the server's, just before
        self.failures: list[str] = []  # what apps have raised
        self._free = Time.now()  # since when the server is at work

    def train(self, message: Message, context: Context, call_next: Any) -> Message:
        """The mod next to the train function: its time is the app's own."""
        with self.training.running():
            return call_next(message, context)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._apps)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        messages = list(messages)
        if messages:
            stage = self._stage_of(messages[0].content)
            self.before[stage] += Time.now() - self._free
        with self.exchanges.running():
            replies = [self._reply(message) for message in messages]
        self._free = Time.now()
        return [reply for reply in replies if reply is not None]

    def _reply(self, message: Message) -> Message | None:
        stage, node = self._stage_of(message.content), message.metadata.dst_node_id
        if self._lost.get(stage) == node:
            return None
        message.content, size = _through_bytes(message.content)
        self.received[stage] += size
        context = self._contexts[node]
        context.state, _ = _through_bytes(context.state)
        try:
            with self.apps[stage].running():
                reply = self._apps[node](message, context)
        except Exception as error:  # an engine hands on an error, as it does here
            self.failures.append(repr(error))
            return Message(Error(code=0, reason=repr(error)), reply_to=message)
        reply.content, size = _through_bytes(reply.content)
        self.sent[stage] += size
        return reply


def _through_bytes(content: RecordDict) -> tuple[RecordDict, int]:
    proto = recorddict_to_proto(content)
    data = proto.SerializeToString()
    return recorddict_from_proto(type(proto).FromString(data)), len(data)
