"""The server of SecAgg+ through one round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pyfed.errors import DecodeError, ThresholdError
from pyfed.keys import Key
from pyfed.ops.pairwise import add_masks_
from pyfed.secagg.channel import ChannelKey
from pyfed.secagg.common import Result
from pyfed.secagg.graph import neighbourhoods
from pyfed.secagg.identity import is_signed
from pyfed.secagg.party import pack_words, unpack_words
from pyfed.secagg.result import RoundResult
from pyfed.secagg.secaggplus import SecAggPlus
from pyfed.secagg.secaggplus_messages import (
    NAME,
    SECRET_WORDS,
    Alive,
    Inbox,
    Pledge,
    SecAggPlusParameters,
    Share,
    Unmask,
    Upload,
    settled_session,
)
from pyfed.secagg.secaggplus_secrets import forget, mask_sign, pair_key, recovered
from pyfed.secagg.server import Server
from pyfed.secagg.session import SERVER, survivors_digest
from pyfed.secagg.uploads import summed
from pyfed.secagg.wire import Box, Message


class SecAggPlusServer(Server):
    """The server in one round; see :class:`pyfed.secagg.server.Server`.

    Of each dealer it collects shares of one secret: of the seed when the dealer survives, of the
    private key for masks when it does not. There is one place for them, so it cannot hold both.
    """

    _EXPECTED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "keys": ("Hello",),
        "share": ("Share",),
        "upload": ("Upload",),
        "commit": ("Commit",),
        "recover": ("Unmask",),
    }
    _protocol: SecAggPlus
    _parameters: SecAggPlusParameters

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._graph: dict[int, tuple[int, ...]] = {}
        self._graph_session = b""  # the session hash before it covers the dealers
        self._boxes: dict[int, dict[int, Box]] = {}
        self._dealers: tuple[int, ...] = ()
        self._complaints: dict[int, tuple[int, ...]] = {}
        self._pledges: dict[int, bytes] = {}
        self._uploads: dict[int, bytes] = {}  # of each client width packed residues
        # Dealer → shares of its one secret, row i from its i-th neighbour: int32 (neighbours, 9).
        self._rows: dict[int, torch.Tensor] = {}
        self._given: dict[int, list[int]] = {}  # dealer → the rows that came
        self._pairs: dict[int, dict[int, Key]] = {}  # dead dealer → survivor → their pair's key

    def _wipe(self) -> None:
        for rows in self._rows.values():
            rows.zero_()
        for keys in self._pairs.values():
            for key in keys.values():
                key.wipe()
        self._boxes, self._uploads, self._pairs = {}, {}, {}

    def _close_keys(self) -> list[Message]:
        messages = super()._close_keys()
        members, degree = tuple(sorted(self._expected)), self._parameters.degree
        self._graph = neighbourhoods(self._session, members, degree)
        self._graph_session = self._session
        return messages

    def _on_share(self, message: Share) -> None:
        if tuple(recipient for recipient, _ in message.boxes) != self._graph[message.sender]:
            raise self._refusal("Share must hold a box for every neighbour", message.sender)
        self._boxes[message.sender] = dict(message.boxes)

    def _close_share(self) -> list[Message]:
        dealers = self._left()
        boxes = self._boxes
        messages: list[Message] = [
            Inbox(
                **self._envelope(client),
                dealers=dealers,
                boxes=tuple((d, boxes[d][client]) for d in self._graph[client] if d in boxes),
            )
            for client in dealers
        ]
        self._dealers, self._boxes = dealers, {}
        self._session = settled_session(self._session, dealers)
        self._next(dealers)
        return messages

    def _on_upload(self, message: Upload) -> None:
        dealt = set(self._graph[message.sender]) & set(self._dealers)
        if not set(message.complaints) <= dealt:
            raise self._refusal(
                "Upload complains about a client that dealt nothing to it", message.sender
            )
        if self._parameters.signed:
            own = {"sender": message.sender, "signature": message.pledge}
            pledge = Pledge(**{**self._envelope(SERVER), **own})
            if not is_signed(pledge, self._protocol.identities[message.sender]):
                raise self._refusal("Upload has a false pledge", message.sender)
        self._uploads[message.sender] = message.masked
        self._complaints[message.sender] = message.complaints
        self._pledges[message.sender] = message.pledge

    def _kept(self) -> frozenset[int]:
        """The uploaders whose seed can be uncovered, and who are not known to have dealt badly.

        Who complains about a box merely holds no share of that dealer; nobody leaves for it. A
        dealer leaves when more than min(T, t - 1) clients complain, so that one of them does not
        lie; and when fewer than t + 2E + F neighbours hold its shares. Those who leave answer no
        more, so that is looked at again.
        """
        p = self._parameters
        counts = Counter(dealer for about in self._complaints.values() for dealer in about)
        liars = min(p.privacy, p.threshold - 1)
        kept = {client for client in self._came if counts[client] <= liars}
        while True:
            short = {
                client
                for client in kept
                if sum(
                    holder in kept and client not in self._complaints[holder]
                    for holder in self._graph[client]
                )
                < p.needed
            }
            if not short:
                return frozenset(kept)
            kept -= short

    def _close_upload(self) -> list[Message]:
        self._left()
        survivors = tuple(sorted(self._kept()))
        if len(survivors) < self._parameters.enough:
            by = sorted(self._came - set(survivors))
            why = f", of whom {by} dealt badly or lack holders of their shares" if by else ""
            self._too_few(survivors, why)
        # An upload of another goes with its mask.
        self._uploads = {client: self._uploads[client] for client in survivors}
        shape = (len(self._graph[self._dealers[0]]), SECRET_WORDS)
        self._rows = {dealer: torch.zeros(shape, dtype=torch.int32) for dealer in self._dealers}
        self._given = {dealer: [] for dealer in self._dealers}
        self._pairs = {dealer: {} for dealer in set(self._dealers) - set(survivors)}
        self._settle(survivors)
        messages: list[Message] = []
        for client in survivors:
            alive = sorted(self._linked(client)) if self._parameters.signed else []
            pledges = tuple(self._pledges[peer] for peer in alive)
            envelope = self._envelope(client)
            messages.append(Alive(**envelope, survivors=survivors, pledges=pledges))
        return messages

    def _on_unmask(self, message: Unmask) -> None:
        sender, alive = message.sender, set(self._survivors)
        if message.digest != survivors_digest(self._survivors):
            raise self._refusal("Unmask is for other survivors", sender)
        dealt = set(self._graph[sender]) & set(self._dealers)
        good = dealt - set(self._complaints[sender])
        told = [{peer for peer, _ in part} for part in (message.seeds, message.keys, message.pairs)]
        if told != [good & alive, good - alive, dealt - alive]:
            raise self._refusal(
                "Unmask must hold a share of the seed of every neighbour that survives, and of "
                "every other one that dealt a share of its key and the pair's key",
                sender,
            )
        for dealer, share in (*message.seeds, *message.keys):
            row = self._graph[dealer].index(sender)
            unpack_words(share, self._rows[dealer][row])
            self._given[dealer].append(row)
        for dealer, key in message.pairs:
            self._pairs[dealer][sender] = Key(key)

    def _close_recover(self) -> list[Message]:
        self._left()
        self._expect_shares()
        survivors = self._survivors
        try:
            residues, weight = self._unmasked()
        except DecodeError:
            self.close()
            raise
        included, length = frozenset(survivors), self._parameters.length
        self._result = RoundResult(
            residues, included, weight, self._protocol.fixed, length, self._wrong
        )
        self._wipe()
        self._next(())
        packed = pack_words(residues)
        return [
            Result(**self._envelope(client), survivors=survivors, sum=packed, weight=weight)
            for client in survivors
        ]

    def _linked(self, dealer: int) -> set[int]:
        """The survivors whose updates hold a mask shared with a dealer."""
        return set(self._graph[dealer]) & set(self._survivors)

    def _expect_shares(self) -> None:
        """Raise ThresholdError unless every mask in the sum can be uncovered."""
        needed = self._parameters.needed
        for dealer in self._dealers:
            linked, came = self._linked(dealer), len(self._given[dealer])
            told = self._pairs.get(dealer)
            if came >= needed or (told is not None and linked <= told.keys()):
                continue
            missing = sorted(linked - self._came)
            raise ThresholdError(
                f"{NAME}: {came} shares of the secret of client {dealer} have come and {needed} "
                f"are needed; missing are {missing}",
                missing=missing,
                needed=needed,
            )

    def _unmasked(self) -> tuple[torch.Tensor, int]:
        """The survivors' sum as int32 (residues,), and the sum of their weights."""
        alive = set(self._survivors)
        enough = [d for d in self._dealers if len(self._given[d]) >= self._parameters.needed]
        shares = {dealer: (self._given[dealer], self._rows[dealer]) for dealer in enough}
        code, errors, wrong = self._protocol.code, self._parameters.errors, set[int]()
        secrets = recovered(code, shares, self._graph, errors, wrong)
        self._wrong = tuple(sorted(wrong))
        keys: list[Key] = []
        signs: list[int] = []
        try:
            for dealer in self._dealers:
                secret = secrets.get(dealer)
                if dealer in alive:
                    if not isinstance(secret, Key):
                        raise secret or DecodeError(f"{NAME}: no seed of client {dealer}")
                    keys.append(secret)
                    signs.append(-1)
                else:
                    for peer, key in self._pair_keys(dealer, secret).items():
                        keys.append(key)
                        signs.append(-mask_sign(peer, dealer))
            field, uploads = self._parameters.field, [*self._uploads.values()]
            masked = summed(uploads, self._parameters.width, field, self._device)
            total = add_masks_(masked, keys, signs, field)
        finally:
            forget(secrets)
            for key in keys:
                key.wipe()
        weight = int(total[-1])
        self._expect_weight(weight)
        return total[:-1], weight

    def _pair_keys(self, dealer: int, secret: Key | DecodeError | None) -> dict[int, Key]:
        """Survivor → the key that it shares with a dead dealer.

        From the dealer's private key when the shares give the one that the roster has the public
        half of; else as the survivors tell them. One of these cannot be checked, but a survivor
        that lies about it does no more than one that uploads something else.
        """
        linked = self._linked(dealer)
        if isinstance(secret, Key):
            own = ChannelKey(secret)
            if own.public == self._members[dealer].channel_key[32:]:
                masks = {peer: self._members[peer].channel_key[32:] for peer in linked}
                session, round_ = self._graph_session, self._round
                return {
                    peer: pair_key(own, mask, session, round_, dealer, peer)
                    for peer, mask in masks.items()
                }
        told = self._pairs[dealer]
        if linked <= told.keys():
            return {peer: Key(told[peer].reveal()) for peer in linked}  # wiped by the caller
        raise DecodeError(
            f"{NAME}: the shares of client {dealer} do not give its private key, and the clients "
            f"{sorted(linked - told.keys())} have not told the keys that they share with it"
        )
