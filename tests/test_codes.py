"""LagrangeCode: exact decoding from any threshold shares, privacy."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import pyfed.ops.lagrange as lagrange_ops
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, Key, LagrangeCode
from pyfed.ops import field_sum, lagrange_decode, random_residues

KEY = Key(bytes(range(32)))
FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)


def vector(length: int, p: int, seed: int = 1) -> torch.Tensor:
    values = [(seed + i) * 987654321987 % p if i % 3 else p - 1 for i in range(length)]
    return torch.tensor(values, dtype=torch.int32)


@FIELDS
@pytest.mark.parametrize(("shares", "blocks", "privacy"), [(6, 1, 0), (6, 2, 2), (7, 4, 1)])
def test_any_threshold_shares_decode_in_any_order(
    shares: int, blocks: int, privacy: int, field: Field
) -> None:
    code = LagrangeCode(shares, blocks, privacy, field)
    data = vector(2 * blocks + 1, field.modulus)
    encoded = code.encode(data, KEY)
    for count in range(code.threshold, shares + 1):
        for chosen in itertools.combinations(range(shares), count):
            order = chosen[::-1] if sum(chosen) % 2 else chosen
            assert torch.equal(code.decode(encoded[list(order)], order, len(data)), data)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_random_codes_decode_and_match_the_integer_oracle(draw: st.DataObject) -> None:
    field = draw.draw(st.sampled_from([SOLINAS31, MERSENNE31, Field("tiny", 61)]))
    p = field.modulus
    shares = draw.draw(st.integers(1, 12))
    blocks = draw.draw(st.integers(1, shares))
    privacy = draw.draw(st.integers(0, shares - blocks))
    elements = st.one_of(st.integers(0, p - 1), st.sampled_from([0, 1, p - 1]))
    data = draw.draw(st.lists(elements, max_size=12))
    stream, start = draw.draw(st.integers(0, 2**32 - 1)), draw.draw(st.integers(0, 2**36 - 12))
    code = LagrangeCode(shares, blocks, privacy, field)
    encoded = code.encode(torch.tensor(data, dtype=torch.int32), KEY, stream, start)
    where = shares, blocks, privacy, stream, start
    assert encoded.tolist() == oracles.encode(data, KEY.reveal(), p, *where)
    count = draw.draw(st.integers(code.threshold, shares))
    chosen = draw.draw(st.permutations(range(shares)))[:count]
    assert code.decode(encoded[chosen], chosen, len(data)).tolist() == data


def every_column(p: int, blocks: int, privacy: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(p), repeat=blocks + privacy))


def shares_of_all(
    code: LagrangeCode, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[int, ...], list[list[int]]]:
    """For every data column, its shares under every choice of the random residues."""
    k, columns = code.blocks, every_column(code.field.modulus, code.blocks, code.privacy)
    noise = torch.tensor(columns)[:, k:].t()

    def chosen(key: object, start: int, count: int, row: int, *rest: int) -> torch.Tensor:
        return noise[row]

    monkeypatch.setattr(lagrange_ops, "residues_reference", chosen)
    data = torch.tensor(columns, dtype=torch.int32)[:, :k].reshape(-1)
    shares = code.encode(data, KEY).t().tolist()
    found: dict[tuple[int, ...], list[list[int]]] = {}
    for column, share in zip(columns, shares, strict=True):
        found.setdefault(column[:k], []).append(share)
    return found


def seen_by(
    found: dict[tuple[int, ...], list[list[int]]], coalition: tuple[int, ...]
) -> list[Counter[tuple[int, ...]]]:
    """For every data column, how often a coalition sees each tuple of shares."""
    return [Counter(tuple(s[j] for j in coalition) for s in rows) for rows in found.values()]


@pytest.mark.parametrize(
    ("p", "shares", "blocks", "privacy"),
    [(11, 4, 1, 1), (11, 5, 2, 1), (7, 4, 2, 2), (11, 5, 1, 2), (5, 3, 1, 2), (7, 3, 1, 0)],
)
def test_privacy_shares_are_uniform_whatever_the_data_and_one_more_leaks(
    p: int, shares: int, blocks: int, privacy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = LagrangeCode(shares, blocks, privacy, Field("tiny", p))
    found = shares_of_all(code, monkeypatch)
    assert len(found) == p**blocks
    for coalition in itertools.combinations(range(shares), privacy):
        for views in seen_by(found, coalition):
            assert len(views) == p**privacy and set(views.values()) == {1}
    for coalition in itertools.combinations(range(shares), privacy + 1):
        views = seen_by(found, coalition)
        assert any(view != views[0] for view in views)


def test_the_privacy_check_notices_a_share_that_is_a_data_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: a share point that meets a block point shows the block."""
    code = LagrangeCode(4, 1, 1, Field("tiny", 11))
    matrix = code.encoding_matrix().clone()
    matrix[2] = torch.tensor([1, 0], dtype=torch.int32)  # Z vanishes at block points
    monkeypatch.setattr(code, "encoding_matrix", lambda device: matrix)
    found = shares_of_all(code, monkeypatch)
    uniform = [all(set(v.values()) == {1} for v in seen_by(found, (j,))) for j in range(4)]
    assert uniform == [True, True, False, True]


