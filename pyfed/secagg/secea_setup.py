"""What a client of SecEA keeps from round to round: the union, its place in it, and queries."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

import torch

from pyfed.checks import expect_int, expect_key, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import KEY_BYTES, SALT, Key, hkdf_sha256, length_prefixed
from pyfed.secagg.bloom import WORD_BITS, WORDS
from pyfed.secagg.secea_messages import EPOCH, NAME, SecEAParameters
from pyfed.secagg.secea_queries import NOTHING
from pyfed.secagg.session import canonical
from pyfed.secagg.union import pseudonyms

EntityId = str | bytes | int
Held = dict[int, tuple[bytes, torch.Tensor]]
"""Asker → (epoch, its query), int32 (wanted, M)."""


def union_digest(union: torch.Tensor) -> bytes:
    """SHA-256("pyfed/v1/entities" ‖ words) of sorted pseudonyms, int32 (M, 4)."""
    packed = union.numpy().astype("<i4", copy=False).tobytes()
    return hashlib.sha256(b"pyfed/v1/entities" + packed).digest()


def expect_union(union: object) -> torch.Tensor:
    """``union``; raises unless it is sorted pseudonyms, no two equal, int32 (M, 4) on the CPU."""
    expect_tensor(NAME, "union", union, torch.int32, 2)
    assert isinstance(union, torch.Tensor)
    if union.shape[1] != WORDS:
        raise ArgumentError(
            f"{NAME}: union has shape {tuple(union.shape)}; it must be (entities, {WORDS})"
        )
    if union.device.type != "cpu":
        raise ArgumentError(f"{NAME}: union is on {union.device}; it must be on the CPU")
    limit = 1 << WORD_BITS
    if bool(((union < 0) | (union >= limit)).any()):
        raise ArgumentError(f"{NAME}: union has a word outside [0, {limit})")
    words = union.to(torch.int64)
    upper, lower = (words[:, at] * limit + words[:, at + 1] for at in (0, 2))
    ascends = (upper.diff() > 0) | (upper.diff() == 0) & (lower.diff() > 0)
    if not bool(ascends.all()):
        raise ArgumentError(f"{NAME}: union is not sorted; its rows must ascend, no two equal")
    return union


def expect_ids(ids: object, name: str = "ids") -> tuple[EntityId, ...]:
    """``ids`` as a tuple; raises unless they are distinct entities."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise DtypeError(f"{NAME}: {name} is {type(ids).__name__}; it must be a set of entity ids")
    own = tuple(ids)
    for entity in own:
        if isinstance(entity, bool) or not isinstance(entity, str | bytes | int):
            kind = type(entity).__name__
            raise DtypeError(f"{NAME}: an id in {name} is {kind}; it must be a str, bytes or int")
        if isinstance(entity, int) and not -(2**63) <= entity < 2**64:
            raise ArgumentError(
                f"{NAME}: an id in {name} is an int of {entity.bit_length()} bits; an int must fit "
                "into 64 bits"
            )
        if isinstance(entity, str) and not _is_text(entity):  # no snapshot could hold it
            raise ArgumentError(
                f"{NAME}: an id in {name} is {entity!r}, which has no UTF-8 form; it must be text: "
                "pass bytes for what is none"
            )
    if len(set(own)) != len(own):
        raise ArgumentError(f"{NAME}: {name} names an entity more than once")
    return own


def _is_text(entity: str) -> bool:
    try:
        entity.encode()
    except UnicodeEncodeError:
        return False
    return True


def copied(held: Mapping[int, tuple[bytes, torch.Tensor]]) -> Held:
    """The same queries in memory of their own, so that whoever holds them can wipe them."""
    return {asker: (epoch, query.clone()) for asker, (epoch, query) in held.items()}


