"""The server of SwiftAgg+ through one round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pyfed.errors import DecodeError
from pyfed.secagg.common import Result
from pyfed.secagg.party import pack_words, unpack_words
from pyfed.secagg.result import RoundResult
from pyfed.secagg.server import Server
from pyfed.secagg.session import survivors_digest
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
from pyfed.secagg.swiftagg_plan import ROOT
from pyfed.secagg.wire import Box, Message


class SwiftAggServer(Server):
    """The server in one round; see :class:`pyfed.secagg.server.Server`.

    The phase "recover" is closed once for every step of the tree: groups act in the order of their
    heights, and a deadline counts from the beginning of a step. Boxes between clients pass through
    here unopened. Of more rows than are needed all are used: the rest checks the others.
    """

    _EXPECTED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "keys": ("Hello",),
        "share": ("Share",),
        "upload": ("Report",),
        "commit": ("Commit",),
        "recover": ("Hop", "Root"),
    }
    _protocol: SwiftAgg
    _parameters: SwiftParameters

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._boxes: dict[int, dict[int, Box]] = {}  # dealer → recipient → box
        self._complaints: dict[int, tuple[int, ...]] = {}
        self._hops: dict[int, Box] = {}  # sender → box for the parent group
        self._rows = torch.empty(0, dtype=torch.int32)  # row j: column j, (holders, columns)
        self._alive: tuple[int, ...] = ()  # columns that nobody has broken yet
        self._silent: tuple[int, ...] = ()  # survivors that did not answer since
        self._step = 0

    def _wipe(self) -> None:
        self._rows.zero_()
        self._boxes, self._hops = {}, {}

    def _on_share(self, message: Share) -> None:
        layout = self._parameters.layout
        group, _ = layout.seat(message.sender)
        wanted = (set(layout.holders_of(group)) & self._expected) - {message.sender}
        if {recipient for recipient, _ in message.boxes} != wanted:
            raise self._refusal(
                "Share must hold a box for every other holder of the group", message.sender
            )
        self._boxes[message.sender] = dict(message.boxes)

    def _close_share(self) -> list[Message]:
        dealers, layout, boxes = self._left(), self._parameters.layout, self._boxes
        self._boxes = {}
        self._next(dealers)
        messages: list[Message] = []
        for client in dealers:
            group, _ = layout.seat(client)
            own = tuple(d for d in layout.members[group] if d in boxes)
            given = tuple((d, boxes[d][client]) for d in own if client in boxes[d])
            messages.append(Inbox(**self._envelope(client), dealers=own, boxes=given))
        return messages

    def _on_report(self, message: Report) -> None:
        layout = self._parameters.layout
        group, position = layout.seat(message.sender)
        held = position < self._parameters.holders
        dealers = set(layout.members[group]) & self._expected if held else set()
        if not set(message.complaints) <= dealers:
            raise self._refusal(
                "Report complains about a client that dealt nothing to it", message.sender
            )
        self._complaints[message.sender] = message.complaints

    def _excluded(self) -> frozenset[int]:
        """Dealers that more than T clients complain about; then complainers about dealers left.

        At most T clients lie, so a dealer in the first group is truly bad. A client of the second
        lacks a share that its column needs, whoever is to blame: it leaves, and the dealer stays.
        """
        counts = Counter(dealer for about in self._complaints.values() for dealer in about)
        bad = {dealer for dealer, count in counts.items() if count > self._parameters.privacy}
        left = self._came - bad
        return frozenset(bad | {c for c in left if left & set(self._complaints[c])})

    def _close_upload(self) -> list[Message]:
        excluded = self._excluded()
        members = tuple(sorted(self._came - excluded))
        if len(members) < self._parameters.enough:
            by = sorted(excluded & self._came)
            about = sorted({dealer for told in self._complaints.values() for dealer in told})
            why = f", of whom complaints about boxes of clients {about} excluded {by}"
            self._too_few(members, why if by else "")
        self._settle(members)
        if not self._parameters.signed:
            self._begin(frozenset(members))
        return [Members(**self._envelope(client), members=members) for client in members]

    def _close_commit(self) -> list[Message]:
        messages = super()._close_commit()
        self._begin(frozenset(message.recipient for message in messages))
        return messages

    def _begin(self, left: frozenset[int]) -> None:
        """Wait for the leaves of every column whose clients are all members.

        A client knows no more than who is a member: where another has not committed since, the
        leaves of its column answer all the same.
        """
        p, members = self._parameters, set(self._survivors)
        whole = [j for j in range(p.holders) if members.issuperset(p.layout.column(j))]
        self._alive = tuple(j for j in whole if left.issuperset(p.layout.column(j)))
        self._silent = tuple(sorted(members - left))
        self._rows = torch.zeros(p.holders, p.columns, dtype=torch.int32, device=self._device)
        self._expected = frozenset(self._acting(whole)) & left

    def _acting(self, columns: list[int] | tuple[int, ...]) -> tuple[int, ...]:
        """The clients of these columns that hand on in this step."""
        layout = self._parameters.layout
        groups = [g for g, height in enumerate(layout.heights) if height == self._step]
        return tuple(layout.client(group, position) for group in groups for position in columns)

    def _on_hop(self, message: Hop) -> None:
        self._expect_sum(message)
        above = self._parameters.layout.above(message.sender)
        ((to, box),) = message.boxes
        if to != above:
            raise self._refusal("Hop must hold a box for the parent group", message.sender)
        self._hops[message.sender] = box

    def _on_root(self, message: Root) -> None:
        self._expect_sum(message)
        if self._parameters.layout.above(message.sender) != ROOT:
            raise self._refusal("Root is for the root group to send", message.sender)
        unpack_words(message.row, self._rows[self._parameters.layout.seat(message.sender)[1]])

    def _expect_sum(self, message: Hop | Root) -> None:
        if message.digest != survivors_digest(self._survivors):
            raise self._refusal(f"{message.kind} is for other members", message.sender)

    def _close_recover(self) -> list[Message]:
        """End a step: what came goes on to the parents, or is decoded."""
        p = self._parameters
        missing = self._expected - self._came
        silent = {*self._silent, *missing}
        broken = {p.layout.seat(client)[1] for client in missing}
        alive = tuple(j for j in self._alive if j not in broken)
        if len(alive) < p.needed:
            left = [client for client in self._survivors if client not in silent]
            self._too_few(left, self._suspected(silent))
        self._alive, self._silent = alive, tuple(sorted(silent))
        if self._step == p.layout.hops - 1:
            return self._finished()
        self._step += 1
        parents = self._acting(alive)
        self._next(parents, "recover")
        messages: list[Message] = []
        for client in parents:
            boxes = tuple((child, self._hops.pop(child)) for child in p.layout.below(client))
            messages.append(Hops(**self._envelope(client), boxes=boxes))
        return messages

    def _suspected(self, silent: set[int]) -> str:
        """Who may be the reason that others say nothing: a bad sum is refused in silence."""
        below = {child for client in silent for child in self._parameters.layout.below(client)}
        if not below:
            return ""
        return (
            "; one who awaits sums is missing also when a sum handed on to it was bad: here those "
            f"of clients {sorted(below)}"
        )

    def _finished(self) -> list[Message]:
        try:
            residues, weight = self._summed()
        except DecodeError:
            self.close()
            raise
        members = self._survivors
        self._result = RoundResult(
            residues=residues,
            included=frozenset(members),
            total_weight=weight,
            fixed=self._protocol.fixed,
            length=self._parameters.length,
            wrong=self._wrong,
        )
        self._wipe()
        self._next(())
        packed = pack_words(residues)
        return [
            Result(**self._envelope(client), survivors=members, sum=packed, weight=weight)
            for client in members
        ]

    def _summed(self) -> tuple[torch.Tensor, int]:
        """The members' sum as int32 (residues,), and the sum of their weights."""
        rows = self._rows[list(self._alive)]
        total = self._decoded(
            self._protocol.code, rows, self._alive, self._parameters.layout.column
        )
        weight = int(total[-1])
        self._expect_weight(weight)
        return total[:-1].clone(), weight
