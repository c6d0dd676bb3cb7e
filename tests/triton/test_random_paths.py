"""Interpreted Triton kernels of random numbers and fixed point equal the reference on every path.

Sizes stand around the ends of ChaCha20 blocks, tiles and slabs. Each test counts its cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch

from paths import check_equal, residues, word_of
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.checks import ALL_REJECTED, NOT_FINITE
from pyfed.ops import dequantize, quantize, random_residues, random_words
from pyfed.triton_kernels import fixed
from pyfed.triton_kernels import random as kernels

KEY = Key(bytes(range(32)))
FIELDS = (SOLINAS31, MERSENNE31)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))

pytestmark = pytest.mark.parametrize("device", DEVICES)

TILE = 16 * kernels.LANES
COUNTS = (0, 1, 15, 16, 17, TILE - 1, TILE, TILE + 1)
STARTS = (0, 1, 15, 16, 2**32 - 1, 2**35 + 7)
PLACES = [
    *itertools.product(COUNTS, (0, 2**31, 2**32 - 1), STARTS),  # 144
    *((count, stream, 2**36 - count) for count in COUNTS[:-1] for stream in range(8)),  # 56
]


@pytest.mark.slow
def test_random_words(device: str) -> None:
    cases = (
        partial(random_words, KEY, count, stream=stream, start=start, device=device)
        for count, stream, start in PLACES
    )
    assert check_equal(cases) >= 200


@pytest.mark.slow
def test_random_residues(device: str) -> None:
    common = [(f, *place) for f, place in zip(itertools.cycle(FIELDS), PLACES, strict=False)]
    tiny = [
        (Field(f"tiny{p}", p), count, stream, 2**32 * stream + 5)
        for p in (3, 5, 7, 11, 13, 17, 97, 257, 65537, 2**31 - 2**19 + 1)
        for count, stream in ((1, 0), (12, 7))
    ]
    cases = (
        partial(random_residues, KEY, count, f, stream=stream, start=start, device=device)
        for f, count, stream, start in common + tiny
    )
    assert check_equal(cases) >= 220


def test_a_residue_that_is_never_accepted_is_reported(device: str) -> None:
    """With 31 low bits for the prime 3, all 16 candidates are rejected but for one in 2^25."""
    out, word = torch.empty(5, dtype=torch.int32, device=device), word_of(device)
    kernels.random_residues_kernel[(1,)](
        *(out, KEY.words(device), word, 0, 0, 5, 0, 0, 3, 2**31 - 1), LANES=16
    )
    assert word.item() == ALL_REJECTED


def test_only_residues_that_are_asked_for_can_fail(device: str) -> None:
    """The candidate of index 0 is above the modulus given, so lanes beyond the count would fail."""
    out, word = torch.empty(0, dtype=torch.int32, device=device), word_of(device)
    kernels.random_residues_kernel[(1,)](
        *(out, KEY.words(device), word, 0, 0, 0, 0, 0, 3, 2**31 - 1), LANES=16
    )
    assert word.item() == 0


def values_around_steps(count: int, device: str) -> torch.Tensor:
    """Floats with ties, both zeros, subnormals, the clip, values beyond it, and others."""
    special = [0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.0, -0.0, 1e-40, -1e-40, 1.0, -1.0, 9e30, -9e30]
    special += [0.5 - 2**-25, 0.5 + 2**-24, -0.5 + 2**-25, 8388607.5, -8388608.5, 3.0, 2.0**-30]
    random = torch.randn(max(0, count - len(special))) * 8
    return torch.cat([torch.tensor(special), random])[:count].to(device)


def test_quantize(device: str) -> None:
    cases: list[Callable[[], torch.Tensor]] = []
    formats = ((1.0, 4.0), (2.0**20, 1000.0), (2.0**-100, 1e30), (2.0**100, 1e-22), (4.0, 2.0**27))
    for f, (scale, clip), count in itertools.product(FIELDS, formats, (*COUNTS[:-3], 21, 100)):
        x = values_around_steps(count, device)
        cases.append(partial(quantize, x, scale, clip, f))
        cases.append(partial(quantize, (x / scale).clamp(-3e38, 3e38), scale, clip, f))
        where = {"stream": 2**32 - 1 - count, "start": 2**35 + count}
        cases.append(partial(quantize, x, scale, clip, f, KEY, **where))
    tiny = Field("tiny", 17)
    for count, start in itertools.product((TILE - 3, TILE + 1), (0, 3, 2**36 - TILE - 1)):
        x = values_around_steps(count, device)
        cases.append(partial(quantize, x, 2.0, 4.0, tiny, KEY, 0, start))
        cases.append(partial(quantize, x.reshape(-1, 1).t(), 2.0, 4.0, tiny))
        cases.append(partial(quantize, x[::2].clamp(-6e4, 6e4).half(), 2.0, 4.0, tiny))
    assert check_equal(cases) >= 220


def test_quantize_reports_what_is_not_finite(device: str) -> None:
    for bad, key in itertools.product((float("nan"), float("inf"), -float("inf")), (None, KEY)):
        x = torch.zeros(TILE + 5, device=device)
        x[TILE + 2] = bad
        word = word_of(device)
        words = None if key is None else key.words(device)
        fixed.quantize(x, 1.0, 1.0, MERSENNE31.modulus, words, 0, 3, word)
        assert word.item() == NOT_FINITE


def test_dequantize(device: str) -> None:
    scales = [2.0**s for s in (-90, -30, -1, 0, 1, 16, 23, 30, 99, 100)]
    counts = (0, 1, 7, 255, 256, fixed.BLOCK - 1, fixed.BLOCK, fixed.BLOCK + 1)
    cases = [
        partial(dequantize, residues(f.modulus, count, device=device), scale, f)
        for f, scale, count in itertools.product((*FIELDS, Field("tiny", 5)), scales, counts)
    ]
    x = residues(MERSENNE31.modulus, 30, 20, device=device)
    cases.append(partial(dequantize, x.t(), 2.0, MERSENNE31))
    assert check_equal(cases) >= 200
