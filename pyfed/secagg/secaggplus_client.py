"""A client of SecAgg+ through one round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pyfed.keys import Key
from pyfed.secagg.channel import ChannelKey, Peers
from pyfed.secagg.common import Roster
from pyfed.secagg.graph import neighbours
from pyfed.secagg.identity import is_signed
from pyfed.secagg.masking_client import MaskingClient
from pyfed.secagg.party import pack_words
from pyfed.secagg.secaggplus import SecAggPlus
from pyfed.secagg.secaggplus_messages import (
    SECRET_WORDS,
    SEEDS,
    Alive,
    Inbox,
    Pledge,
    SecAggPlusParameters,
    Share,
    Unmask,
    Upload,
    settled_session,
)
from pyfed.secagg.secaggplus_secrets import mask_sign, pair_key, secret_words
from pyfed.secagg.session import SERVER, survivors_digest
from pyfed.secagg.wire import Box, Message, all_below

USE = "share"


class SecAggPlusClient(MaskingClient):
    """One client in one round; see :class:`pyfed.secagg.client.Client`.

    From the Inbox on the session hash covers the dealers, so that all have the same view of who
    masks; from the Alive on it releases one secret's share for each neighbour. The seed is derived
    from the round key, which the operating system gives anew in every round, so that a client that
    resumes after a crash makes the same masks.
    """

    _EXPECTED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "keys": ("Roster",),
        "share": ("Inbox",),
        "upload": ("Alive",),
        "commit": ("Alive", "Quorum"),
        "recover": ("Alive", "Result"),
        "done": ("Alive",),
    }
    _protocol: SecAggPlus
    _parameters: SecAggPlusParameters

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        private = self._root.derive("pairwise")
        self._masking: ChannelKey | None = ChannelKey(private)
        private.wipe()
        # Row i: the shares that the i-th neighbour sent here. int32 (neighbours, columns).
        self._held = torch.empty(0, dtype=torch.int32)
        self._neighbours: tuple[int, ...] = ()
        self._roster: Roster | None = None  # while it is handled
        self._pair_keys: dict[int, Key] = {}
        self._dealers: tuple[int, ...] = ()
        self._complaints: tuple[int, ...] = ()

    def _public_keys(self) -> bytes:
        assert self._masking is not None
        return super()._public_keys() + self._masking.public

    def _wipe(self) -> None:
        super()._wipe()
        self._masking = None
        self._forget()

    def _forget(self) -> None:
        """Overwrite what serves only to uncover sums."""
        self._held.zero_()
        for key in self._pair_keys.values():
            key.wipe()
        self._pair_keys = {}

    def _on_roster(self, message: Roster) -> list[Message]:
        """Roster → Share: find the neighbours, agree with them, and deal."""
        self._roster = message
        try:
            return super()._on_roster(message)
        except BaseException:
            self._neighbours = ()
            self._forget()
            raise
        finally:
            self._roster = None

    def _partners(self, publics: dict[int, bytes]) -> dict[int, bytes]:
        """The neighbours, once the keys for masks are agreed on with them.

        The roster has been checked, so that a false one costs no ring; and it is not in the journal
        yet, where one with a key of small order must not get.
        """
        assert self._masking is not None and self._roster is not None
        session, own = self._roster.session, self._number
        masks = {client: keys[32:] for client, keys, _ in self._roster.roster}
        self._neighbours = neighbours(session, tuple(publics), self._parameters.degree, own)
        for peer in self._neighbours:
            self._pair_keys[peer] = pair_key(
                self._masking, masks[peer], session, self._round, own, peer
            )
        return {peer: publics[peer] for peer in self._neighbours}

    def _deal(self, peers: Peers) -> list[Message]:
        boxes = self._dealt_boxes(peers)
        self._masking = None
        return [Share(**self._envelope(SERVER), boxes=boxes)]

    def _dealt_boxes(self, peers: Peers) -> tuple[tuple[int, Box], ...]:
        """Shares of the own seed and of the private key for masks, sealed for each neighbour."""
        secrets = [self._root.derive("self"), self._root.derive("pairwise")]
        padding = self._root.derive("padding")
        words = torch.tensor([secret_words(secret) for secret in secrets], dtype=torch.int32)
        shares = torch.empty(0, dtype=torch.int32)
        try:
            shares = self._protocol.code.encode(words.reshape(-1), padding)  # (degree, columns)
            return tuple(
                (peer, peers.seal(peer, USE, "Share", _raw(row)))
                for peer, row in zip(self._neighbours, shares, strict=False)
            )
        finally:
            words.zero_()
            shares.zero_()
            for key in (*secrets, padding):
                key.wipe()

    def _on_inbox(self, message: Inbox) -> list[Message]:
        """Inbox → Upload: open the boxes, then release the masked update."""
        dealers = message.dealers
        if self._number not in dealers:
            raise self._refusal("Inbox leaves this client out of the dealers", SERVER)
        if not set(self._members).issuperset(dealers):
            raise self._refusal("Inbox names a dealer that is not in the roster", SERVER)
        self._expect_enough("Inbox", len(dealers))
        sharing = sorted(set(dealers) & set(self._neighbours))
        if [dealer for dealer, _ in message.boxes] != sharing:
            raise self._refusal(
                "Inbox must hold a box from every dealer that is a neighbour", SERVER
            )
        self._held.zero_()  # of an attempt whose journal failed
        self._held = torch.zeros(len(self._neighbours), self._parameters.columns).int()
        complaints = self._opened(message)
        masked = self._masked_among(sharing)
        self._forget_update()
        self._dealers, self._complaints = dealers, complaints
        self._session = settled_session(self._session, dealers)
        self._root.wipe()
        assert self._peers is not None
        self._peers.wipe()
        self._phase = "upload"
        envelope = self._envelope(SERVER)
        identity = self._identity
        pledge = b"" if identity is None else identity.signed(Pledge(**envelope)).signature
        return [Upload(**envelope, masked=masked, complaints=complaints, pledge=pledge)]

    def _opened(self, message: Inbox) -> tuple[int, ...]:
        """Open every box into its row; gives the dealers whose box is bad. May be run again."""
        assert self._peers is not None
        bad = []
        for dealer, box in message.boxes:
            row = self._held[self._neighbours.index(dealer)]
            good = self._peers.open_into(dealer, USE, "Share", box, _raw(row))
            if not (good and all_below(_raw(row), SEEDS.modulus)):
                row.zero_()
                bad.append(dealer)
        return tuple(bad)

    def _masked_among(self, sharing: list[int]) -> bytes:
        """The update with the own mask and those of every neighbour that dealt, bad box or not.

        A mask that depended on the box would let a malicious server cut edges of the graph.
        """
        own = self._root.derive("self")
        keys = [own, *(self._pair_keys[peer] for peer in sharing)]
        try:
            return self._masked(keys, [1, *(mask_sign(self._number, peer) for peer in sharing)])
        finally:
            own.wipe()

    def _on_alive(self, message: Alive) -> list[Message]:
        """Alive → [Commit, or] Unmask, for the first set of survivors and only for it."""
        survivors = message.survivors
        if self._survivors:
            return self._again(survivors)
        if not set(survivors) <= set(self._dealers):
            raise self._refusal("Alive names a client that has dealt no shares", SERVER)
        self._expect_pledges(message)
        return self._settle(survivors)

    def _expect_pledges(self, message: Alive) -> None:
        """Under a malicious server: every surviving neighbour has masked with the same dealers.

        It then shares a mask with each of its own neighbours that survive.
        """
        alive = sorted(set(message.survivors) & set(self._neighbours))
        if not self._parameters.signed:
            alive = []
        if len(message.pledges) != len(alive):
            raise self._refusal(f"Alive must hold {len(alive)} pledges", SERVER)
        for peer, signature in zip(alive, message.pledges, strict=True):
            header = {**self._envelope(SERVER), "sender": peer, "signature": signature}
            if not is_signed(Pledge(**header), self._protocol.identities[peer]):
                raise self._refusal(
                    f"Alive names client {peer}, which has not pledged to mask with these dealers",
                    SERVER,
                )

    def _answer(self) -> list[Message]:
        """Of each neighbour that dealt: a share of its seed if it survives, else of its key.

        With the share of a dead neighbour's key goes the key of its pair with this client, which
        that key gives away in any case: where all its neighbours answer, no threshold is needed.
        """
        alive, dealers = set(self._survivors), set(self._dealers)
        seeds, keys, pairs = [], [], []
        for row, peer in zip(self._held, self._neighbours, strict=True):
            good = peer in dealers and peer not in self._complaints
            if peer in alive and good:
                seeds.append((peer, pack_words(row[:SECRET_WORDS])))
            elif peer in dealers - alive:
                pairs.append((peer, self._pair_keys[peer].reveal()))
                if good:
                    keys.append((peer, pack_words(row[SECRET_WORDS:])))
        self._forget()
        return [
            Unmask(
                **self._envelope(SERVER),
                digest=survivors_digest(self._survivors),
                seeds=tuple(seeds),
                keys=tuple(keys),
                pairs=tuple(pairs),
            )
        ]


def _raw(row: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU row, shared with it: int32 words, little-endian."""
    view: memoryview = row.numpy().data
    return view.cast("B")
