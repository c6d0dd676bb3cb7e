"""What codes refuse, and how they say it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, Field, Key, LagrangeCode
from pyfed.errors import ArgumentError, DtypeError, ThresholdError

KEY = Key(bytes(range(32)))
FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)


def vector(length: int, p: int, seed: int = 1) -> torch.Tensor:
    values = [(seed + i) * 987654321987 % p if i % 3 else p - 1 for i in range(length)]
    return torch.tensor(values, dtype=torch.int32)


def test_too_few_survivors_are_told_with_the_missing() -> None:
    code = LagrangeCode(6, 3, 1)
    encoded = code.encode(vector(5, SOLINAS31.modulus), KEY)
    with pytest.raises(ThresholdError, match="3 rows are given and 4 are needed") as caught:
        code.decode(encoded[[5, 1, 2]], [5, 1, 2])
    assert (caught.value.missing, caught.value.needed) == ((0, 3, 4), 4)
    with pytest.raises(ThresholdError, match="to correct 1 of them 6 are needed") as caught:
        code.decode(encoded[:5], range(5), correct=1)
    assert (caught.value.missing, caught.value.needed) == ((5,), 6)
    with pytest.raises(ThresholdError):
        code.find_errors(encoded[:3], [0, 1, 2])


ROWS = LagrangeCode(6, 3, 1).encode(vector(5, SOLINAS31.modulus), KEY)


@pytest.mark.parametrize(
    ("rows", "survivors", "more", "error", "words"),
    [
        (ROWS[:4], [0, 1, 2, 2], {}, ArgumentError, r"survivors \[2\] are named more than once"),
        (ROWS[:4], [0, 1, 2, 6], {}, ArgumentError, "one of survivors is 6; it must be in"),
        (ROWS[:4], [0, 1, 2, -1], {}, ArgumentError, "one of survivors is -1"),
        (ROWS[:4], [0, 1, 2], {}, ArgumentError, "rows has 4 rows and survivors names 3"),
        (ROWS[:4], [0, 1, 2, 3], {"length": 7}, ArgumentError, "length is 7; it must be in"),
        (ROWS[:4], [0, 1, 2, 3], {"length": -1}, ArgumentError, "length is -1"),
        (ROWS[:4], [0, 1, 2, 3], {"correct": -1}, ArgumentError, "correct is -1"),
        (ROWS[:4].long(), [0, 1, 2, 3], {}, DtypeError, "rows has dtype torch.int64"),
        (ROWS[0], [0, 1, 2, 3], {}, ArgumentError, "rows has 1 dimensions"),
        (-1 - ROWS[:4], [0, 1, 2, 3], {}, ArgumentError, "outside"),
        (-1 - ROWS[:6], range(6), {}, ArgumentError, "outside"),
    ],
)
def test_bad_arguments_of_decode_are_named(
    rows: torch.Tensor, survivors: list[int], more: dict[str, int], error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        LagrangeCode(6, 3, 1).decode(rows, survivors, **more)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((4, 3, 2), ArgumentError, r"3 \+ 2 = 5; it must be at most shares = 4"),
        ((0, 1, 0), ArgumentError, "shares is 0"),
        ((4097, 1, 0), ArgumentError, "shares is 4097; it must be in"),
        ((4, 0, 1), ArgumentError, "blocks is 0"),
        ((4, 1, -1), ArgumentError, "privacy is -1"),
        ((4.0, 1, 1), DtypeError, "shares is float"),
        ((4, 1, True), DtypeError, "privacy is bool"),
        ((4, 1, 1, 11), DtypeError, "field is int; it must be a pyfed.Field"),
        ((7, 4, 1, Field("tiny", 11)), ArgumentError, r"shares \+ blocks is 11.*larger prime"),
    ],
)
def test_impossible_codes_are_refused(
    arguments: tuple[object, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        LagrangeCode(*arguments)


@pytest.mark.parametrize(
    ("data", "key", "error", "words"),
    [
        (ROWS, KEY, ArgumentError, "data has 2 dimensions"),
        (ROWS[0].float(), KEY, DtypeError, "data has dtype torch.float32"),
        (ROWS[0], bytes(32), DtypeError, "key is bytes"),
        (-1 - ROWS[0], KEY, ArgumentError, "outside"),
    ],
)
def test_bad_arguments_of_encode_are_named(
    data: torch.Tensor, key: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        LagrangeCode(6, 3, 1).encode(data, key)


@pytest.mark.parametrize("kind", [set, frozenset, iter, lambda numbers: 5])
def test_survivors_without_an_order_are_refused(kind: Any) -> None:
    code = LagrangeCode(5, 2, 1)
    shares = code.encode(torch.tensor([1, 2, 3], dtype=torch.int32))
    with pytest.raises(
        DtypeError, match=r"survivors is .*; it must be a list in the order of rows"
    ):
        code.decode(shares[:3], kind([0, 1, 2]), length=3)


@pytest.mark.parametrize(
    ("survivors", "error", "words"),
    [
        ([0, 1, 2], ArgumentError, "survivors names 3 shares; exactly 4 decode"),
        ([0, 1, 2, 3, 4], ArgumentError, "survivors names 5 shares; exactly 4 decode"),
        ([0, 1, 2, 2], ArgumentError, r"survivors \[2\] are named more than once"),
        ([0, 1, 2, 6], ArgumentError, "one of survivors is 6"),
        ({0, 1, 2, 3}, DtypeError, "survivors is set"),
    ],
)
def test_bad_survivors_of_a_decoding_matrix_are_named(
    survivors: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        LagrangeCode(6, 3, 1).decoding_matrix(survivors)
