"""Exact modular products and sums, at the bounds of every lazy reduction."""

from __future__ import annotations

import random

import pytest
import torch

import oracles
from pyfed import MERSENNE31, SOLINAS31, Field
from pyfed.errors import ArgumentError, BackendError, DtypeError
from pyfed.op import use_backend
from pyfed.ops import field_matmul, field_sum
from runs import Run, runs_of

FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
MATMUL_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("field_matmul"))
SUM_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("field_sum"))
INNER = (*range(71), *range(254, 259), *range(510, 515), *range(1022, 1027), 4095, 4096, 4097)


def full(shape: tuple[int, ...], value: int, device: str) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.int32, device=device)


@FIELDS
@MATMUL_RUNS
def test_products_of_the_largest_residues_never_overflow(op: str, run: Run, field: Field) -> None:
    """(-1)·(-1) summed k times is k; (-1)·1 is -k; both for every k near a reduction bound."""
    p = field.modulus
    interpreted = run.interpreted
    inner = (0, 1, 3, 4, 5, 31, 32, 33, 64, 65, 257, 1025) if interpreted else INNER
    for k in inner:
        a, b = full((5, k), p - 1, run.device), full((k, 19), p - 1, run.device)
        ones = full((k, 19), 1, run.device)
        with run.active():
            assert field_matmul(a, b, field).unique().tolist() == [k], k
            assert field_matmul(a, ones, field).unique().tolist() == [-k % p], k


@FIELDS
@MATMUL_RUNS
def test_products_of_the_largest_centred_residues_never_overflow(
    op: str, run: Run, field: Field
) -> None:
    """Kernels multiply centred residues, whose products are largest at ±(p - 1) / 2."""
    p = field.modulus
    half = (p - 1) // 2
    inner = (7, 8, 9, 15, 16, 17, 33, 257) if run.interpreted else (*range(1, 40), *INNER[-21:])
    for k in inner:
        for left, right in ((half, half), (half, half + 1), (half + 1, half + 1)):
            a, b = full((9, k), left, run.device), full((k, 19), right, run.device)
            with run.active():
                got = field_matmul(a, b, field)
            assert got.unique().tolist() == [left * right * k % p], (k, left, right)


@FIELDS
@SUM_RUNS
def test_sums_that_reach_a_multiple_of_the_modulus_are_zero(
    op: str, run: Run, field: Field
) -> None:
    p = field.modulus
    for parts in ([1, p - 1], [p - 1, 1, 0], [p - 1, p - 1, 2], [p - 5, p - 7, p - 9, 21]):
        x = torch.tensor(parts, dtype=torch.int32, device=run.device)[:, None].expand(-1, 37)
        with run.active():
            assert field_sum(x, field).unique().tolist() == [0]
            assert field_sum(x, field, [3] * len(parts)).unique().tolist() == [0]


@FIELDS
@pytest.mark.parametrize(("op", "run"), runs_of("field_matmul", oracle=True))
def test_products_equal_those_of_flint(op: str, run: Run, field: Field) -> None:
    from flint import nmod_mat

    rng, p = random.Random(4), field.modulus
    interpreted = run.interpreted
    shapes = [(1, 1, 1), (16, 64, 128), (33, 129, 65), (7, 300, 17)]
    for m, k, n in shapes if interpreted else [*shapes, (130, 70, 515), (64, 1030, 40)]:
        a, b = ([rng.randrange(p) for _ in range(size)] for size in (m * k, k * n))
        product = nmod_mat(m, k, a, p) * nmod_mat(k, n, b, p)
        tensors = (
            torch.tensor(v, dtype=torch.int32, device=run.device).reshape(shape)
            for v, shape in ((a, (m, k)), (b, (k, n)))
        )
        with run.active():
            got = field_matmul(*tensors, field)
        assert got.tolist() == [[int(x) for x in row] for row in product.tolist()]


