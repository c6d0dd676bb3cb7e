"""A client's side of its rounds, from one Flower message to the next."""

from __future__ import annotations

import logging
import os

import torch
from flwr.app import ConfigRecord, Context

from pyfed.engines.flower.keyfile import key_path, machine_key, own_folder
from pyfed.engines.flower.letters import LOGGER, RECORD, Letter
from pyfed.errors import ProtocolError, PyfedError
from pyfed.secagg.client import Client
from pyfed.secagg.differences import differences
from pyfed.secagg.identity import Identity
from pyfed.secagg.journal import FileJournal
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.session import SERVER
from pyfed.secagg.wire import Message

log = logging.getLogger(LOGGER)

ROUND = "round-"
"""A round's entry in the state, before its number."""
KEPT = 2
"""Rounds that a client is in at most: the one that is going on, and the one that it prepares."""


class Desk:
    """The rounds that a node takes part in: each a saved client in the state of its context.

    The state holds nothing but what ``client.save`` gives, which is encrypted under a key that
    stays in a file of the machine. Flower hands a reply over before it keeps the state that belongs
    to it, so what is released is journaled in files beside the key, where a crash does not undo it.

    Args:
        protocol: the session's numbers.
        context: of the node; its state is written to.
        key_file: see :class:`pyfed.engines.flower.SecureAggMod`.
        identity: for signatures, under a malicious server.
    """

    def __init__(
        self,
        protocol: Protocol,
        context: Context,
        key_file: str | os.PathLike[str] | None,
        identity: Identity | None,
    ) -> None:
        self._protocol = protocol
        self._identity = identity
        path = key_path(key_file, context.node_config)
        run, node = (number % 2**64 for number in (context.run_id, context.node_id))
        machine = machine_key(path)
        self._key = machine.derive("flower", run, node)
        machine.wipe()
        self._journals = path.with_name(f"{path.name}.journals")
        self._name = f"{run}-{node}"
        records = context.state.config_records
        if RECORD not in records or records[RECORD].get("run") != str(run):
            records[RECORD] = ConfigRecord({"run": str(run), "last": -1})
        self._record = records[RECORD]
        self._read: tuple[Letter | None, list[Message]] = (None, [])  # the last letter

    def expect(self, letter: Letter) -> None:
        """Raise ProtocolError unless this node can do what a letter asks for.

        It is in the rounds that the messages are of, and the round to enter is new. What was
        trained once serves one round: in two sums over different clients it would be the
        difference.
        """
        messages = self._messages(letter)
        for message in messages:
            self._state(message.round)
        if sum(message.kind == "Inbox" for message in messages) > 1:
            raise ProtocolError("a letter has more than one Inbox; an update serves one round")
        if letter.enter < 0:
            return
        own = self._protocol.parameters
        if not letter.protocol:
            raise ProtocolError(f"a letter to enter round {letter.enter} names no protocol")
        if letter.protocol != own.packed():
            told = differences(own, letter.protocol)
            raise ProtocolError(f"the server's protocol is not that of this node: {told}")
        last = self._record["last"]
        assert isinstance(last, int)
        if letter.enter <= last:
            raise ProtocolError(
                f"this node is to enter round {letter.enter} and has entered round {last}; "
                "the number of a round only goes up"
            )
        if not 0 <= self._number(letter) < own.clients:
            raise ProtocolError(
                f"this node is to be client {letter.client}; there are {own.clients}"
            )

    def answers(
        self, letter: Letter, update: torch.Tensor | None, weight: int
    ) -> tuple[bytes, ...]:
        """What to say to a letter: bytes of messages; the state of each round is kept before.

        Args:
            letter: from the server.
            update: what the app has trained, or None outside training.
            weight: of the update.

        Raises:
            ProtocolError: as :meth:`expect`; nothing is answered then.
        """
        self.expect(letter)
        out: list[bytes] = []
        for message in self._messages(letter):
            try:
                out += self._answer(message, update, weight)
            except (PyfedError, OSError) as error:  # of one round, and the other goes on
                log.warning("%s of round %d: %s", message.kind, message.round, error)
        if letter.enter >= 0:
            out += self._entered(letter, update, weight)
        return tuple(out)

    def _answer(self, message: Message, update: torch.Tensor | None, weight: int) -> list[bytes]:
        """What a client says to one message; what is refused leaves its state as it was."""
        client = self._resumed(message.round)
        try:
            if update is not None and message.kind == "Inbox":
                client.provide(update, weight, overwrite=True)
            answers = client.handle(message, SERVER)
        except BaseException as error:
            if client.phase == "closed" and isinstance(
                error, PyfedError
            ):  # it met what must not be
                self._record.pop(f"{ROUND}{message.round}", None)
            client.close()
            raise
        self._keep(client, message.round)
        return [answer.to_bytes() for answer in answers]

    def _messages(self, letter: Letter) -> list[Message]:
        if self._read[0] is not letter:
            parameters = self._protocol.parameters
            self._read = letter, [Message.from_bytes(data, parameters) for data in letter.messages]
        return self._read[1]

    def _entered(self, letter: Letter, update: torch.Tensor | None, weight: int) -> list[bytes]:
        """Enter a round, with the update where the protocol needs it from the beginning."""
        client = self._protocol.client(
            self._number(letter),
            letter.enter,
            journal=self._journal(letter.enter),
            identity=self._identity,
        )
        if self._protocol.offline:
            messages = client.enter()
        elif update is None:
            raise ProtocolError(f"round {letter.enter} is to be entered without an update")
        else:
            try:
                messages = client.start(update, weight)
            except PyfedError as error:  # it tells of the update, and is not for the server
                client.close()
                log.warning("round %d: %s", letter.enter, error)
                return []
        self._record["last"] = letter.enter
        self._keep(client, letter.enter)
        names = (name for name in self._record if name.startswith(ROUND))
        rounds = sorted(int(name.removeprefix(ROUND)) for name in names)
        for old in rounds[:-KEPT]:
            del self._record[f"{ROUND}{old}"]
        return [message.to_bytes() for message in messages]

    def _number(self, letter: Letter) -> int:
        """The client's number: pinned by its identity, or as the server says."""
        if self._identity is None:
            return letter.client
        pinned = self._protocol.identities
        if self._identity.public not in pinned:
            raise ProtocolError("this node's identity is none of those that the protocol pins")
        return pinned.index(self._identity.public)

    def _state(self, round_: int) -> bytes:
        state = self._record.get(f"{ROUND}{round_}")
        if not isinstance(state, bytes):
            raise ProtocolError(f"this node has no part in round {round_}")
        return state

    def _resumed(self, round_: int) -> Client:
        client = self._protocol.resume(
            self._state(round_), self._key, self._journal(round_), self._identity
        )
        assert isinstance(client, Client)
        return client

    def _keep(self, client: Client, round_: int) -> None:
        """Keep a client until its next message; a lost reply loses it, so none is kept."""
        name = f"{ROUND}{round_}"
        if self._protocol.offline and client.phase in ("recover", "closed"):  # it has said all
            self._record.pop(name, None)
        else:
            self._record[name] = client.save(self._key, outbox=False)
        client.close()

    def _journal(self, round_: int) -> FileJournal:
        return FileJournal(own_folder(self._journals) / f"{self._name}-{round_}")
