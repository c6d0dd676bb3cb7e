"""Honest ratios on noisy machines: two calls measured in turn, so that both meet the same noise."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

ROUNDS = 9
ROUND_SECONDS = 0.01


def cuda_timer() -> float:
    """Seconds, after everything that was launched has finished."""
    torch.cuda.synchronize()
    return time.perf_counter()


def timer_of(device: str) -> Callable[[], float]:
    """The clock for work on a device.

    On a CPU it counts the time that this process computes. With one thread that is the wall time
    of an idle machine, and other programs' turns on the same cores are not in it.
    """
    return cuda_timer if device == "cuda" else time.process_time


@dataclass(frozen=True)
class Ratio:
    """How many times faster one call is than another, over rounds that measure both.

    Args:
        median: of the rounds' ratios.
        low: their lower quartile.
        high: their upper quartile.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    rounds: int

    def summary(self) -> dict[str, float]:
        """As a plain dict."""
        return asdict(self)


def seconds_per_call(call: Callable[[], Any], calls: int, timer: Callable[[], float]) -> float:
    """Mean time of a call over a run of them."""
    start = timer()
    for _ in range(calls):
        call()
    return (timer() - start) / calls


def calls_per_round(call: Callable[[], Any], timer: Callable[[], float]) -> int:
    """So many calls that a round is long beside the clock and the synchronisation."""
    call()
    return max(1, math.ceil(ROUND_SECONDS / seconds_per_call(call, 1, timer)))


def interleaved(
    subject: Callable[[], Any],
    rival: Callable[[], Any],
    timer: Callable[[], float] = time.perf_counter,
    rounds: int = ROUNDS,
) -> Ratio:
    """The rival's time over the subject's, measured alternately in this process.

    Args:
        subject: the call that is praised when the ratio is high.
        rival: what it is compared with.
        timer: a clock that waits for the device.
        rounds: at least 5. Each measures both, in an order that alternates.
    """
    if rounds < 5:
        raise ValueError(f"interleaved: rounds is {rounds}; it must be at least 5")
    subject_calls, rival_calls = calls_per_round(subject, timer), calls_per_round(rival, timer)
    ratios = []
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            if number % 2:
                slow = seconds_per_call(rival, rival_calls, timer)
                fast = seconds_per_call(subject, subject_calls, timer)
            else:
                fast = seconds_per_call(subject, subject_calls, timer)
                slow = seconds_per_call(rival, rival_calls, timer)
            ratios.append(slow / fast)
    finally:
        gc.enable()
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high, rounds)
