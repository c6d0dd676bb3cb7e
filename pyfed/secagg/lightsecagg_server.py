"""The server of LightSecAgg through one round."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch

from pyfed.errors import DecodeError
from pyfed.ops.lift import field_lift
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.messages import (
    Answer,
    Box,
    Inbox,
    Message,
    Result,
    Share,
    Survivors,
    Upload,
)
from pyfed.secagg.party import pack_words, unpack_words
from pyfed.secagg.result import RoundResult
from pyfed.secagg.server import Server
from pyfed.secagg.session import survivors_digest
from pyfed.secagg.uploads import summed


class LightSecAggServer(Server):
    """The server of LightSecAgg in one round; see :class:`pyfed.secagg.server.Server`."""

    _EXPECTED: ClassVar = {
        "keys": ("Hello",),
        "share": ("Share",),
        "upload": ("Upload",),
        "commit": ("Commit",),
        "recover": ("Answer",),
    }
    _protocol: LightSecAgg

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._boxes: dict[int, dict[int, Box]] = {}
        self._complaints: dict[int, tuple[int, ...]] = {}
        self._uploads: dict[int, bytes] = {}  # of each client width packed residues a plane
        # One row a client, written when its message comes: (clients, columns), over WIDE behind
        # the axis of planes.
        self._answers = torch.empty(0, dtype=torch.int32)

    def _wipe(self) -> None:
        self._answers.zero_()
        self._boxes, self._uploads = {}, {}

    def _on_share(self, message: Share) -> None:
        recipients = {recipient for recipient, _ in message.boxes}
        if recipients != self._expected - {message.sender}:
            raise self._refusal("Share must hold a box for every other member", message.sender)
        self._boxes[message.sender] = dict(message.boxes)

    def _close_share(self) -> list[Message]:
        dealers = self._left()
        boxes = self._boxes
        self._boxes = {}
        self._next(dealers)
        return [
            Inbox(
                **self._envelope(client),
                dealers=dealers,
                boxes=tuple((d, boxes[d][client]) for d in dealers if d != client),
            )
            for client in dealers
        ]

    def _on_upload(self, message: Upload) -> None:
        if not set(message.complaints) <= self._expected:
            raise self._refusal(
                "Upload complains about a client that dealt nothing", message.sender
            )
        self._uploads[message.sender] = message.masked
        self._complaints[message.sender] = message.complaints

    def _excluded(self) -> frozenset[int]:
        """Dealers that more than T clients complain about; then complainers about dealers left.

        At most T clients lie, so a dealer in the first group is truly bad. A client of the second
        lacks a share that the sum needs, whoever is to blame: it leaves, and the dealer stays.
        """
        faults = self._faults()
        counts = Counter(dealer for about in faults.values() for dealer in about)
        bad = {dealer for dealer, count in counts.items() if count > self._parameters.privacy}
        left = self._came - bad
        return frozenset(bad | {c for c in left if left & set(faults[c])})

    def _faults(self) -> dict[int, tuple[int, ...]]:
        """Client → the dealers whose share it lacks."""
        return self._complaints

    def _close_upload(self) -> list[Message]:
        excluded = self._excluded()
        survivors = tuple(sorted(self._came - excluded))
        if len(survivors) < self._parameters.enough:
            by = sorted(excluded & self._came)
            self._too_few(survivors, f", of whom complaints excluded {by}" if by else "")
        # An upload of another goes with its mask.
        self._uploads = {client: self._uploads[client] for client in survivors}
        shape = (*self._parameters.lead, self._parameters.clients, self._parameters.columns)
        self._answers = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._settle(survivors)
        return [Survivors(**self._envelope(client), survivors=survivors) for client in survivors]

    def _on_answer(self, message: Answer) -> None:
        if message.digest != survivors_digest(self._survivors):
            raise self._refusal("Answer is for other survivors", message.sender)
        unpack_words(message.row, self._answers[..., message.sender, :])

    def _close_recover(self) -> list[Message]:
        answered = self._left()
        try:
            residues, weight = self._unmasked(answered)
        except DecodeError:
            self.close()
            raise
        fixed, survivors = self._protocol.fixed, self._survivors
        length = self._parameters.length
        included = frozenset(survivors)
        self._result = RoundResult(residues, included, weight, fixed, length, self._wrong)
        self._wipe()
        self._next(())
        packed = pack_words(residues)
        return [
            Result(**self._envelope(client), survivors=survivors, sum=packed, weight=weight)
            for client in survivors
        ]

    def _unmasked(self, answered: tuple[int, ...]) -> tuple[torch.Tensor, int]:
        """The survivors' sum as int32 (residues,), and the sum of their weights."""
        p, field = self._parameters, self._protocol.fixed.field
        # A contiguous copy, also behind planes: another one would be made of it, and not wiped.
        rows = self._answers.index_select(-2, torch.tensor(answered, device=self._device))
        mask = self._decoded(self._protocol.code, rows, answered, lambda client: (client,))
        try:
            residues = summed([*self._uploads.values()], p.width, field, self._device, mask)
        finally:
            mask.zero_()
        weight = int(field_lift(residues[..., -1], field)) % field.modulus
        self._expect_weight(weight)
        return residues[..., :-1], weight