def _is_wiped(key: Key) -> bool:
    return key == Key(bytes(KEY_BYTES))


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What one client knows when the union is there; make it with :meth:`made`.

    A round is given a setup and gives another one, which holds the queries that came in it, so
    that they need not be sent again. Each setup owns its keys and queries, and shares the union,
    which is public.

    Args:
        client: number of the client.
        ids: its entities, in the order of their rows in its queries.
        positions: the row of the union of each; NOTHING when it is not in there.
        union: the pseudonyms of all entities, sorted, int32 (M, 4).
        group_key: makes pseudonyms.
        query_key: makes the randomness of this client's queries; see :meth:`asking_key`.
        held: asker → (epoch, its query), int32 (wanted, M).
    """

    client: int
    ids: tuple[EntityId, ...]
    positions: tuple[int, ...]
    union: torch.Tensor
    group_key: Key
    query_key: Key
    held: Held = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        # Which entities a client has, and how many, is what the protocol hides.
        return (
            f"Setup(client={self.client}, union of {len(self.union)} entities, {len(self.held)} "
            "queries held)"
        )

    @classmethod
    def made(
        cls,
        client: int,
        ids: Iterable[EntityId],
        group_key: Key,
        union: torch.Tensor,
        key: Key | None = None,
    ) -> Setup:
        """A setup with no queries yet.

        Args:
            client: number of the client.
            ids: its entities, each a str, bytes or an int. One that is not in the union, as
                happens with odds of 1 to the prime, is not shared and has no result.
            group_key: of the group, copied.
            union: what :meth:`pyfed.secagg.union.EntityUnion.peel` gives.
            key: the query key, copied; None takes a fresh one from the operating system, as
                production code does.

        Raises:
            DtypeError, ArgumentError: an argument is wrong, or a key was wiped.
        """
        expect_int(NAME, "client", client, 0, 2**32)
        for name, given in (("group_key", group_key), ("key", key)):
            if given is not None or name == "group_key":
                expect_key(NAME, given)
            if given is not None and _is_wiped(given):
                raise ArgumentError(f"{NAME}: {name} is all zero, as a key is that was wiped")
        expect_union(union)
        own = expect_ids(ids)
        rows = {tuple(row): at for at, row in enumerate(union.tolist())}
        places = tuple(
            rows.get(tuple(words), NOTHING) for words in pseudonyms(group_key, own).tolist()
        )
        query_key = Key.generate() if key is None else Key(key.reveal())
        return cls(client, own, places, union, Key(group_key.reveal()), query_key)

    def expect_unwiped(self) -> None:
        """Raise ArgumentError when a key is wiped: queries of a known key hide nothing."""
        if _is_wiped(self.group_key) or _is_wiped(self.query_key):
            raise ArgumentError(
                f"{NAME}: the setup of client {self.client} was wiped; it must not be used again: "
                "take a newer one, or set up again"
            )

    def asking_key(self, parameters: SecEAParameters) -> Key:
        """What the randomness of this client's queries is made from, in rounds of a protocol.

        HKDF(query key, lp("query") ‖ SHA-256("pyfed/v1/query" ‖ canonical msgpack of all that
        shapes a query: mode, field and points, N, T, K, M, wanted, union and positions)). With one
        R in queries of two codes a single answerer could take R out, and see what is asked for.

        Args:
            parameters: of a protocol over this setup's union.
        """
        self.expect_unwiped()
        p = parameters
        shape = (
            *(p.mode, p.field.name, p.field.modulus, p.field.points),
            *(p.clients, p.privacy, p.blocks, p.entities, p.wanted, p.union, self.positions),
        )
        bound = hashlib.sha256(b"pyfed/v1/query" + canonical(shape)).digest()
        return Key(hkdf_sha256(self.query_key.reveal(), SALT, length_prefixed(b"query") + bound))

    def epoch(self, parameters: SecEAParameters) -> bytes:
        """The public name of this client's query in rounds of a protocol: HKDF of its key.

        Args:
            parameters: as for :meth:`asking_key`.
        """
        asking = self.asking_key(parameters)
        named = asking.derive("epoch")
        try:
            return named.reveal()[:EPOCH]
        finally:
            named.wipe()
            asking.wipe()

    def holds(self, ids: Iterable[EntityId]) -> bool:
        """Whether these are exactly the entities of this setup."""
        return set(self.ids) == set(expect_ids(ids))

    def moved(self, ids: Iterable[EntityId], key: Key | None = None) -> Setup:
        """The setup for other entities out of the same union: a new epoch.

        Args:
            ids: the entities from now on.
            key: as for :meth:`made`.

        Raises:
            DtypeError, ArgumentError: an argument is wrong; the setup was wiped; or one of them is
                not in the union, and then all clients need a new setup.
        """
        self.expect_unwiped()
        new = Setup.made(self.client, ids, self.group_key, self.union, key)
        if NOTHING in new.positions:
            raise ArgumentError(
                f"{NAME}: an entity of client {self.client} is not in the union of this setup; "
                "set up again with all clients"
            )
        return dataclasses.replace(new, held=copied(self.held))

    def copy(self) -> Setup:
        """The same setup, with keys and queries of its own."""
        return dataclasses.replace(
            self,
            group_key=Key(self.group_key.reveal()),
            query_key=Key(self.query_key.reveal()),
            held=copied(self.held),
        )

    def wipe(self) -> None:
        """Overwrite the keys and the queries of others; the setup is refused afterwards.

        Setups that came of it, and clients that it was given to, have copies and go on.
        """
        self.group_key.wipe()
        self.query_key.wipe()
        for _, query in self.held.values():
            query.zero_()
        self.held.clear()
