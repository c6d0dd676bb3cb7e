"""What clients and servers of a protocol share: the envelope check, and packed residues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from pyfed.errors import ProtocolError
from pyfed.secagg.messages import Message
from pyfed.secagg.result import RoundResult
from pyfed.secagg.session import SERVER, Parameters

P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound="Party")


def one_at_a_time(
    method: Callable[Concatenate[Self, P], R],
) -> Callable[Concatenate[Self, P], R]:
    """Let one thread at a time into a party, so that its checks and its steps belong together."""

    @wraps(method)
    def locked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


def pack_words(residues: torch.Tensor) -> bytes:
    """int32 residues, (count,), as little-endian 32-bit words."""
    return residues.cpu().numpy().astype("<i4", copy=False).tobytes()


def unpack_words(words: bytes, out: torch.Tensor) -> None:
    """Write packed words into an int32 tensor of shape (count,), on any device."""
    out.copy_(torch.from_numpy(np.frombuffer(words, dtype="<i4").astype(np.int32)))


class Party:
    """One side of one round: where it stands, and which messages it will look at.

    Args:
        name: for messages of errors.
        number: of the client, or -1 for the server.
        parameters: of the session.
        round_: number of the round.
    """

    def __init__(self, name: str, number: int, parameters: Parameters, round_: int) -> None:
        self._lock = threading.RLock()
        self._name = name
        self._number = number
        self._parameters = parameters
        self._round = round_
        self._phase = "keys"
        self._session = parameters.digest()  # until there is a roster
        self._result: RoundResult | None = None

    @property
    def result(self) -> RoundResult:
        """The outcome of the round; ProtocolError until this party has it."""
        if self._result is None:
            raise self._refusal("there is no result yet")
        return self._result

    @property
    def phase(self) -> str:
        """``keys``, ``share``, ``upload`` or ``recover``; ``done`` or ``closed`` at the end."""
        return self._phase

    def _refusal(self, reason: str, sender: int | None = None) -> ProtocolError:
        return ProtocolError(f"{self._name}: {reason}", sender=sender, phase=self._phase)

    def _envelope(self, recipient: int) -> dict[str, Any]:
        """The fields that every message from here carries."""
        return {
            "session": self._session,
            "round": self._round,
            "sender": self._number,
            "recipient": recipient,
        }

    def _check_envelope(self, message: Message, source: int) -> None:
        """Raise ProtocolError unless the message is well-formed, for this party, and for now.

        Args:
            message: what came; checked in full, so that it may come from anywhere.
            source: the peer that the engine authenticated.
        """
        if not isinstance(message, Message):
            raise self._refusal(f"a message is {type(message).__name__}; it must be a Message")
        if self._phase == "closed":
            raise self._refusal("the round is closed")
        message.check(self._parameters)
        kind = message.kind
        if source != message.sender:
            raise self._refusal(f"{kind} names sender {message.sender}, but came from {source}")
        if message.recipient != self._number:
            to = "the server" if message.recipient == SERVER else f"client {message.recipient}"
            raise self._refusal(f"{kind} is for {to}", source)
        if message.round != self._round:
            wrong = f"{kind} is of round {message.round}; this is round {self._round}"
            raise self._refusal(wrong, source)
        if kind not in self._expected_kinds():
            raise self._refusal(f"{kind} does not belong into phase {self._phase!r}", source)
        if message.session != self._session_of(message):
            raise self._refusal(f"{kind} is of another session, or of other parameters", source)

    def _expected_kinds(self) -> tuple[str, ...]:
        """The kinds of message that have a place in the present phase."""
        raise NotImplementedError

    def _session_of(self, message: Message) -> bytes:
        """What the session field of a well-formed message must be."""
        return self._session
