"""What this machine allows, measured in the same run as the benchmarks.

The floor of a call is max(bytes / copy bandwidth, multiply-adds / their peak, keystream / its
peak). The peaks are those of one thread on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

import pyfed
from contests import Contest, random_residues
from ratios import calls_per_round, seconds_per_call, timer_of

REPEATS = 15
INT8_PRODUCTS = 16
"""int8 multiply-adds of one 31-bit product: 4 limbs × 4 limbs."""


def shortest(call: Callable[[], Any], device: str) -> float:
    """The least seconds of a call: noise only ever adds to it."""
    timer = timer_of(device)
    calls = calls_per_round(call, timer)
    return min(seconds_per_call(call, calls, timer) for _ in range(REPEATS))


@functools.cache
def copy_bandwidth(device: str, size: int) -> float:
    """Bytes a second, read and written, of a copy that moves ``size`` bytes in all.

    The size is that of the call whose floor is asked for, so that caches help both alike.
    """
    source = torch.ones(max(size // 2, 64), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() / shortest(lambda: target.copy_(source), device)


@functools.cache
def mac_peak(device: str) -> float:
    """Field multiply-adds a second.

    On a CPU: field_matmul with a panel that stays in the second-level cache under many rows, its
    best shape. On a GPU: torch's int8 matrix product, 16 of whose multiply-adds make one.
    """
    if device == "cuda":
        n = 8192
        a = torch.ones(n, n, dtype=torch.int8, device=device)
        seconds = shortest(lambda: torch._int_mm(a, a.t()), device)
        return n**3 / INT8_PRODUCTS / seconds
    m, k, n = 2048, 256, 256
    p = pyfed.SOLINAS31.modulus
    x, y = random_residues(p, m, k), random_residues(p, k, n)
    call = functools.partial(pyfed.ops.field_matmul, x, y, pyfed.SOLINAS31)
    return m * k * n / shortest(call, device)


@functools.cache
def chacha_peak(device: str) -> float:
    """Bytes of ChaCha20 keystream a second, from random_words.

    On a CPU into a buffer that stays in the second-level cache; on a GPU into one beyond all.
    """
    count = 1 << (28 if device == "cuda" else 18)
    key = pyfed.Key(bytes(range(32)))
    call = functools.partial(pyfed.ops.random_words, key, count, device=device)
    return 4 * count / shortest(call, device)


def floor_of(contest: Contest, device: str) -> dict[str, float]:
    """Seconds that the call must take, and the rates behind them (bytes or products a second)."""
    copy = copy_bandwidth(device, contest.bytes)
    parts = {"copy": contest.bytes / copy}
    rates = {"copy_rate": copy}
    if contest.macs:
        rates["mac_rate"] = mac_peak(device)
        parts["mac"] = contest.macs / rates["mac_rate"]
    if contest.chacha:
        rates["chacha_rate"] = chacha_peak(device)
        parts["chacha"] = contest.chacha / rates["chacha_rate"]
    return {"seconds": max(parts.values()), **rates}
