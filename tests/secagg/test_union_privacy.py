"""What a summed table says: over a tiny field, every choice of the clients' factors is tried."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from pyfed import SOLINAS31, Field
from pyfed.secagg.bloom import InvertibleTable
from pyfed.secagg.union import EntityUnion, pseudonyms
from secagg.unions import GROUP, SALT, as_rows, summed

# Over a tiny field every choice of r can be tried: p^(pairs of client and entity) of them.
TINY = Field("tiny", 5)
ROWS = {"a": [0, 1, 2, 3], "b": [4, 4, 0, 1], "c": [3, 0, 3, 0]}


def summed_tables(owners: dict[str, int], fixed: dict[str, int] | None = None) -> Counter[Any]:
    """How often each sum of tables comes up, over all r of so many honest owners of each entity.

    Args:
        owners: entity → owners that draw r.
        fixed: entity → r of a colluding owner.
    """
    form = InvertibleTable(24, TINY)
    names = [name for name, count in owners.items() for _ in range(count)]
    base = [form.filled(torch.tensor([ROWS[name]]), torch.tensor([1]), SALT) for name in names]
    known = torch.zeros(24 * 7, dtype=torch.int64)
    for name, r in (fixed or {}).items():
        known += form.filled(torch.tensor([ROWS[name]]), torch.tensor([r]), SALT)
    seen: Counter[Any] = Counter()
    for factors in itertools.product(range(5), repeat=len(names)):
        table = known + sum(r * one.to(torch.int64) for r, one in zip(factors, base, strict=True))
        seen[tuple((table % 5).tolist())] += 1
    return seen


@pytest.mark.parametrize("union", ["a", "b", "ab", "abc"])
def test_given_the_union_the_summed_table_does_not_depend_on_the_owners(union: str) -> None:
    settings = [
        dict(zip(union, counts, strict=True))
        for counts in itertools.product((1, 2, 3), repeat=len(union))
        if sum(counts) <= 5
    ]
    once = summed_tables(dict.fromkeys(union, 1))
    assert len(once) == 5 ** len(union)  # every vector of totals R has a table of its own
    for owners in settings:
        times = 5 ** (sum(owners.values()) - len(union))
        assert summed_tables(owners) == dict.fromkeys(once, times)


def test_colluders_see_the_others_union_alone_behind_their_own_tables() -> None:
    for fixed in ({"a": 2}, {"a": 0}, {"a": 4, "c": 1}):
        seen = [summed_tables({"a": count, "b": 1}, fixed) for count in (1, 2, 3)]
        assert set(seen[0].values()) == {1}
        for times, more in ((5, seen[1]), (25, seen[2])):
            assert more == dict.fromkeys(seen[0], times)


def test_a_total_of_zero_comes_once_in_p_for_any_number_of_owners() -> None:
    without = set(summed_tables({"b": 1}))
    for owners in (1, 2, 3):
        seen = summed_tables({"a": owners, "b": 1})
        assert sum(count for table, count in seen.items() if table in without) * 5 == seen.total()


def test_an_entity_whose_total_is_zero_is_missing_without_a_trace() -> None:
    union, p = EntityUnion(4), SOLINAS31.modulus
    form = InvertibleTable(union.cells, SOLINAS31)
    rows = pseudonyms(GROUP, ["gone", "there"])
    tables = [
        form.filled(rows, torch.tensor(r, dtype=torch.int32), SALT) for r in ((7, 1), (p - 7, 1))
    ]
    assert union.peel(summed(tables), SALT).tolist() == as_rows(["there"])
