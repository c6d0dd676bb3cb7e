"""Wrong shares are noticed, located and repaired, as far as their number allows."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, Field, Key, LagrangeCode
from pyfed.errors import DecodeError

KEY = Key(bytes(range(32)))
FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)


def vector(length: int, p: int, seed: int = 1) -> torch.Tensor:
    values = [(seed + i) * 987654321987 % p if i % 3 else p - 1 for i in range(length)]
    return torch.tensor(values, dtype=torch.int32)


def corrupt(encoded: torch.Tensor, rows: tuple[int, ...], p: int) -> torch.Tensor:
    """Add a different amount to one column of each of these rows."""
    bad = encoded.clone()
    for number, row in enumerate(rows):
        column = (row + number) % bad.shape[1]
        bad[row, column] = (int(bad[row, column]) + 1 + number * 77) % p
    return bad


@FIELDS
def test_every_pattern_of_few_wrong_rows_is_located_and_repaired(field: Field) -> None:
    code = LagrangeCode(8, 2, 2, field)  # 8 rows, threshold 4: two wrong ones can be told
    data = vector(9, field.modulus)
    encoded = code.encode(data, KEY)
    everyone = list(range(8))
    assert code.find_errors(encoded, everyone) == ()
    for count in (1, 2):
        for wrong in itertools.combinations(everyone, count):
            bad = corrupt(encoded, wrong, field.modulus)
            assert code.find_errors(bad, everyone) == wrong
            assert torch.equal(code.decode(bad, everyone, 9, correct=2), data)
            with pytest.raises(DecodeError, match="contradict one another") as caught:
                code.decode(bad, everyone, 9, correct=count - 1)
            assert caught.value.rows == wrong


@FIELDS
def test_more_wrong_rows_than_can_be_told_are_noticed(field: Field) -> None:
    code = LagrangeCode(8, 2, 2, field)
    encoded = code.encode(vector(9, field.modulus), KEY)
    for count in (3, 4):  # up to n - threshold wrong rows are always noticed
        for wrong in itertools.combinations(range(8), count):
            bad = corrupt(encoded, wrong, field.modulus)
            with pytest.raises(DecodeError, match="contradict") as caught:
                code.decode(bad, range(8), 9)
            assert caught.value.rows == ()
            with pytest.raises(DecodeError):
                code.find_errors(bad, range(8))


def test_errors_are_located_among_shuffled_survivors() -> None:
    code = LagrangeCode(20, 3, 3)
    data = vector(30, SOLINAS31.modulus)
    encoded = corrupt(code.encode(data, KEY), (2, 13, 19), SOLINAS31.modulus)
    chosen = [19, 4, 13, 0, 7, 8, 2, 11, 10, 16, 5, 18]
    assert code.find_errors(encoded[chosen], chosen) == (2, 13, 19)
    assert torch.equal(code.decode(encoded[chosen], chosen, 30, correct=3), data)


def test_one_row_more_than_the_threshold_notices_one_wrong_row() -> None:
    code = LagrangeCode(6, 3, 1)
    encoded = code.encode(vector(5, SOLINAS31.modulus), KEY)
    for wrong in range(5):
        with pytest.raises(DecodeError, match="which ones cannot be told"):
            code.decode(corrupt(encoded, (wrong,), SOLINAS31.modulus)[:5], range(5))
