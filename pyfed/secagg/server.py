"""A server of any protocol: who must answer, when a phase ends, the roster, and the quorum."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

import torch

from pyfed.checks import expect_device, expect_int
from pyfed.codes import LagrangeCode
from pyfed.errors import ArgumentError, DecodeError, DtypeError, ProtocolError, ThresholdError
from pyfed.secagg.channel import expect_public
from pyfed.secagg.common import Commit, Hello, Quorum, Roster, key_parts
from pyfed.secagg.identity import is_signed
from pyfed.secagg.party import Party, one_at_a_time, whole_or_closed
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.session import SERVER, Member, survivors_digest
from pyfed.secagg.wire import Message


class Server(Party):
    """The server in one round: ``handle`` collects, ``close_phase`` or ``poll`` goes on.

    A message that is refused raises ProtocolError and changes nothing. A phase that is closed with
    too few messages raises ThresholdError and stays open, so that the engine may wait longer or
    give the round up; a new round needs new clients, with new keys. A step that something else
    cuts off, such as memory that ran out, closes the server; a state that was saved before it can
    be resumed.

    Args:
        protocol: the session's numbers.
        round_: number of the round.
        nonce: 32 public bytes that make the session unique; None takes fresh ones.
        device: where uploads are summed and decoded.
        deadlines: phase → seconds from its beginning after which ``poll`` closes it.
        clock: seconds since some moment.
    """

    _FIXED = Party._FIXED | {"_deadlines", "_clock", "_began"}

    def __init__(
        self,
        protocol: Protocol,
        round_: int,
        nonce: bytes | None = None,
        device: torch.device | str = "cpu",
        deadlines: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        name = protocol.name
        expect_int(name, "round", round_, 0, 2**64)
        if nonce is not None and not (isinstance(nonce, bytes) and len(nonce) == 32):
            raise ArgumentError(f"{name}: nonce must be 32 bytes, or None for fresh ones")
        super().__init__("server", SERVER, protocol, round_)
        self._deadlines = _expect_deadlines(protocol, deadlines)
        if not callable(clock):
            raise DtypeError(f"{name}: clock is {type(clock).__name__}; it must be a function")
        self._clock = clock
        self._began = clock()
        self._nonce = os.urandom(32) if nonce is None else nonce
        self._device = expect_device(name, device)
        self._expected = frozenset(range(self._parameters.clients))
        self._came: set[int] = set()
        self._members: dict[int, Member] = {}
        self._taken: set[bytes] = set()  # the X25519 keys of all members
        self._hellos: dict[int, bytes] = {}  # signatures, under a malicious server
        self._commits: dict[int, bytes] = {}
        self._survivors: tuple[int, ...] = ()
        self._wrong: tuple[int, ...] = ()

    @property
    def waiting(self) -> frozenset[int]:
        """The clients whose message of this phase has not come; when empty, close the phase."""
        return self._expected - self._came

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline of this phase, negative when it is over; None: it has none."""
        if self._phase not in self._deadlines:
            return None
        return self._began + self._deadlines[self._phase] - self._clock()

    @whole_or_closed
    def handle(self, message: Message, source: int) -> list[Message]:
        """Take a client's message; the list is empty, since answers come with the phase's end.

        Args:
            message: what came.
            source: number of the client that the engine authenticated.

        Raises:
            ProtocolError: the message is malformed, forged, late, repeated or out of order.
        """
        self._check_envelope(message, source)
        if source not in self._expected:
            raise self._refusal(f"client {source} was lost in an earlier phase", source)
        if source in self._came:
            raise self._refusal(f"client {source} sent its {message.kind} before", source)
        if self._parameters.signed and not is_signed(message, self._protocol.identities[source]):
            raise self._refusal(
                f"{message.kind} is not signed by the pinned identity of client {source}", source
            )
        getattr(self, f"_on_{message.kind.lower()}")(message)
        self._came.add(source)
        return []

    @whole_or_closed
    def close_phase(self) -> list[Message]:
        """End the phase (everybody has answered, or the deadline is reached); what to send now.

        Raises:
            ThresholdError: fewer than N - D clients are left; ``.missing`` names the others.
            DecodeError: answers contradict one another beyond repair; the round is closed.
            ProtocolError: the round is over.
        """
        if self._phase == "closed":
            raise self._refusal("the round is closed, so there is no phase to close")
        if self._phase == "done":
            raise self._refusal("there is no phase to close")
        messages: list[Message] = getattr(self, f"_close_{self._phase}")()
        self._outbox = tuple(messages)
        return messages

    @one_at_a_time
    def poll(self) -> list[Message]:
        """Close the phase if everybody has answered or its deadline is over; else nothing.

        Raises:
            ThresholdError, DecodeError: as :meth:`close_phase`.
            ProtocolError: the server is closed.
        """
        if self._phase == "closed":
            raise self._refusal("the round is closed, so there is no phase to close")
        if self._phase == "done":
            return []
        remaining = self.remaining
        if self.waiting and (remaining is None or remaining > 0):
            return []
        return self.close_phase()

    @one_at_a_time
    def close(self) -> None:
        """Overwrite shares and keys that clients sent; the server takes no message afterwards.

        Masked uploads say nothing without them, and are let go of.
        """
        try:
            self._wipe()
        finally:
            self._phase = "closed"

    def _wipe(self) -> None:
        """Overwrite shares and keys that clients sent; subclasses do."""

    def _next(self, expected: Iterable[int], phase: str | None = None) -> None:
        """Go to ``phase``, by default the next one, in which these clients must answer."""
        after = (*self._protocol.phases, "done")
        self._phase = after[after.index(self._phase) + 1] if phase is None else phase
        self._expected, self._came = frozenset(expected), set()
        self._began = self._clock()

    def _too_few(self, left: Iterable[int], why: str = "", needed: int | None = None) -> NoReturn:
        left = tuple(left)
        needed = self._parameters.enough if needed is None else needed
        missing = sorted(set(range(self._parameters.clients)) - set(left))
        raise ThresholdError(
            f"{self._protocol.name}: {len(left)} clients are left in phase {self._phase!r} and "
            f"{needed} are needed; missing are {missing}{why}",
            missing=missing,
            needed=needed,
        )

    def _left(self) -> tuple[int, ...]:
        """The clients whose message of this phase came, sorted; raises when they are too few."""
        left = tuple(sorted(self._came))
        if len(left) < self._parameters.enough:
            self._too_few(left)
        return left

    def _on_hello(self, message: Hello) -> None:
        keys = message.channel_key
        parts = key_parts(keys)
        if self._taken & set(parts) or len(set(parts)) < len(parts):
            raise self._refusal("Hello repeats another client's key", message.sender)
        for part in parts:
            try:
                expect_public(part)
            except ProtocolError as error:
                raise self._refusal(f"Hello: {error}", message.sender) from None
        self._taken.update(parts)
        self._members[message.sender] = Member(message.sender, keys, message.signing_key)
        self._hellos[message.sender] = message.signature

    def _close_keys(self) -> list[Message]:
        left = self._left()
        roster = tuple(self._members[client] for client in left)
        signatures = tuple(self._hellos[client] for client in left)
        self._session = self._parameters.session(roster, self._nonce)
        self._next(left)
        return [
            Roster(
                **self._envelope(client),
                parameters=self._parameters.packed(),
                roster=roster,
                nonce=self._nonce,
                signatures=signatures if self._parameters.signed else (),
            )
            for client in left
        ]

    def _settle(self, survivors: tuple[int, ...]) -> None:
        """Keep the set of survivors, and go on to their Commits or to their answers."""
        self._survivors = survivors
        self._next(survivors)

    def _on_commit(self, message: Commit) -> None:
        if message.digest != survivors_digest(self._survivors):
            raise self._refusal("Commit is to other survivors", message.sender)
        self._commits[message.sender] = message.signature

    def _close_commit(self) -> list[Message]:
        left = self._left()
        signatures = tuple((client, self._commits[client]) for client in left)
        self._next(left)
        return [Quorum(**self._envelope(client), signatures=signatures) for client in left]

    def _decoded(
        self,
        code: LagrangeCode,
        rows: torch.Tensor,
        numbers: Sequence[int],
        holders: Callable[[int], Iterable[int]],
    ) -> torch.Tensor:
        """The vector behind answers, int32 (width,); wrong ones are repaired, and kept in _wrong.

        Args:
            code: of the shares.
            rows: int32 (n, columns); overwritten in the end.
            numbers: the share number of each row.
            holders: share number → the clients to whom a wrong row may be due.
        """
        p = self._parameters
        try:
            vector, wrong = code.repair(rows, numbers, length=p.width, correct=p.errors)
        except DecodeError as error:
            blamed = sorted({client for row in error.rows for client in holders(row)})
            told = f"; if few are wrong, they are due to clients {blamed}" if blamed else ""
            raise DecodeError(
                f"{self._protocol.name}: the {len(numbers)} answers contradict one another{told}; "
                f"errors is {p.errors}, and so many are repaired",
                rows=blamed,
            ) from None
        finally:
            rows.zero_()
        self._wrong = tuple(sorted({client for row in wrong for client in holders(row)}))
        return vector

    def _expect_weight(self, weight: int) -> None:
        """Raise DecodeError when no honest clients can have weights with such a sum."""
        most = len(self._survivors) * self._parameters.max_weight
        if weight > most:
            raise DecodeError(
                f"{self._protocol.name}: the weights sum to {weight} and cannot exceed {most}: a "
                "client that uploaded did not keep to the protocol"
            )


def _expect_deadlines(
    protocol: Protocol, deadlines: Mapping[str, float] | None
) -> dict[str, float]:
    if deadlines is None:
        return {}
    name = protocol.name
    if not isinstance(deadlines, Mapping):
        kind = type(deadlines).__name__
        raise DtypeError(f"{name}: deadlines is {kind}; it must map phases to seconds")
    for phase, seconds in deadlines.items():
        if phase not in protocol.phases:
            raise ArgumentError(
                f"{name}: deadlines names the phase {phase!r}; phases are "
                f"{', '.join(protocol.phases)}"
            )
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            kind = type(seconds).__name__
            raise DtypeError(f"{name}: deadlines[{phase!r}] is {kind}; it must be seconds")
        if not seconds >= 0:
            raise ArgumentError(
                f"{name}: deadlines[{phase!r}] is {seconds}; it must be at least 0 seconds"
            )
    return {phase: float(seconds) for phase, seconds in deadlines.items()}
