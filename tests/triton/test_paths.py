"""Interpreted Triton kernels equal the reference, bit for bit, on every path through them.

Sizes stand around the ends of ChaCha20 blocks, tiles and slabs. Each test counts its cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import pyfed
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.checks import ALL_REJECTED, BAD_RESIDUE, NOT_FINITE
from pyfed.ops import (
    dequantize,
    field_matmul,
    field_sum,
    lagrange_decode,
    lagrange_encode,
    quantize,
    random_residues,
    random_words,
)
from pyfed.triton_kernels import field, fixed, lagrange, product
from pyfed.triton_kernels import random as kernels

KEY = Key(bytes(range(32)))
FIELDS = (SOLINAS31, MERSENNE31)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))

pytestmark = pytest.mark.parametrize("device", DEVICES)


def check_equal(cases: Iterable[Callable[[], torch.Tensor]]) -> int:
    """Check each case on Triton against the reference; how many there were."""
    count = 0
    for count, case in enumerate(cases, 1):
        with pyfed.use_backend("reference"):
            wanted = case()
        with pyfed.use_backend("triton"):
            got = case()
        pyfed.check()
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape, f"case {count}"
        assert torch.equal(got.view(torch.int32), wanted.view(torch.int32)), f"case {count}"
    return count


def residues(modulus: int, *shape: int, device: str) -> torch.Tensor:
    """Random residues; every third one is among the extremes."""
    values = torch.randint(0, modulus, shape, device=device)
    extremes = torch.tensor([0, 1, modulus - 1, modulus // 2, modulus // 2 + 1], device=device)
    flat = values.view(-1)
    flat[::3] = extremes[torch.arange(len(flat[::3]), device=device) % 5]
    return values.to(torch.int32)


def filled(value: int, *shape: int, device: str) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.int32, device=device)


def word_of(device: str) -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device=device)


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


def test_field_matmul(device: str) -> None:
    cases = []
    small = (0, 1, 2, 15, 16, 17, 33)
    shapes = [s for s in itertools.product(small, small, small) if sum(s) % 3 == 0]
    shapes += [(1, 5, 255), (3, 40, 256), (16, 1, 257), (17, 31, 127), (40, 32, 128), (33, 33, 129)]
    shapes += [(257, 5, 16), (129, 33, 40)]
    for f, (m, k, n) in itertools.product(FIELDS, shapes):
        a, b = residues(f.modulus, m, k, device=device), residues(f.modulus, k, n, device=device)
        cases.append(partial(field_matmul, a, b, f))
    for f in FIELDS:
        a = residues(f.modulus, 18, 10, device=device)
        cases.append(partial(field_matmul, a.t(), a[:, ::2], f))
        cases.append(partial(field_matmul, a[::2, :5].t(), a[::2], f))
    assert check_equal(cases) >= 200


@triton.jit
def store_sums_kernel(out, sums, modulus: tl.int32, add: tl.int32, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    a0, a1 = tl.load(sums + i), tl.load(sums + SIZE + i)
    a2, a3 = tl.load(sums + 2 * SIZE + i), tl.load(sums + 3 * SIZE + i)
    product.store_sums(out, i, i < SIZE, add, modulus, a0, a1, a2, a3)


def test_digit_sums_join_exactly_at_their_bound(device: str) -> None:
    corners = list(itertools.product((-(2**30), 2**30), repeat=4))
    sums = torch.tensor(corners, dtype=torch.int32, device=device).t().contiguous()
    for f, add in itertools.product(FIELDS, (0, 1)):
        p = f.modulus
        out = filled(p - 1, len(corners), device=device)
        store_sums_kernel[(1,)](out, sums, p, add, SIZE=len(corners))
        wanted = [
            (sum(a << 8 * i for i, a in enumerate(corner)) + add * (p - 1)) % p
            for corner in corners
        ]
        assert out.tolist() == wanted


@pytest.mark.parametrize("digit", [-128, 127])
def test_a_slab_of_the_largest_digits_does_not_overflow(device: str, digit: int) -> None:
    """-0x3F808080 has the largest digits there are in a field: -128, -128, -128, -63."""
    slab = product.SLAB
    inner = {"cpu": 1024, "cuda": 32}[device]  # interpreted, a few large tiles are quicker
    left = torch.full((4, 16, 4 * slab), digit, dtype=torch.int8, device=device)
    for f in FIELDS:
        p = f.modulus
        right = filled(p - 0x3F808080, slab, 16, device=device)
        out, word = filled(0, 16, 16, device=device), word_of(device)
        product.product_kernel[(1,)](
            *(out, right, left, word, 16, slab, 16, 16, 16, 256, slab // inner, 0, p),
            **{"RIGHT_TRANSPOSED": False, "OUT_TRANSPOSED": False},
            **{"COLUMNS": 16, "INNER": inner, "ROWS": 16},
        )
        digit_sum = slab * digit * (-128 - 128 - 128 - 63)
        assert abs(digit_sum) <= 2**30
        assert set(out.flatten().tolist()) == {digit_sum * 0x1010101 % p}
        assert word.item() == 0


def test_products_across_slabs(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "SLAB", 32)
    cases = []
    for f, inner, (m, n) in itertools.product(FIELDS, (31, 32, 33, 64, 65), ((2, 3), (3, 2))):
        a = filled(f.modulus - 1, m, inner, device=device)
        b = residues(f.modulus, inner, n, device=device)
        cases.append(partial(field_matmul, a, b, f))
        cases.append(partial(lagrange_decode, b, a, f, m * n - 1))
    assert check_equal(cases) == 40


@pytest.mark.slow
def test_products_beyond_a_whole_slab(device: str) -> None:
    cases = []
    for f, (m, n) in itertools.product(FIELDS, ((1, 2), (2, 1))):
        a = filled(f.modulus - 0x3F808080, m, product.SLAB + 1, device=device)
        b = filled(f.modulus - 0x3F808080, product.SLAB + 1, n, device=device)
        cases.append(partial(field_matmul, a, b, f))
    assert check_equal(cases) == 4


def test_field_sum(device: str) -> None:
    cases = []
    shapes = [(0, 5), (1, 1), (2, 0), (5,), (3, 4, 7), (255, 3), (1, 1023), (2, 1024), (3, 1025)]
    shapes += [(clients, length) for clients in (2, 4, 5, 9, 17) for length in (1, 31, 33, 2049)]
    fills = (None, -1, 0x3F808080)  # random; all p - 1; others
    for f, shape, kind in itertools.product(FIELDS, shapes, fills):
        p = f.modulus
        x = (
            residues(p, *shape, device=device)
            if kind is None
            else filled(kind % p, *shape, device=device)
        )
        weights = torch.full(shape[:1], p - 1) if kind else torch.randint(0, 2**63 - 1, shape[:1])
        weights = weights.to(device)
        cases.append(partial(field_sum, x, f))
        cases.append(partial(field_sum, x, f, weights))
    for f in FIELDS:
        x = residues(f.modulus, 6, 50, device=device)
        cases.append(partial(field_sum, x.t(), f))
        cases.append(partial(field_sum, x[:, ::3], f, [1, 2, 3, 0, 5, 2**40]))
    assert check_equal(cases) >= 200


def test_lagrange_encode(device: str) -> None:
    cases = []
    for (shares, blocks, privacy), f in itertools.product(
        (
            *((1, 1, 0), (16, 1, 0), (17, 16, 0), (33, 17, 0), (40, 33, 0), (3, 2, 0), (9, 5, 0)),
            *((1, 1, 1), (16, 8, 4), (17, 3, 2)),
        ),
        FIELDS,
    ):
        matrix = residues(f.modulus, shares, blocks + privacy, device=device)
        tile = product.tiles_for(shares)["COLUMNS"]
        sizes = (0, 1, blocks, blocks + 1, 15 * blocks, 17 * blocks - 1, 100)
        sizes = (*sizes, tile * blocks - 1, tile * blocks, tile * blocks + 1)
        for number, length in enumerate(sizes):
            data = residues(f.modulus, length, device=device)
            start = (0, 1, 15, 16, 2**32 - 7, 2**36 - -(-length // blocks))[number % 6]
            where = {"stream": (0, 2**32 - 1)[number % 2], "start_column": start}
            cases.append(partial(lagrange_encode, data, matrix, KEY, f, blocks, **where))
    for f in FIELDS:
        matrix = residues(f.modulus, 7, 20, device=device)
        data = residues(f.modulus, 31, 2, device=device)[:, 1]
        cases.append(partial(lagrange_encode, data, matrix.t(), KEY, f, 5, start_column=3))
        wide = residues(f.modulus, 18, 70, device=device)  # two tiles of data, two of random rows
        cases.append(partial(lagrange_encode, data, wide, KEY, f, 35, 1, 20))
    assert check_equal(cases) >= 200


def test_lagrange_encode_across_slabs(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs that end in the data, between data and random rows, and in the random rows."""
    monkeypatch.setattr(lagrange, "SLAB", 4)
    cases = []
    for f, (blocks, privacy) in itertools.product(FIELDS, ((3, 3), (4, 1), (6, 5), (9, 0))):
        matrix = residues(f.modulus, 5, blocks + privacy, device=device)
        data = residues(f.modulus, 40, device=device)
        cases.append(partial(lagrange_encode, data, matrix, KEY, f, blocks, 2, 5))
    assert check_equal(cases) == 8


