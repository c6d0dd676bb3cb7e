"""The first half of a client of SecEA: embeddings in, shares and masks dealt and received."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from pyfed.checks import check
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.secagg.channel import Peers
from pyfed.secagg.client import Client
from pyfed.secagg.party import whole_or_closed
from pyfed.secagg.secea import SecEA
from pyfed.secagg.secea_embeddings import stacked
from pyfed.secagg.secea_messages import NAME, Inbox, Ready, SecEAParameters, Share
from pyfed.secagg.secea_setup import EntityId, Held, Setup, copied, union_digest
from pyfed.secagg.session import SERVER, survivors_digest
from pyfed.secagg.wire import Box, Message, all_below

SHARE, MASK = "share", "answer-mask"
"""Uses of the channel keys, with those of queries and answers."""


def query_use(epoch: bytes) -> str:
    """The use of a query's box: under another epoch than its asker's it does not open."""
    return f"query {epoch.hex()}"


def answer_use(epoch: bytes, survivors: tuple[int, ...]) -> str:
    """The use of an answer's box, which opens for its epoch and its sums alone.

    Epochs and sets come through the server, which could have an older query answered.
    """
    return f"answer {epoch.hex()} {survivors_digest(survivors).hex()}"


class SecEADealer(Client):
    """The first half of a round: what a client starts with, deals and receives."""

    _protocol: SecEA
    _parameters: SecEAParameters

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        nothing = torch.empty(0, dtype=torch.int32)
        self._device = "cpu"  # where shares are made and questions answered
        self._ids: tuple[EntityId, ...] = ()
        self._positions: tuple[int, ...] = ()
        self._weight = 0
        self._query_key = Key(bytes(32))
        self._asking_key = Key(bytes(32))  # of it, for this protocol's queries
        self._group_key = Key(bytes(32))
        self._union = nothing
        self._epoch = b""
        self._queries: Held = {}  # copies
        self._table = nothing  # until it is shared: (entities · width · blocks,)
        self._shares = nothing  # row d: of dealer d; then their sum: (clients, entities · width)
        # [d, n]: share of dealer d's mask for asker n; then the sum of the dealers that are in,
        # as the only d: (mask dealers, clients, wanted · width).
        self._masks = nothing
        self._dealers: tuple[int, ...] = ()
        self._complaints: tuple[int, ...] = ()

    @whole_or_closed
    def start(self, update: Any, weight: int = 1, setup: Setup | None = None) -> list[Message]:
        """Encode the embeddings and enter the round.

        Args:
            update: entity → embedding, float32, float16 or bfloat16 (dim,), all on one device, of
                exactly the entities of the setup.
            weight: an integer from 0 to the ``max_weight`` of the encoding, for all of them.
            setup: what this client keeps; it is not changed.

        Raises:
            DtypeError, ArgumentError: an argument is wrong; ``start`` may be called again.
            ProtocolError: the client has started already.
        """
        self._expect_fresh()
        setup = self._expect_setup(setup)
        where = f"{self._name}: embeddings"
        rows = stacked(where, update, setup.ids, self._parameters.length)
        weight = self._protocol.fixed.check_weight(weight)
        rounding = self._root.derive("rounding")
        try:
            encoded = self._protocol.fixed.encode(rows, rounding, weight)
        finally:
            rounding.wipe()
        if rows.is_cuda:
            check()  # what a kernel noticed is told here, not after the masks are spent
        code, entities = self._protocol.code, self._parameters.entities
        self._table = code.laid_out(encoded, weight, setup.positions, entities)
        encoded.zero_()
        self._device, self._weight = str(rows.device), weight
        self._ids, self._positions = setup.ids, setup.positions
        self._query_key = Key(setup.query_key.reveal())
        self._asking_key = setup.asking_key(self._parameters)
        self._group_key = Key(setup.group_key.reveal())
        self._union, self._epoch = setup.union, setup.epoch(self._parameters)
        shape = (self._parameters.wanted, entities)
        # A query of another public size is as good as none: its asker sends it again.
        fitting = {i: held for i, held in setup.held.items() if held[1].shape == shape}
        self._queries = copied(fitting)
        return self._entered()

    @property
    def setup(self) -> Setup:
        """What this client keeps for the next round: the setup, and the queries that came."""
        if not self._started or self._phase == "closed":
            raise self._refusal("there is no setup before start or after close")
        own = (self._number, self._ids, self._positions, self._union)
        return Setup(*own, self._group_key, self._query_key, self._queries).copy()

    def _expect_setup(self, setup: object) -> Setup:
        if not isinstance(setup, Setup):
            kind = type(setup).__name__
            raise DtypeError(f"{NAME}: setup is {kind}; it must be this client's Setup")
        setup.expect_unwiped()
        if setup.client != self._number:
            raise ArgumentError(
                f"{NAME}: setup is of client {setup.client}; this is client {self._number}"
            )
        if union_digest(setup.union) != self._parameters.union:
            raise ArgumentError(f"{NAME}: setup is for another union than the protocol's")
        if len(setup.ids) > self._parameters.wanted:
            raise ArgumentError(
                f"{NAME}: client {self._number} has {len(setup.ids)} entities; wanted is "
                f"{self._parameters.wanted}"
            )
        return setup

    def _wipe(self) -> None:
        super()._wipe()
        for key in (self._query_key, self._asking_key, self._group_key):
            key.wipe()
        held = (query for _, query in self._queries.values())
        for secret in (self._table, self._shares, self._masks, *held):
            secret.zero_()
        self._queries = {}

    def _keep(self, encoded: torch.Tensor, weight: int) -> None:
        raise NotImplementedError

    def _deal(self, peers: Peers) -> list[Message]:
        """Boxes of shares and masks for every member; one's own are kept in their rows."""
        p, own = self._parameters, self._number
        shares = masks = torch.empty(0, dtype=torch.int32)
        try:
            shares = self._dealt_shares()
            masks = self._dealt_masks()
            boxes = tuple(
                (
                    to,
                    peers.seal(to, SHARE, "Share", raw(shares[to])),
                    peers.seal(to, MASK, "Share", raw(masks[to])) if len(masks) else (),
                )
                for to in peers.numbers
            )
            self._record("share", digest_of(boxes))
            self._shares = torch.zeros(p.clients, p.columns, dtype=torch.int32)
            self._shares[own] = shares[own]
            self._masks = torch.zeros(p.mask_dealers, p.clients, p.reply, dtype=torch.int32)
            if len(masks):
                self._masks[own] = masks[own]
        finally:
            shares.zero_()
            masks.zero_()
        self._table.zero_()
        self._root.wipe()
        return [Share(**self._envelope(SERVER), boxes=boxes)]

    def _dealt_shares(self) -> torch.Tensor:
        """Of this client's table, for everyone: int32 (clients, entities · width) on the CPU."""
        padding = self._root.derive("padding")
        try:
            shares = self._protocol.code.share(self._table, padding)
        finally:
            padding.wipe()
        if not shares.is_cuda:
            return shares
        here = shares.cpu()
        shares.zero_()
        return here

    def _dealt_masks(self) -> torch.Tensor:
        """For every answerer the masks of all askers: int32 (clients, clients, wanted · width).

        Empty for a client that deals none.
        """
        p = self._parameters
        if self._number >= p.mask_dealers:
            return torch.empty(0, dtype=torch.int32)
        masks = torch.empty(p.clients, p.clients, p.reply, dtype=torch.int32)
        key = self._root.derive("answer-mask")
        try:
            for asker in range(p.clients):
                dealt = self._protocol.code.mask(p.wanted, key, asker)
                masks[:, asker] = dealt
                dealt.zero_()
        except BaseException:
            masks.zero_()
            raise
        finally:
            key.wipe()
        return masks

    def _on_inbox(self, message: Inbox) -> list[Message]:
        """Inbox → Ready: open the boxes; tell which are bad, and which queries are held."""
        dealers = message.dealers
        if self._number not in dealers:
            raise self._refusal("Inbox leaves this client out of the dealers", SERVER)
        if not set(dealers) <= set(self._members):
            raise self._refusal("Inbox names a dealer that is not in the roster", SERVER)
        self._expect_enough("Inbox", len(dealers))
        if tuple(entry[0] for entry in message.boxes) != tuple(
            d for d in dealers if d != self._number
        ):
            raise self._refusal("Inbox must hold boxes from every other dealer", SERVER)
        bad = []
        for dealer, table, masks in message.boxes:
            good = self._opened(dealer, SHARE, "Share", table, self._shares[dealer])
            if masks:
                good &= self._opened(dealer, MASK, "Share", masks, self._masks[dealer])
            if not good:
                bad.append(dealer)
        self._dealers, self._complaints, self._phase = dealers, tuple(bad), "upload"
        others = [i for i in sorted(self._queries) if i in self._members and i != self._number]
        held = tuple((i, self._queries[i][0]) for i in others)
        envelope = self._envelope(SERVER)
        return [Ready(**envelope, complaints=self._complaints, epoch=self._epoch, held=held)]

    def _opened(self, peer: int, use: str, kind: str, box: Box, out: torch.Tensor) -> bool:
        """Open a box into a tensor; when it is bad, the tensor is all zero."""
        assert self._peers is not None
        good = self._peers.open_into(peer, use, kind, box, raw(out))
        if good and not all_below(raw(out), self._parameters.field.modulus):
            out.zero_()
            good = False
        return good


def raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it: int32 words, little-endian."""
    view: memoryview = tensor.reshape(-1).numpy().data
    return view.cast("B") if len(view) else memoryview(bytearray())


def digest_of(entries: Iterable[tuple[Any, ...]]) -> bytes:
    """SHA-256 over entries that begin with a client and go on with bytes and boxes."""
    hashed = hashlib.sha256()
    for client, *rest in entries:
        hashed.update(client.to_bytes(4, "little"))
        for part in rest:
            for piece in (part,) if isinstance(part, bytes) else part:
                hashed.update(len(piece).to_bytes(4, "little"))
                hashed.update(piece)
            hashed.update(b"\xff" * 4)
    return hashed.digest()
