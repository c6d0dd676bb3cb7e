"""Shares, queries, masks and answers of SecEA against Python integers."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

import oracles
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.errors import ArgumentError, DecodeError, DtypeError, ThresholdError
from pyfed.secagg.secea_queries import NOTHING, EntityCode

SECRET = bytes(range(32))
# clients, blocks, privacy, dim
CODES = [(3, 1, 1, 1), (5, 1, 2, 3), (5, 2, 1, 3), (9, 2, 2, 5), (9, 3, 2, 7), (12, 3, 3, 4)]


def values(*shape: int, p: int, seed: int = 3) -> torch.Tensor:
    rng = random.Random(seed)
    count = 1
    for size in shape:
        count *= size
    extremes = [0, 1, p - 1]
    flat = [rng.choice(extremes) if i % 3 else rng.randrange(p) for i in range(count)]
    return torch.tensor(flat, dtype=torch.int32).reshape(shape)


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
@pytest.mark.parametrize(("clients", "blocks", "privacy", "dim"), CODES)
def test_a_query_is_a_lagrange_code_of_ones_and_zeros(
    clients: int, blocks: int, privacy: int, dim: int, field: Field
) -> None:
    code, p = EntityCode(clients, blocks, privacy, dim, field), field.modulus
    wanted, entities = [2, NOTHING, 0], 4
    seen = [code.query(wanted, entities, j, Key(SECRET)).tolist() for j in range(clients)]
    for row, column in itertools.product(range(3), range(entities)):
        at = row * entities + column
        where = {"purpose": oracles.PADDING}
        pads = [oracles.residue(SECRET, at, p, row=t, **where) for t in range(privacy)]
        data = [int(wanted[row] == column)] * blocks
        wish = oracles.encode_column(data, pads, clients, p)
        assert [seen[j][row][column] for j in range(clients)] == wish


def test_a_query_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    code = EntityCode(5, 1, 2, 3)
    wanted = [4, NOTHING, 0, 3, 1]
    whole = code.query(wanted, 7, 3, Key(SECRET))
    for chunk in (1, 7, 15, 20):
        monkeypatch.setattr("pyfed.secagg.secea_queries.CHUNK", chunk)
        assert torch.equal(code.query(wanted, 7, 3, Key(SECRET)), whole)


def python_read(answers: dict[int, list[int]], code: EntityCode, p: int) -> list[list[int]]:
    """Every column of the answers interpolated at every block point, with Python integers."""
    alphas, betas = oracles.points(p, code.sharing.shares, code.blocks)
    xs = [alphas[j] for j in answers]
    columns = zip(*answers.values(), strict=True)
    return [[oracles.interpolate(xs, list(ys), b, p) for b in betas] for ys in columns]


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
@pytest.mark.parametrize(("clients", "blocks", "privacy", "dim"), CODES)
def test_answers_decode_to_the_rows_that_were_asked_for(
    clients: int, blocks: int, privacy: int, dim: int, field: Field
) -> None:
    code, p, entities = EntityCode(clients, blocks, privacy, dim, field), field.modulus, 5
    owners = {0: ([0, 3], 2), 1: ([3], 1), 2: ([4, NOTHING, 3], 3)}
    shares = [torch.zeros(entities * code.width, dtype=torch.int64) for _ in range(clients)]
    table = [[0] * dim for _ in range(entities)]
    counts = [0] * entities
    for n, (positions, weight) in owners.items():
        own = values(len(positions), dim, p=p, seed=n)
        for position, row in zip(positions, own.tolist(), strict=True):
            if position != NOTHING:
                table[position] = [(a + b) % p for a, b in zip(table[position], row, strict=True)]
                counts[position] += weight
        dealt = code.share(code.laid_out(own, weight, positions, entities), Key(bytes([n] * 32)))
        shares = [(s + row) % p for s, row in zip(shares, dealt, strict=True)]
    wanted = [3, NOTHING, 1, 4]
    masks = [code.mask(len(wanted), Key(bytes([40 + i] * 32)), asker=7) for i in range(privacy + 1)]
    answers = {}
    for j in range(clients):
        query = code.query(wanted, entities, j, Key(SECRET))
        dealt = torch.stack([mask[j] for mask in masks])
        answers[j] = code.answer(query, shares[j].int(), dealt)
    wish = [[0] * dim if w == NOTHING else table[w] for w in wanted]
    counted = [0 if w == NOTHING else counts[w] for w in wanted]
    chosen = random.Random(1).sample(range(clients), code.threshold)
    for who in (chosen, list(range(clients))):
        sums, totals = code.read(torch.stack([answers[j] for j in who]), who)
        assert (sums.tolist(), totals) == (wish, counted)
    seen = python_read({j: answers[j].tolist() for j in chosen}, code, p)
    rows = [
        [value for column in seen[at : at + code.width] for value in column]
        for at in range(0, len(seen), code.width)
    ]
    assert [row[:dim] for row in rows] == wish
    assert [row[-blocks:] for row in rows] == [[count] * blocks for count in counted]


def test_an_answer_is_the_masked_product() -> None:
    code, p = EntityCode(5, 1, 2, 2), SOLINAS31.modulus
    query, shares, masks = (values(*shape, p=p) for shape in ((2, 3), (9,), (3, 6)))
    product = oracles.matmul(query.tolist(), shares.view(3, 3).tolist(), p)
    flat = [value for row in product for value in row]
    wish = [
        (a + sum(column)) % p
        for a, column in zip(flat, zip(*masks.tolist(), strict=True), strict=True)
    ]
    assert code.answer(query, shares, masks).tolist() == wish


def test_masks_vanish_on_the_data_points_and_differ_between_askers() -> None:
    code = EntityCode(9, 2, 2, 3)
    dealt = {asker: code.mask(2, Key(SECRET), asker) for asker in (0, 1)}
    for mask in dealt.values():
        assert not code.reading.decode(mask[:7], range(7)).any()
        assert mask.bool().all()  # no column is zero but with odds of 2^-31
    assert not (dealt[0] == dealt[1]).any()


def test_no_entities_are_an_empty_table() -> None:
    code = EntityCode(3, 1, 1, 2)
    table = code.laid_out(torch.empty(0, 2, dtype=torch.int32), 1, [], 0)
    assert code.share(table, Key(SECRET)).shape == (3, 0)
    query = code.query([NOTHING], 0, 1, Key(SECRET))
    mask = code.mask(1, Key(SECRET), 0)
    answers = [code.answer(query, table, row[None]) for row in mask]
    sums, totals = code.read(torch.stack(answers), range(3))
    assert (sums.tolist(), totals) == ([[0, 0]], [0])


def test_a_forged_row_is_noticed_when_all_answers_agree() -> None:
    code = EntityCode(5, 2, 1, 3)

    def answers(flat: list[int]) -> torch.Tensor:
        return code.reading.encode(torch.tensor(flat, dtype=torch.int32), Key(SECRET))

    sums, totals = code.read(answers([1, 2, 3, 0, 4, 4]), range(5))
    assert (sums.tolist(), totals) == ([[1, 2, 3]], [4])
    for forged in ([1, 2, 3, 1, 4, 4], [1, 2, 3, 0, 4, 5]):  # padding; symbols that differ
        with pytest.raises(DecodeError, match="no honest clients"):
            code.read(answers(forged), range(5))


def test_wrong_answers_are_named_and_repaired() -> None:
    code = EntityCode(7, 1, 2, 2)
    answers = code.reading.encode(torch.tensor([8, 9, 1], dtype=torch.int32), Key(SECRET))
    answers[3, 1] += 1
    with pytest.raises(DecodeError) as caught:
        code.read(answers, range(7))
    assert caught.value.rows == (3,)
    sums, totals = code.read(answers, range(7), correct=1)
    assert (sums.tolist(), totals) == ([[8, 9]], [1])
    with pytest.raises(ThresholdError):
        code.read(answers[:4], range(4))


def test_wrong_arguments_are_refused() -> None:
    code = EntityCode(5, 1, 2, 3)
    with pytest.raises(ArgumentError, match=r"2·blocks \+ 2·privacy - 1 = 7"):
        EntityCode(6, 2, 2, 3)
    with pytest.raises(ArgumentError, match=r"privacy is 0"):
        EntityCode(5, 1, 0, 3)
    with pytest.raises(ArgumentError, match=r"dim is 0"):
        EntityCode(5, 1, 1, 0)
    key = Key(SECRET)
    for positions in ([3], [-2]):
        with pytest.raises(ArgumentError, match=r"a position is"):
            code.query(positions, 3, 0, key)
    with pytest.raises(ArgumentError, match="more than once"):
        code.query([1, 1], 3, 0, key)
    with pytest.raises(ArgumentError, match="answerer is 5"):
        code.query([1], 3, 5, key)
    rows = torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ArgumentError, match=r"must be \(1, 3\)"):
        code.laid_out(rows, 1, [0], 3)
    with pytest.raises(ArgumentError, match="weight is -1"):
        code.laid_out(rows, -1, [0, 1], 3)
    with pytest.raises(DtypeError, match="residues has dtype"):
        code.laid_out(rows.float(), 1, [0, 1], 3)
