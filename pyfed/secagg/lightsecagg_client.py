"""A client of LightSecAgg through one round."""

from __future__ import annotations

import hashlib

import torch

from pyfed.checks import check, expect_int, expect_key
from pyfed.errors import DtypeError, ProtocolError
from pyfed.keys import Key
from pyfed.ops.field import field_sum
from pyfed.ops.random import random_residues
from pyfed.secagg.channel import ChannelKey, Peers
from pyfed.secagg.journal import Journal
from pyfed.secagg.lightsecagg import NAME, LightSecAgg
from pyfed.secagg.messages import (
    Answer,
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
from pyfed.secagg.session import SERVER, Member, survivors_digest
from pyfed.secagg.wire import Box, all_below

USE = "share"
_EXPECTED = {
    "keys": ("Roster",),
    "share": ("Inbox",),
    "upload": ("Survivors",),
    "recover": ("Survivors", "Result"),  # the same survivors again are answered again
    "done": ("Survivors",),
}


class LightSecAggClient(Party):
    """One client in one round: ``start`` gives its first message, ``handle`` each next one.

    A message that is refused raises ProtocolError and changes nothing, with one exception: a
    second, different set of survivors closes the round, since answering both would uncover masks.
    Secrets are overwritten as soon as they have served, and by :meth:`close`.

    Args:
        protocol: the session's numbers.
        index: number of this client.
        round_: number of the round.
        key: the round key, copied; None takes a fresh one from the operating system.
        journal: keeps what is released; None keeps nothing.
    """

    def __init__(
        self,
        protocol: LightSecAgg,
        index: int,
        round_: int,
        key: Key | None = None,
        journal: Journal | None = None,
    ) -> None:
        expect_int(NAME, "index", index, 0, protocol.parameters.clients)
        expect_int(NAME, "round", round_, 0, 2**64)
        if key is not None:
            expect_key(NAME, key)
        if journal is not None and not callable(getattr(journal, "record", None)):
            kind = type(journal).__name__
            raise DtypeError(f"{NAME}: journal is {kind}; it must have a method record")
        super().__init__(f"client {index}", index, protocol.parameters, round_)
        self._protocol = protocol
        self._journal = journal
        self._root = Key.generate() if key is None else Key(key.reveal())
        channel = self._root.derive("channel")
        self._channel: ChannelKey | None = ChannelKey(channel)
        channel.wipe()
        self._started = False
        # Row 0: the encoded update and the weight. Row 1: the mask. int32 (2, width).
        self._pair = torch.empty(0, dtype=torch.int32)
        # Row d: the share that dealer d sent here. int32 (clients, columns).
        self._held = torch.empty(0, dtype=torch.int32)
        self._peers: Peers | None = None
        self._members: frozenset[int] = frozenset()
        self._dealers: tuple[int, ...] = ()
        self._complaints: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._answer: Answer | None = None

    @one_at_a_time
    def start(self, update: torch.Tensor, weight: int = 1) -> list[Message]:
        """Encode an update and enter the round.

        Args:
            update: what the session's encoding takes, on any device: finite float32, float16 or
                bfloat16 (length,), or votes as bool (length,) or packed uint8 (⌈length / 8⌉,).
            weight: an integer from 0 to the ``max_weight`` of the encoding; of votes it is 1.

        Raises:
            DtypeError, ArgumentError: an argument is wrong; ``start`` may be called again.
            ProtocolError: the client has started already.
        """
        if self._phase == "closed":
            raise self._refusal("the round is closed")
        if self._started or self._phase != "keys":
            raise self._refusal("start was called before; a client serves one update in one round")
        flat = self._protocol.expect_update(update)
        weight = self._protocol.fixed.check_weight(weight)
        rounding = self._root.derive("rounding")
        try:
            length = self._parameters.length
            encoded = self._protocol.fixed.encode_update(flat, length, rounding, weight)
        finally:
            rounding.wipe()
        if flat.is_cuda:
            check()  # a NaN is told here, not after the mask is spent
        width = self._parameters.width
        self._pair = torch.zeros(2, width, dtype=torch.int32, device=flat.device)
        self._pair[0, :-1] = encoded
        self._pair[0, -1] = weight
        self._started = True
        encoded.zero_()
        assert self._channel is not None
        return [Hello(**self._envelope(SERVER), channel_key=self._channel.public)]

    @one_at_a_time
    def handle(self, message: Message, source: int) -> list[Message]:
        """Take a message and give the answer to it, if there is one.

        Args:
            message: what came.
            source: the peer that the engine authenticated; -1 is the server.

        Raises:
            ProtocolError: the message is malformed, forged, stale or out of order.
        """
        if not self._started:
            raise self._refusal("start has not been called")
        self._check_envelope(message, source)
        if isinstance(message, Roster):
            return self._share(message)
        if isinstance(message, Inbox):
            return self._upload(message)
        if isinstance(message, Survivors):
            return self._recover(message)
        assert isinstance(message, Result)
        return self._finish(message)

    @one_at_a_time
    def close(self) -> None:
        """Overwrite every secret of the round; the client takes no message afterwards."""
        self._wipe_mask()
        self._held.zero_()
        self._phase = "closed"

    def _wipe_mask(self) -> None:
        """The update, the mask and all keys: no longer needed once the upload is made."""
        self._pair.zero_()
        self._root.wipe()
        if self._peers is not None:
            self._peers.wipe()
        self._channel = None

    def _expected_kinds(self) -> tuple[str, ...]:
        return _EXPECTED.get(self._phase, ())

    def _session_of(self, message: Message) -> bytes:
        if not isinstance(message, Roster):
            return self._session
        if message.parameters != self._parameters.packed():
            raise self._refusal("Roster has other parameters than this client", SERVER)
        return self._parameters.session(message.roster, message.nonce)

    def _record(self, kind: str, digest: bytes) -> None:
        """Keep what is about to be released; a conflict with the journal ends the round."""
        try:
            if self._journal is not None:
                self._journal.record(kind, digest)
        except ProtocolError:
            self.close()
            raise

    def _share(self, message: Roster) -> list[Message]:
        """Roster → Share: draw the mask, and deal its shares."""
        assert self._channel is not None
        if Member(self._number, self._channel.public, b"") not in message.roster:
            raise self._refusal("Roster does not hold this client's own key", SERVER)
        self._expect_enough("Roster", len(message.roster))
        publics = {client: channel_key for client, channel_key, _ in message.roster}
        peers = Peers(self._channel, self._number, publics, message.session, self._round)
        try:
            boxes = self._dealt_boxes(peers)
        except BaseException:
            peers.wipe()
            raise
        self._peers, self._members, self._session = peers, frozenset(publics), message.session
        self._channel, self._phase = None, "share"
        return [Share(**self._envelope(SERVER), boxes=boxes)]

    def _dealt_boxes(self, peers: Peers) -> tuple[tuple[int, Box], ...]:
        """A sealed share for each peer; one's own is kept in its row."""
        shares = self._dealt_shares()
        try:
            boxes = tuple((i, peers.seal(i, USE, "Share", _raw(shares[i]))) for i in peers.numbers)
            own = shares[self._number].clone()
        finally:
            shares.zero_()
        self._held = shares
        self._held[self._number] = own
        own.zero_()
        return boxes

    def _dealt_shares(self) -> torch.Tensor:
        """Draw the mask, keep it in row 1 of the pair, and encode it: int32 (clients, columns)."""
        field, device = self._protocol.fixed.field, self._pair.device
        mask_key, padding = self._root.derive("mask"), self._root.derive("padding")
        mask = random_residues(mask_key, self._parameters.width, field, device=device)
        try:
            self._pair[1] = mask
            shares = self._protocol.code.encode(mask, padding)
        finally:
            mask.zero_()
            mask_key.wipe()
            padding.wipe()
        if shares.is_cuda:
            there = shares
            shares = there.cpu()
            there.zero_()
        return shares

    def _expect_enough(self, what: str, count: int) -> None:
        if count < self._parameters.enough:
            raise self._refusal(
                f"{what} names {count} clients; it must name at least {self._parameters.enough}",
                SERVER,
            )

    def _upload(self, message: Inbox) -> list[Message]:
        """Inbox → Upload: open the boxes, then release the masked update."""
        dealers = message.dealers
        if self._number not in dealers:
            raise self._refusal("Inbox leaves this client out of the dealers", SERVER)
        if not self._members.issuperset(dealers):
            raise self._refusal("Inbox names a dealer that is not in the roster", SERVER)
        self._expect_enough("Inbox", len(dealers))
        senders = tuple(dealer for dealer, _ in message.boxes)
        if senders != tuple(d for d in dealers if d != self._number):
            raise self._refusal("Inbox must hold a box from every other dealer", SERVER)
        complaints = self._opened(message)
        masked = pack_words(field_sum(self._pair, self._protocol.fixed.field))
        self._record("upload", hashlib.sha256(masked).digest())
        self._dealers, self._complaints = dealers, complaints
        self._wipe_mask()
        self._phase = "upload"
        return [Upload(**self._envelope(SERVER), masked=masked, complaints=complaints)]

    def _opened(self, message: Inbox) -> tuple[int, ...]:
        """Open every box into its row; gives the dealers whose box is bad. May be run again."""
        assert self._peers is not None
        bad, modulus = [], self._parameters.field.modulus
        for dealer, box in message.boxes:
            row = self._held[dealer]
            good = self._peers.open_into(dealer, USE, "Share", box, _raw(row))
            if not (good and all_below(_raw(row), modulus)):
                row.zero_()
                bad.append(dealer)
        return tuple(bad)

    def _recover(self, message: Survivors) -> list[Message]:
        """Survivors → Answer: the sum of the shares held from them, once."""
        survivors = message.survivors
        if self._answer is not None:
            if survivors == self._survivors:
                return [self._answer]
            self.close()
            raise self._refusal("a second set of survivors came; the round is closed", SERVER)
        if not set(survivors) <= set(self._dealers):
            raise self._refusal("Survivors names a client that has dealt no shares", SERVER)
        self._expect_enough("Survivors", len(survivors))
        if set(survivors) & set(self._complaints):
            raise self._refusal("Survivors names a dealer whose box was bad", SERVER)
        chosen = [int(dealer in survivors) for dealer in range(self._parameters.clients)]
        row = field_sum(self._held, self._protocol.fixed.field, weights=chosen)
        digest = survivors_digest(survivors)
        self._record("answer", digest)
        self._answer = Answer(**self._envelope(SERVER), digest=digest, row=pack_words(row))
        self._survivors = survivors
        self._held.zero_()
        self._phase = "recover"
        return [self._answer]

    def _finish(self, message: Result) -> list[Message]:
        """Result: keep it."""
        if message.survivors != self._survivors:
            raise self._refusal("Result is of other survivors than this client answered", SERVER)
        count, device = self._parameters.residues, self._pair.device
        residues = torch.empty(count, dtype=torch.int32, device=device)
        unpack_words(message.sum, residues)
        included, length = frozenset(message.survivors), self._parameters.length
        fixed = self._protocol.fixed
        self._result = RoundResult(residues, included, message.weight, fixed, length)
        self._phase = "done"
        return []


def _raw(row: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU row, shared with it: int32 words, little-endian."""
    view: memoryview = row.numpy().data
    return view.cast("B")
