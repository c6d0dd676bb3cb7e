"""The server of LightSecAgg through one round."""

from __future__ import annotations

import os
from collections import Counter
from typing import NoReturn

import torch

from pyfed.checks import expect_device, expect_int
from pyfed.errors import ArgumentError, DecodeError, ThresholdError
from pyfed.ops.field import field_sum
from pyfed.secagg.channel import expect_public
from pyfed.secagg.lightsecagg import NAME, LightSecAgg
from pyfed.secagg.messages import (
    Answer,
    Box,
    Hello,
    Inbox,
    Message,
    Result,
    Roster,
    Share,
    Survivors,
    Upload,
)
from pyfed.secagg.party import Party, one_at_a_time, pack_words, unpack_words
from pyfed.secagg.result import RoundResult
from pyfed.secagg.session import PHASES, SERVER, Member, survivors_digest

_EXPECTED = {
    "keys": ("Hello",),
    "share": ("Share",),
    "upload": ("Upload",),
    "recover": ("Answer",),
}


class LightSecAggServer(Party):
    """The server in one round: ``handle`` collects, ``close_phase`` goes on.

    A message that is refused raises ProtocolError and changes nothing. A phase that is closed with
    too few messages raises ThresholdError and stays open, so that the engine may wait longer or
    give the round up; a new round needs new clients, with new keys.

    Args:
        protocol: the session's numbers.
        round_: number of the round.
        nonce: 32 public bytes that make the session unique; None takes fresh ones.
        device: where uploads are summed and decoded.
    """

    def __init__(
        self,
        protocol: LightSecAgg,
        round_: int,
        nonce: bytes | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        expect_int(NAME, "round", round_, 0, 2**64)
        if nonce is not None and not (isinstance(nonce, bytes) and len(nonce) == 32):
            raise ArgumentError(f"{NAME}: nonce must be 32 bytes, or None for fresh ones")
        super().__init__("server", SERVER, protocol.parameters, round_)
        self._protocol = protocol
        self._nonce = os.urandom(32) if nonce is None else nonce
        self._device = expect_device(NAME, device)
        self._expected = frozenset(range(self._parameters.clients))
        self._came: set[int] = set()
        self._members: dict[int, Member] = {}
        self._boxes: dict[int, dict[int, Box]] = {}
        self._complaints: dict[int, tuple[int, ...]] = {}
        # One row a client, written when its message comes: (clients, width), (clients, columns).
        self._uploads = torch.empty(0, dtype=torch.int32)
        self._answers = torch.empty(0, dtype=torch.int32)
        self._survivors: tuple[int, ...] = ()

    @property
    def waiting(self) -> frozenset[int]:
        """The clients whose message of this phase has not come; when empty, close the phase."""
        return self._expected - self._came

    @one_at_a_time
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
        if isinstance(message, Hello):
            self._take_hello(message)
        elif isinstance(message, Share):
            self._take_share(message)
        elif isinstance(message, Upload):
            self._take_upload(message)
        elif isinstance(message, Answer):
            self._take_answer(message)
        self._came.add(source)
        return []

    @one_at_a_time
    def close_phase(self) -> list[Message]:
        """End the phase (everybody has answered, or the deadline is reached); what to send now.

        Raises:
            ThresholdError: fewer than N - D clients are left; ``.missing`` names the others.
            DecodeError: answers contradict one another beyond repair; the round is closed.
            ProtocolError: the round is over.
        """
        if self._phase == "keys":
            return self._close_keys()
        if self._phase == "share":
            return self._close_share()
        if self._phase == "upload":
            return self._close_upload()
        if self._phase == "recover":
            return self._close_recover()
        raise self._refusal("there is no phase to close")

    @one_at_a_time
    def close(self) -> None:
        """Overwrite the masked uploads and answers; the server takes no message afterwards."""
        self._wipe()
        self._phase = "closed"

    def _wipe(self) -> None:
        self._uploads.zero_()
        self._answers.zero_()
        self._boxes = {}

    def _expected_kinds(self) -> tuple[str, ...]:
        return _EXPECTED.get(self._phase, ())

    def _next(self, expected: tuple[int, ...]) -> None:
        self._expected, self._came = frozenset(expected), set()
        after = (*PHASES, "done")
        self._phase = after[after.index(self._phase) + 1]

    def _too_few(self, left: tuple[int, ...], why: str = "") -> NoReturn:
        needed = self._parameters.enough
        missing = sorted(set(range(self._parameters.clients)) - set(left))
        raise ThresholdError(
            f"{NAME}: {len(left)} clients are left in phase {self._phase!r} and {needed} are "
            f"needed; missing are {missing}{why}",
            missing=missing,
            needed=needed,
        )

    def _left(self) -> tuple[int, ...]:
        """The clients whose message of this phase came, sorted; raises when they are too few."""
        left = tuple(sorted(self._came))
        if len(left) < self._parameters.enough:
            self._too_few(left)
        return left

    def _take_hello(self, message: Hello) -> None:
        if any(member.channel_key == message.channel_key for member in self._members.values()):
            raise self._refusal("Hello repeats another client's key", message.sender)
        expect_public(message.channel_key)
        member = Member(message.sender, message.channel_key, message.signing_key)
        self._members[message.sender] = member

    def _close_keys(self) -> list[Message]:
        left = self._left()
        roster = tuple(self._members[client] for client in left)
        self._session = self._parameters.session(roster, self._nonce)
        self._next(left)
        packed = self._parameters.packed()
        return [
            Roster(**self._envelope(client), parameters=packed, roster=roster, nonce=self._nonce)
            for client in left
        ]

    def _take_share(self, message: Share) -> None:
        recipients = {recipient for recipient, _ in message.boxes}
        if recipients != self._expected - {message.sender}:
            raise self._refusal("Share must hold a box for every other member", message.sender)
        self._boxes[message.sender] = dict(message.boxes)

    def _close_share(self) -> list[Message]:
        dealers = self._left()
        boxes = self._boxes
        self._boxes = {}
        shape = (self._parameters.clients, self._parameters.width)
        self._uploads = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._next(dealers)
        return [
            Inbox(
                **self._envelope(client),
                dealers=dealers,
                boxes=tuple((d, boxes[d][client]) for d in dealers if d != client),
            )
            for client in dealers
        ]

    def _take_upload(self, message: Upload) -> None:
        if not set(message.complaints) <= self._expected:
            raise self._refusal(
                "Upload complains about a client that dealt nothing", message.sender
            )
        unpack_words(message.masked, self._uploads[message.sender])
        self._complaints[message.sender] = message.complaints

    def _excluded(self) -> frozenset[int]:
        """Dealers that more than T clients complain about; then complainers about dealers left.

        At most T clients lie, so a dealer in the first group is truly bad. A client of the second
        lacks a share that the sum needs, whoever is to blame: it leaves, and the dealer stays.
        """
        counts = Counter(dealer for about in self._complaints.values() for dealer in about)
        bad = {dealer for dealer, count in counts.items() if count > self._parameters.privacy}
        left = self._came - bad
        return frozenset(bad | {c for c in left if left & set(self._complaints[c])})

    def _close_upload(self) -> list[Message]:
        excluded = self._excluded()
        survivors = tuple(sorted(self._came - excluded))
        if len(survivors) < self._parameters.enough:
            by = sorted(excluded & self._came)
            self._too_few(survivors, f", of whom complaints excluded {by}" if by else "")
        for lost in self._expected - set(survivors):
            self._uploads[lost].zero_()  # what was excluded goes with its mask
        self._survivors = survivors
        shape = (self._parameters.clients, self._parameters.columns)
        self._answers = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._next(survivors)
        return [Survivors(**self._envelope(client), survivors=survivors) for client in survivors]

    def _take_answer(self, message: Answer) -> None:
        if message.digest != survivors_digest(self._survivors):
            raise self._refusal("Answer is for other survivors", message.sender)
        unpack_words(message.row, self._answers[message.sender])

    def _close_recover(self) -> list[Message]:
        answered = self._left()
        try:
            residues, weight = self._unmasked(answered)
        except DecodeError:
            self.close()
            raise
        fixed, survivors = self._protocol.fixed, self._survivors
        length = self._parameters.length
        self._result = RoundResult(residues, frozenset(survivors), weight, fixed, length)
        self._wipe()
        self._next(())
        packed = pack_words(residues)
        return [
            Result(**self._envelope(client), survivors=survivors, sum=packed, weight=weight)
            for client in survivors
        ]

    def _unmasked(self, answered: tuple[int, ...]) -> tuple[torch.Tensor, int]:
        """The survivors' sum as int32 (residues,), and the sum of their weights."""
        field, width = self._protocol.fixed.field, self._parameters.width
        rows = self._answers[list(answered)]
        pair = torch.zeros(2, width, dtype=torch.int32, device=self._device)
        correct = self._parameters.errors
        try:
            mask = self._protocol.code.decode(rows, answered, length=width, correct=correct)
            pair[0] = mask
            mask.zero_()
            pair[1] = field_sum(self._uploads, field)  # rows of others than survivors are zero
            # masked sum - sum of masks: the weight p - 1 is -1.
            residues = field_sum(pair, field, weights=[field.modulus - 1, 1])
        finally:
            pair.zero_()
            rows.zero_()
        weight, most = int(residues[-1]), len(self._survivors) * self._parameters.max_weight
        if weight > most:
            raise DecodeError(
                f"{NAME}: the weights sum to {weight} and cannot exceed {most}: a client that "
                "uploaded did not keep to the protocol"
            )
        return residues[:-1], weight
