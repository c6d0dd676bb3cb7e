"""Interpreted Triton kernels of sums, products and codes equal the reference on every path.

Sizes stand around the ends of ChaCha20 blocks, tiles and slabs. Each test counts its cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from paths import check_equal, filled, residues, word_of
from pyfed import MERSENNE31, SOLINAS31, Key
from pyfed.checks import BAD_RESIDUE
from pyfed.ops import field_matmul, field_sum, lagrange_decode, lagrange_encode
from pyfed.triton_kernels import field, fixed, lagrange, product

KEY = Key(bytes(range(32)))
FIELDS = (SOLINAS31, MERSENNE31)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))

pytestmark = pytest.mark.parametrize("device", DEVICES)


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
