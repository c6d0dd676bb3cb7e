"""What the protocols share: their public numbers, and the making of clients and servers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.secagg.session import Parameters

if TYPE_CHECKING:
    from pyfed.secagg.client import Client
    from pyfed.secagg.identity import Identity
    from pyfed.secagg.journal import Journal
    from pyfed.secagg.server import Server

MODES = ("curious", "malicious")


class Protocol(ABC):
    """The public numbers of a session; makes its clients and servers, one for a round.

    Attributes:
        name: of the protocol, as messages carry it.
        parameters: the numbers that all parties agree on.
        fixed: how updates become residues.
        offline: whether clients can enter a round, and share what it needs, before their update
            is known.
        identities: under a malicious server, the pinned public key of every client; else empty.
    """

    name: ClassVar[str]
    offline: ClassVar[bool] = False
    parameters: Parameters
    fixed: Encoding
    identities: tuple[bytes, ...]

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases of a round, in order."""
        return self.parameters.phases

    @abstractmethod
    def _client_type(self) -> type[Client]:
        """The class of this protocol's clients."""

    @abstractmethod
    def _server_type(self) -> type[Server]:
        """The class of this protocol's server."""

    def expect_update(self, update: object) -> torch.Tensor:
        """``update`` detached; raises unless the encoding takes it, at the session's length."""
        return self.fixed.expect_update(self.name, update, self.parameters.length)

    def client(
        self,
        index: int,
        round: int,
        key: Key | None = None,
        journal: Journal | None = None,
        identity: Identity | None = None,
    ) -> Client:
        """Client number ``index`` in one round.

        Args:
            index: from 0 to clients - 1.
            round: number of the round; never used twice in a session.
            key: the round key, which is copied; None takes a fresh one from the operating system,
                as production code does.
            journal: keeps what is released, so that a resumed client sends the same or nothing.
            identity: the client's private key for signatures; needed, and only allowed, under a
                malicious server.

        Raises:
            DtypeError, ArgumentError: an argument is wrong.
        """
        with torch.inference_mode(False):  # what is held in it could not be wiped outside
            return self._client_type()(self, index, round, key, journal, identity)

    def server(
        self,
        round: int,
        nonce: bytes | None = None,
        device: torch.device | str = "cpu",
        deadlines: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Server:
        """The server in one round.

        Args:
            round: number of the round.
            nonce: 32 public bytes that make the session unique; None takes fresh ones.
            device: where uploads are summed and decoded.
            deadlines: phase → seconds from its beginning after which ``poll`` closes it.
            clock: seconds since some moment, for deadlines.

        Raises:
            DtypeError, ArgumentError: an argument is wrong.
        """
        with torch.inference_mode(False):
            return self._server_type()(self, round, nonce, device, deadlines, clock)

    def resume(
        self,
        state: bytes,
        key: Key,
        journal: Journal | None = None,
        identity: Identity | None = None,
        deadlines: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Client | Server:
        """The party whose ``save`` gave ``state``, as it was then; its ``outbox`` can go out again.

        Args:
            state: what ``save(key)`` gave.
            key: the same key.
            journal: of that client in that round.
            identity: of that client, under a malicious server.
            deadlines: of a server; the phase that it is in begins anew.
            clock: of a server.

        Raises:
            DtypeError, ArgumentError: an argument is wrong.
            ProtocolError: the state is damaged, was saved under another key, or belongs to
                another protocol.
        """
        from pyfed.secagg.snapshot import resumed

        with torch.inference_mode(False):
            return resumed(self, state, key, journal, identity, deadlines, clock)

    def _expect_server(self, server: object, identities: object) -> tuple[bytes, ...]:
        """The pinned keys; raises unless the mode is known and the numbers bear it.

        Call it when ``parameters`` are there.
        """
        name, p = self.name, self.parameters
        if server not in MODES:
            raise ArgumentError(f"{name}: server is {server!r}; it must be one of {MODES}")
        if server == "curious":
            if identities:
                raise ArgumentError(
                    f"{name}: identities are given; they are used with server='malicious' only"
                )
            return ()
        if p.clients <= 2 * p.dropouts + p.privacy:
            raise ArgumentError(
                f"{name}: server='malicious' needs clients > 2·dropouts + privacy, and clients is "
                f"{p.clients}, dropouts {p.dropouts}, privacy {p.privacy}: else two quorums could "
                "share no honest client; use fewer dropouts, less privacy or more clients"
            )
        if not isinstance(identities, Sequence) or isinstance(identities, bytes | str):
            kind = type(identities).__name__
            raise DtypeError(
                f"{name}: identities is {kind}; it must be a list of public keys of 32 bytes"
            )
        pinned = tuple(identities)
        if len(pinned) != p.clients:
            raise ArgumentError(
                f"{name}: {len(pinned)} identities are given and clients is {p.clients}; with "
                "server='malicious', pass identities=[...] with every client's Identity.public, "
                "which all parties know from elsewhere than the server"
            )
        for index, public in enumerate(pinned):
            if not (isinstance(public, bytes) and len(public) == 32):
                raise ArgumentError(
                    f"{name}: identities[{index}] must be 32 bytes, as Identity.public gives them"
                )
        if len(set(pinned)) != len(pinned):
            raise ArgumentError(f"{name}: an identity is given to two clients")
        return pinned
