"""Freivalds' check: right products pass, wrong ones miss exactly as often as the theorem says."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch

import pyfed
import pyfed.ops.verify
from case import KEY
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field
from pyfed.errors import ArgumentError
from pyfed.ops import field_verify, random_residues
from pyfed.ops.verify import agreeing
from runs import DEVICES, Run, runs_of

FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
ON_DEVICES = pytest.mark.parametrize("device", DEVICES)
Matrix = list[list[int]]


def tensor(rows: Matrix, columns: int, device: str = "cpu") -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=device).reshape(len(rows), columns)


def drawn(rng: random.Random, p: int, m: int, n: int) -> Matrix:
    return [[rng.randrange(p) for _ in range(n)] for _ in range(m)]


def exact(a: Matrix, b: Matrix, n: int, p: int) -> Matrix:
    return [
        [sum(x * row[j] for x, row in zip(line, b, strict=True)) % p for j in range(n)]
        for line in a
    ]


def factors(
    field: Field, m: int, k: int, n: int, device: str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random a and b, and a · b by Python integers."""
    rng, p = random.Random(m * 100 + k * 10 + n), field.modulus
    a, b = drawn(rng, p, m, k), drawn(rng, p, k, n)
    return (
        *(tensor(a, k, device), tensor(b, n, device)),
        tensor(exact(a, b, n, p), n, device),
    )


@FIELDS
@pytest.mark.parametrize(("op", "run"), runs_of("field_matmul"))
def test_right_products_of_every_shape_pass(op: str, run: Run, field: Field) -> None:
    sizes = [(3, 2, 0), (9, 5, 33)]
    if not run.interpreted:
        sizes += [(0, 3, 2), (3, 0, 2), (1, 1, 1), (1, 70, 3), (40, 1, 7), (17, 300, 65)]
    for m, k, n in sizes:
        matrices = factors(field, m, k, n, run.device)
        with run.active():
            assert field_verify(*matrices, field)
            assert field_verify(*matrices, field, trials=5, key=KEY)


@FIELDS
@ON_DEVICES
def test_right_products_of_the_largest_residues_pass(field: Field, device: str) -> None:
    """(-1)·(-1) summed k times is k, and what is checked with is random."""
    a = torch.full((5, 1030), field.modulus - 1, dtype=torch.int32, device=device)
    b = torch.full((1030, 19), field.modulus - 1, dtype=torch.int32, device=device)
    right = torch.full((5, 19), 1030, dtype=torch.int32, device=device)
    assert field_verify(a, b, right, field)
    assert not field_verify(a, b, right + 1, field)


@FIELDS
@ON_DEVICES
def test_every_single_wrong_element_is_found(field: Field, device: str) -> None:
    for m, k, n in ((1, 1, 1), (2, 3, 5), (9, 4, 17)):
        a, b, right = factors(field, m, k, n, device)
        for i, j in itertools.product(range(m), range(n)):
            for delta in (1, field.modulus - 1, 1 << 30):
                wrong = right.clone()
                wrong[i, j] = (int(right[i, j]) + delta) % field.modulus
                assert not field_verify(a, b, wrong, field), (i, j, delta)
                assert not field_verify(a, b, wrong, field, trials=1), (i, j, delta)


@ON_DEVICES
def test_a_right_product_of_other_factors_is_found(device: str) -> None:
    a, b, right = factors(SOLINAS31, 4, 6, 5, device)
    for factor in (a, b):
        kept = factor[1, 2].clone()
        factor[1, 2] = (kept + 1) % SOLINAS31.modulus
        assert not field_verify(a, b, right, SOLINAS31)
        factor[1, 2] = kept
    assert field_verify(a, b, right, SOLINAS31)
    assert not field_verify(a, b, torch.zeros_like(right), SOLINAS31)
    assert not field_verify(a, b, right.flip(0), SOLINAS31)


@ON_DEVICES
def test_over_two_planes_a_wrong_element_of_either_is_found(device: str) -> None:
    planes = [factors(field, 3, 4, 5, device) for field in WIDE.planes]
    a, b, right = (torch.stack(matrices) for matrices in zip(*planes, strict=True))
    assert field_verify(a, b, right, WIDE)
    assert field_verify(a, b, right, WIDE, trials=3, key=KEY)
    for place in itertools.product(range(2), range(3), range(5)):
        wrong = right.clone()
        wrong[place] ^= 1
        assert not field_verify(a, b, wrong, WIDE), place
    assert not field_verify(a, b, right.flip(0), WIDE)
    empty = torch.empty(2, 3, 0, dtype=torch.int32, device=device)
    assert field_verify(a, b[..., :0], empty, WIDE)
    with pytest.raises(ArgumentError, match=r"^field_verify: product is \(2, 3, 4\); it must be"):
        field_verify(a, b, right[..., :4], WIDE)
    with pytest.raises(ArgumentError, match=r"^field_verify: a has .*it must have 3"):
        field_verify(a[0], b[0], right[0], WIDE)


