"""The server of SecEA through one round: it relays boxes, and settles who is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from pyfed.secagg.secea import SecEA
from pyfed.secagg.secea_messages import (
    Answer,
    Answers,
    Inbox,
    Query,
    Questions,
    Ready,
    SecEAParameters,
    Sets,
    Share,
)
from pyfed.secagg.server import Server
from pyfed.secagg.wire import Box, Message


class SecEAServer(Server):
    """The server in one round; see :class:`pyfed.secagg.server.Server`.

    It learns no embedding. The phase ``recover`` has two steps: first the queries come, then the
    answers; both end with ``close_phase``.
    """

    _EXPECTED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "keys": ("Hello",),
        "share": ("Share",),
        "upload": ("Ready",),
        "commit": ("Commit",),
        "recover": ("Query", "Answer"),
    }
    _protocol: SecEA
    _parameters: SecEAParameters

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        # Dealer → recipient → boxes of shares and of masks.
        self._boxes: dict[int, dict[int, tuple[Box, Box]]] = {}
        self._complaints: dict[int, tuple[int, ...]] = {}
        self._epochs: dict[int, bytes] = {}
        self._held: dict[int, dict[int, bytes]] = {}
        self._queries: dict[int, dict[int, Box]] = {}
        self._questioned = False  # in "recover": the questions are out, and answers are awaited
        self._answers: dict[int, dict[int, Box]] = {}

    @property
    def included(self) -> frozenset[int]:
        """The clients in the sums; ProtocolError until they are settled."""
        if not self._survivors:
            raise self._refusal("who is in is not settled yet")
        return frozenset(self._survivors)

    @property
    def result(self) -> NoReturn:
        """ProtocolError: only clients learn embeddings, each those of its own entities."""
        raise self._refusal("the server has no result; included tells who is in the sums")

    def _wipe(self) -> None:
        self._boxes, self._queries, self._answers = {}, {}, {}

    def _on_share(self, message: Share) -> None:
        recipients = {entry[0] for entry in message.boxes}
        if recipients != self._expected - {message.sender}:
            raise self._refusal("Share must hold boxes for every other member", message.sender)
        self._boxes[message.sender] = {to: (table, mask) for to, table, mask in message.boxes}

    def _close_share(self) -> list[Message]:
        left = self._left()
        boxes, self._boxes = self._boxes, {}
        self._next(left)
        return [
            Inbox(
                **self._envelope(client),
                dealers=left,
                boxes=tuple((d, *boxes[d][client]) for d in left if d != client),
            )
            for client in left
        ]

    def _on_ready(self, message: Ready) -> None:
        if not set(message.complaints) <= self._expected:
            raise self._refusal("Ready complains about a client that dealt nothing", message.sender)
        self._complaints[message.sender] = message.complaints
        self._epochs[message.sender] = message.epoch
        self._held[message.sender] = dict(message.held)

    def _excluded(self) -> frozenset[int]:
        """Dealers that more than T clients complain about; then complainers about dealers left.

        At most T clients lie, so a dealer in the first group is truly bad. A client of the second
        lacks a share that its answers need, whoever is to blame: it leaves, and the dealer stays.
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
        dealers = tuple(i for i in survivors if i < self._parameters.mask_dealers)
        messages: list[Message] = [
            Sets(
                **self._envelope(client),
                survivors=survivors,
                dealers=dealers,
                lacking=tuple(
                    other
                    for other in survivors
                    if other != client and self._held[other].get(client) != self._epochs[client]
                ),
            )
            for client in survivors
        ]
        self._settle(survivors)
        return messages

    def _on_query(self, message: Query) -> None:
        if self._questioned:
            raise self._refusal("Query came after the questions went out", message.sender)
        if message.epoch != self._epochs[message.sender]:
            raise self._refusal("Query is of another epoch than Ready named", message.sender)
        if not {to for to, _ in message.boxes} <= set(self._survivors):
            raise self._refusal("Query is for a client that is no survivor", message.sender)
        self._queries[message.sender] = dict(message.boxes)

    def _on_answer(self, message: Answer) -> None:
        if not self._questioned:
            raise self._refusal("Answer came before the questions went out", message.sender)
        if not {asker for asker, _ in message.boxes} <= self._queries.keys():
            raise self._refusal("Answer is for a client that has not asked", message.sender)
        self._answers[message.sender] = dict(message.boxes)

    def _close_recover(self) -> list[Message]:
        left = tuple(sorted(self._came))
        needed = self._parameters.needed  # what every asker needs; at most N - D
        if len(left) < needed:
            self._too_few(left, needed=needed)
        if self._questioned:
            answers = self._relayed_answers(left)
            self._wipe()
            self._next((), "done")
            return answers
        questions = self._relayed_questions(left)
        for asker in left:
            self._queries[asker] = {}  # who asked is still needed, the boxes are not
        self._questioned = True
        self._next(left, "recover")
        return questions

    def _relayed_questions(self, left: tuple[int, ...]) -> list[Message]:
        return [
            Questions(
                **self._envelope(client),
                asked=tuple(
                    (asker, self._epochs[asker], self._queries[asker].get(client, ()))
                    for asker in left
                    if asker != client
                ),
            )
            for client in left
        ]

    def _relayed_answers(self, left: tuple[int, ...]) -> list[Message]:
        return [
            Answers(
                **self._envelope(client),
                boxes=tuple(
                    (answerer, self._answers[answerer][client])
                    for answerer in left
                    if answerer != client and client in self._answers[answerer]
                ),
            )
            for client in left
        ]
