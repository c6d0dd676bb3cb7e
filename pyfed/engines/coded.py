"""Coded data sets summed in secret, in one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyfed.coded.dataset import CodedDataset
from pyfed.coded.fits import expect_fits
from pyfed.engines.callbacks import RoundCallback
from pyfed.engines.simulation import simulate
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fixed import FixedPoint
from pyfed.keys import Key
from pyfed.secagg.identity import Identity
from pyfed.secagg.protocol import Protocol


@dataclass(frozen=True, eq=False)
class CodedSum:
    """The sum of coded sets, and how it was made.

    Args:
        coded: the sum over the clients that are in it.
        included: their numbers.
        traffic: (role, phase) → bytes sent.
        seconds: phase → wall time of all parties together.
    """

    coded: CodedDataset
    included: frozenset[int]
    traffic: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def simulate_coded(
    protocol: Protocol,
    coded_sets: Sequence[CodedDataset],
    drop: Mapping[str, Iterable[int]] | None = None,
    key: Key | None = None,
    round: int = 0,
    identities: Sequence[Identity] | None = None,
    callbacks: Iterable[RoundCallback] = (),
) -> CodedSum:
    """Sum the clients' coded sets under secure aggregation: the server sees the sum alone.

    So a guarantee may count the noise of all of them: with N clients each adds σ²/N. Those whose
    set is lost take their noise with them; plan for the fewest that the protocol completes with,
    and remember that whoever colludes with the server can subtract its own noise:
    ``result.coded.release(colluders=T)`` counts both.

    A set goes into one sum alone. From two sums with the same sets and other losses the server
    subtracts one client's set, with that client's noise only; after a sum that was made or begun,
    sets are encoded anew, with another key or stream, and the releases compose.

    With discrete noise, whose grid is that of the fixed-point form, nothing is rounded. Rounding
    continuous noise to steps of 1/scale is unbiased and adds at most 1/(4·scale²) per client to the
    variance of an entry, which is not counted, and not part of any guarantee.

    Args:
        protocol: LightSecAgg, SwiftAgg or SecAggPlus, with ``length`` = rows · (features +
            outputs) and a FixedPoint whose clip is above every coded value.
        coded_sets: one for each client.
        drop: phase → clients that send nothing from that phase on.
        key: makes the round repeatable, in tests.
        round: number of the round.
        identities: under a malicious server the private key of each client for signatures.
        callbacks: told of the round when it is over; see :mod:`pyfed.engines.callbacks`.

    Returns:
        The sum over the clients that were included, with their noise.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, a value is above the clip, or two sets
            were coded with one key and stream.
        ThresholdError: more clients than the protocol bears were lost.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.coded import CodedDataset, simulate_coded
        >>> from pyfed.secagg import LightSecAgg
        >>> x, y = torch.randn(4, 10, 2), torch.randn(4, 10)
        >>> fixed = pyfed.FixedPoint(clip=64.0, bits=24, clients=4)
        >>> noise = dict(noise_std=1.0, grid=1 / fixed.scale)
        >>> sets = [
        ...     CodedDataset.encode(x[i], y[i], 4, pyfed.Key.generate(), **noise) for i in range(4)
        ... ]
        >>> protocol = LightSecAgg(clients=4, privacy=1, dropouts=1, length=12, fixed=fixed)
        >>> result = simulate_coded(protocol, sets, drop={"upload": {3}})
        >>> plain = CodedDataset.total(sets[:3])
        >>> torch.allclose(result.coded.x, plain.x, atol=1e-4), result.coded.noise_variance
        (True, 3.0)
    """
    op = "simulate_coded"
    if not isinstance(protocol, Protocol) or not isinstance(protocol.fixed, FixedPoint):
        kind = type(protocol).__name__
        raise DtypeError(
            f"{op}: protocol is {kind}; it must be one of secure aggregation with a FixedPoint"
        )
    like = CodedDataset.alike(op, coded_sets)
    length = like.rows * (like.features + like.outputs)
    if protocol.parameters.length != length:
        raise ArgumentError(
            f"{op}: the protocol has length {protocol.parameters.length}; a coded set has "
            f"rows · (features + outputs) = {length} values"
        )
    for index, one in enumerate(coded_sets):
        expect_fits(f"{op}: coded_sets[{index}]", one, protocol.fixed)
    vectors = [one.vector() for one in coded_sets]
    result: Any = simulate(protocol, vectors, None, drop, key, round, identities, callbacks)
    inside = CodedDataset.alike(op, [coded_sets[i] for i in sorted(result.included)])
    return CodedSum(
        coded=inside.from_vector(result.sum.to(like.device)),
        included=result.included,
        traffic=result.traffic,
        seconds=result.seconds,
    )
