"""SecAgg+: masks that cancel between neighbours of a sparse random graph.

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova, Secure single-server aggregation with
(poly)logarithmic overhead, CCS 2020, after Bonawitz et al., Practical secure aggregation for
privacy-preserving machine learning, CCS 2017. The agreement on dealers, the rule for complaints,
the pair keys of dead neighbours and the condition against a malicious server are this library's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyfed.checks import expect_field, expect_int
from pyfed.codes import MOST_SHARES, LagrangeCode
from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.graph import Setting, plan
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.secaggplus_messages import NAME, SEEDS, SecAggPlusParameters

if TYPE_CHECKING:
    from pyfed.secagg.secaggplus_client import SecAggPlusClient
    from pyfed.secagg.secaggplus_server import SecAggPlusServer

LONGEST = 2**29
"""Residues of an upload at most: 2 GiB, which one message can still carry."""


class SecAggPlus(Protocol):
    """The public numbers of a SecAgg+ session; makes its clients and servers, one for a round.

    A client adds to its update the ChaCha20 mask of a seed of its own, and for each neighbour a
    mask that the neighbour subtracts. It shares its seed and its private key for masks with its
    neighbours, any ``threshold`` of whom uncover one of them: the seed of a client whose update is
    in the sum, or the key of one that is lost; never both. Beside the masked update all traffic is
    a few words for each neighbour, and the list of public keys.

    Who is whose neighbour follows from the session hash, so it is never sent: see
    :mod:`pyfed.secagg.graph`. Everybody gets the whole list of keys that the hash covers.

    Args:
        clients: N, from 3 to 4096.
        privacy: T ≥ 1: the server and T clients together learn nothing but the sum, but for a
            chance of 2^-40 over the graph where it is not complete.
        dropouts: D ≥ 0: how many clients may be lost, over all phases. In a sparse graph a round
            in which so many are lost fails with a chance of at most 2^-20.
        length: elements of an update.
        fixed: how updates become residues, made for at least N clients: a ``FixedPoint`` for
            floats, ``VoteLanes`` for votes.
        errors: E: how many wrong shares of one secret are repaired.
        detect: F: how many more are noticed.
        degree: neighbours of a client; None: the fewest that serve. clients - 1: the complete
            graph, which leaves nothing to chance.
        threshold: shares that uncover a secret; None: the fewest that serve.
        server: ``"curious"``: the server follows the protocol; ``"malicious"``: it may do anything.
        identities: under a malicious server, the public key of every client's ``Identity``.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: the numbers do not fit together; the message gives them and the remedy.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.secagg import SecAggPlus, simulate
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=100)
        >>> protocol = SecAggPlus(clients=100, privacy=5, dropouts=5, length=2, fixed=fixed)
        >>> protocol.parameters.degree, protocol.parameters.threshold
        (12, 6)
        >>> updates = [torch.tensor([0.25, -0.5])] * 100
        >>> result = simulate(protocol, updates, drop={"upload": {3, 14}, "recover": {15}})
        >>> len(result.included), result.mean
        (98, tensor([ 0.2500, -0.5000]))
    """

    name = NAME
    offline = True
    parameters: SecAggPlusParameters

    def __init__(
        self,
        clients: int,
        privacy: int,
        dropouts: int,
        length: int,
        fixed: Encoding,
        errors: int = 0,
        detect: int = 0,
        degree: int | None = None,
        threshold: int | None = None,
        server: str = "curious",
        identities: Sequence[bytes] = (),
    ) -> None:
        _expect_numbers(clients, privacy, dropouts, errors, detect)
        for number, value in (("degree", degree), ("threshold", threshold)):
            if value is not None:
                expect_int(NAME, number, value, 1, clients)
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
        self.fixed = fixed
        self.parameters = SecAggPlusParameters(
            protocol=NAME,
            mode=server,
            field=fixed.field,
            clients=clients,
            privacy=privacy,
            dropouts=dropouts,
            errors=errors,
            detect=detect,
            blocks=1,
            length=length,
            form=fixed.form,
            max_weight=fixed.max_weight,
            lanes=fixed.lanes,
        )
        self.identities = self._expect_server(server, identities)
        setting = Setting(clients, privacy, dropouts, 2 * errors + detect, server)
        degree, threshold = plan(setting, degree, threshold)
        self.parameters = dataclasses.replace(self.parameters, degree=degree, threshold=threshold)
        self.code = LagrangeCode(degree, 1, threshold - 1, SEEDS)

    def __repr__(self) -> str:
        p = self.parameters
        return (
            f"{NAME}(clients={p.clients}, privacy={p.privacy}, dropouts={p.dropouts}, "
            f"length={p.length}, fixed={self.fixed}, errors={p.errors}, detect={p.detect}, "
            f"degree={p.degree}, threshold={p.threshold}, server={p.mode!r})"
        )

    def _client_type(self) -> type[SecAggPlusClient]:
        from pyfed.secagg.secaggplus_client import SecAggPlusClient

        return SecAggPlusClient

    def _server_type(self) -> type[SecAggPlusServer]:
        from pyfed.secagg.secaggplus_server import SecAggPlusServer

        return SecAggPlusServer


def _expect_numbers(clients: int, privacy: int, dropouts: int, errors: int, detect: int) -> None:
    """Raise unless each number is in range and two honest clients always share the sum."""
    expect_int(NAME, "clients", clients, 3, MOST_SHARES + 1)
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
