"""Hostile tables end in an error, soon, and wrong arguments are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import SOLINAS31
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.secagg import LightSecAgg
from pyfed.secagg.bloom import InvertibleTable
from pyfed.secagg.cells import Cells
from pyfed.secagg.union import EntityUnion, pseudonym, pseudonyms, union_salt
from secagg.unions import GROUP, SALT, as_rows, direct_table, hashes_of, summed, words_of


def with_multiple(union: EntityUnion, entity: Any, factors: list[int]) -> torch.Tensor:
    """A table that holds an entity with another factor in each of its four cells."""
    words = words_of(entity)
    checks, places = hashes_of(words, SALT, union.cells)
    table = torch.zeros(union.cells, 7, dtype=torch.int64)
    for place, factor in zip(places, factors, strict=True):
        table[place] = torch.tensor([1, *words, *checks]) * factor % SOLINAS31.modulus
    return table.to(torch.int32).flatten()


@pytest.mark.parametrize("factors", [[1, 0, 0, 0], [1, 2, 1, 1], [5, 6, 7, 8], [0, 3, 3, 3]])
def test_a_table_that_would_be_peeled_for_ever_is_refused(factors: list[int]) -> None:
    union = EntityUnion(4)
    with pytest.raises(DecodeError, match="two totals"):
        union.peel(with_multiple(union, "x", factors), SALT)
    good = with_multiple(union, "x", [3, 3, 3, 3])
    assert union.peel(good, SALT).tolist() == as_rows(["x"])


@pytest.mark.parametrize("column", range(1, 7))
def test_an_entity_with_a_wrong_word_or_check_is_none(column: int) -> None:
    union = EntityUnion(4)
    table = with_multiple(union, "x", [1, 1, 1, 1]).view(-1, 7)
    table[table[:, 0] == 1, column] += 1
    with pytest.raises(DecodeError, match="4 of 54 cells do not peel after 0 entities"):
        union.peel(table.flatten(), SALT)


def test_more_entities_than_most_are_refused_though_they_would_peel() -> None:
    union = EntityUnion(10)
    assert len(union.peel(direct_table(union, [range(10)]), SALT)) == 10
    with pytest.raises(DecodeError, match="more than most = 10"):
        union.peel(direct_table(union, [range(6), range(5, 11)]), SALT)


def test_far_too_many_entities_end_stuck_or_refused() -> None:
    union = EntityUnion(50)
    sets = [range(50 * i, 50 * i + 50) for i in range(8)]
    with pytest.raises(DecodeError, match=r"do not peel after \d+ entities|more than most"):
        union.peel(direct_table(union, sets), SALT)


@pytest.mark.parametrize("most", [1, 30, 3_000])
def test_garbage_is_refused_after_few_rounds(most: int, monkeypatch: Any) -> None:
    union, rounds = EntityUnion(most), []
    pure = InvertibleTable._pure

    def counted(self: Any, *args: Any) -> Any:
        rounds.append(1)
        return pure(self, *args)

    monkeypatch.setattr(InvertibleTable, "_pure", counted)
    generator = torch.Generator().manual_seed(most)
    p = SOLINAS31.modulus
    noise = torch.randint(p, (union.length,), dtype=torch.int32, generator=generator)
    good = direct_table(union, [range(most)])
    one = torch.zeros_like(good)
    one[3] = 1
    for table in (noise, summed([good, one]), summed([good, noise]), good.roll(7), good.flip(0)):
        with pytest.raises(DecodeError):
            union.peel(table, SALT)
    assert len(rounds) <= 5 * (most + 2)


def test_every_changed_residue_of_a_small_table_is_noticed() -> None:
    union = EntityUnion(2)
    good = direct_table(union, [["a", "b"], ["b"]])
    assert union.peel(good, SALT).tolist() == as_rows(["a", "b"])
    for at in range(union.length):
        bad = good.clone()
        bad[at] = (int(bad[at]) + 1) % SOLINAS31.modulus
        with pytest.raises(DecodeError):
            union.peel(bad, SALT)
    with pytest.raises(DecodeError):
        union.peel(good, SALT + b"x")


def test_a_session_is_bound_to_the_salt_and_to_being_cells() -> None:
    union = EntityUnion(3)
    digests = {
        LightSecAgg(3, 1, 0, length=union.length, fixed=union.encoding(3, salt)).parameters.digest()
        for salt in (bytes(8), bytes(9), SALT)
    }
    assert len(digests) == 3
    assert union.encoding(3, SALT).form == ("cells", SALT)
    assert union.encoding(3, SALT) == Cells(3, SALT)


def test_an_update_is_copied_so_that_masking_leaves_the_table_as_it_is() -> None:
    table = torch.tensor([1, 2], dtype=torch.int32)
    made = Cells(3, SALT).encode_update(table, 2, None, 1)
    made.zero_()
    assert table.tolist() == [1, 2]


TABLE = torch.zeros(EntityUnion(2).length, dtype=torch.int32)
ONE = pseudonyms(GROUP, ["one"])
BAD_CALLS: list[tuple[Any, type[Exception], str]] = [
    (lambda: EntityUnion(0), ArgumentError, "most is 0"),
    (lambda: EntityUnion(2**25 + 1), ArgumentError, "most is 33554433"),
    (lambda: EntityUnion(2.0), DtypeError, "most is float"),
    (lambda: EntityUnion(2, 7), DtypeError, "field is int"),
    (lambda: pseudonym(bytes(32), 1), DtypeError, "must be a pyfed.Key"),
    (lambda: pseudonym(GROUP, True), DtypeError, "entity_id is bool"),
    (lambda: pseudonym(GROUP, 1.0), DtypeError, "entity_id is float"),
    (lambda: pseudonyms(GROUP, "cat"), DtypeError, "ids is str"),
    (lambda: pseudonyms(GROUP, b"cat"), DtypeError, "ids is bytes"),
    (lambda: pseudonyms(GROUP, 3), DtypeError, "ids is int"),
    (lambda: pseudonyms(GROUP, [None]), DtypeError, "entity_id is NoneType"),
    (lambda: union_salt("seed", 0), DtypeError, "seed is str"),
    (lambda: union_salt(b"seed", -1), ArgumentError, "attempt is -1"),
    (lambda: EntityUnion(2).table(ONE.long(), SALT, GROUP), DtypeError, "int64"),
    (lambda: EntityUnion(2).table(ONE[0], SALT, GROUP), ArgumentError, "1 dimensions"),
    (lambda: EntityUnion(2).table(ONE[:, :3], SALT, GROUP), ArgumentError, r"shape \(1, 3\)"),
    (lambda: EntityUnion(2).table(-ONE, SALT, GROUP), ArgumentError, "word outside"),
    (lambda: EntityUnion(2).table(ONE | 2**30, SALT, GROUP), ArgumentError, "word outside"),
    (lambda: EntityUnion(2).table(ONE, "salt", GROUP), DtypeError, "salt is str"),
    (lambda: EntityUnion(2).table(ONE, bytes(7), GROUP), ArgumentError, "salt has 7 bytes"),
    (lambda: EntityUnion(2).table(ONE, bytes(65), GROUP), ArgumentError, "salt has 65 bytes"),
    (lambda: EntityUnion(2).table(ONE, SALT, bytes(32)), DtypeError, "key is bytes"),
    (
        lambda: EntityUnion(2).table(pseudonyms(GROUP, range(3)), SALT, GROUP),
        ArgumentError,
        "3 entities; most is 2",
    ),
    (lambda: EntityUnion(2).encoding(3, bytes(7)), ArgumentError, "salt has 7 bytes"),
    (lambda: EntityUnion(2).peel(TABLE.long(), SALT), DtypeError, "int64"),
    (lambda: EntityUnion(2).peel(TABLE[1:], SALT), ArgumentError, "356 residues; it must have 357"),
    (lambda: EntityUnion(2).peel(TABLE - 1, SALT), ArgumentError, "residue lies outside"),
    (lambda: EntityUnion(2).peel(TABLE, bytes(7)), ArgumentError, "salt has 7 bytes"),
    (lambda: Cells(0, SALT), ArgumentError, "clients is 0"),
    (lambda: Cells(3, "salt"), DtypeError, "salt is str"),
    (lambda: Cells(3, SALT, 7), DtypeError, "field is int"),
    (lambda: Cells(3, SALT).check_weight(0), ArgumentError, "weight is 0"),
    (lambda: Cells(3, SALT).check_weight(2), ArgumentError, "weight is 2"),
    (lambda: Cells(3, SALT).encode_update(TABLE[:2], 2, None, 0), ArgumentError, "weight is 0"),
    (lambda: Cells(3, SALT).expect_update("op", TABLE[:2].long(), 2), DtypeError, "op: update"),
    (lambda: Cells(3, SALT).expect_update("op", TABLE[:3], 2), ArgumentError, "3 elements"),
    (lambda: Cells(3, SALT).expect_update("op", TABLE[:2] - 1, 2), ArgumentError, "residue lies"),
    (lambda: Cells(3, SALT).float_sum(TABLE[:2], 2, 3), ArgumentError, "no sum in floats"),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD_CALLS)
def test_wrong_arguments_are_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
