"""What random combinations of columns can miss, and what each of the challenges is there for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import oracles
from pyfed import MERSENNE31, SOLINAS31, Field, Key, LagrangeCode, chosen, locate
from pyfed.errors import ArgumentError, DecodeError
from pyfed.ops.lagrange import lagrange_decode

KEY = Key(bytes(range(32)))
P = SOLINAS31.modulus
CODE = LagrangeCode(8, 2, 2)  # two wrong rows of eight can be told
DATA = torch.arange(6, dtype=torch.int32)  # three columns
ROWS = CODE.encode(DATA, KEY)


def wrong_in(cells: dict[int, int]) -> torch.Tensor:
    """Shares with one wrong value in each of these rows, in the column that is given."""
    bad = ROWS.clone()
    for row, column in cells.items():
        bad[row, column] = (int(bad[row, column]) + 1 + row) % P
    return bad


def coefficients(monkeypatch: pytest.MonkeyPatch, columns: Sequence[Sequence[int]]) -> None:
    """Let the challenges of column l be columns[l]."""
    flat = torch.tensor(columns, dtype=torch.int32).reshape(-1)

    def chosen(key: Key, count: int, field: Field, start: int = 0, **more: Any) -> torch.Tensor:
        return flat[start : start + count].clone()

    monkeypatch.setattr(locate, "random_residues", chosen)


def test_the_last_challenge_alone_finds_a_row_that_the_others_miss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coefficients(monkeypatch, [[3, 5, 7], [0, 0, 9], [2, 4, 6]])
    bad = wrong_in({3: 1})
    assert CODE.find_errors(bad, range(8)) == (3,)
    assert torch.equal(CODE.decode(bad, range(8), correct=1), DATA)
    with pytest.raises(DecodeError) as caught:
        CODE.decode(bad, range(8))
    assert caught.value.rows == (3,)


def test_the_last_challenge_is_over_the_rows_that_the_others_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coefficients(monkeypatch, [[3, 5, 7], [0, 0, 9], [2, 4, 6]])
    assert CODE.find_errors(wrong_in({6: 0}), range(8)) == (6,)
    assert CODE.find_errors(wrong_in({6: 0, 3: 1}), range(8)) == (3, 6)
    with pytest.raises(DecodeError, match="cannot be told") as caught:
        CODE.decode(wrong_in({6: 0, 7: 0, 3: 1}), range(8), correct=2)
    assert caught.value.rows == ()


def test_rows_that_only_one_challenge_sees_are_united(monkeypatch: pytest.MonkeyPatch) -> None:
    coefficients(monkeypatch, [[0, 5, 7], [3, 0, 9], [2, 4, 6]])
    bad = wrong_in({1: 0, 4: 1})
    assert CODE.find_errors(bad, range(8)) == (1, 4)
    assert torch.equal(CODE.decode(bad, range(8), correct=2), DATA)


def test_more_rows_than_can_be_told_are_not_named_challenge_by_challenge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coefficients(monkeypatch, [[0, 5, 0], [3, 0, 0], [2, 4, 6]])
    with pytest.raises(DecodeError) as caught:
        CODE.find_errors(wrong_in({0: 0, 1: 0, 2: 1, 3: 1}), range(8))
    assert caught.value.rows == ()


def test_a_row_escapes_when_every_challenge_is_zero_in_its_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: it is the coefficients that find it."""
    coefficients(monkeypatch, [[3, 5, 7], [0, 0, 0], [2, 4, 6]])
    assert CODE.find_errors(wrong_in({3: 1}), range(8)) == ()


@pytest.mark.parametrize(
    ("field", "count"),
    [(SOLINAS31, 3), (MERSENNE31, 3), (Field("tiny", 11), 19), (Field("tiny", 3), 39)],
)
def test_so_many_challenges_that_a_wrong_row_escapes_once_in_2_to_the_60(
    field: Field, count: int
) -> None:
    assert locate.challenge_count(field) == count
    assert field.modulus ** (count - 1) > 2**59.9  # the last one only checks
    assert field.modulus ** (count - 2) < 2**60
    rows = torch.zeros(2, 5, dtype=torch.int32)
    assert locate.challenge_rows(rows, field).shape == (2, count)


