"""A client of LightSecAgg through one round."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from pyfed.ops.field import field_sum
from pyfed.ops.random import random_residues
from pyfed.secagg.channel import Peers
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.masking_client import MaskingClient
from pyfed.secagg.messages import Answer, Inbox, Message, Share, Survivors, Upload
from pyfed.secagg.party import pack_words, place_for
from pyfed.secagg.session import SERVER, survivors_digest
from pyfed.secagg.wire import Box, all_residues

USE = "share"


class LightSecAggClient(MaskingClient):
    """One client of LightSecAgg in one round; see :class:`pyfed.secagg.client.Client`."""

    _EXPECTED: ClassVar = {
        "keys": ("Roster",),
        "share": ("Inbox",),
        "upload": ("Survivors",),
        "commit": ("Survivors", "Quorum"),
        "recover": ("Survivors", "Result"),  # the same survivors again are answered again
        "done": ("Survivors",),
    }
    _protocol: LightSecAgg

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        # Its own share of its mask, while there are no others: int32 (1, columns).
        self._own = torch.empty(0, dtype=torch.int32)
        # Row d: the share that dealer d sent here. int32 (clients, columns); over WIDE a row holds
        # both planes, one after the other.
        self._held = torch.empty(0, dtype=torch.int32)
        self._dealers: tuple[int, ...] = ()
        self._complaints: tuple[int, ...] = ()

    def _wipe(self) -> None:
        super()._wipe()
        self._own.zero_()
        self._held.zero_()

    def _deal(self, peers: Peers) -> list[Message]:
        """Roster → Share: draw the mask, and deal its shares."""
        return [Share(**self._envelope(SERVER), boxes=self._dealt_boxes(peers))]

    def _dealt_boxes(self, peers: Peers) -> tuple[tuple[int, Box], ...]:
        """A sealed share for each peer; one's own is kept in its row."""
        shares = self._dealt_shares()
        try:
            boxes = tuple((i, peers.seal(i, USE, "Share", _raw(shares[i]))) for i in peers.numbers)
            self._own = shares[self._number : self._number + 1].clone()
        finally:
            shares.zero_()
        return boxes

    def _dealt_shares(self) -> torch.Tensor:
        """Shares of the mask, which is drawn again for the upload: as ``_held`` is."""
        field, device = self._protocol.fixed.field, self._home
        mask_key, padding = self._root.derive("mask"), self._root.derive("padding")
        mask = torch.empty(0, dtype=torch.int32)
        try:
            mask = random_residues(mask_key, self._parameters.width, field, device=device)
            shares = self._protocol.code.encode(mask, padding)
        finally:
            mask.zero_()
            mask_key.wipe()
            padding.wipe()
        if shares.is_cuda:
            there = shares
            shares = there.cpu()
            there.zero_()
        if self._parameters.lead:
            planes = shares  # (2, clients, columns)
            rows = planes.transpose(0, 1)  # copied in any case, also where a view would do
            shares = rows.clone(memory_format=torch.contiguous_format).flatten(1)
            planes.zero_()
        return shares

    def _on_inbox(self, message: Inbox) -> list[Message]:
        """Inbox → Upload: open the boxes, then release the masked update."""
        dealers = message.dealers
        if self._number not in dealers:
            raise self._refusal("Inbox leaves this client out of the dealers", SERVER)
        if not set(self._members).issuperset(dealers):
            raise self._refusal("Inbox names a dealer that is not in the roster", SERVER)
        self._expect_enough("Inbox", len(dealers))
        senders = tuple(dealer for dealer, _ in message.boxes)
        if senders != tuple(d for d in dealers if d != self._number):
            raise self._refusal("Inbox must hold a box from every other dealer", SERVER)
        complaints = self._opened(message)
        mask_key = self._root.derive("mask")
        try:
            masked = self._masked([mask_key], [1])
        finally:
            mask_key.wipe()
        upload = self._upload(message, masked, complaints)
        self._dealers, self._complaints = dealers, complaints
        self._uploaded()
        self._phase = "upload"
        return [upload]

    def _uploaded(self) -> None:
        """Overwrite what served the upload, once it is recorded; the shares of others stay."""
        MaskingClient._wipe(self)
        self._own.zero_()
        self._own = torch.empty(0, dtype=torch.int32)

    def _upload(self, inbox: Inbox, masked: bytes, complaints: tuple[int, ...]) -> Upload:
        """The message that answers an Inbox; the boxes are open."""
        return Upload(**self._envelope(SERVER), masked=masked, complaints=complaints)

    def _opened(self, message: Inbox) -> tuple[int, ...]:
        """Open every box into its row; gives the dealers whose box is bad. May be run again."""
        assert self._peers is not None
        bad = []
        self._held.zero_()  # of an attempt whose journal failed
        shape = (self._parameters.clients, self._own.shape[1])
        self._held = place_for(shape, torch.device("cpu"))
        self._held[self._number] = self._own
        for dealer, box in message.boxes:
            row = self._held[dealer]
            good = self._peers.open_into(dealer, USE, "Share", box, _raw(row))
            if not (good and all_residues(_raw(row), self._parameters.field)):
                row.zero_()
                bad.append(dealer)
        return tuple(bad)

    def _on_survivors(self, message: Survivors) -> list[Message]:
        """Survivors → Answer: the sum of the shares held from them, once."""
        survivors = message.survivors
        if self._survivors:
            return self._again(survivors)
        if not set(survivors) <= set(self._dealers):
            raise self._refusal("Survivors names a client that has dealt no shares", SERVER)
        if set(survivors) & set(self._complaints):
            raise self._refusal("Survivors names a dealer whose box was bad", SERVER)
        return self._settle(survivors)

    def _answer(self) -> list[Message]:
        survivors = self._survivors
        chosen = [int(dealer in survivors) for dealer in range(self._parameters.clients)]
        p, held = self._parameters, self._held
        if p.lead:  # the planes in front again
            held = held.view(p.clients, *p.lead, p.columns).transpose(0, 1).contiguous()
        row = field_sum(held, p.field, weights=chosen)
        held.zero_()
        self._held.zero_()
        digest = survivors_digest(survivors)
        return [Answer(**self._envelope(SERVER), digest=digest, row=pack_words(row))]


def _raw(row: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU row, shared with it: int32 words, little-endian."""
    view: memoryview = row.numpy().data
    return view.cast("B")
