"""SwiftAgg+: updates shared inside groups, sums handed from group to group, one decoding.

Source: Jahani-Nezhad, Maddah-Ali, Li, Caire, SwiftAgg+: achieving asymptotically optimal
communication loads in secure aggregation for federated learning, IEEE JSAC 41(4), 2023. The
barrier that fixes who is summed, the boxes around sums and the spare clients are this library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyfed.checks import expect_field, expect_int
from pyfed.codes import MOST_SHARES, LagrangeCode
from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.swiftagg_messages import NAME, SwiftParameters
from pyfed.secagg.swiftagg_plan import Plan, even_layout, plan_rows

if TYPE_CHECKING:
    from pyfed.secagg.swiftagg_client import SwiftAggClient
    from pyfed.secagg.swiftagg_server import SwiftAggServer

LONGEST = 2**29
"""Residues of an update at most: 2 GiB, which one message can still carry."""

MOST_CLIENTS = 2**16
"""The most clients of a session; a group has at most 4096 holders."""


class SwiftAgg(Protocol):
    """The public numbers of a SwiftAgg+ session; makes its clients and servers, one for a round.

    Clients sit in ⌊N / n⌋ groups of n = K + T + D + 2E + F or more. A client shares its update
    inside its group by a Lagrange code of K blocks. Once it is settled whose updates are in, the
    j-th members of all groups add up their shares along a tree of groups, each handing its sum,
    encrypted, to the next. The server gets the total of column j from the j-th member of the root
    group, and decodes the sum of all updates from any K + T + 2E + F columns. A lost client
    silences one column at most.

    Args:
        clients: N, from 3 to 65,536.
        privacy: T ≥ 1: the server and T clients together learn nothing but the sum.
        dropouts: D ≥ 0: how many clients may be lost, over all groups and phases.
        blocks: K ≥ 1: the server receives 1 + T/K updates, a client sends 1 + (T + D)/K; see
            :meth:`plan`. K + T + D + 2E + F is at most N and at most 4096.
        length: elements of an update.
        fixed: how updates become residues, made for at least N clients.
        errors: E: how many wrong columns are repaired.
        detect: F: how many more wrong columns are noticed.
        tree: ``"binary"`` or ``"chain"``, or the parent of each group with -1 at the root.
        server: ``"curious"``: the server follows the protocol; ``"malicious"``: it may do anything.
        identities: under a malicious server, the public key of every client's ``Identity``.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: the numbers do not fit together; the message gives them and the remedy.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.secagg import SwiftAgg, simulate
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=8)
        >>> protocol = SwiftAgg(clients=8, privacy=1, dropouts=1, blocks=2, length=2, fixed=fixed)
        >>> protocol.parameters.layout.members
        (range(0, 4), range(4, 8))
        >>> updates = [torch.tensor([0.25, -0.5])] * 8
        >>> result = simulate(protocol, updates, drop={"upload": {3}})
        >>> len(result.included), result.mean
        (7, tensor([ 0.2500, -0.5000]))
    """

    name = NAME
    parameters: SwiftParameters

    def __init__(
        self,
        clients: int,
        privacy: int,
        dropouts: int,
        blocks: int,
        length: int,
        fixed: Encoding,
        errors: int = 0,
        detect: int = 0,
        tree: str | Sequence[int] = "binary",
        server: str = "curious",
        identities: Sequence[bytes] = (),
    ) -> None:
        _expect_numbers(clients, privacy, dropouts, errors, detect)
        expect_int(NAME, "blocks", blocks, 1, clients + 1)
        if not isinstance(fixed, Encoding):
            kind = type(fixed).__name__
            raise DtypeError(f"{NAME}: fixed is {kind}; it must be a FixedPoint or VoteLanes")
        expect_int(NAME, "length", length, 0, LONGEST * fixed.lanes)
        expect_field(NAME, fixed.field)
        if fixed.clients < clients:
            raise ArgumentError(
                f"{NAME}: fixed is made for sums of {fixed.clients} clients and clients is "
                f"{clients}; use {type(fixed).__name__}(clients={clients}, ...)"
            )
        holders = blocks + privacy + dropouts + 2 * errors + detect
        _expect_group(holders)
        layout = even_layout(clients, holders, tree)
        self.fixed = fixed
        self.code = LagrangeCode(holders, blocks, privacy, fixed.field)
        self.parameters = SwiftParameters(
            protocol=NAME,
            mode=server,
            field=fixed.field,
            clients=clients,
            privacy=privacy,
            dropouts=dropouts,
            errors=errors,
            detect=detect,
            blocks=blocks,
            length=length,
            form=fixed.form,
            max_weight=fixed.max_weight,
            lanes=fixed.lanes,
            parents=layout.parents,
        )
        self.identities = self._expect_server(server, identities)

    def __repr__(self) -> str:
        p = self.parameters
        return (
            f"{NAME}(clients={p.clients}, privacy={p.privacy}, dropouts={p.dropouts}, "
            f"blocks={p.blocks}, length={p.length}, fixed={self.fixed}, errors={p.errors}, "
            f"detect={p.detect}, tree={p.parents}, server={p.mode!r})"
        )

    @classmethod
    def plan(
        cls, clients: int, privacy: int, dropouts: int, errors: int = 0, detect: int = 0
    ) -> Plan:
        """What each feasible K means for loads, links and latency: K + T + D + 2E + F ≤ N, 4096.

        Args:
            clients: N.
            privacy: T.
            dropouts: D.
            errors: E.
            detect: F.

        Returns:
            A table with one row for each K; ``str`` of it is aligned text.

        Raises:
            DtypeError, ArgumentError: as the class.

        Example:
            >>> from pyfed.secagg import SwiftAgg
            >>> print(SwiftAgg.plan(clients=8, privacy=1, dropouts=1))
            K  group  groups  spare  server    user  links  chain  binary
            1      3       2      2  2.000L  3.000L     18      2       2
            2      4       2      0  1.500L  2.000L     20      2       2
            3      5       1      3  1.333L  1.667L     30      1       1
            4      6       1      2  1.250L  1.500L     33      1       1
            5      7       1      1  1.200L  1.400L     35      1       1
            6      8       1      0  1.167L  1.333L     36      1       1
        """
        _expect_numbers(clients, privacy, dropouts, errors, detect)
        return plan_rows(clients, privacy, dropouts, errors, detect)

    def _client_type(self) -> type[SwiftAggClient]:
        from pyfed.secagg.swiftagg_client import SwiftAggClient

        return SwiftAggClient

    def _server_type(self) -> type[SwiftAggServer]:
        from pyfed.secagg.swiftagg_server import SwiftAggServer

        return SwiftAggServer


def _expect_numbers(clients: int, privacy: int, dropouts: int, errors: int, detect: int) -> None:
    """Raise unless each number is in range, K = 1 is feasible, and two honest clients share."""
    expect_int(NAME, "clients", clients, 3, MOST_CLIENTS + 1)
    expect_int(NAME, "privacy", privacy, 1, clients)
    expect_int(NAME, "dropouts", dropouts, 0, clients)
    expect_int(NAME, "errors", errors, 0, clients)
    expect_int(NAME, "detect", detect, 0, clients)
    honest = clients - dropouts - privacy
    if honest < 2:
        raise ArgumentError(
            f"{NAME}: clients - dropouts - privacy = {clients} - {dropouts} - {privacy} = "
            f"{honest}; it must be at least 2, or the colluders would subtract their own updates "
            "from the sum and see that of one client; use fewer dropouts, less privacy or more "
            "clients"
        )
    if honest - 2 * errors - detect < 1:
        raise ArgumentError(
            f"{NAME}: clients - dropouts - privacy - 2·errors - detect = {clients} - {dropouts} - "
            f"{privacy} - 2·{errors} - {detect} = {honest - 2 * errors - detect}; it must be at "
            "least 1, because one group needs so many members and a data block; lower errors or "
            "detect, or use more clients"
        )
    _expect_group(1 + privacy + dropouts + 2 * errors + detect)


def _expect_group(holders: int) -> None:
    """Raise unless one code has a point for each holder of a group."""
    if holders > MOST_SHARES:
        raise ArgumentError(
            f"{NAME}: blocks + privacy + dropouts + 2·errors + detect = {holders}; it must be at "
            f"most {MOST_SHARES}, the most shares of a code; use fewer blocks, or lower the others"
        )
