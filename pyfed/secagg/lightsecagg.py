"""LightSecAgg: masks shared by a Lagrange code, and the sum of masks recovered in one shot.

Source: So et al., LightSecAgg: a lightweight and versatile design for secure aggregation in
federated learning, MLSys 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyfed.checks import expect_int
from pyfed.codes import MOST_SHARES, LagrangeCode
from pyfed.dealing import DealerCheck
from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.dealer_messages import DealerParameters
from pyfed.secagg.messages import CHECKED
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.session import Parameters

if TYPE_CHECKING:
    from pyfed.secagg.lightsecagg_client import LightSecAggClient
    from pyfed.secagg.lightsecagg_server import LightSecAggServer

NAME = "LightSecAgg"
LONGEST = 2**29
"""Residues of an upload at most: 2 GiB, which one message can still carry."""


class LightSecAgg(Protocol):
    """The public numbers of a LightSecAgg session; makes its clients and servers, one for a round.

    Every client masks its update with a fresh uniform vector and deals a Lagrange code of that
    vector to the others, with K = clients - dropouts - privacy - 2·errors - detect blocks. Once
    the server knows who uploaded, each client sends one sum of shares, and any
    K + privacy + 2·errors + detect = clients - dropouts of them give the sum of the masks.

    Args:
        clients: N, from 3 to 4096.
        privacy: T ≥ 1: the server and T clients together learn nothing but the sum.
        dropouts: D ≥ 0: how many clients may be lost, over all phases.
        length: elements of an update.
        fixed: how updates become residues, made for at least N clients: a ``FixedPoint`` for
            floats, ``VoteLanes`` for votes. A ``FixedPoint`` over ``WIDE`` doubles every message,
            and bears weights and clients beyond one prime.
        errors: E: how many wrong answers are repaired.
        detect: F: how many more wrong answers are noticed.
        server: what the server is trusted with. ``"curious"``: it follows the protocol and looks at
            all it sees. ``"malicious"``: it may do anything; clients then sign, and answer only
            when N - D of them have committed to the same survivors, which needs N > 2·D + T.
        check_dealers: whether a dealer of inconsistent shares is found, see
            :class:`pyfed.dealing.DealerCheck`; it costs 12 bytes for each pair of clients twice,
            and needs ``errors`` or ``detect``, so that there are shares to compare. Without it
            such a dealer ends the round in a DecodeError, if ``detect`` or ``errors`` notice it.
        identities: under a malicious server, the public key (``Identity.public``) of every client,
            which all parties know from elsewhere than the server.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: the numbers do not fit together; the message gives them and the remedy.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.secagg import LightSecAgg, simulate
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=4)
        >>> protocol = LightSecAgg(clients=4, privacy=1, dropouts=1, length=2, fixed=fixed)
        >>> updates = [torch.tensor([0.25, -0.5])] * 4
        >>> result = simulate(protocol, updates, drop={"upload": {3}})
        >>> sorted(result.included), result.mean
        ([0, 1, 2], tensor([ 0.2500, -0.5000]))
    """

    name = NAME
    offline = True

    def __init__(
        self,
        clients: int,
        privacy: int,
        dropouts: int,
        length: int,
        fixed: Encoding,
        errors: int = 0,
        detect: int = 0,
        server: str = "curious",
        identities: Sequence[bytes] = (),
        check_dealers: bool = False,
    ) -> None:
        expect_int(NAME, "clients", clients, 3, MOST_SHARES + 1)
        expect_int(NAME, "privacy", privacy, 1, clients)
        expect_int(NAME, "dropouts", dropouts, 0, clients)
        expect_int(NAME, "errors", errors, 0, clients)
        expect_int(NAME, "detect", detect, 0, clients)
        if not isinstance(fixed, Encoding):
            kind = type(fixed).__name__
            raise DtypeError(f"{NAME}: fixed is {kind}; it must be a FixedPoint or VoteLanes")
        longest = LONGEST // len(fixed.field.planes)
        expect_int(NAME, "length", length, 0, longest * fixed.lanes)
        if fixed.clients < clients:
            raise ArgumentError(
                f"{NAME}: fixed is made for sums of {fixed.clients} clients and clients is "
                f"{clients}; use {type(fixed).__name__}(clients={clients}, ...)"
            )
        blocks = _expect_blocks(clients, privacy, dropouts, errors, detect)
        self.fixed = fixed
        self.code = LagrangeCode(clients, blocks, privacy, fixed.field)
        numbers: dict[str, Any] = {
            "mode": server,
            "field": fixed.field,
            "clients": clients,
            "privacy": privacy,
            "dropouts": dropouts,
            "errors": errors,
            "detect": detect,
            "blocks": blocks,
            "length": length,
            "form": fixed.form,
            "max_weight": fixed.max_weight,
            "lanes": fixed.lanes,
        }
        self.parameters = Parameters(protocol=NAME, **numbers)
        self.check: DealerCheck | None = None
        if _expect_check(check_dealers, server, errors + detect):
            self.check = DealerCheck(self.code, self.parameters.columns)
            self.parameters = DealerParameters(
                protocol=CHECKED, challenges=self.check.challenges, **numbers
            )
        self.identities = self._expect_server(server, identities)

    def __repr__(self) -> str:
        p = self.parameters
        checked = ", check_dealers=True" if self.check else ""
        return (
            f"{NAME}(clients={p.clients}, privacy={p.privacy}, dropouts={p.dropouts}, "
            f"length={p.length}, fixed={self.fixed}, errors={p.errors}, detect={p.detect}, "
            f"server={p.mode!r}{checked})"
        )

    def _client_type(self) -> type[LightSecAggClient]:
        from pyfed.secagg.lightsecagg_client import LightSecAggClient
        from pyfed.secagg.lightsecagg_dealers import DealerCheckClient

        if self.check is not None:
            return DealerCheckClient
        return LightSecAggClient

    def _server_type(self) -> type[LightSecAggServer]:
        from pyfed.secagg.lightsecagg_dealers import DealerCheckServer
        from pyfed.secagg.lightsecagg_server import LightSecAggServer

        if self.check is not None:
            return DealerCheckServer
        return LightSecAggServer


def _expect_check(check_dealers: object, server: str, spare: int) -> bool:
    """Whether dealers are checked; raises where the check would be unsafe or empty."""
    if not isinstance(check_dealers, bool):
        kind = type(check_dealers).__name__
        raise DtypeError(f"{NAME}: check_dealers is {kind}; it must be a bool")
    if check_dealers and server != "curious":
        raise ArgumentError(
            f"{NAME}: check_dealers needs server='curious': a server that gives clients different "
            "coins would learn combinations of their masks"
        )
    if check_dealers and spare == 0:
        raise ArgumentError(
            f"{NAME}: check_dealers needs errors or detect, so that more clients answer than "
            "determine a dealer's vector; both are 0"
        )
    return check_dealers


def _expect_blocks(clients: int, privacy: int, dropouts: int, errors: int, detect: int) -> int:
    """K; raises unless the code exists and two honest clients always share the sum."""
    honest = clients - dropouts - privacy
    if honest < 2:
        raise ArgumentError(
            f"{NAME}: clients - dropouts - privacy = {clients} - {dropouts} - {privacy} = "
            f"{honest}; it must be at least 2, or the colluders would subtract their own updates "
            "from the sum and see that of one client; use fewer dropouts, less privacy or more "
            "clients"
        )
    blocks = honest - 2 * errors - detect
    if blocks < 1:
        raise ArgumentError(
            f"{NAME}: clients - dropouts - privacy - 2·errors - detect = {clients} - {dropouts} - "
            f"{privacy} - 2·{errors} - {detect} = {blocks}; it must be at least 1, because these "
            "are the data blocks of the code; lower errors or detect, or use more clients"
        )
    return blocks
