"""What clients and servers of a protocol share: the envelope check, and packed residues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from pyfed.errors import ProtocolError, PyfedError
from pyfed.keys import Key
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.result import RoundResult
from pyfed.secagg.session import SERVER
from pyfed.secagg.wire import Message

P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound="Party")


def one_at_a_time(
    method: Callable[Concatenate[Self, P], R],
) -> Callable[Concatenate[Self, P], R]:
    """Let one thread at a time into a party, so that its checks and its steps belong together.

    What a party makes can be overwritten, also where the caller is in inference mode.
    """

    @wraps(method)
    def locked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock, torch.inference_mode(False):
            return method(self, *args, **kwargs)

    return locked


def whole_or_closed(
    method: Callable[Concatenate[Self, P], R],
) -> Callable[Concatenate[Self, P], R]:
    """A step of a party, one at a time, of which no part is left when it is cut off.

    What pyfed refuses, and an entry that the journal could not keep, come before anything is
    changed: the step may be tried again. Whatever else cuts it off, memory that ran out or an
    interrupt, closes the party: half a step and then the whole of it once more would give a wrong
    sum.
    """

    @wraps(method)
    def stepped(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except PyfedError:
            raise
        except BaseException as error:
            if error is self._unkept:
                self._unkept = None
                raise
            begun = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            if begun:  # the arguments are those of the method
                self.close()
            raise

    return one_at_a_time(stepped)


def pack_words(*residues: torch.Tensor) -> bytes:
    """int32 residues of any shape as little-endian 32-bit words, in order, behind one another."""
    arrays = (np.ascontiguousarray(tensor.cpu().numpy(), dtype="<i4") for tensor in residues)
    return b"".join(array.data for array in arrays)


def place_for(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """int32 memory for what comes, all zero.

    On a CPU it is numpy's, which has its zeros from the system and asks for large pages: without
    them the first copy of a long vector takes five times as long.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=torch.int32, device=device)
    return torch.from_numpy(np.zeros(shape, dtype=np.int32))


def unpack_words(words: bytes | memoryview, out: torch.Tensor) -> None:
    """Write packed words into an int32 tensor of as many elements, in order, on any device."""
    given = np.frombuffer(words, dtype="<i4").reshape(out.shape)
    if out.device.type == "cpu":
        out.numpy()[:] = given
    else:
        here = torch.from_numpy(given.astype(np.int32))
        out.copy_(here)
        here.zero_()


class Party:
    """One side of one round: where it stands, and which messages it will look at.

    What it knows is in its attributes, so that :meth:`save` can keep all of it; ``_FIXED`` names
    those that are given again when it is resumed.

    Args:
        name: for messages of errors.
        number: of the client, or -1 for the server.
        protocol: the session's numbers.
        round_: number of the round.
    """

    _FIXED: ClassVar[frozenset[str]] = frozenset(
        {"_lock", "_name", "_number", "_protocol", "_parameters", "_round", "_unkept"}
    )
    _EXPECTED: ClassVar[Mapping[str, tuple[str, ...]]]
    """Phase → the kinds of message that have a place in it."""

    def __init__(self, name: str, number: int, protocol: Protocol, round_: int) -> None:
        self._lock = threading.RLock()
        self._unkept: OSError | None = None  # what the journal raised in this step
        self._name = name
        self._number = number
        self._protocol = protocol
        self._parameters = protocol.parameters
        self._round = round_
        self._phase = "keys"
        self._session = self._parameters.digest()  # until there is a roster
        self._result: RoundResult | None = None
        self._outbox: tuple[Message, ...] = ()

    @property
    def result(self) -> RoundResult:
        """The outcome of the round; ProtocolError until this party has it."""
        if self._result is None:
            raise self._refusal("there is no result yet")
        return self._result

    @property
    def round(self) -> int:
        """The number of the round."""
        return self._round

    @property
    def phase(self) -> str:
        """One of the protocol's phases; ``done`` or ``closed`` at the end."""
        return self._phase

    @property
    def outbox(self) -> tuple[Message, ...]:
        """The last messages that this party gave, to be sent again after a crash."""
        return self._outbox

    def close(self) -> None:
        """Overwrite what this party holds; it takes no message afterwards."""
        raise NotImplementedError

    @one_at_a_time
    def save(self, key: Key, outbox: bool = True) -> bytes:
        """Everything that this party knows, encrypted, for ``protocol.resume``.

        Save before the messages of a step are sent: what was never sent may be made again, and
        what was sent is in the :attr:`outbox`. The bytes hold the secrets that the party still
        holds, and no older ones; delete them when the round is over.

        Args:
            key: AES-256-GCM under a key derived from it; it may serve many rounds and parties.
            outbox: whether the last messages go with it. Without them the bytes are fewer, and a
                party that is resumed has an empty :attr:`outbox` and repeats no answer: where a
                message that was lost loses the party anyway.

        Raises:
            DtypeError: ``key`` is no Key.
        """
        from pyfed.secagg.snapshot import saved

        return saved(self, key, outbox)

    def _rejoin(self) -> None:
        """What is left to do when the attributes are those of a saved state; clients add to it."""

    def _refusal(self, reason: str, sender: int | None = None) -> ProtocolError:
        return ProtocolError(f"{self._name}: {reason}", sender=sender, phase=self._phase)

    def _envelope(self, recipient: int) -> dict[str, Any]:
        """The fields that every message from here carries."""
        return {
            "protocol": self._parameters.protocol,
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
        if kind not in self._EXPECTED.get(self._phase, ()):
            raise self._refusal(f"{kind} does not belong into phase {self._phase!r}", source)
        if message.session != self._session_of(message):
            raise self._refusal(f"{kind} is of another session, or of other parameters", source)

    def _session_of(self, message: Message) -> bytes:
        """What the session field of a well-formed message must be."""
        return self._session
