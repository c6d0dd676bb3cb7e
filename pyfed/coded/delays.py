"""How long a client's round takes, and the probability that it ends before a deadline.

A round of a client that processes ℓ records takes

    T(ℓ) = ℓ · a + Exp(mean ℓ · b) + N_d · τ_d + N_u · τ_u,

a shifted exponential for the compute, and on either link transmissions of τ seconds that are
repeated until one is not erased: N is geometric on 1, 2, … with erasure probability e. With b = 0
and a reliable downlink this is the model of stochastic coded federated learning (Sun et al., ISIT
2022, arXiv 2201.10092), with b > 0 and equal links that of coded federated learning (Dhakal et al.,
2019, arXiv 2002.09574) and CodedFedL (Prakash et al., JSAC 2021, arXiv 2011.06223); reconstructed
from their descriptions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyfed.coded.delay_arguments import expect_generator, expect_round
from pyfed.coded.plain import plain_list
from pyfed.coded.records import expect_not_negative, expect_number
from pyfed.errors import ArgumentError, DtypeError

Vector = NDArray[np.float64]
Counts = NDArray[np.float64] | NDArray[np.int64]

_TAIL = 1e-18
"""Probability of the transmissions that are left out of a sum: below the rounding of it."""
_MOST = 2**22
_PRODUCTS = 2**30
"""Of two links with equal times, whose numbers of transmissions are folded into their sum."""


@dataclass(frozen=True)
class DelayModel:
    """The delays of one client: shifted exponential compute, and links that erase.

    In CodedFedL's letters a = 1/μ and b = 1/(α μ); in CFL's b = 1/μ.

    Args:
        per_record: a ≥ 0, the least seconds of compute for a record.
        jitter: b ≥ 0, the mean of what comes on top, seconds for a record; 0: nothing does.
        downlink: τ_d ≥ 0, seconds of one transmission of the model; 0: the link takes no time.
        uplink: τ_u ≥ 0, seconds of one transmission of the gradient.
        down_erasure: e_d in [0, 1), the probability that a transmission is lost and repeated.
        up_erasure: e_u in [0, 1).

    Raises:
        ArgumentError: a number is out of its range.
        DtypeError: an argument is not a number.

    >>> from pyfed.coded import DelayModel
    >>> client = DelayModel(per_record=0.01, downlink=0.5, uplink=1.0, up_erasure=0.1)
    >>> client.probability(4.0, load=100)  # 1 s + 0.5 s, and time for two transmissions
    0.99
    """

    per_record: float
    jitter: float = 0.0
    downlink: float = 0.0
    uplink: float = 0.0
    down_erasure: float = 0.0
    up_erasure: float = 0.0

    def __post_init__(self) -> None:
        for name in ("per_record", "jitter", "downlink", "uplink"):
            expect_not_negative("DelayModel", name, getattr(self, name))
        for name in ("down_erasure", "up_erasure"):
            erasure = expect_number("DelayModel", name, getattr(self, name))
            if not 0 <= erasure < 1:
                raise ArgumentError(f"DelayModel: {name} is {erasure}; it must be in [0, 1)")

    def probability(self, deadline: float, load: float) -> float:
        """P(T(ℓ) ≤ deadline), by the closed form.

        Σ over n_d, n_u of (1 − e_d) e_d^(n_d − 1) (1 − e_u) e_u^(n_u − 1) · (1 − exp(−s / (ℓ b)))
        with the time s = deadline − ℓ a − n_d τ_d − n_u τ_u ≥ 0 that is left; with b = 0 the
        bracket is 1.

        Args:
            deadline: seconds from the start of the round, at least 0.
            load: ℓ ≥ 0, records that are processed.

        Raises:
            ArgumentError: a number is out of its range, or the sum has more than 2^22 terms.
            DtypeError: an argument is not a number.
        """
        t, count = expect_round("probability", deadline, load)
        times, chances = self.transfers(t)
        # Written as a sum against t, so that it counts exactly those samples that are ≤ t.
        left = t - (count * self.per_record + times)
        in_time, chances = left >= 0, chances[left >= 0]
        mean = count * self.jitter
        done = -np.expm1(-left[in_time] / mean) if mean > 0 else np.ones_like(chances)
        return min(float(chances @ done), 1.0)

    def sample(self, load: float, count: int, seed: int | np.random.Generator) -> Vector:
        """Independent draws of T(ℓ), float64 (count,), in seconds.

        Args:
            load: ℓ ≥ 0.
            count: how many rounds.
            seed: of a generator, or one to draw from.

        Raises:
            ArgumentError: a number is out of its range.
            DtypeError: an argument has a wrong type.
        """
        _, records = expect_round("sample", 0.0, load)
        generator = expect_generator("sample", count, seed)
        down = generator.geometric(1 - self.down_erasure, count)
        up = generator.geometric(1 - self.up_erasure, count)
        certain = records * self.per_record + self._transfer(down, up)
        return certain + generator.exponential(1.0, count) * (records * self.jitter)

    def mean(self, load: float) -> float:
        """E[T(ℓ)] = ℓ (a + b) + τ_d / (1 − e_d) + τ_u / (1 − e_u)."""
        _, count = expect_round("mean", 0.0, load)
        links = self.downlink / (1 - self.down_erasure) + self.uplink / (1 - self.up_erasure)
        return count * (self.per_record + self.jitter) + links

    def transfers(self, deadline: float) -> tuple[Vector, Vector]:
        """The times that both links may take together up to the deadline, and their probabilities.

        Args:
            deadline: t, seconds.

        Returns:
            float64 (outcomes,) each: seconds, ascending, and probabilities. What is less probable
            than 1e-18 altogether is left out.

        Raises:
            ArgumentError: there are more than 2^22 outcomes, or so many transmissions that to
                count them would take long.
        """
        links = ((self.downlink, self.down_erasure), (self.uplink, self.up_erasure))
        equal = self.downlink == self.uplink
        first, second = (_transmissions(*link, deadline) for link in links)
        outcomes = first + second if equal else first * second
        if outcomes > _MOST or first * second > _PRODUCTS:
            raise ArgumentError(
                f"DelayModel: deadline is {deadline:g}; within it {first} · {second} numbers of "
                "transmissions are likely, and at most 2^22 outcomes are summed over: ask for a "
                "shorter deadline, or use longer transmissions or smaller erasures"
            )
        down = _geometric(self.down_erasure, first)
        up = _geometric(self.up_erasure, second)
        if equal:  # only the sum of the two counts matters
            chances = np.convolve(down, up)
            times = self.downlink * np.arange(2.0, len(chances) + 2)
        else:
            chances = np.outer(down, up).ravel()
            counts = np.arange(1.0, len(down) + 1), np.arange(1.0, len(up) + 1)
            times = self._transfer(counts[0][:, None], counts[1]).ravel()
        order = np.argsort(times, kind="stable")
        order = order[times[order] <= deadline]
        return times[order], chances[order]

    def _transfer(self, down: Counts, up: Counts) -> Vector:
        """Seconds of these numbers of transmissions, rounded alike wherever they are asked for."""
        if self.downlink == self.uplink:
            return np.asarray(self.downlink * np.add(down, up, dtype=np.float64))
        return np.asarray(self.downlink * down + self.uplink * up)


class MeasuredDelays:
    """Delays as they were measured, each of the rounds being as likely as another.

    Args:
        transfer: seconds of each round apart from compute, at least 0; ``inf`` where nothing came.
        per_record: seconds of compute for a record in each of these rounds; None: 0, so that
            ``transfer`` holds whole rounds, whatever the load.

    Raises:
        ArgumentError: there is no round, the two differ in length, or a number is out of range.
        DtypeError: they are not sequences of numbers.

    >>> from pyfed.coded import MeasuredDelays
    >>> client = MeasuredDelays([0.3, 0.5, 2.0, float("inf")], [0.01, 0.01, 0.02, 0.01])
    >>> client.probability(1.5, load=100)
    0.5
    """

    def __init__(self, transfer: Sequence[float], per_record: Sequence[float] | None = None):
        self.transfer = _trace("transfer", transfer, infinite=True)
        self.per_record = np.zeros_like(self.transfer)
        if per_record is not None:
            self.per_record = _trace("per_record", per_record, infinite=False)
        if len(self.per_record) != len(self.transfer):
            raise ArgumentError(
                f"MeasuredDelays: per_record has {len(self.per_record)} rounds; it must have "
                f"{len(self.transfer)}, as transfer has"
            )

    def probability(self, deadline: float, load: float) -> float:
        """The part of the rounds that would have ended by the deadline; as in DelayModel."""
        t, count = expect_round("probability", deadline, load)
        return float(np.mean(count * self.per_record + self.transfer <= t))

    def sample(self, load: float, count: int, seed: int | np.random.Generator) -> Vector:
        """Rounds drawn with replacement, float64 (count,), in seconds; as in DelayModel."""
        _, records = expect_round("sample", 0.0, load)
        chosen = expect_generator("sample", count, seed).integers(len(self.transfer), size=count)
        return np.asarray(records * self.per_record[chosen] + self.transfer[chosen])

    def mean(self, load: float) -> float:
        """The mean of the rounds; infinite when nothing came in one."""
        _, count = expect_round("mean", 0.0, load)
        return float(np.mean(count * self.per_record + self.transfer))

    def __repr__(self) -> str:
        lost = int(np.isinf(self.transfer).sum())
        came = self.transfer[np.isfinite(self.transfer)]
        took = f", of {came.min():g} to {came.max():g} s" if len(came) else ""
        return f"MeasuredDelays({len(self.transfer)} rounds{took}, {lost} of them lost)"


Delays = DelayModel | MeasuredDelays


def arrival_probabilities(
    models: Sequence[Delays], deadline: float, loads: Sequence[float]
) -> list[float]:
    """P(T_i(ℓ_i) ≤ deadline) of every client; 0 for one without load.

    Args:
        models: of the clients.
        deadline: seconds.
        loads: ℓ_i ≥ 0.

    Returns:
        a probability for each client. :class:`SCFL` takes those that are above 0.

    Raises:
        ArgumentError: a number is out of its range, or the lengths differ.
        DtypeError: something is no model of delays or not a number.
    """
    expect_models("arrival_probabilities", models)
    given = plain_list("arrival_probabilities", "loads", loads)
    if len(models) != len(given):
        raise ArgumentError(
            f"arrival_probabilities: loads has {len(given)} entries; it must have one for each of "
            f"{len(models)} models"
        )
    expect_round("arrival_probabilities", deadline, 0.0)
    for load in given:
        expect_not_negative("arrival_probabilities", "loads", load)
    pairs = zip(models, given, strict=True)
    return [model.probability(deadline, load) if load else 0.0 for model, load in pairs]


def expect_models(op: str, models: Sequence[Delays]) -> None:
    """Raise unless all are models of delays, in a list or a tuple."""
    if not isinstance(models, Sequence):
        kind = type(models).__name__
        raise DtypeError(f"{op}: models is {kind}; it must be a list of models, one for a client")
    for model in models:
        if not isinstance(model, Delays):
            kind = type(model).__name__
            raise DtypeError(
                f"{op}: models holds a {kind}; it must hold DelayModel or MeasuredDelays"
            )


def _transmissions(seconds: float, erasure: float, deadline: float) -> int:
    """How many transmissions of a link matter by the deadline, at least 1."""
    if seconds == 0 or erasure == 0:
        return 1
    likely = math.ceil(math.log(_TAIL) / math.log(erasure))
    return max(math.floor(min(likely, deadline / seconds + 1)), 1)


def _geometric(erasure: float, count: int) -> Vector:
    """P(N = n) for n = 1, 2, …, float64 (count,); 1 where one is all that matters."""
    return np.ones(1) if count == 1 else (1 - erasure) * erasure ** np.arange(0.0, count)


def _trace(name: str, values: Sequence[float], infinite: bool) -> Vector:
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DtypeError(
            f"MeasuredDelays: {name} is {type(values).__name__}; it must be a sequence of floats"
        ) from None
    wrong = np.isnan(found) | (found < 0) | (np.isinf(found) & (not infinite))
    if found.ndim != 1 or not len(found) or bool(wrong.any()):
        raise ArgumentError(
            f"MeasuredDelays: {name} is {values!r}; it must be one or more seconds in a row, "
            "none negative or NaN" + ("" if infinite else " or infinite")
        )
    return found
