"""A client of SwiftAgg+ through one round."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pyfed.ops.field import field_sum
from pyfed.secagg.channel import Peers
from pyfed.secagg.client import Client
from pyfed.secagg.common import Result
from pyfed.secagg.party import pack_words
from pyfed.secagg.session import SERVER, survivors_digest
from pyfed.secagg.swiftagg import SwiftAgg
from pyfed.secagg.swiftagg_messages import (
    Hop,
    Hops,
    Inbox,
    Members,
    Report,
    Root,
    Share,
    SwiftParameters,
)
from pyfed.secagg.wire import Box, Message, all_below

SHARE, HOP = "share", "hop"
"""Uses of the channel keys."""


class SwiftAggClient(Client):
    """One client in one round; see :class:`pyfed.secagg.client.Client`.

    It deals its shares, reports which ones it holds, and, once the members are settled, hands on
    the sum of its column: at once in a leaf group, else when the sums from below have come. It
    stays silent where a client of its column is missing.
    """

    _EXPECTED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "keys": ("Roster",),
        "share": ("Inbox",),
        "upload": ("Members",),
        "commit": ("Members", "Quorum"),
        "recover": ("Members", "Hops", "Result"),
        "done": ("Members",),
    }
    _protocol: SwiftAgg
    _parameters: SwiftParameters

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        layout = self._parameters.layout
        self._group, self._position = layout.seat(self._number)
        # The encoded update and the weight, until they are shared: int32 (width,).
        self._values = torch.empty(0, dtype=torch.int32)
        # Row d: the share that the group's d-th member sent here: int32 (group, columns).
        self._held = torch.empty(0, dtype=torch.int32)
        # The sum of the members' shares, while sums from below are awaited: int32 (columns,).
        self._row = torch.empty(0, dtype=torch.int32)
        self._dealers: tuple[int, ...] = ()
        self._complaints: tuple[int, ...] = ()
        self._added = b""  # digest of the boxes from below that were added

    @property
    def _spare(self) -> bool:
        return self._position >= self._parameters.holders

    def _keep(self, encoded: torch.Tensor, weight: int) -> None:
        self._values = torch.zeros(encoded.numel() + 1, dtype=torch.int32, device=encoded.device)
        self._values[:-1] = encoded
        self._values[-1] = weight

    def _wipe(self) -> None:
        super()._wipe()
        for secret in (self._values, self._held, self._row):
            secret.zero_()

    def _partners(self, publics: dict[int, bytes]) -> dict[int, bytes]:
        """The group, and the neighbours in the column: the cost does not grow with N."""
        layout, number = self._parameters.layout, self._number
        near = {*layout.members[self._group], *layout.below(number), layout.above(number)}
        return {client: key for client, key in publics.items() if client in near}

    def _deal(self, peers: Peers) -> list[Message]:
        """A sealed share for each other holder of the group; one's own is kept in its row."""
        p = self._parameters
        present, shares = set(self._members), self._shares()
        try:
            boxes = tuple(
                (to, peers.seal(to, SHARE, "Share", _raw(shares[position])))
                for position, to in enumerate(p.layout.holders_of(self._group))
                if to != self._number and to in present
            )
            self._record("share", _digest(boxes))
            if not self._spare:
                self._held = torch.zeros(len(p.layout.members[self._group]), p.columns).int()
                self._held[self._position] = shares[self._position]
        finally:
            shares.zero_()
        self._values.zero_()
        self._root.wipe()
        return [Share(**self._envelope(SERVER), boxes=boxes)]

    def _shares(self) -> torch.Tensor:
        """The Lagrange code of the values: int32 (holders, columns), on the CPU."""
        padding = self._root.derive("padding")
        try:
            shares = self._protocol.code.encode(self._values, padding)
        finally:
            padding.wipe()
        if not shares.is_cuda:
            return shares
        here = shares.cpu()
        shares.zero_()
        return here

    def _on_inbox(self, message: Inbox) -> list[Message]:
        """Inbox → Report: open the boxes, and tell which are bad."""
        p, dealers = self._parameters, message.dealers
        group = p.layout.members[self._group]
        if self._number not in dealers:
            raise self._refusal("Inbox leaves this client out of the dealers", SERVER)
        if not set(dealers) <= set(group) & set(self._members):
            raise self._refusal("Inbox names a dealer that is not in this group's roster", SERVER)
        if len(dealers) < len(group) - p.dropouts:
            raise self._refusal(
                f"Inbox names {len(dealers)} clients; it must name at least "
                f"{len(group) - p.dropouts} of this group",
                SERVER,
            )
        senders = tuple(dealer for dealer, _ in message.boxes)
        wanted = () if self._spare else tuple(d for d in dealers if d != self._number)
        if senders != wanted:
            raise self._refusal("Inbox must hold a box from every other dealer", SERVER)
        self._complaints = tuple(
            dealer
            for dealer, box in message.boxes
            if not self._opened(dealer, SHARE, "Share", box, self._held[dealer - group.start])
        )
        self._dealers, self._phase = dealers, "upload"
        return [Report(**self._envelope(SERVER), complaints=self._complaints)]

    def _opened(self, peer: int, use: str, kind: str, box: Box, row: torch.Tensor) -> bool:
        """Open a box into a row; when it is bad, the row is all zero."""
        assert self._peers is not None
        good = self._peers.open_into(peer, use, kind, box, _raw(row))
        if good and not all_below(_raw(row), self._parameters.field.modulus):
            row.zero_()
            good = False
        return good

    def _on_members(self, message: Members) -> list[Message]:
        """Members → [Commit, or] the sum of the column, once: it fixes who is in."""
        members = message.members
        if self._survivors:
            return self._again(members)
        own = set(self._parameters.layout.members[self._group])
        if not set(members) <= set(self._members):
            raise self._refusal("Members names a client that is not in the roster", SERVER)
        if not own & set(members) <= set(self._dealers):
            raise self._refusal("Members names a client that has dealt no shares", SERVER)
        if set(members) & set(self._complaints):
            raise self._refusal("Members names a dealer whose box was bad", SERVER)
        return self._settle(members)

    def _answer(self) -> list[Message]:
        """Add up the members' shares; hand the sum on, or keep it for those from below."""
        layout, inside = self._parameters.layout, set(self._survivors)
        if self._spare or not inside.issuperset(layout.column(self._position)):
            self._silence()
            return []
        chosen = [int(client in inside) for client in layout.members[self._group]]
        row = field_sum(self._held, self._parameters.field, weights=chosen)
        answers: list[Message] = []
        if layout.below(self._number):
            self._row = row
        else:
            answers = self._handed_on(row)
        self._held.zero_()
        return answers

    def _on_hops(self, message: Hops) -> list[Message]:
        """Hops → Hop or Root: add the sums from below; the same boxes again get the same bytes."""
        digest = _digest(message.boxes)
        if self._added:
            if digest != self._added:
                raise self._refusal("other sums came after this client's own went on", SERVER)
            return list(self._answered)
        if not self._row.numel():
            raise self._refusal("Hops came to a client that awaits no sums", SERVER)
        if tuple(child for child, _ in message.boxes) != self._parameters.layout.below(
            self._number
        ):
            raise self._refusal("Hops must hold a box from each group below", SERVER)
        sums = torch.zeros(len(message.boxes) + 1, self._parameters.columns, dtype=torch.int32)
        try:
            for row, (child, box) in zip(sums, message.boxes, strict=False):
                if not self._opened(child, HOP, "Hop", box, row):
                    raise self._refusal(f"the sum that client {child} handed on is bad", child)
            sums[-1] = self._row
            answers = self._handed_on(field_sum(sums, self._parameters.field))
        finally:
            sums.zero_()
        self._row.zero_()
        self._row = torch.empty(0, dtype=torch.int32)
        self._added = digest
        self._answered = tuple(self._sent(answers))
        return list(self._answered)

    def _handed_on(self, row: torch.Tensor) -> list[Message]:
        """The sum of a column for the parent group, or for the server; the row is wiped."""
        above = self._parameters.layout.above(self._number)
        assert self._peers is not None and above is not None
        header = {**self._envelope(SERVER), "digest": survivors_digest(self._survivors)}
        try:
            if above == SERVER:
                words = pack_words(row)
                self._record("hop", hashlib.sha256(words).digest())
                answer: Message = Root(**header, row=words)
            else:
                boxes = ((above, self._peers.seal(above, HOP, "Hop", _raw(row))),)
                self._record("hop", _digest(boxes))
                answer = Hop(**header, boxes=boxes)
        finally:
            row.zero_()
        self._peers.wipe()
        return [answer]

    def _silence(self) -> None:
        """Overwrite what would only serve a sum that this client will not send."""
        self._held.zero_()
        self._row.zero_()
        if self._peers is not None:
            self._peers.wipe()

    def _on_result(self, message: Result) -> list[Message]:
        answers = super()._on_result(message)
        self._silence()
        return answers


def _digest(boxes: tuple[tuple[int, Box], ...]) -> bytes:
    """SHA-256 of all sealed bytes, in order."""
    whole = hashlib.sha256()
    for _, box in boxes:
        for segment in box:
            whole.update(segment)
    return whole.digest()


def _raw(row: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU row, shared with it: int32 words, little-endian."""
    view: memoryview = row.numpy().data
    return view.cast("B")
