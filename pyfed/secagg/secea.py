"""SecEA: averages of embeddings per entity, with nobody learning who has which entity.

Source: Tang, Zhu, Li, Sun, *Secure embedding aggregation for federated representation learning*,
arXiv 2206.09097 (2022); Li, Tang, Zhu, Zhang, Sun, Dong, IEEE Transactions on Information Forensics
and Security, 2025. We could read the abstracts: private entity union, secure embedding sharing,
private retrieval, T < N/2. The rest is ours; see :mod:`pyfed.secagg.secea_queries`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from pyfed.checks import expect_field, expect_int
from pyfed.codes import MOST_SHARES
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fixed import FixedPoint
from pyfed.keys import Key
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.secea_group import NAME as GROUP
from pyfed.secagg.secea_group import GroupKey, GroupParameters
from pyfed.secagg.secea_limits import LARGEST, expect_answers, expect_sizes
from pyfed.secagg.secea_messages import NAME, SecEAParameters
from pyfed.secagg.secea_queries import EntityCode
from pyfed.secagg.secea_setup import expect_union, union_digest
from pyfed.secagg.union import MOST, EntityUnion, union_salt

if TYPE_CHECKING:
    from pyfed.secagg.identity import Identity
    from pyfed.secagg.journal import Journal
    from pyfed.secagg.secea_client import SecEAClient
    from pyfed.secagg.secea_server import SecEAServer


class SecEA(Protocol):
    """The public numbers of SecEA; makes the protocols of its setup and its rounds.

    Each of N clients has entities (users, words, nodes) with an embedding each. For every one of
    its own entities a client learns the weighted mean of the embeddings over all clients that have
    it, and how many they are. The server and T clients together learn the *union* of all sets, as
    pseudonyms, and nothing of who has which entity or of an embedding beyond what their own
    results tell. Clients that ask follow the protocol; a result over two owners tells each the
    other's embedding.

    1. *Setup*, once: a group key (:attr:`group`), then the union of the sets by a secure sum of
       blinded Bloom tables (:meth:`union_sum`); each client keeps a
       :class:`pyfed.secagg.secea_setup.Setup`, and :meth:`over` gives the protocol of the rounds.
    2. *Share*, every round: a Lagrange code of one's embeddings and ownership symbols over the
       whole union, zeros where one has nothing.
    3. *Read*: coded queries, sent once and kept by the answerers; masked answers; any
       2K + 2T - 1 of them decode.

    Args:
        clients: N, from 3 to 4096.
        privacy: T ≥ 1.
        blocks: K ≥ 1: a larger K makes shares and answers shorter, and needs more answers;
            K ≤ ⌊(N - D - 2E - F + 1)/2⌋ - T.
        dim: d, elements of an embedding.
        fixed: how embeddings become residues, made for at least N clients.
        dropouts: D ≥ 0: how many clients may be lost, over all phases.
        errors: E: how many wrong answers an asker repairs.
        detect: F: how many more it notices.
        entities: M, public: the most entities of the union; None where :func:`simulate` is to
            take what the data has.
        wanted: public: the most entities of one client, to which every query is padded; None as
            for ``entities``.
        server: ``"curious"``: the server follows the protocol; ``"malicious"``: it may do
            anything, and clients sign what they send.
        identities: under a malicious server, the public key of every client's ``Identity``.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: the numbers do not fit together; the message gives them and the remedy.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.secagg.secea import SecEA
        >>> from pyfed.engines.secea import simulate_secea
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=5)
        >>> protocol = SecEA(clients=5, privacy=1, blocks=1, dim=2, fixed=fixed, dropouts=2)
        >>> cat, dog = torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.25])
        >>> entities = [{"cat": cat}, {"cat": -cat, "dog": dog}, {"dog": dog}, {}, {}]
        >>> result = simulate_secea(protocol, entities, drop={"upload": {4}})
        >>> result.embeddings[1], result.counts[1]
        ({'cat': tensor([0., 0.]), 'dog': tensor([0.0000, 0.2500])}, {'cat': 2, 'dog': 2})
        >>> result.union_size, sorted(result.included)
        (2, [0, 1, 2, 3])
    """

    name: ClassVar[str] = NAME
    fixed: FixedPoint

    def __init__(
        self,
        clients: int,
        privacy: int,
        blocks: int,
        dim: int,
        fixed: FixedPoint,
        dropouts: int = 0,
        errors: int = 0,
        detect: int = 0,
        entities: int | None = None,
        wanted: int | None = None,
        server: str = "curious",
        identities: Sequence[bytes] = (),
    ) -> None:
        expect_int(NAME, "clients", clients, 3, MOST_SHARES + 1)
        expect_int(NAME, "privacy", privacy, 1, clients)
        expect_int(NAME, "blocks", blocks, 1, clients)
        expect_int(NAME, "dim", dim, 1, LARGEST)
        for name, count in (("dropouts", dropouts), ("errors", errors), ("detect", detect)):
            expect_int(NAME, name, count, 0, clients)
        if not isinstance(fixed, FixedPoint):
            raise DtypeError(f"{NAME}: fixed is {type(fixed).__name__}; it must be a FixedPoint")
        expect_field(NAME, fixed.field)
        if fixed.clients < clients:
            raise ArgumentError(
                f"{NAME}: fixed is made for sums of {fixed.clients} clients and clients is "
                f"{clients}; use FixedPoint(clients={clients}, ...)"
            )
        for name, most in (("entities", entities), ("wanted", wanted)):
            if most is not None:
                expect_int(NAME, name, most, 1, MOST + 1)
        expect_answers(clients, privacy, blocks, dropouts, errors, detect)
        self.code = EntityCode(clients, blocks, privacy, dim, fixed.field)
        self.fixed = fixed
        self.parameters: SecEAParameters = SecEAParameters(
            protocol=NAME,
            mode=server,
            field=fixed.field,
            clients=clients,
            privacy=privacy,
            dropouts=dropouts,
            errors=errors,
            detect=detect,
            blocks=blocks,
            length=dim,
            form=fixed.form,
            max_weight=fixed.max_weight,
            entities=entities or 0,
            wanted=wanted or 0,
        )
        self.identities = self._expect_server(server, identities)
        expect_sizes(self.parameters)

    def __repr__(self) -> str:
        p = self.parameters
        return (
            f"{NAME}(clients={p.clients}, privacy={p.privacy}, blocks={p.blocks}, dim={p.length}, "
            f"fixed={self.fixed}, dropouts={p.dropouts}, errors={p.errors}, detect={p.detect}, "
            f"entities={p.entities or None}, wanted={p.wanted or None}, server={p.mode!r})"
        )

    @property
    def group(self) -> GroupKey:
        """The first step of the setup: all clients agree on a group key."""
        p = self.parameters
        values = {name: getattr(p, name) for name in GroupParameters.__dataclass_fields__}
        values |= {"protocol": GROUP, "form": ("group",), "length": 0, "blocks": 1}
        return GroupKey(GroupParameters(**values), self.fixed, self.identities)

    def union_sum(self, seed: bytes, attempt: int = 0) -> tuple[EntityUnion, bytes, LightSecAgg]:
        """The second step of the setup: the union of the clients' sets.

        Args:
            seed: what the group agreed on.
            attempt: one more after each peel that failed.

        Returns:
            The table's form, its salt, and the protocol that sums tables. A client's update is
            ``form.table(pseudonyms, salt, key)``; ``form.peel(result.residues, salt)`` is the
            union.
        """
        p = self.parameters
        self._expect_bounds()
        form, salt = EntityUnion(p.entities, p.field), union_salt(seed, attempt)
        summed = LightSecAgg(
            clients=p.clients,
            privacy=p.privacy,
            dropouts=p.dropouts,
            length=form.length,
            fixed=form.encoding(p.clients, salt),
            server=p.mode,
            identities=self.identities,
        )
        return form, salt, summed

    def sized(self, entities: int, wanted: int) -> SecEA:
        """The same protocol with these public maxima where it has none.

        Args:
            entities: M.
            wanted: rows of a query.
        """
        p = self.parameters
        for name, most in (("entities", entities), ("wanted", wanted)):
            expect_int(NAME, name, most, 1, MOST + 1)
        return self._with(entities=p.entities or entities, wanted=p.wanted or wanted)

    def over(self, union: torch.Tensor) -> SecEA:
        """The protocol of the rounds over a union: all their messages are bound to it.

        Args:
            union: sorted pseudonyms, no two equal, int32 (M, 4) on the CPU.

        Raises:
            DtypeError, ArgumentError: it is no union, has more rows than ``entities``, or a
                maximum is not set.
        """
        expect_union(union)
        self._expect_bounds()
        if len(union) > self.parameters.entities:
            raise ArgumentError(
                f"{NAME}: union has {len(union)} rows; entities is {self.parameters.entities}"
            )
        return self._with(entities=len(union), union=union_digest(union))

    def client(
        self,
        index: int,
        round: int,
        key: Key | None = None,
        journal: Journal | None = None,
        identity: Identity | None = None,
    ) -> SecEAClient:
        """Client number ``index`` in one round over the union; see ``Protocol.client``.

        Its ``start`` takes the embeddings, a weight, and the client's ``Setup``.
        """
        self._expect_union()
        made = super().client(index, round, key, journal, identity)
        from pyfed.secagg.secea_client import SecEAClient

        assert isinstance(made, SecEAClient)
        return made

    def _client_type(self) -> type[SecEAClient]:
        from pyfed.secagg.secea_client import SecEAClient

        return SecEAClient

    def _server_type(self) -> type[SecEAServer]:
        from pyfed.secagg.secea_server import SecEAServer

        self._expect_union()
        return SecEAServer

    def _with(self, **changes: object) -> SecEA:
        new = object.__new__(SecEA)
        new.code, new.fixed, new.identities = self.code, self.fixed, self.identities
        new.parameters = dataclasses.replace(self.parameters, **changes)  # type: ignore[arg-type]
        expect_sizes(new.parameters)
        return new

    def _expect_bounds(self) -> None:
        for name in ("entities", "wanted"):
            if not getattr(self.parameters, name):
                raise ArgumentError(
                    f"{NAME}: {name} is None; set the public maximum, as SecEA({name}=...) or by "
                    "sized(...)"
                )

    def _expect_union(self) -> None:
        if not self.parameters.union:
            raise ArgumentError(
                f"{NAME}: the union is not known yet; run the setup, then make clients and the "
                "server of protocol.over(union)"
            )
