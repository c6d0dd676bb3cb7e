"""The server's side: secure rounds over a Grid, for whatever strategy uses the sums."""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Message as FlowerMessage
from flwr.app import RecordDict
from flwr.serverapp import Grid

from pyfed.engines.flower.letters import (
    KEYS,
    LOGGER,
    RECOVER,
    SHARE,
    TRAIN,
    Letter,
    take,
    write,
)
from pyfed.errors import ProtocolError, ThresholdError
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.result import RoundResult
from pyfed.secagg.server import Server
from pyfed.secagg.wire import Message

log = logging.getLogger(LOGGER)

Outbox = dict[int, tuple[bytes, ...]]
"""Node → bytes of the messages that wait for it."""


class SecureRounds:
    """Plays rounds of a protocol with the nodes of a Grid, preparing each during the one before.

    :meth:`begin` gives the letters to send out with the model, :meth:`finish` takes the replies and
    gives the sum. A session is a set of nodes with a client number each; when one of them has left,
    or another could take a free place, a new session begins, and with it the set-up.

    Where the protocol is :attr:`~pyfed.secagg.protocol.Protocol.offline`, clients enter the next
    round in their reply to the training of this one, and deal its shares in their first reply
    after: a round then costs the training and the stages that uncover the sum. A node that was not
    there for the set-up of a round sits that one out, and enters the next.

    Args:
        protocol: the session's numbers.
        timeout: seconds that a stage, apart from the training, may take; and for which the first
            session waits for its nodes.
    """

    def __init__(self, protocol: Protocol, timeout: float = 60.0) -> None:
        self._protocol = protocol
        self._timeout = timeout
        self._nodes: tuple[int, ...] = ()
        self._numbers: dict[int, int] = {}  # node → client
        self._last = 0  # the number of the last round
        # Nodes take numbers that go up in a run: those of a strategy whose turn comes later in it
        # are higher, by the clock.
        self._clock: Callable[[], int] = _milliseconds
        self._current: Server | None = None
        self._next: Server | None = None
        self._inboxes: Outbox = {}  # of the next round, once its shares are dealt
        self._asked: dict[int, Letter] = {}  # what goes with the model
        self._answered = False  # whether a node ever did
        self._traffic: dict[int, defaultdict[tuple[str, str], int]] = {}
        self._seconds: dict[int, defaultdict[str, float]] = {}

    @property
    def numbers(self) -> Mapping[int, int]:
        """Node → its client number in this session."""
        return dict(self._numbers)

    def begin(self, grid: Grid, more: bool = True) -> dict[int, Letter]:
        """Begin a round: node → the letter that goes to it with the model, or without it.

        Args:
            grid: the nodes.
            more: whether another round follows, which is worth preparing.

        Raises:
            ThresholdError: too few nodes took part in the set-up.
        """
        self._gather(grid)
        if not self._protocol.offline:
            self._current = self._opened()
            self._asked = {node: self._entry(TRAIN, self._current, node) for node in self._nodes}
            return dict(self._asked)
        if not self._inboxes:
            self._set_up(grid)
        self._current, self._next = self._next, self._opened() if more else None
        inboxes, self._inboxes = self._inboxes, {}
        letters = {}
        for node in self._nodes:
            if node in inboxes or self._next is not None:
                stage = TRAIN if node in inboxes else KEYS
                letter = self._entry(stage, self._next, node)
                letters[node] = dataclasses.replace(letter, messages=inboxes.get(node, ()))
        self._asked = letters
        return letters

    def finish(self, grid: Grid, replies: Iterable[FlowerMessage]) -> RoundResult:
        """Uncover the sum of a round that has begun.

        Args:
            grid: the nodes.
            replies: to the letters of :meth:`begin`; a node without one is lost.

        Returns:
            The result, with its traffic (protocol messages alone) and the server's own seconds.

        Raises:
            ThresholdError: fewer clients are left than the protocol needs.
            DecodeError: the clients' answers contradict one another.
        """
        server = self._current
        if server is None:
            raise ProtocolError("there is no round to finish; begin one")
        self._take(replies, self._asked)
        outbox, stage = self._closed(server), SHARE if server.phase == "share" else RECOVER
        riders = self._closed_next()
        while server.phase != "done":
            self._exchange(grid, stage, outbox, riders)
            if riders:
                self._inboxes, riders = self._closed_next(), {}
            outbox, stage = self._closed(server), RECOVER
        result, number = server.result, server.round
        self._current = None
        traffic, seconds = self._traffic.pop(number), self._seconds.pop(number)
        return dataclasses.replace(result, traffic=dict(traffic), seconds=dict(seconds))

    def abandon(self) -> None:
        """Give up the round, and what is prepared of the next: it begins with the set-up."""
        for server in (self._current, self._next):
            if server is not None:
                server.close()
        self._current = self._next = None
        self._inboxes, self._traffic, self._seconds = {}, {}, {}

    def _gather(self, grid: Grid) -> None:
        """See who is there; a new session begins when one has left or could join."""
        places = self._protocol.parameters.clients
        wanted = self._protocol.parameters.enough if self._nodes else places
        until = time.monotonic() + self._timeout
        if (there := len(list(grid.get_node_ids()))) < wanted:
            text = "%d nodes are there and %d wanted; waiting up to %g s"
            log.warning(text, there, wanted, self._timeout)
        while len(present := sorted(grid.get_node_ids())) < wanted and time.monotonic() < until:
            time.sleep(min(1.0, self._timeout))
        full, known = len(self._nodes) == places, set(self._nodes)
        if known and known <= set(present) and (full or known == set(present)):
            return
        self.abandon()
        chosen = present if len(present) <= places else random.sample(present, places)
        self._nodes = tuple(sorted(chosen))
        signed = self._protocol.parameters.signed  # then clients have numbers of their own
        self._numbers = {} if signed else {node: i for i, node in enumerate(self._nodes)}

    def _set_up(self, grid: Grid) -> None:
        """Both stages before the training, where no round before has made room for them."""
        self._next = self._opened()
        letters = {node: self._entry(KEYS, self._next, node) for node in self._nodes}
        self._send(grid, letters)
        self._send(grid, _letters(SHARE, self._closed(self._next)))
        self._inboxes = self._closed(self._next)

    def _opened(self) -> Server:
        self._last = max(self._last + 1, self._clock())
        self._traffic[self._last] = defaultdict(int)
        self._seconds[self._last] = defaultdict(float)
        return self._protocol.server(self._last)

    def _entry(self, stage: str, server: Server | None, node: int) -> Letter:
        """A letter that has a node enter a server's round."""
        if server is None:
            return Letter(stage)
        packed = self._protocol.parameters.packed()
        number = self._numbers.get(node, -1)
        return Letter(stage, client=number, enter=server.round, protocol=packed)

    def _exchange(self, grid: Grid, stage: str, outbox: Outbox, riders: Outbox) -> None:
        """Send what waits for each node, of this round and the next, and take the replies."""
        nodes = outbox.keys() | riders.keys()
        both = {node: outbox.get(node, ()) + riders.get(node, ()) for node in nodes}
        self._send(grid, _letters(stage, both))

    def _send(self, grid: Grid, letters: Mapping[int, Letter]) -> None:
        messages = []
        for node, letter in sorted(letters.items()):
            content = RecordDict()
            write(letter, content)
            messages.append(FlowerMessage(content, node, "train"))
        if messages:
            self._take(grid.send_and_receive(messages, timeout=self._timeout), letters)

    def _take(self, replies: Iterable[FlowerMessage], asked: Mapping[int, Letter]) -> None:
        """Hand what came to the servers; what is refused is as if it had not come."""
        replies, letters = list(replies), 0
        for node in sorted(asked.keys() - {reply.metadata.src_node_id for reply in replies}):
            log.warning("%s is lost: it gave no reply in time", self._who(node, asked))
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                reason = reply.error.reason or ""
                last = (reason.strip().splitlines() or [""])[-1]  # engines add where it was raised
                log.warning("%s is lost: %s", self._who(node, asked), last)
                if last != reason:
                    log.debug("all that node %d said: %s", node, reason)
                continue
            try:
                letter = take(reply.content)
                if letter is None or node not in self._nodes:
                    raise ProtocolError("its reply belongs to no secure round")
            except ProtocolError as error:
                log.warning("node %d: %s", node, error)
                continue
            letters += 1
            for data in letter.messages:
                try:
                    self._handle(node, data)
                except ProtocolError as error:  # of one round, and the other goes on
                    log.warning("node %d: %s", node, error)
        if replies and not letters and not self._answered:
            log.error(
                "none of %d nodes has answered as a client of secure aggregation; where none says "
                "why, do they run ClientApp(mods=[SecureAggMod(protocol)])?",
                len(replies),
            )
        self._answered |= letters > 0

    def _who(self, node: int, asked: Mapping[int, Letter]) -> str:
        """A node, its client and the stage that it was asked for, for the log."""
        stage = f" in stage {asked[node].stage}" if node in asked else ""
        return f"node {node} (client {self._numbers.get(node, 'of its own number')}){stage}"

    def _handle(self, node: int, data: bytes) -> None:
        message = Message.from_bytes(data, self._protocol.parameters)
        servers = (self._current, self._next)
        server = next((s for s in servers if s is not None and s.round == message.round), None)
        if server is None:
            raise ProtocolError(f"{message.kind} is of round {message.round}, which is over")
        number = self._number(node, message)
        phase, began = server.phase, time.perf_counter()
        server.handle(message, number)
        self._numbers[node] = number
        self._traffic[server.round]["client", phase] += len(data)
        self._seconds[server.round][phase] += time.perf_counter() - began

    def _number(self, node: int, message: Message) -> int:
        """The client behind a node: where clients sign, the first message that passes tells it."""
        if node in self._numbers:
            return self._numbers[node]
        if message.sender in self._numbers.values():
            raise ProtocolError(f"it names itself client {message.sender}, which another node is")
        return message.sender

    def _closed(self, server: Server) -> Outbox:
        """End a server's phase: the bytes that go out; at the end of the round, none."""
        phase, began = server.phase, time.perf_counter()
        messages = server.close_phase()
        seconds = self._seconds[server.round]
        seconds[phase] += time.perf_counter() - began
        if server.phase == "done":
            return {}  # the sum reaches the clients as the next model
        nodes = {number: node for node, number in self._numbers.items()}
        outbox: Outbox = {}
        for message in messages:
            data = message.to_bytes()
            self._traffic[server.round]["server", phase] += len(data)
            outbox[nodes[message.recipient]] = (data,)
        return outbox

    def _closed_next(self) -> Outbox:
        """End a phase of the round that is prepared; when too few are in it, drop it."""
        if self._next is None:
            return {}
        try:
            return self._closed(self._next)
        except ThresholdError as error:
            log.info("the next round begins with its set-up: %s", error)
            self._next.close()
            self._next = None
            return {}


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _letters(stage: str, outbox: Outbox) -> dict[int, Letter]:
    return {node: Letter(stage, messages) for node, messages in outbox.items()}
