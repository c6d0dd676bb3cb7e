"""Fields and their points."""

from __future__ import annotations

import pytest

import oracles
from pyfed import MERSENNE31, SOLINAS31, Field
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import field_id, is_prime


def test_the_library_fields_are_frozen() -> None:
    assert (SOLINAS31.name, SOLINAS31.modulus) == ("SOLINAS31", 2147352577)
    assert (MERSENNE31.name, MERSENNE31.modulus) == ("MERSENNE31", 2147483647)
    assert SOLINAS31.modulus - 1 == 2**17 * 3 * 43 * 127
    primes = (SOLINAS31.modulus, MERSENNE31.modulus, 2**31 - 2**19 + 1, 11)
    assert [field_id(p) for p in primes] == [1, 2, 3, 0]


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
def test_points_are_those_of_the_oracle_and_never_meet(field: Field) -> None:
    alphas, betas = oracles.points(field.modulus, 4096, 4096)
    assert field.share_points(4096) == alphas
    assert field.block_points(4096) == betas
    assert len({*alphas, *betas}) == 8192


def test_subgroup_points_depend_on_neither_count() -> None:
    whole = SOLINAS31.share_points(4096)
    assert whole[:2] == [1, SOLINAS31.modulus - 1]
    for count in (0, 1, 2, 3, 1000):
        assert SOLINAS31.share_points(count) == whole[:count]
    assert all(pow(x, 4096, SOLINAS31.modulus) == 1 for x in whole)


def test_a_subgroup_field_uses_its_smallest_generator() -> None:
    field = Field("small", 12289, "subgroup")  # 2^12 · 3 + 1, generator 11
    assert field.block_points(1) == [11]
    assert len({*field.share_points(4096), *field.block_points(4096)}) == 8192


def test_primes_below_ten_thousand_are_told_apart() -> None:
    sieve = [n > 1 and all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(10_000)]
    assert [is_prime(n) for n in range(10_000)] == sieve
    for composite in (3215031751 // 151, 2047 * 3, 25326001, 1373653, 341550071 % 2**31 // 7):
        assert is_prime(composite) == all(composite % d for d in range(2, int(composite**0.5) + 1))


@pytest.mark.parametrize(
    ("modulus", "points", "error", "words"),
    [
        (2, "integers", ArgumentError, "modulus is 2; it must be an odd prime below 2"),
        (1, "integers", ArgumentError, "modulus is 1"),
        (-7, "integers", ArgumentError, "modulus is -7"),
        (15, "integers", ArgumentError, "modulus is 15"),
        (2**31 + 11, "integers", ArgumentError, "modulus is 2147483659"),
        (7.0, "integers", DtypeError, "modulus is float; it must be an int"),
        (True, "integers", DtypeError, "modulus is bool"),
        (7, "circle", ArgumentError, "points is 'circle'; it must be 'integers' or 'subgroup'"),
        (2**31 - 1, "subgroup", ArgumentError, "use points='integers'"),
    ],
)
def test_impossible_fields_are_refused(
    modulus: object, points: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Field("bad", modulus, points)


def test_the_number_of_points_is_bounded() -> None:
    Field("tiny", 11).check_points(7, 3)
    with pytest.raises(ArgumentError, match=r"shares \+ blocks is 11.*use a larger prime"):
        Field("tiny", 11).check_points(8, 3)
    SOLINAS31.check_points(4096, 4096)
    with pytest.raises(ArgumentError, match="4096 points of each kind"):
        SOLINAS31.check_points(4097, 1)