@FIELDS
@pytest.mark.parametrize(
    ("blocks", "privacy"), [(1, 1), (3, 2), (4, 4), (5, 6), (1, 11), (8, 4), (12, 0), (2, 5)]
)
def test_every_privacy_and_every_threshold_minor_is_nonzero(
    blocks: int, privacy: int, field: Field
) -> None:
    from flint import nmod_mat

    matrix = LagrangeCode(12, blocks, privacy, field).encoding_matrix().tolist()
    for columns, size in ((slice(blocks, None), privacy), (slice(None), blocks + privacy)):
        for rows in itertools.combinations(range(12), size):
            minor = [x for j in rows for x in matrix[j][columns]]
            assert not size or int(nmod_mat(size, size, minor, field.modulus).det())


@FIELDS
def test_codes_with_more_shares_have_the_same_first_ones(field: Field) -> None:
    data = vector(23, field.modulus)
    largest = LagrangeCode(40, 3, 2, field).encode(data, KEY)
    for shares in (5, 8, 17, 39):
        assert torch.equal(LagrangeCode(shares, 3, 2, field).encode(data, KEY), largest[:shares])


@FIELDS
def test_sums_of_shares_are_shares_of_sums(field: Field) -> None:
    code, weights = LagrangeCode(7, 3, 2, field), [5, 2**40, 1]
    data = torch.stack([vector(20, field.modulus, seed) for seed in (1, 2, 3)])
    encoded = torch.stack([code.encode(row, KEY, stream=i) for i, row in enumerate(data)])
    total = field_sum(encoded, field, weights)
    wanted = field_sum(data, field, weights)
    for chosen in itertools.combinations(range(7), 5):
        assert torch.equal(code.decode(total[list(chosen)], chosen, 20), wanted)


@FIELDS
def test_pieces_of_whole_columns_equal_the_whole(field: Field) -> None:
    code, data = LagrangeCode(6, 4, 2, field), vector(50, field.modulus)
    whole = code.encode(data, KEY, stream=3, start_column=100)
    for cut in (1, 5, 12):
        head = code.encode(data[: 4 * cut], KEY, stream=3, start_column=100)
        tail = code.encode(data[4 * cut :], KEY, stream=3, start_column=100 + cut)
        assert torch.equal(torch.cat([head, tail], dim=1), whole)


def test_streams_and_keys_give_other_shares_of_the_same_data() -> None:
    code, data = LagrangeCode(4, 2, 1), vector(8, SOLINAS31.modulus)
    kinds = [code.encode(data, KEY), code.encode(data, KEY, stream=1), code.encode(data)]
    kinds += [code.encode(data), code.encode(data, KEY, start_column=1)]
    for a, b in itertools.combinations(kinds, 2):
        assert not (a == b).all(dim=1).any()
    for shares in kinds:
        assert torch.equal(code.decode(shares[1:], [1, 2, 3]), data)


@FIELDS
@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_short_and_empty_vectors_round_trip(length: int, field: Field) -> None:
    code, data = LagrangeCode(5, 3, 1, field), vector(length, field.modulus)
    encoded = code.encode(data, KEY)
    assert encoded.shape == (5, -(-length // 3))
    assert torch.equal(code.decode(encoded[1:], [1, 2, 3, 4], length), data)


@FIELDS
def test_4096_shares_are_distinct_points_and_decode(field: Field) -> None:
    code = LagrangeCode(4096, 3, 2, field)
    assert len({*field.share_points(4096), *field.block_points(4096)}) == 8192
    data = vector(6, field.modulus)
    encoded = code.encode(data, KEY)
    for chosen in ([4095, 0, 2047, 1, 4094], [4091, 4092, 4093, 4094, 4095]):
        assert torch.equal(code.decode(encoded[chosen], chosen), data)
    alphas, _ = oracles.points(field.modulus, 4096, 3)
    assert field.share_points(4096) == alphas


def test_many_survivor_sets_do_not_fill_the_memory() -> None:
    code = LagrangeCode(10, 2, 1)
    encoded = code.encode(vector(4, SOLINAS31.modulus), KEY)
    for chosen in itertools.combinations(range(10), 3):
        code.decode(encoded[list(chosen)], chosen)
    assert len(code._matrices) <= 18


@pytest.mark.parametrize("field", [SOLINAS31, WIDE])
def test_the_decoding_matrix_decodes_and_belongs_to_the_caller(field: Field) -> None:
    code, chosen = LagrangeCode(6, 3, 1, field), (5, 0, 3, 1)
    data = random_residues(KEY, 12, field)
    rows = code.encode(data, KEY)[..., chosen, :]
    matrix = code.decoding_matrix(chosen)
    assert torch.equal(lagrange_decode(rows, matrix, field, 12), data)
    matrix.zero_()  # a copy: decoding goes on
    assert torch.equal(code.decode(rows, chosen, 12), data)