@FIELDS
@SUM_RUNS
def test_sums_of_the_largest_residues_never_overflow(op: str, run: Run, field: Field) -> None:
    p = field.modulus
    interpreted = run.interpreted
    for clients in (1, 2, 3, 4, 5, 255, 256, 257) if interpreted else (*INNER[::3], 20_001):
        x = full((clients, 21), p - 1, run.device)
        with run.active():
            assert field_sum(x, field).unique().tolist() == [-clients % p]
            got = field_sum(x, field, full((clients,), p - 1, run.device))
            assert got.unique().tolist() == [clients % p]
            got = field_sum(x, field, [2**63 - 1] * clients)
            assert got.unique().tolist() == [-(2**63 - 1) * clients % p]


@FIELDS
def test_the_reference_serves_any_prime_and_the_kernels_say_that_they_do_not(field: Field) -> None:
    tiny = Field("tiny", 13)
    rng = random.Random(5)
    a, b = ([[rng.randrange(13) for _ in range(n)] for _ in range(m)] for m, n in ((4, 6), (6, 5)))
    x, y = torch.tensor(a, dtype=torch.int32), torch.tensor(b, dtype=torch.int32)
    assert field_matmul(x, y, tiny).tolist() == oracles.matmul(a, b, 13)
    assert field_sum(x, tiny).tolist() == [sum(column) % 13 for column in zip(*a, strict=True)]
    with use_backend("cpu"), pytest.raises(BackendError, match="modulus 13 has no kernel"):
        field_matmul(x, y, tiny)
    with use_backend("cpu"), pytest.raises(BackendError, match="modulus 13 has no kernel"):
        field_sum(x, tiny)


ONES = torch.ones(2, 3, dtype=torch.int32)


@pytest.mark.parametrize(
    ("a", "b", "error", "words"),
    [
        ([[1]], ONES, DtypeError, "a is list; it must be a torch.Tensor"),
        (ONES.long(), ONES.t(), DtypeError, "a has dtype torch.int64; it must be torch.int32"),
        (ONES, ONES.t().float(), DtypeError, "b has dtype torch.float32"),
        (ONES[0], ONES, ArgumentError, r"a has 1 dimensions, shape \(3,\); it must have 2"),
        (ONES, ONES, ArgumentError, r"a is \(2, 3\) and b is \(2, 3\); the columns of a must"),
        (ONES.to_sparse(), ONES.t(), ArgumentError, "a has layout torch.sparse_coo"),
    ],
)
def test_bad_factors_are_named(a: object, b: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        field_matmul(a, b, SOLINAS31)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ([1], ArgumentError, "weights has 1 elements; x has 2 rows"),
        ([1, -1], ArgumentError, r"weights\[1\] is .*; it must be in"),
        ([1, 2**63], ArgumentError, r"weights\[1\] is .*; it must be in"),
        ([1, 0.5], DtypeError, r"weights\[1\] is float; it must be an int"),
        ([1, True], DtypeError, r"weights\[1\] is bool; it must be an int"),
        (5, DtypeError, "weights is int"),
        (torch.tensor([1, -3]), ArgumentError, "outside"),
        (torch.tensor([1, -(2**63)]), ArgumentError, "outside"),
        (torch.tensor([1.0, 2.0]), DtypeError, "weights has dtype torch.float32"),
        (torch.ones(2, 1, dtype=torch.int64), ArgumentError, "weights has 2 dimensions"),
    ],
)
def test_bad_weights_are_named(weights: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        field_sum(ONES, SOLINAS31, weights)


def test_a_sum_needs_a_dimension_of_clients() -> None:
    with pytest.raises(ArgumentError, match="must count the clients"):
        field_sum(torch.tensor(1, dtype=torch.int32), SOLINAS31)


def test_weights_are_left_as_they_were() -> None:
    weights = torch.tensor([2**62, 5])
    field_sum(ONES, SOLINAS31, weights)
    assert weights.tolist() == [2**62, 5]
