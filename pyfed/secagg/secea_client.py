"""A client of SecEA through one round over the union: it asks, answers and reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pyfed.ops.field import field_sum
from pyfed.secagg.secea_dealer import SecEADealer, answer_use, digest_of, query_use, raw
from pyfed.secagg.secea_messages import (
    Answer,
    Answers,
    Query,
    Questions,
    Sets,
)
from pyfed.secagg.secea_queries import NOTHING
from pyfed.secagg.secea_reading import Reading, read_out
from pyfed.secagg.secea_result import EntityResult
from pyfed.secagg.session import SERVER
from pyfed.secagg.wire import Box, Message


class SecEAClient(SecEADealer):
    """One client in one round; see :class:`pyfed.secagg.client.Client`.

    It deals shares of its embeddings, and of masks if it is among the first T + 1 + D; asks for
    its own entities; answers every other client once; and reads its own result. An asker with too
    few answers raises ThresholdError and may be given more.
    """

    _EXPECTED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "keys": ("Roster",),
        "share": ("Inbox",),
        "upload": ("Sets",),
        "commit": ("Sets", "Quorum"),
        "recover": ("Sets", "Questions", "Answers"),
        "done": ("Sets", "Questions"),
    }

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        nothing = torch.empty(0, dtype=torch.int32)
        self._lacking: tuple[int, ...] = ()
        self._asked = b""  # digest of the questions that are answered
        self._own_answer = nothing  # (wanted · width,)
        self._sums = nothing  # (own entities, dim)
        self._totals: tuple[int, ...] = ()
        self._wrong: tuple[int, ...] = ()

    @property
    def result(self) -> EntityResult:  # type: ignore[override]
        """This client's own entities; ProtocolError until it has read them."""
        if self._phase != "done":
            raise self._refusal("there is no result yet")
        known = [row for row, position in enumerate(self._positions) if position != NOTHING]
        return EntityResult(
            ids=tuple(self._ids[row] for row in known),
            residues=self._sums,
            totals=self._totals,
            included=frozenset(self._survivors),
            fixed=self._protocol.fixed,
            wrong=self._wrong,
        )

    def _wipe(self) -> None:
        super()._wipe()
        self._own_answer.zero_()

    def _on_sets(self, message: Sets) -> list[Message]:
        """Sets → [Commit, or] Query: it fixes whose tables are summed and whose masks."""
        p, survivors = self._parameters, message.survivors
        dealers = tuple(i for i in survivors if i < p.mask_dealers)
        if message.dealers != dealers:
            raise self._refusal(f"Sets must name the mask dealers {list(dealers)}", SERVER)
        if not set(message.lacking) <= set(survivors):
            raise self._refusal("Sets names one that lacks a query and is no survivor", SERVER)
        if self._survivors:
            return self._again(survivors)
        if not set(survivors) <= set(self._dealers):
            raise self._refusal("Sets names a client that has dealt no shares", SERVER)
        if set(survivors) & set(self._complaints):
            raise self._refusal("Sets names a dealer whose box was bad", SERVER)
        if len(dealers) <= p.privacy:
            raise self._refusal(
                f"Sets names {len(dealers)} mask dealers; it must name at least privacy + 1 = "
                f"{p.privacy + 1}, or all could collude",
                SERVER,
            )
        before, self._lacking = self._lacking, message.lacking
        try:
            return self._settle(survivors)
        except BaseException:
            self._lacking = before
            raise

    def _answer(self) -> list[Message]:
        """Add up what the survivors dealt, and ask."""
        p, inside = self._parameters, set(self._survivors)
        chosen = [int(i in inside) for i in range(p.clients)]
        boxes = self._asking()
        shares = field_sum(self._shares, p.field, weights=chosen)[None]
        masks = field_sum(self._masks, p.field, weights=chosen[: p.mask_dealers])[None]
        self._shares.zero_()
        self._masks.zero_()
        self._shares, self._masks = shares, masks
        return [Query(**self._envelope(SERVER), epoch=self._epoch, boxes=boxes)]

    def _asking(self) -> tuple[tuple[int, Box], ...]:
        """This client's query in a box for each answerer that lacks it."""
        assert self._peers is not None
        boxes, use = [], query_use(self._epoch)
        for to in self._lacking:
            query = self._query(to)
            try:
                boxes.append((to, self._peers.seal(to, use, "Query", raw(query))))
            finally:
                query.zero_()
        return tuple(boxes)

    def _query(self, answerer: int) -> torch.Tensor:
        """What one answerer sees of this client's query, padded to the public size."""
        p = self._parameters
        padded = [*self._positions, *[NOTHING] * (p.wanted - len(self._positions))]
        return self._protocol.code.query(padded, p.entities, answerer, self._asking_key)

    def _on_questions(self, message: Questions) -> list[Message]:
        """Questions → Answer: once a round, because a mask serves one answer."""
        digest = digest_of(message.asked)
        if self._asked:
            if digest != self._asked:
                self.close()
                raise self._refusal("other questions came; the round is closed", SERVER)
            return list(self._answered)
        if not {entry[0] for entry in message.asked} <= set(self._survivors):
            raise self._refusal("Questions names an asker that is no survivor", SERVER)
        self._record("query", digest)
        fresh = {
            asker: (epoch, query)
            for asker, epoch, box in message.asked
            if box and (query := self._received(asker, epoch, box)) is not None
        }
        queries = self._queries | fresh
        try:
            boxes = self._replies(message, queries)
        except BaseException:
            for _, query in fresh.values():
                query.zero_()
            raise
        for asker in fresh.keys() & self._queries.keys():
            self._queries[asker][1].zero_()
        self._queries, self._asked = queries, digest
        for spent in (self._shares, self._masks):
            spent.zero_()
        self._asking_key.wipe()
        self._answered = tuple(self._sent([Answer(**self._envelope(SERVER), boxes=boxes)]))
        return list(self._answered)

    def _replies(
        self, message: Questions, queries: Mapping[int, tuple[bytes, torch.Tensor]]
    ) -> tuple[tuple[int, Box], ...]:
        """A box for each asker whose query is known, and the answer to one's own query."""
        reading = Reading(self._protocol.code, self._shares[0], self._masks[0], self._device)
        own = torch.empty(0, dtype=torch.int32)
        try:
            boxes = tuple(
                (asker, self._reply(reading, asker, *queries[asker]))
                for asker, epoch, _ in message.asked
                if asker in queries and queries[asker][0] == epoch
            )
            own = self._query(self._number)
            self._own_answer = reading.answer(self._number, own)
        finally:
            own.zero_()
            reading.wipe()
        return boxes

    def _received(self, asker: int, epoch: bytes, box: Box) -> torch.Tensor | None:
        p = self._parameters
        query = torch.empty(p.wanted, p.entities, dtype=torch.int32)
        return query if self._opened(asker, query_use(epoch), "Query", box, query) else None

    def _reply(self, reading: Reading, asker: int, epoch: bytes, query: torch.Tensor) -> Box:
        assert self._peers is not None
        use = answer_use(epoch, self._survivors)
        answer = reading.answer(asker, query)
        try:
            return self._peers.seal(asker, use, "Answer", raw(answer))
        finally:
            answer.zero_()

    def _on_answers(self, message: Answers) -> list[Message]:
        """Read one's own entities out of the answers."""
        if not self._asked:
            raise self._refusal("Answers came before Questions", SERVER)
        if not {answerer for answerer, _ in message.boxes} <= set(self._survivors):
            raise self._refusal("Answers names an answerer that is no survivor", SERVER)
        use = answer_use(self._epoch, self._survivors)
        rows = torch.zeros(len(message.boxes) + 1, self._parameters.reply, dtype=torch.int32)
        answerers = [self._number]
        try:
            rows[0] = self._own_answer
            for answerer, box in message.boxes:
                into = rows[len(answerers)]
                if self._opened(answerer, use, "Answer", box, into):
                    answerers.append(answerer)
            found = read_out(
                *(self._protocol, rows[: len(answerers)], answerers),
                *(self._positions, len(self._survivors), self._weight),
            )
        finally:
            rows.zero_()
        self._sums, self._totals, self._wrong = found
        self._own_answer.zero_()
        if self._peers is not None:
            self._peers.wipe()
        self._phase = "done"
        return []