def test_independent_coefficients_miss_one_in_p_and_powers_of_one_number_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = Field("tiny", 5)
    error = [-6, 11, -6, 1]  # (x - 1)(x - 2)(x - 3)
    row = torch.tensor([[x % 5 for x in error]], dtype=torch.int32)
    powers = [sum(c * r**i for i, c in enumerate(error)) % 5 for r in range(5)]
    assert powers.count(0) == 3  # columns - 1 of p

    def misses(combined: torch.Tensor) -> int:
        return int((combined == 0).sum())

    drawn = torch.cat(
        [locate.combine_rows(row, KEY.derive("draw", i), field).flatten() for i in range(40)]
    )
    assert drawn.numel() == 40 * 27
    assert 0.15 < misses(drawn) / drawn.numel() < 0.25

    everything = list(itertools.product(range(5), repeat=4))  # all coefficients there are
    missed = 0
    for first in range(0, 625, 27):
        part = everything[first : first + 27]
        part += [(1, 0, 0, 0)] * (27 - len(part))  # sees this error
        coefficients(monkeypatch, list(zip(*part, strict=True)))
        missed += misses(locate.combine_rows(row, KEY, field))
    assert missed == 625 // 5


@pytest.mark.parametrize("columns", [0, 1, 4, 5, 6, 23])
@pytest.mark.parametrize("field", [SOLINAS31, Field("tiny", 101)], ids=lambda f: f.name)
def test_pieces_of_columns_are_combined_as_the_whole(
    columns: int, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, count = field.modulus, locate.challenge_count(field)
    rows = torch.tensor(
        [[(p - 1 - i * columns - j) % p for j in range(columns)] for i in range(3)],
        dtype=torch.int32,
    ).reshape(3, columns)
    secret = KEY.reveal()
    wanted = [
        [
            sum(int(rows[i, j]) * oracles.residue(secret, j * count + c, p) for j in range(columns))
            % p
            for c in range(count)
        ]
        for i in range(3)
    ]
    assert locate.combine_rows(rows, KEY, field).tolist() == wanted
    monkeypatch.setattr(locate, "PIECE_CPU", 17)  # five columns of three rows
    assert locate.combine_rows(rows, KEY, field).tolist() == wanted


@pytest.mark.parametrize("piece", [1, 9, 13, 1 << 18])
def test_rows_around_wrong_ones_decode_piece_by_piece(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "PIECE_CPU", piece)
    decoded_columns: list[int] = []

    def watched(rows: torch.Tensor, *rest: Any) -> torch.Tensor:
        decoded_columns.append(rows.shape[1])
        return lagrange_decode(rows, *rest)

    monkeypatch.setattr(chosen, "lagrange_decode", watched)
    data = torch.arange(47, dtype=torch.int32)
    rows = CODE.encode(data, KEY)
    for wrong in itertools.combinations(range(8), 2):
        bad = rows.clone()
        bad[list(wrong)] = 77
        for length in (0, 1, 2, 45, 46, 47, None):
            decoded = CODE.decode(bad, range(8), length, correct=2)
            full = torch.cat([data, torch.zeros(1, dtype=torch.int32)])
            assert torch.equal(decoded, full[: 48 if length is None else length])
        if wrong[0] < 4:  # not the first rows as they are, so in copies of a piece
            assert max(decoded_columns) <= max(piece // 4, 1)
        decoded_columns.clear()


def test_the_challenge_key_is_fresh_and_wiped_even_on_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Key] = []
    seen: list[bytes] = []
    generate = Key.generate

    def remembered() -> Key:
        made.append(generate())
        seen.append(made[-1].reveal())
        return made[-1]

    monkeypatch.setattr(Key, "generate", remembered)
    CODE.find_errors(ROWS, range(8))
    CODE.decode(ROWS, range(8))
    with pytest.raises(ArgumentError, match="outside"):
        CODE.find_errors(-1 - ROWS, range(8))
    assert len(set(seen)) == 3 and bytes(32) not in seen
    assert all(key.reveal() == bytes(32) for key in made)


def test_threshold_rows_alone_are_decoded_without_a_challenge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Key, "generate", lambda: pytest.fail("a challenge was drawn"))
    assert torch.equal(CODE.decode(ROWS[4:], [4, 5, 6, 7]), DATA)
