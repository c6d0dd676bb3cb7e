"""Every pattern of wrong rows of small codes, and many of a large one, against other decoders."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch

import welch_berlekamp
from pyfed import MERSENNE31, SOLINAS31, Field, Key, LagrangeCode
from pyfed.errors import ArgumentError, DecodeError
from pyfed.locate import gao_errors

KEY = Key(bytes(range(32)))


def vector(length: int, p: int) -> torch.Tensor:
    values = [i * 987654321987 % p if i % 3 else p - 1 for i in range(length)]
    return torch.tensor(values, dtype=torch.int32)


def with_one_wrong_value_each(
    rows: torch.Tensor, wrong: tuple[int, ...], p: int, rng: random.Random
) -> torch.Tensor:
    """One coordinate of each of these rows changed by something that is not zero."""
    bad = rows.clone()
    for row in wrong:
        column = rng.randrange(rows.shape[1])
        bad[row, column] = (int(bad[row, column]) + rng.randrange(1, p)) % p
    return bad


def test_a_bad_residue_is_told_with_its_place_in_the_rows() -> None:
    """Long rows are combined in pieces."""
    code = LagrangeCode(64, 20, 12)
    rows = torch.zeros(64, 10_000, dtype=torch.int32)
    rows[3, 9000] = -1
    told = r": in rows 1 of 640000 elements .* -1 at index \(3, 9000\)"
    with pytest.raises(ArgumentError, match="LagrangeCode.find_errors" + told):
        code.find_errors(rows, range(64))
    for some in (range(64), [3, *range(5, 64)]):
        with pytest.raises(ArgumentError, match=r"LagrangeCode\.decode: in rows 1 of .*, 9000"):
            code.decode(rows[list(some)], list(some))
    with pytest.raises(ArgumentError, match=r"LagrangeCode\.decode: in rows 1 of .*, 9000"):
        code.repair(rows[3:35], range(3, 35))


def test_what_is_wrong_is_told_as_far_as_it_is_known() -> None:
    code = LagrangeCode(8, 2, 2)
    rows = code.encode(vector(10, SOLINAS31.modulus), KEY)
    for count in (1, 2, 3):
        bad = rows.clone()
        bad[:count] += 1
        named = list(range(count))
        if count <= 2:
            told = rf"unless more than 2 are wrong, those are \{named}, which correct={count}"
            data, wrong = code.repair(bad, range(8), correct=count)
            assert list(wrong) == named
            assert torch.equal(data, code.decode(rows, range(8)))
        else:
            told = "more than 2 of them are wrong, so which ones cannot be told"
            with pytest.raises(DecodeError, match="find_errors: .*" + told):
                code.find_errors(bad, range(8))
        with pytest.raises(DecodeError, match="LagrangeCode.decode: the 8 rows .*" + told):
            code.decode(bad, range(8))


def codes(n: int, field: Field) -> Iterator[LagrangeCode]:
    """All codes of n rows."""
    for threshold in range(1, n + 1):
        for privacy in range(threshold):
            yield LagrangeCode(n, threshold - privacy, privacy, field)


@pytest.mark.parametrize("n", range(2, 9))
@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
def test_every_pattern_of_half_the_spare_rows_is_named_and_repaired(n: int, field: Field) -> None:
    rng, patterns = random.Random(n), 0
    for code in codes(n, field):
        data = vector(2 * code.blocks + 1, field.modulus)  # an unfilled last column
        rows = code.encode(data, KEY)
        for count in range((n - code.threshold) // 2 + 1):
            for wrong in itertools.combinations(range(n), count):
                bad = with_one_wrong_value_each(rows, wrong, field.modulus, rng)
                assert code.find_errors(bad, range(n)) == wrong
                repaired = code.decode(bad, range(n), data.numel(), correct=count)
                assert torch.equal(repaired, data)
                patterns += 1
    spare = [r * sum(1 for _ in patterns_up_to(n, (n - r) // 2)) for r in range(1, n + 1)]
    assert patterns == sum(spare)


def patterns_up_to(n: int, most: int) -> Iterator[tuple[int, ...]]:
    for count in range(most + 1):
        yield from itertools.combinations(range(n), count)


@pytest.mark.parametrize("n", range(2, 9))
def test_every_pattern_of_the_spare_rows_is_noticed(n: int) -> None:
    p, rng = SOLINAS31.modulus, random.Random(n)
    for code in codes(n, SOLINAS31):
        rows = code.encode(vector(2 * code.blocks, p), KEY)
        for wrong in patterns_up_to(n, n - code.threshold):
            bad = with_one_wrong_value_each(rows, wrong, p, rng)
            if not wrong:
                code.decode(bad, range(n))
                continue
            with pytest.raises(DecodeError) as caught:
                code.decode(bad, range(n))
            told = 2 * len(wrong) <= n - code.threshold
            assert caught.value.rows == (wrong if told else ())


@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_patterns_of_single_values_among_64_rows_are_named(seed: int) -> None:
    p, rng, n = SOLINAS31.modulus, random.Random(seed), 64
    made: dict[int, tuple[LagrangeCode, torch.Tensor]] = {}
    for number in range(250):
        threshold = rng.choice((1, 8, 32, 47, 60, 62))
        if threshold not in made:
            code = LagrangeCode(n, threshold - threshold // 2, threshold // 2)
            made[threshold] = code, code.encode(vector(10 * code.blocks, p), KEY)
        code, rows = made[threshold]
        most = (n - threshold) // 2
        count = 1 if number % 2 else rng.randint(1, most)
        wrong = tuple(sorted(rng.sample(range(n), count)))
        bad = with_one_wrong_value_each(rows, wrong, p, rng)
        assert code.find_errors(bad, range(n)) == wrong


def test_named_rows_are_those_of_another_decoder_column_by_column() -> None:
    """Random rows, right ones or wrong ones beyond any bound too."""
    field, rng = Field("small", 103), random.Random(3)
    named = refused = 0
    for _ in range(300):
        n = rng.randint(3, 9)
        threshold = rng.randint(1, n - 1)
        code = LagrangeCode(12, threshold, 0, field)
        chosen = rng.sample(range(12), n)
        xs = [field.share_points(12)[i] for i in chosen]
        rows = code.encode(vector(3 * threshold, field.modulus), KEY)[chosen]
        wrong = tuple(sorted(rng.sample(range(n), rng.randint(0, n))))
        bad = with_one_wrong_value_each(rows, wrong, field.modulus, rng)
        most = (n - threshold) // 2
        columns = [
            welch_berlekamp.errors(xs, ys, threshold, most, field.modulus)
            for ys in bad.t().tolist()
        ]
        if any(found is None for found in columns):
            wanted = None
        else:
            union = set().union(*(found for found in columns if found is not None))
            wanted = union if len(union) <= most else None
        try:
            found = code.find_errors(bad, chosen)
        except DecodeError as error:
            refused += 1
            assert error.rows == ()
            assert wanted is None
        else:
            named += bool(found)
            # Columns that all leave a word of their own may still sum up to one.
            assert wanted is not None and found == tuple(sorted(chosen[i] for i in wanted))
    assert named > 30 and refused > 30


@pytest.mark.parametrize("p", [11, 13, 101, SOLINAS31.modulus])
def test_gao_and_welch_berlekamp_agree_on_any_word(p: int) -> None:
    rng, answers = random.Random(p), set()
    for _ in range(400):
        n = rng.randint(1, 9)
        threshold = rng.randint(1, n)
        xs = rng.sample(range(p if p < 1000 else 1000), n)
        poly = [rng.randrange(p) for _ in range(threshold)]
        ys = [welch_berlekamp.value(poly, x, p) for x in xs]
        for i in rng.sample(range(n), rng.randint(0, n)):
            ys[i] = rng.randrange(p)
        most = rng.randint(0, (n - threshold) // 2)
        wanted = welch_berlekamp.errors(xs, ys, threshold, most, p)
        assert gao_errors(torch.tensor(xs), torch.tensor(ys), threshold, most, p) == wanted
        answers.add(None if wanted is None else len(wanted))
    assert {None, 0, 1, 2} <= answers


def test_forgers_beyond_the_bound_make_a_word_of_their_own() -> None:
    """Documented, not promised against: nobody can tell such a word from an honest one."""
    code, p = LagrangeCode(8, 2, 2), SOLINAS31.modulus
    data, other = vector(8, p), vector(8, p).flip(0).contiguous()
    honest, forged = code.encode(data, KEY), code.encode(other, KEY.derive("other"))
    for liars in range(9):
        rows = torch.cat([forged[:liars], honest[liars:]])
        if liars == 0 or liars == 8:  # all of them
            assert code.find_errors(rows, range(8)) == ()
        elif liars <= 2 or liars >= 6:  # the minority is named, honest or not
            wanted = tuple(range(liars)) if liars <= 2 else tuple(range(liars, 8))
            assert code.find_errors(rows, range(8)) == wanted
            repaired = code.decode(rows, range(8), 8, correct=2)
            assert torch.equal(repaired, data if liars <= 2 else other)
        else:
            with pytest.raises(DecodeError) as caught:
                code.decode(rows, range(8), 8, correct=2)
            assert caught.value.rows == ()
    # Detect-only: n - threshold = 4 liars are always noticed, and 5 make a word with one "error",
    # for which decode(correct=1) would leave out an honest row.
    rows = torch.cat([forged[:7], honest[7:]])
    assert torch.equal(code.decode(rows, range(8), 8, correct=1), other)
    with pytest.raises(DecodeError) as caught:
        code.decode(rows, range(8), 8)
    assert caught.value.rows == (7,)


@pytest.mark.parametrize("correct", [0, 1, 2])
def test_detection_reaches_the_spare_rows_less_the_repaired(correct: int) -> None:
    """The worst word: liars who agree on a forgery, and honest rows that fit it by chance."""
    code, p = LagrangeCode(8, 2, 2), SOLINAS31.modulus
    data = vector(8, p)
    rows = code.encode(data, KEY)
    # A word of the code that vanishes at rows 0, 1, 2: the furthest that a forgery can be alike.
    xs = SOLINAS31.share_points(8)
    zero = [(x - xs[0]) * (x - xs[1]) * (x - xs[2]) % p for x in xs]
    assert [bool(z) for z in zero] == [False] * 3 + [True] * 5
    for liars in range(1, 6):
        bad = rows.clone()
        for row in range(3, 3 + liars):
            bad[row] = (bad[row].to(torch.int64) + zero[row]).remainder(p).to(torch.int32)
        try:
            decoded = code.decode(bad, range(8), 8, correct=correct)
        except DecodeError:
            noticed = True
        else:
            noticed = torch.equal(decoded, data)
        assert noticed == (liars <= 4 - correct or liars <= correct)
