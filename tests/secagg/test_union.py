"""The union of entity sets: exact against Python's sets, and never a wrong one."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import oracles
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.errors import ArgumentError, DecodeError
from pyfed.ops import random_residues
from pyfed.secagg import LightSecAgg, simulate
from pyfed.secagg.bloom import InvertibleTable
from pyfed.secagg.union import EntityUnion, pseudonym, pseudonyms, union_salt
from secagg.rounds import SECRET
from secagg.unions import GROUP, SALT, as_rows, direct_table, hashes_of, summed, words_of

IDS = [
    0,
    1,
    255,
    256,
    -1,
    -128,
    -129,
    2**70,
    "0",
    "1",
    "",
    "ä",
    "\ud800",
    b"",
    b"1",
    b"\x00",
    b"s1",
]


@pytest.mark.parametrize("entity", IDS, ids=repr)
def test_a_pseudonym_is_the_mac_of_type_and_id(entity: Any) -> None:
    assert pseudonym(GROUP, entity) == words_of(entity)
    assert all(0 <= word < 2**30 for word in words_of(entity))


def test_pseudonyms_differ_between_ids_types_and_groups_and_keep_their_order() -> None:
    rows = pseudonyms(GROUP, IDS)
    assert rows.dtype == torch.int32
    assert rows.tolist() == [list(words_of(entity)) for entity in IDS]
    assert len({tuple(row) for row in rows.tolist()}) == len(IDS)
    assert not {*rows.flatten().tolist()} & {*pseudonyms(Key(bytes(32)), IDS).flatten().tolist()}
    assert pseudonyms(GROUP, []).shape == (0, 4)


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31])
@pytest.mark.parametrize("salt", [bytes(8), SALT, bytes(range(64))])
def test_a_table_is_as_written_in_python_integers(field: Field, salt: bytes) -> None:
    union = EntityUnion(most=20, field=field)
    assert (union.cells, union.length) == (78, 546)
    info = (5).to_bytes(4, "little") + b"union" + salt
    own = HKDF(algorithm=SHA256(), length=32, salt=b"pyfed/v1", info=info).derive(SECRET)
    wanted = [[0] * 7 for _ in range(78)]
    for at, words in enumerate(as_rows(IDS)):
        factor = oracles.residue(own, at, field.modulus)
        checks, places = hashes_of(tuple(words), salt, 78)
        assert len(set(places)) == 4
        for place in places:
            for column, value in enumerate([1, *words, *checks]):
                wanted[place][column] = (wanted[place][column] + factor * value) % field.modulus
    shuffled = random.Random(1).sample(IDS + IDS[:3], len(IDS) + 3)
    table = union.table(pseudonyms(GROUP, shuffled), salt, Key(SECRET))
    assert table.dtype == torch.int32
    assert table.view(78, 7).tolist() == wanted


def some_sets(clients: int, size: int, pool: int, seed: int) -> list[list[Any]]:
    """Overlapping sets of ids of every type, with ids that come twice."""
    rng = random.Random(seed)
    ids = [kind(i) for i in range(pool) for kind in (int, str, lambda i: str(i).encode())]
    sets = [rng.choices(ids, k=size) for _ in range(clients)]
    sets[seed % clients] = []
    return sets


SETTINGS: list[tuple[int, int, int, int, int, Field, dict[str, set[int]]]] = [
    (3, 1, 0, 1, 1, SOLINAS31, {}),
    (3, 1, 0, 10, 4, SOLINAS31, {}),
    (3, 1, 0, 10, 4, MERSENNE31, {}),
    (4, 1, 1, 30, 8, SOLINAS31, {}),
    (4, 1, 1, 30, 8, SOLINAS31, {"keys": {1}}),
    (4, 1, 1, 30, 8, SOLINAS31, {"share": {2}}),
    (4, 1, 1, 30, 8, SOLINAS31, {"upload": {3}}),
    (4, 1, 1, 30, 8, SOLINAS31, {"recover": {0}}),
    (4, 2, 0, 40, 9, MERSENNE31, {}),
    (5, 1, 2, 50, 12, SOLINAS31, {"upload": {0, 4}}),
    (5, 2, 1, 50, 12, SOLINAS31, {"recover": {4}}),
    (5, 1, 1, 1000, 300, SOLINAS31, {}),
    (6, 2, 1, 64, 15, SOLINAS31, {}),
    (6, 2, 2, 64, 15, MERSENNE31, {"share": {1}, "upload": {5}}),
    (7, 3, 2, 100, 20, SOLINAS31, {"keys": {0, 6}}),
    (7, 2, 3, 100, 20, SOLINAS31, {"upload": {1, 2, 3}}),
    (8, 1, 0, 100, 40, SOLINAS31, {}),
    (8, 5, 1, 100, 40, SOLINAS31, {"recover": {7}}),
    (10, 4, 4, 150, 30, SOLINAS31, {"upload": {0, 1}, "recover": {2, 3}}),
    (12, 5, 5, 100, 5, SOLINAS31, {"share": {0, 1, 2, 3, 4}}),
    (20, 5, 4, 200, 25, SOLINAS31, {"upload": {19}}),
    (9, 2, 1, 90, 60, MERSENNE31, {"upload": {8}}),
]


@pytest.mark.parametrize(
    ("clients", "privacy", "dropouts", "most", "size", "field", "drop"), SETTINGS
)
def test_the_union_is_that_of_pythons_sets_over_the_clients_in_the_sum(
    clients: int,
    privacy: int,
    dropouts: int,
    most: int,
    size: int,
    field: Field,
    drop: dict[str, set[int]],
) -> None:
    sets = some_sets(clients, size, max(1, most // 4), seed=clients + size)
    if most == 1:
        sets = [["one"], [], ["one"]]
    union = EntityUnion(most, field)
    keys = [Key(random.Random(f"key {i}").randbytes(32)) for i in range(clients)]
    for attempt in range(3):  # a peel fails in one of 1,000 settings; these need no second
        salt = union_salt(b"seed", attempt)
        tables = [
            union.table(pseudonyms(GROUP, own), salt, key)
            for own, key in zip(sets, keys, strict=True)
        ]
        agreed = LightSecAgg(
            clients, privacy, dropouts, length=union.length, fixed=union.encoding(clients, salt)
        )
        result = simulate(agreed, tables, drop=drop, key=Key(SECRET))
        try:
            found = union.peel(result.residues, salt)
            break
        except DecodeError:
            continue
    outside = set().union(*(drop.get(phase, set()) for phase in ("keys", "share", "upload")))
    assert result.included == set(range(clients)) - outside
    wanted = set().union(*(set(sets[i]) for i in result.included))
    assert found.dtype == torch.int32
    assert found.tolist() == as_rows(wanted)
    assert result.integers.tolist() == result.residues.tolist()


def test_cells_are_one_and_a_half_for_each_entity_and_48() -> None:
    found = [EntityUnion(most).cells for most in (1, 2, 3, 10, 1_000, 15_000)]
    assert found == [50, 51, 53, 63, 1_548, 22_548]


@pytest.mark.parametrize("modulus", [8_191, 65_537, 998_244_353])
def test_unions_in_other_fields_have_their_words_below_the_prime(modulus: int) -> None:
    union = EntityUnion(12, Field("other", modulus))
    rng = random.Random(modulus)
    rows = [[rng.randrange(modulus) for _ in range(4)] for _ in range(12)]
    tables = [
        union.table(torch.tensor(own, dtype=torch.int32), SALT, Key(rng.randbytes(32)))
        for own in (rows[:8], rows[4:], rows[:1])
    ]
    assert union.peel(summed(tables, union.field), SALT).tolist() == sorted(rows)
    with pytest.raises(ArgumentError, match=rf"word outside \[0, {modulus}\)"):
        union.table(torch.tensor([[0, 0, modulus, 0]], dtype=torch.int32), SALT, GROUP)


def test_factors_and_all_that_holds_them_are_overwritten(monkeypatch: Any) -> None:
    keys: list[Key] = []
    secrets: list[torch.Tensor] = []
    multiples, add = InvertibleTable._multiples, InvertibleTable._add

    def drawn(key: Key, *rest: Any) -> torch.Tensor:
        keys.append(key)
        secrets.append(random_residues(key, *rest))
        return secrets[-1]

    def multiplied(self: Any, factors: torch.Tensor, *rest: Any) -> torch.Tensor:
        secrets.extend([factors, multiples(self, factors, *rest)])
        assert factors.any()
        return secrets[-1]

    def added(self: Any, table: torch.Tensor, *rest: Any) -> torch.Tensor:
        secrets.append(table)
        return add(self, table, *rest)

    monkeypatch.setattr("pyfed.secagg.union.random_residues", drawn)
    monkeypatch.setattr(InvertibleTable, "_multiples", multiplied)
    monkeypatch.setattr(InvertibleTable, "_add", added)
    assert EntityUnion(1).table(pseudonyms(GROUP, ["one"]), SALT, Key(SECRET)).any()
    assert [key.reveal() for key in keys] == [bytes(32)]
    assert [bool(secret.any()) for secret in secrets] == [False] * 4


def test_no_entities_at_all_are_an_empty_union() -> None:
    union = EntityUnion(5)
    table = direct_table(union, [[], [], []])
    assert not table.any()
    assert union.peel(table, SALT).shape == (0, 4)


@pytest.mark.parametrize("owners", range(1, 9))
def test_an_entity_counts_once_for_any_number_of_owners(owners: int) -> None:
    union = EntityUnion(4)
    table = direct_table(union, [["shared"]] * owners + [["other"]] * (8 - owners))
    wanted = {"shared"} if owners == 8 else {"shared", "other"}
    assert union.peel(table, SALT).tolist() == as_rows(wanted)


def test_fifteen_thousand_entities_peel() -> None:
    union = EntityUnion(15_000)
    table = direct_table(union, [range(10_000), range(5_000, 15_000)])
    assert union.peel(table, SALT).tolist() == as_rows(range(15_000))


def peels(most: int, count: int, trials: int) -> tuple[int, int]:
    """(right unions, failures that were noticed) of tables made for ``most`` with ``count``."""
    union = EntityUnion(most)
    rng, good, bad = random.Random(most), 0, 0
    form = InvertibleTable(union.cells, SOLINAS31)
    for _ in range(trials):
        rows = torch.tensor([[rng.randrange(2**30) for _ in range(4)] for _ in range(count)])
        factors = torch.tensor([rng.randrange(1, SOLINAS31.modulus) for _ in range(count)])
        salt = rng.randbytes(16)
        table = form.filled(rows.to(torch.int32), factors.to(torch.int32), salt)
        try:
            found = union.peel(table, salt)
        except DecodeError:
            bad += 1
        else:
            good += found.tolist() == sorted(rows.tolist())
    return good, bad


@pytest.mark.parametrize(
    ("most", "trials"),
    [
        *[(1, 100), (10, 600), (100, 40)],
        pytest.param(10, 20_000, marks=pytest.mark.slow),
        pytest.param(1_000, 1_500, marks=pytest.mark.slow),
    ],
)
def test_full_tables_peel_but_for_one_in_a_thousand(most: int, trials: int) -> None:
    good, bad = peels(most, most, trials)
    assert good + bad == trials
    # 19 of 20,000 at M = 10: two entities meet in four parts of 15.75 cells with 45 / 15.75^4.
    assert bad <= 3 + 2 * trials // 1000


def test_a_table_that_is_too_small_fails_aloud_and_is_never_a_wrong_union(monkeypatch: Any) -> None:
    monkeypatch.setattr(EntityUnion, "cells", 40)
    good, bad = peels(30, 30, 200)
    assert good + bad == 200
    assert bad > 20
    assert good > 20


def test_another_salt_makes_a_stuck_table_peel(monkeypatch: Any) -> None:
    monkeypatch.setattr(EntityUnion, "cells", 40)
    union, ids = EntityUnion(30), range(30)
    outcomes = set()
    for attempt in range(20):
        salt = union_salt(b"seed", attempt)
        table = direct_table(union, [ids, ids], salt)
        try:
            assert union.peel(table, salt).tolist() == as_rows(ids)
            outcomes.add("peeled")
        except DecodeError as error:
            assert "start again with another salt" in str(error)
            outcomes.add("stuck")
    assert outcomes == {"peeled", "stuck"}


def test_salts_and_factors_change_with_every_attempt() -> None:
    salts = {union_salt(seed, attempt) for seed in (b"", b"a") for attempt in range(4)}
    assert len(salts) == 8
    packed = b"pyfed/v1/union-salt" + (1).to_bytes(4, "little") + b"a" + (3).to_bytes(8, "little")
    assert union_salt(b"a", 3) == hashlib.sha256(packed).digest()
    union, own = EntityUnion(1), pseudonyms(GROUP, ["one"])
    tables = [union.table(own, salt, Key(SECRET)).view(-1, 7) for salt in sorted(salts)]
    assert len({int(table[:, 0].max()) for table in tables}) == 8