def rank(rows: Matrix, p: int) -> int:
    """By elimination modulo p."""
    rows, found = [list(row) for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((r for r in range(found, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = pow(rows[found][column], -1, p)
        for r in range(found + 1, len(rows)):
            factor = rows[r][column] * inverse
            rows[r] = [(x - factor * y) % p for x, y in zip(rows[r], rows[found], strict=True)]
        found += 1
    return found


def missing(field: Field, error: Matrix, a: Matrix, b: Matrix) -> int:
    """How many of all vectors agree with a product that is wrong by ``error``."""
    p, m, n = field.modulus, len(error), len(error[0])
    right = exact(a, b, n, p)
    wrong = [[(right[i][j] + error[i][j]) % p for j in range(n)] for i in range(m)]
    every = [list(vector) for vector in itertools.product(range(p), repeat=n)]
    vectors = tensor(every, n).t().contiguous()
    matrices = (tensor(a, len(b)), tensor(b, n), tensor(wrong, n))
    return int(agreeing(*matrices, vectors, field).sum())


@pytest.mark.parametrize(("p", "n"), [(3, 1), (3, 2), (3, 4), (5, 1), (5, 3), (7, 3)])
def test_of_all_vectors_exactly_one_in_p_misses_a_wrong_row(p: int, n: int) -> None:
    """A wrong element, or any wrong row: p^(n-1) of the p^n vectors see nothing."""
    rng, field = random.Random(8), Field("tiny", p)
    a, b = drawn(rng, p, 2, 3), drawn(rng, p, 3, n)
    for j in range(n):
        for delta in range(1, p):
            error = [[0] * n, [delta if i == j else 0 for i in range(n)]]
            assert missing(field, error, a, b) == p ** (n - 1)
    for _ in range(5):
        row = next(d for d in iter(lambda: drawn(rng, p, 1, n)[0], None) if any(d))
        assert missing(field, [row, [0] * n], a, b) == p ** (n - 1)


def test_of_all_wrong_matrices_none_is_missed_more_often_than_by_one_in_p() -> None:
    """All errors of a 2×2 product over 3 elements: p^(n - rank) of p^n vectors see nothing."""
    field, a, b = Field("tiny", 3), [[1], [2]], [[2, 1]]
    for flat in itertools.product(range(3), repeat=4):
        error = [list(flat[:2]), list(flat[2:])]
        assert missing(field, error, a, b) == 3 ** (2 - rank(error, 3))


def test_two_trials_miss_a_wrong_product_with_probability_below_2_to_the_minus_60() -> None:
    for field in (SOLINAS31, MERSENNE31):
        assert 2 * math.log2(field.modulus) > 60


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_independent_trials_miss_as_often_as_the_power_of_one_in_p(trials: int) -> None:
    """Over 3 elements a wrong element passes a share 3^-trials of keys, within 5 deviations."""
    field, keys = Field("tiny", 3), 250
    a, b, right = factors(field, 2, 2, 4)
    right[1, 3] = (right[1, 3] + 1) % 3
    passed = sum(
        field_verify(a, b, right, field, trials, KEY.derive("case", i)) for i in range(keys)
    )
    chance = 3.0**-trials
    assert abs(passed - keys * chance) <= 5 * math.sqrt(keys * chance * (1 - chance))


def test_only_the_key_that_made_a_forgery_is_deceived_by_it() -> None:
    """An error that is orthogonal to both vectors of a key: they are those of a derived key."""
    p = SOLINAS31.modulus
    a, b, right = factors(SOLINAS31, 2, 2, 3)

    def forged(source: pyfed.Key) -> torch.Tensor:
        flat = random_residues(source, 6, SOLINAS31).tolist()
        (x, y, z), (u, v, w) = flat[::2], flat[1::2]
        error = [y * w - z * v, z * u - x * w, x * v - y * u]
        product = right.clone()
        product[1] = torch.tensor(
            [(int(c) + e) % p for c, e in zip(right[1], error, strict=True)], dtype=torch.int32
        )
        return product

    product = forged(KEY.derive("field_verify"))
    assert field_verify(a, b, product, SOLINAS31, key=KEY)
    assert not field_verify(a, b, product, SOLINAS31, trials=3, key=KEY)
    assert not field_verify(a, b, product, SOLINAS31, key=KEY.derive("other"))
    assert not field_verify(a, b, product, SOLINAS31)
    assert not field_verify(a, b, forged(KEY), SOLINAS31, key=KEY)


def test_without_a_key_every_call_has_vectors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(*args: Any, **how: Any) -> torch.Tensor:
        seen.append(random_residues(*args, **how))
        return seen[-1]

    monkeypatch.setattr(pyfed.ops.verify, "random_residues", watched)
    matrices = factors(SOLINAS31, 2, 2, 3)
    for _ in range(3):
        assert field_verify(*matrices, SOLINAS31)
    assert [len(vectors) for vectors in seen] == [6, 6, 6]
    assert len({tuple(vectors.tolist()) for vectors in seen}) == 3


def test_a_key_that_is_given_is_not_wiped() -> None:
    key = pyfed.Key(bytes(range(32)))
    assert field_verify(*factors(SOLINAS31, 2, 2, 3), SOLINAS31, key=key)
    assert key.reveal() == bytes(range(32))


@pytest.mark.parametrize("fresh", [False, True])
def test_the_key_that_is_used_is_wiped(fresh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[pyfed.Key] = []

    def watched(key: pyfed.Key, *args: Any, **how: Any) -> torch.Tensor:
        used.append(key)
        assert any(key.reveal())
        return random_residues(key, *args, **how)

    monkeypatch.setattr(pyfed.ops.verify, "random_residues", watched)
    assert field_verify(*factors(SOLINAS31, 2, 2, 3), SOLINAS31, key=None if fresh else KEY)
    assert [key.reveal() for key in used] == [bytes(32)]


@ON_DEVICES
def test_layouts_do_not_matter_and_nothing_is_changed(device: str) -> None:
    a, b, right = factors(SOLINAS31, 6, 4, 10, device)
    strided = [x.t().contiguous().t() for x in (a, b, right)]
    before = [x.clone() for x in strided]
    assert field_verify(*strided, SOLINAS31)
    assert field_verify(a[::2], b[:, 1:7], right[::2, 1:7], SOLINAS31)
    assert not field_verify(a[::2], b[:, 1:7], right[::2, 2:8], SOLINAS31)
    assert all(map(torch.equal, strided, before))
