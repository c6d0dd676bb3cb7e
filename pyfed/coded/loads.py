"""How many records a client should process before a deadline: those that return the most.

The *expected return* of ℓ records is ℓ · P(T(ℓ) ≤ t): a client that is given more returns more, and
returns more rarely. Coded federated learning (CFL: Dhakal et al., 2019, arXiv 2002.09574) and
CodedFedL (Prakash et al., JSAC 2021, arXiv 2011.06223) give each client the load with the greatest
one. Reconstructed from their descriptions; that the loads found are the best is our own argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from pyfed.checks import expect_int
from pyfed.coded.delay_arguments import expect_round
from pyfed.coded.delays import Delays, MeasuredDelays, Vector, expect_models
from pyfed.coded.extras import scipy
from pyfed.coded.plain import plain
from pyfed.coded.records import expect_not_negative, expect_positive

_ROUNDING = 1e-14
_FEW = 4  # candidates of equal return but for rounding


def expected_return(model: Delays, deadline: float, load: float) -> float:
    """ℓ · P(T(ℓ) ≤ deadline): the records that come back in a round, on average.

    Args:
        model: of the client's delays.
        deadline: t, seconds.
        load: ℓ ≥ 0.

    Raises:
        ArgumentError: a number is out of its range.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import DelayModel, expected_return
    >>> round(expected_return(DelayModel(0.01, jitter=0.01, uplink=0.5), 2.0, load=60), 4)
    46.6122
    """
    expect_models("expected_return", [model])
    expect_round("expected_return", deadline, load)
    return load * model.probability(deadline, load) if load else 0.0


def best_load(model: Delays, deadline: float, most: int, whole: bool = True) -> tuple[float, float]:
    """The load ℓ in [0, most] with the greatest expected return.

    The return of a :class:`DelayModel` with jitter is a sum over the times s that links leave for
    compute, of h_s · ℓ · (1 − exp(−(s − a ℓ) / (b ℓ))) where ℓ < s / a. Each summand is concave up
    to s/a, so between neighbouring s/a the sum is concave and has one greatest value, which is
    found by its slope; an interval that could not beat the best so far is passed over. Without
    jitter, and for measured delays, the return rises but for steps down behind certain loads,
    of which the best is taken. Where links take one time only, with jitter, it is
    :func:`reliable_load`.

    Args:
        model: of the client's delays.
        deadline: t, seconds.
        most: the client's records.
        whole: whether ℓ is a whole number of records.

    Returns:
        ℓ and its expected return.

    Raises:
        ArgumentError: a number is out of its range.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import DelayModel, best_load
    >>> best_load(DelayModel(0.01, uplink=0.5, up_erasure=0.1), 2.0, most=200)
    (150.0, 135.0)
    """
    expect_models("best_load", [model])
    most = plain(most)
    expect_int("best_load", "most", most, 0, 2**53)
    t, _ = expect_round("best_load", deadline, 0.0)
    best = (0.0, 0.0)
    for candidates, bound in _candidates(model, t, float(most), whole):
        if bound <= best[1]:
            continue
        for load in candidates():
            # A load that takes all of its time may be too much by a rounding.
            low, high = load * (1 - _ROUNDING), load * (1 + _ROUNDING)
            near = range(math.floor(low), math.ceil(high) + 1) if whole else (low, load)
            for each in map(float, near):
                if 0 < each <= most:
                    value = each * model.probability(t, each)
                    best = max(best, (each, value), key=lambda pair: (pair[1], -pair[0]))
    return best


def reliable_load(per_record: float, jitter: float, left: float) -> float:
    """The load with the greatest expected return where links never erase, in closed form.

    It is where the slope of ℓ · (1 − exp(−(s − a ℓ) / (b ℓ))) is zero. With α = a/b,

        ℓ* = −s / (b · (1 + W₋₁(−e^(−1 − α)))),

    W₋₁ being the lower branch of Lambert's function; CodedFedL's −α μ (t − 2 τ) / (1 + W₋₁(…)).

    Args:
        per_record: a > 0, seconds.
        jitter: b > 0, seconds.
        left: s ≥ 0, seconds that the links leave.

    Returns:
        ℓ*, not rounded and not limited by how many records there are.

    Raises:
        ArgumentError: a number is out of its range.
        DtypeError: an argument is not a number.

    >>> from pyfed.coded import reliable_load
    >>> round(reliable_load(per_record=0.01, jitter=0.01, left=1.5), 4)
    69.8912
    """
    a = expect_positive("reliable_load", "per_record", per_record)
    b = expect_positive("reliable_load", "jitter", jitter)
    return expect_not_negative("reliable_load", "left", left) / (b * _excess(a / b))


Candidates = Callable[[], list[float]]


def _candidates(
    model: Delays, deadline: float, most: float, whole: bool
) -> Iterator[tuple[Candidates, float]]:
    """Loads of which one is the best, in groups, each with a bound on what its loads return."""
    if isinstance(model, MeasuredDelays):
        left, costs = deadline - model.transfer, model.per_record
        chances = np.full_like(left, 1 / len(left))
        yield partial(_steps, left, costs, chances, most, whole), math.inf
        return
    times, chances = model.transfers(deadline)
    left, a, b = deadline - times, model.per_record, model.jitter
    if b == 0:
        yield partial(_steps, left, np.full_like(left, a), chances, most, whole), math.inf
        return
    reach = left / a if a > 0 else np.full_like(left, math.inf)
    ends = np.unique(np.minimum(reach, most))
    starts = np.append(0.0, ends)[: len(ends)]
    for start, end in zip(starts[::-1].tolist(), ends[::-1].tolist(), strict=True):
        live = reach > start
        if end <= start:
            continue
        # The chance falls with the load, so none in here exceeds that at the start.
        done = -np.expm1(-(left[live] - a * start) / (b * start)) if start > 0 else 1.0
        bound = end * float((chances[live] * done).sum())
        yield partial(_top, a, b, chances[live], left[live], start, end), bound * (1 + _ROUNDING)


def _steps(left: Vector, costs: Vector, chances: Vector, most: float, whole: bool) -> list[float]:
    """The best few of the loads s / a behind which the chance steps down, s ≥ 0 what is left."""
    left, costs, chances = left[left >= 0], costs[left >= 0], chances[left >= 0]
    loads = np.full_like(left, most)
    np.divide(left, costs, out=loads, where=costs > 0)
    loads = np.minimum(loads, most)
    order = np.argsort(-loads, kind="stable")
    # At the load of one of them, all that bear a larger one are in time too.
    counted = np.floor(loads[order] * (1 + _ROUNDING)) if whole else loads[order]
    returns = counted * np.cumsum(chances[order])
    chosen: list[float] = loads[order][np.argsort(-returns, kind="stable")[:_FEW]].tolist()
    return chosen


def _top(
    a: float, b: float, weights: Vector, left: Vector, start: float, end: float
) -> list[float]:
    """Where Σ h · ℓ · (1 − exp(−(s − a ℓ) / (b ℓ))), concave in [start, end], is greatest."""
    if len(left) == 1 and a > 0:
        return [min(max(float(left[0]) / (b * _excess(a / b)), start), end)]

    def slope(load: float) -> float:
        y = left / (b * load)
        return float(weights @ (1 - (1 + y) * np.exp(a / b - y)))

    least = max(start, end * 1e-12)
    if slope(end) >= 0:
        return [end]
    if slope(least) <= 0:
        return [least]
    brentq = scipy("optimize").brentq
    return [float(brentq(slope, least, end, xtol=1e-9, rtol=1e-12))]


def _excess(alpha: float) -> float:
    """−1 − W₋₁(−e^(−1 − α)): the y > 0 with y − ln(1 + y) = α > 0."""
    y = math.sqrt(2 * alpha) + alpha  # never too small
    for _ in range(64):
        # Newton's steps, of a convex function from its right: they fall until they end.
        step = (y - math.log1p(y) - alpha) * (1 + y) / y
        if not 0 < step < y:
            break
        y -= step
    return y
