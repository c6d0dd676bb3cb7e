"""Arrival probabilities learnt from the rounds that have been."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pyfed.checks import expect_int
from pyfed.coded.plain import plain
from pyfed.coded.records import expect_number, expect_positive, expect_probability
from pyfed.errors import ArgumentError, DtypeError


class ArrivalEstimate:
    """How often each client arrives in time: counted, or as a moving average.

    p̂_i = (Σ w_r · 1_{i,r} + prior · confidence) / (Σ w_r + confidence) over rounds r, so that it
    stays within (0, 1]. Without ``half_life`` all w_r are 1; with it a round that is older by
    ``half_life`` seconds counts half.

    Use the probabilities from before a round for that round: those that its own arrivals have moved
    are not independent of them. And 1/p̂_i errs upwards on average, since E[1/p̂] ≥ 1/E[p̂]; a sum
    weighted by it is unbiased only in the limit.

    Args:
        clients: N ≥ 1.
        half_life: seconds; None: rounds count alike for ever.
        prior: what is thought of a client of which nothing is known, in (0, 1].
        confidence: how many rounds that is worth, above 0.

    Raises:
        ArgumentError: a number is out of its range.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import ArrivalEstimate
    >>> estimate = ArrivalEstimate(clients=2)
    >>> for clock in range(8):
    ...     estimate.record([0], clock)
    >>> estimate.probabilities
    [0.9, 0.1]
    """

    def __init__(
        self,
        clients: int,
        half_life: float | None = None,
        prior: float = 0.5,
        confidence: float = 2.0,
    ) -> None:
        expect_int("ArrivalEstimate", "clients", clients, 1, 2**31)
        if half_life is not None:
            expect_positive("ArrivalEstimate", "half_life", half_life)
        self._half_life = math.inf if half_life is None else float(half_life)
        self._confidence = expect_positive("ArrivalEstimate", "confidence", confidence)
        self._start = expect_probability("ArrivalEstimate", "prior", prior) * self._confidence
        self._clock = -math.inf
        self._rounds = 0.0
        self._arrived = [0.0] * clients

    def record(self, arrived: Iterable[int], clock: float) -> None:
        """Take note of a round.

        Args:
            arrived: the clients that were in time.
            clock: seconds at its end, on a clock that does not go back.

        Raises:
            ArgumentError: the clock went back, or a client is named twice or not one of those
                there are. Nothing is noted then.
            DtypeError: an argument has a wrong type.
        """
        now = expect_number("record", "clock", plain(clock))
        if now < self._clock:
            raise ArgumentError(
                f"record: clock is {now:g}; it must be at least {self._clock:g}, that of the round "
                "before: a clock that goes back is of no use"
            )
        if not isinstance(arrived, Iterable):
            kind = type(arrived).__name__
            raise DtypeError(f"record: arrived is {kind}; it must be a list of clients")
        present = [plain(client) for client in arrived]
        for client in present:
            expect_int("record", "a client in arrived", client, 0, len(self._arrived))
        if len(set(present)) < len(present):
            raise ArgumentError(f"record: arrived is {present}; it must name a client once")
        kept = 0.0 if self._rounds == 0 else 0.5 ** ((now - self._clock) / self._half_life)
        self._clock = now
        self._rounds = kept * self._rounds + 1
        self._arrived = [kept * before for before in self._arrived]
        for client in present:
            self._arrived[client] += 1

    @property
    def rounds(self) -> float:
        """Σ w_r: how many rounds are remembered, with a half-life as of the last one."""
        return self._rounds

    @property
    def probabilities(self) -> list[float]:
        """p̂_i of every client, in (0, 1]."""
        total = self._rounds + self._confidence
        return [(count + self._start) / total for count in self._arrived]
