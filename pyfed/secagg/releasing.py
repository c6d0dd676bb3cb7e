"""What a client releases: kept in the journal first, for one set of survivors and no other."""

from __future__ import annotations

from abc import abstractmethod

import torch

from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.secagg.common import Commit, Quorum, Result
from pyfed.secagg.identity import Identity
from pyfed.secagg.journal import Journal
from pyfed.secagg.party import Party, unpack_words
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.quorum import expect_identity, false_commit
from pyfed.secagg.result import RoundResult
from pyfed.secagg.session import SERVER, survivors_digest
from pyfed.secagg.wire import Message


class Releasing(Party):
    """The half of a client that lets go of secrets; see :class:`pyfed.secagg.client.Client`.

    Args:
        protocol: the session's numbers.
        index: number of this client.
        round_: number of the round.
        journal: keeps what is released; None keeps nothing.
        identity: the key for signatures, under a malicious server.
    """

    _FIXED = Party._FIXED | {"_journal", "_identity"}

    def __init__(
        self,
        protocol: Protocol,
        index: int,
        round_: int,
        journal: Journal | None,
        identity: Identity | None,
    ) -> None:
        if journal is not None and not callable(getattr(journal, "record", None)):
            kind = type(journal).__name__
            raise DtypeError(f"{protocol.name}: journal is {kind}; it must have a method record")
        expect_identity(protocol, index, identity)
        super().__init__(f"client {index}", index, protocol, round_)
        self._journal = journal
        self._identity = identity
        self._home = "cpu"  # the device of the update, where the result will be
        self._journaled = journal is not None
        self._recorded: dict[str, bytes] = {}  # what the journal has from this client
        self._survivors: tuple[int, ...] = ()
        self._answered: tuple[Message, ...] = ()  # the last answer to these survivors

    @abstractmethod
    def close(self) -> None:
        """Overwrite every secret of the round; the client takes no message afterwards."""

    @abstractmethod
    def _sent(self, messages: list[Message]) -> list[Message]:
        """Sign messages where that is the rule, and keep them for a repetition."""

    @abstractmethod
    def _answer(self) -> list[Message]:
        """What is released to uncover the sum over ``self._survivors``."""

    def _record(self, kind: str, digest: bytes) -> None:
        """Keep what is about to be released; a conflict with the journal ends the round."""
        try:
            if self._journal is not None:
                self._journal.record(kind, digest)
        except ProtocolError:
            self.close()
            raise
        except OSError as error:
            self._unkept = error
            raise
        self._recorded[kind] = digest

    def _rejoin(self) -> None:
        """Hold the journal against the state, whose entries are put in where they are missing."""
        if self._journaled and self._journal is None:
            raise ArgumentError(
                f"resume: client {self._number} was made with a journal; pass the same as journal="
            )
        self._journaled = self._journal is not None
        for kind, digest in self._recorded.items():
            self._record(kind, digest)

    def _expect_enough(self, what: str, count: int) -> None:
        if count < self._parameters.enough:
            raise self._refusal(
                f"{what} names {count} clients; it must name at least {self._parameters.enough}",
                SERVER,
            )

    def _settle(self, survivors: tuple[int, ...]) -> list[Message]:
        """Answer a set of survivors that has passed the protocol's checks: the first, and only it.

        Under a malicious server the answer waits for a quorum of Commits to the same set.
        """
        self._expect_enough("the set of survivors", len(survivors))
        if self._number not in survivors:
            raise self._refusal("the survivors leave this client out", SERVER)
        digest = survivors_digest(survivors)
        if not self._parameters.signed:
            return self._released(survivors)
        self._record("commit", digest)
        assert self._identity is not None
        commit = Commit(**self._envelope(SERVER), digest=digest)
        self._survivors, self._phase = survivors, "commit"
        self._answered = (self._identity.signed(commit),)
        return list(self._answered)

    def _released(self, survivors: tuple[int, ...]) -> list[Message]:
        self._record("answer", survivors_digest(survivors))
        before, self._survivors = self._survivors, survivors
        try:
            answers = self._sent(self._answer())
        except BaseException:
            self._survivors = before
            raise
        self._answered, self._phase = tuple(answers), "recover"
        return answers

    def _again(self, survivors: tuple[int, ...]) -> list[Message]:
        """The same survivors once more get the same bytes; others end the round."""
        if survivors != self._survivors:
            self.close()
            raise self._refusal("a second set of survivors came; the round is closed", SERVER)
        return list(self._answered)

    def _on_quorum(self, message: Quorum) -> list[Message]:
        """Enough others have committed to the same survivors: answer."""
        digest = survivors_digest(self._survivors)
        others = {client for client, _ in message.signatures} - set(self._survivors)
        if others:
            raise self._refusal(f"Quorum names client {min(others)}, no survivor", SERVER)
        false = false_commit(self._protocol, message, digest, self._envelope(SERVER))
        if false is not None:
            raise self._refusal(
                f"Quorum has a false signature of client {false} on these survivors", SERVER
            )
        self._expect_enough("Quorum", len(message.signatures))
        return self._released(self._survivors)

    def _on_result(self, message: Result) -> list[Message]:
        """Keep the result."""
        if message.survivors != self._survivors:
            raise self._refusal("Result is of other survivors than this client answered", SERVER)
        shape = (*self._parameters.lead, self._parameters.residues)
        residues = torch.empty(shape, dtype=torch.int32, device=self._home)
        unpack_words(message.sum, residues)
        self._result = RoundResult(
            residues=residues,
            included=frozenset(message.survivors),
            total_weight=message.weight,
            fixed=self._protocol.fixed,
            length=self._parameters.length,
        )
        self._phase = "done"
        return []