def test_lagrange_decode(device: str) -> None:
    cases = []
    shapes = ((1, 1), (2, 3), (16, 17), (17, 16), (5, 33), (33, 40), (8, 12))
    for f, (blocks, threshold) in itertools.product(FIELDS, shapes):
        matrix = residues(f.modulus, blocks, threshold, device=device)
        tile = product.tiles_for(blocks)["COLUMNS"]
        for columns in (1, 16, 33, tile - 1, tile + 1):
            rows = residues(f.modulus, threshold, columns, device=device)
            for length in {0, 1, blocks * columns - blocks // 2, blocks * columns}:
                cases.append(partial(lagrange_decode, rows, matrix, f, length))
    for f in FIELDS:
        rows, matrix = (residues(f.modulus, *s, device=device) for s in ((9, 4), (4, 6)))
        cases.append(partial(lagrange_decode, rows.t(), matrix[:, :4], f, 30))
        cases.append(partial(lagrange_decode, rows[::2, :2].t(), matrix[:, 1:].t()[:, :2], f, 24))
    assert check_equal(cases) >= 200


def test_every_family_reports_a_residue_outside_the_field(device: str) -> None:
    """One bad residue, at the last place, in each argument, in both directions out of the field."""
    p, key = SOLINAS31.modulus, KEY.words(device)
    launchers: list[tuple[Callable[..., Any], list[tuple[int, ...]]]] = [
        (lambda a, b, w: field.field_matmul(a, b, p, w), [(2, 17), (17, 300)]),
        (lambda a, b, w: field.field_matmul(a, b, p, w), [(300, 17), (17, 2)]),
        (lambda a, w: field.field_sum(a, None, p, w), [(3, 1030)]),
        (lambda a, b, w: field.field_sum(a, b, p, w), [(3, 1030), (3,)]),
        (lambda a, w: fixed.dequantize(a, 1.0, p, w), [(3000,)]),
        (lambda a, b, w: lagrange.lagrange_encode(a, b, key, p, 3, 0, 5, w), [(800,), (2, 3)]),
        (lambda a, b, w: lagrange.lagrange_decode(a, b, p, 2, w), [(5, 300), (2, 5)]),
    ]
    for launch, shapes in launchers:
        arguments = [residues(p, *shape, device=device) for shape in shapes]
        word = word_of(device)
        launch(*arguments, word)
        assert word.item() == 0
        for argument, bad in itertools.product(arguments, (p, -1, 2**31 - 1, -(2**31))):
            kept = argument.view(-1)[-1].item()
            argument.view(-1)[-1] = bad
            launch(*arguments, word)
            argument.view(-1)[-1] = kept
            assert word.item() == BAD_RESIDUE
            word.zero_()
