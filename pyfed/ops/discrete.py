"""Samples of the discrete Gaussian over the integers, addressed by index, in constant time."""

from __future__ import annotations

import functools
from typing import Any

import torch

from pyfed import native
from pyfed.checks import INDICES, STREAMS, expect_device, expect_int, expect_key, expect_range
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.discrete_tables import BITS, WORD_BITS, WORDS, recipe
from pyfed.ops.random import NOISE, domain, signed32, words_reference

FIRST_ATTEMPT = 1
"""Word p of base sample b is word ``index`` of attempt 1 + 3b + p; attempt 0 is for others."""

LARGEST_SIGMA = 2.0**20


@functools.lru_cache(maxsize=256)
def _tables(sigma: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The base's table, int32 (3, entries), highest words first; coefficients, int32 (terms,)."""
    how = recipe(sigma)
    shifts = range(BITS - WORD_BITS, -1, -WORD_BITS)
    words = [[entry >> shift & 0xFFFFFFFF for entry in how.entries] for shift in shifts]
    table = signed32(torch.tensor(words, dtype=torch.int64))
    coefficients = torch.tensor(how.coefficients, dtype=torch.int32)
    return table.to(device), coefficients.to(device)


def _discrete_gaussian_reference(
    key: torch.Tensor, sigma: float, count: int, stream: int, start: int
) -> torch.Tensor:
    how = recipe(sigma)
    total = torch.zeros(count, dtype=torch.int64, device=key.device)
    for number, coefficient in enumerate(how.coefficients):
        attempts = range(FIRST_ATTEMPT + WORDS * number, FIRST_ATTEMPT + WORDS * (number + 1))
        nonces = ([0, stream, domain(NOISE, attempt=attempt)] for attempt in attempts)
        high, middle, low = (words_reference(key, start, count, nonce) for nonce in nonces)
        magnitude = torch.zeros_like(total)
        for entry in how.entries:
            last = low < (entry & 0xFFFFFFFF)
            next_one = entry >> WORD_BITS & 0xFFFFFFFF
            last = (middle < next_one) | ((middle == next_one) & last)
            first = entry >> 2 * WORD_BITS
            magnitude += (high < first) | ((high == first) & last)
        total += coefficient * magnitude * (1 - 2 * (low & 1))
    return total.to(torch.int32)


def _discrete_gaussian_fake(
    key: torch.Tensor, sigma: float, count: int, *rest: Any
) -> torch.Tensor:
    return key.new_empty(count, dtype=torch.int32)


discrete_gaussian_op = Op(
    "discrete_gaussian(Tensor key, float sigma, SymInt count, int stream, int start) -> Tensor",
    fake=_discrete_gaussian_fake,
    reference=_discrete_gaussian_reference,
)


@discrete_gaussian_op.kernel("cpu", when=lambda key, *rest: native.cpu_reason(key))
def _discrete_gaussian_native(
    key: torch.Tensor, sigma: float, count: int, stream: int, start: int
) -> torch.Tensor:
    out = torch.empty(count, dtype=torch.int32, device=key.device)
    table, coefficients = _tables(sigma, key.device)
    native.run(
        *("discrete_gaussian", key.device, key.contiguous(), table, table.shape[1], coefficients),
        *(len(coefficients), start, count, stream, out),
    )
    return out


@discrete_gaussian_op.kernel("triton", when=lambda key, *rest: native.triton_reason(key))
def _discrete_gaussian_triton(
    key: torch.Tensor, sigma: float, count: int, stream: int, start: int
) -> Any:
    from pyfed.triton_kernels import discrete as kernels

    return kernels.discrete_gaussian(key, *_tables(sigma, key.device), count, stream, start)


def snap_(values: torch.Tensor, noise: torch.Tensor, grid: float) -> torch.Tensor:
    """grid·(round(values / grid) + noise), in place of float64 ``values``; the noise is wiped."""
    values.div_(grid).round_().add_(noise).mul_(grid)
    noise.zero_()
    return values


@discrete_gaussian_op.public
def discrete_gaussian(
    count: int,
    sigma: float,
    key: Key,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Any, ...]:
    """Noise on a grid: integers x with probability proportional to exp(-x² / 2σ²).

    A base sample of variance s² ≤ 121 is the number of entries of its table of tails that lie
    above 96 random bits, with a random sign. Two samples of variance s² give one of variance
    s²·(1 + k²) as k·x1 + x2; up to three such steps lead to σ from a base with
    s² = σ² / Π (1 + kₗ²), so every σ is met exactly. With s² ≥ 3·(1 + k²) a step is off by a factor
    within 1 ± 2^-83, and a base by a statistical distance below 2^-88; so each result is within
    2^-80 of the discrete Gaussian, its tails included: add count · 2^-80 · (1 + e^ε) to the δ of
    an (ε, δ) statement.

    The time depends on σ, which is public, and on no random bit: no branch and no address does.

    Args:
        count: how many integers.
        sigma: the parameter σ, above 0 and at most 2^20; from 1 on it is the standard deviation
            to six digits, below 0.2 nearly every result is 0.
        key: the secret key; a (key, stream, index) must serve once, whatever σ is.
        stream: which of 2^32 independent streams of the key.
        start: index of the first integer; start + count ≤ 2^36.
        device: where the integers are made.

    Returns:
        int32 tensor of shape (count,), at most 2^25 in magnitude; element i is integer
        ``start + i`` of the stream, the same on every device.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: an argument is out of range.

    Source: Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", NeurIPS
    2020 (what the noise gives); Pöppelmann, Ducas, Güneysu, "Enhanced lattice-based signatures on
    reconfigurable hardware", CHES 2014, and Micciancio, Walter, "Gaussian sampling over the
    integers: efficient, generic, constant-time", CRYPTO 2017 (tables and convolution). That the
    base is fitted to σ, and the bounds, are derived in docs/concepts/discrete_gaussian.md.

    Example:
        >>> import pyfed
        >>> pyfed.ops.discrete_gaussian(6, 3.0, pyfed.Key(bytes(range(32))))
        tensor([-1, -2, -3,  3,  1, -2], dtype=torch.int32)
    """
    expect_key("discrete_gaussian", key)
    expect_int("discrete_gaussian", "count", count, 0, INDICES + 1)
    if isinstance(sigma, bool) or not isinstance(sigma, int | float | torch.SymFloat):
        raise DtypeError(f"discrete_gaussian: sigma is {type(sigma).__name__}; it must be a float")
    if not 0 < sigma <= LARGEST_SIGMA:
        raise ArgumentError(f"discrete_gaussian: sigma is {sigma}; it must be in (0, 2^20]")
    expect_int("discrete_gaussian", "stream", stream, 0, STREAMS)
    expect_range("discrete_gaussian", start, count)
    words = key.words(expect_device("discrete_gaussian", device))
    return words, float(sigma), count, stream, start
