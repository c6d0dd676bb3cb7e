"""What this machine allows, measured in the same run as the benchmarks.

The floor of a call is max(bytes / copy bandwidth, multiply-adds / their peak, keystream / its
peak), with butterflies / their peak in the place of the multiply-adds where transforms take less.
The peaks are those of one thread on a CPU. Multiply-adds of float32 are in the floor on GPUs alone,
where the peak is torch's: on CPUs sketches pass the BLAS, so that it bounds nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

import pyfed
from contests import Contest, random_residues
from ratios import calls_per_round, seconds_per_call, timer_of

REPEATS = 15
INT8_PRODUCTS = 16
"""int8 multiply-adds of one 31-bit product: 4 limbs × 4 limbs."""
LARGEST_COPY = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Bytes of a copy beyond every cache: larger ones go at the same rate."""


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
def float_peak(device: str) -> float:
    """Float32 multiply-adds a second, of torch's product of square matrices."""
    n = 8192 if device == "cuda" else 1024
    a = torch.ones(n, n, device=device)
    return n**3 / shortest(lambda: a @ a, device)


@functools.cache
def butterfly_peak(device: str) -> float:
    """Butterflies a second of an encoding by transforms, K = 128 points back and N = 256 forth.

    On a CPU of columns that stay in the second-level cache; on a GPU of many more.
    """
    shares, blocks = 256, 128
    columns = 1 << (17 if device == "cuda" else 8)
    data = random_residues(pyfed.SOLINAS31.modulus, blocks * columns, device=device)
    code = pyfed.LagrangeCode(shares, blocks, 0)
    call = functools.partial(code.encode, data, pyfed.Key(bytes(range(32))))
    return columns * (blocks // 2 * 7 + shares // 2 * 8) / shortest(call, device)


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
    # The nearest power of two, so that calls of one size share a measurement.
    size = 1 << max(round(math.log2(max(contest.bytes, 1))), 7)
    copy = copy_bandwidth(device, min(size, LARGEST_COPY[device]))
    parts = {"copy": contest.bytes / copy}
    rates = {"copy_rate": copy}
    if contest.macs:
        rates["mac_rate"] = mac_peak(device)
        parts["mac"] = contest.macs / rates["mac_rate"]
    if contest.butterflies:
        rates["butterfly_rate"] = butterfly_peak(device)
        by_transforms = contest.butterflies / rates["butterfly_rate"]
        parts["mac"] = min(parts["mac"], by_transforms)
    if contest.float_macs and device == "cuda":
        rates["float_rate"] = float_peak(device)
        parts["float"] = contest.float_macs / rates["float_rate"]
    if contest.chacha:
        rates["chacha_rate"] = chacha_peak(device)
        parts["chacha"] = contest.chacha / rates["chacha_rate"]
    return {"seconds": max(parts.values()), **rates}
