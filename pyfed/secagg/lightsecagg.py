"""LightSecAgg: masks shared by a Lagrange code, and the sum of masks recovered in one shot.

Source: So et al., LightSecAgg: a lightweight and versatile design for secure aggregation in
federated learning, MLSys 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pyfed.checks import expect_int
from pyfed.codes import MOST_SHARES, LagrangeCode
from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.secagg.session import PHASES, Parameters

if TYPE_CHECKING:
    from pyfed.secagg.journal import Journal
    from pyfed.secagg.lightsecagg_client import LightSecAggClient
    from pyfed.secagg.lightsecagg_server import LightSecAggServer

NAME = "LightSecAgg"
LONGEST = 2**29
"""Residues of an upload at most: 2 GiB, which one message can still carry."""


class LightSecAgg:
    """The public numbers of a LightSecAgg session; makes its clients and servers, one for a round.

    Every client masks its update with a fresh uniform vector and deals a Lagrange code of that
    vector to the others, with K = clients - dropouts - privacy - 2·errors - detect blocks. Once
    the server knows who uploaded, each client sends one sum of shares, and any
    K + privacy + 2·errors + detect = clients - dropouts of them give the sum of the masks.

    Args:
        clients: N, from 3 on.
        privacy: T ≥ 1: the server and T clients together learn nothing but the sum.
        dropouts: D ≥ 0: how many clients may be lost, over all phases.
        length: elements of an update.
        fixed: how updates become residues, made for at least N clients: a ``FixedPoint`` for
            floats, ``VoteLanes`` for votes.
        errors: E: how many wrong answers are repaired.
        detect: F: how many more wrong answers are noticed.
        server: ``"curious"``: the server follows the protocol.

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

    phases = PHASES

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
    ) -> None:
        expect_int(NAME, "clients", clients, 3, MOST_SHARES + 1)
        expect_int(NAME, "privacy", privacy, 1, clients)
        expect_int(NAME, "dropouts", dropouts, 0, clients)
        expect_int(NAME, "errors", errors, 0, clients)
        expect_int(NAME, "detect", detect, 0, clients)
        if not isinstance(fixed, Encoding):
            kind = type(fixed).__name__
            raise DtypeError(f"{NAME}: fixed is {kind}; it must be a FixedPoint or VoteLanes")
        expect_int(NAME, "length", length, 0, LONGEST * fixed.lanes)
        _expect_mode(server)
        if fixed.clients < clients:
            raise ArgumentError(
                f"{NAME}: fixed is made for sums of {fixed.clients} clients and clients is "
                f"{clients}; use {type(fixed).__name__}(clients={clients}, ...)"
            )
        blocks = _expect_blocks(clients, privacy, dropouts, errors, detect)
        self.fixed = fixed
        self.code = LagrangeCode(clients, blocks, privacy, fixed.field)
        self.parameters = Parameters(
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
        )

    def __repr__(self) -> str:
        p = self.parameters
        return (
            f"{NAME}(clients={p.clients}, privacy={p.privacy}, dropouts={p.dropouts}, "
            f"length={p.length}, fixed={self.fixed}, errors={p.errors}, detect={p.detect}, "
            f"server={p.mode!r})"
        )

    def expect_update(self, update: object) -> torch.Tensor:
        """``update`` detached; raises unless the encoding takes it, at the session's length."""
        return self.fixed.expect_update(NAME, update, self.parameters.length)

    def client(
        self, index: int, round: int, key: Key | None = None, journal: Journal | None = None
    ) -> LightSecAggClient:
        """Client number ``index`` in one round.

        Args:
            index: from 0 to clients - 1.
            round: number of the round; never used twice in a session.
            key: the round key, which is copied; None takes a fresh one from the operating system,
                as production code does, unless it keeps the key to resume after a crash.
            journal: keeps what is released, so that a resumed client sends the same or nothing.
        """
        from pyfed.secagg.lightsecagg_client import LightSecAggClient

        return LightSecAggClient(self, index, round, key, journal)

    def server(
        self, round: int, nonce: bytes | None = None, device: torch.device | str = "cpu"
    ) -> LightSecAggServer:
        """The server in one round.

        Args:
            round: number of the round.
            nonce: 32 public bytes that make the session unique; None takes fresh ones.
            device: where uploads are summed and decoded.
        """
        from pyfed.secagg.lightsecagg_server import LightSecAggServer

        return LightSecAggServer(self, round, nonce, device)


def _expect_mode(server: object) -> None:
    if server == "malicious":
        raise ArgumentError(
            f"{NAME}: server='malicious' is not available in this version; server='curious' "
            "protects against a server that follows the protocol"
        )
    if server != "curious":
        raise ArgumentError(f"{NAME}: server is {server!r}; it must be 'curious'")


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
