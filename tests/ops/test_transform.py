"""Shares by number-theoretic transforms: every small code, bounds, cuts, bad values."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
import torch

import oracles
import pyfed
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, FixedPoint, Key, LagrangeCode, native
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import lagrange_encode
from pyfed.ops.encode_kind import encode_kind
from runs import simd_level
from transforms import BOTH, EVERY_LEVEL, KEY, SECOND, by_products, by_transforms, drawn

if native._C is None:
    pytest.skip("needs the compiled kernels", allow_module_level=True)

VECTORS = Path(__file__).parents[1] / "vectors"


def every_code(largest: int) -> list[tuple[int, int, int]]:
    """All (N, K, T) with N up to ``largest``."""
    sizes = range(1, largest + 1)
    return [(n, k, t) for n in sizes for k in range(1, n + 1) for t in range(n - k + 1)]


@EVERY_LEVEL
@BOTH
def test_every_small_code_equals_python_integers(simd: str, field: Field) -> None:
    p = field.modulus
    for number, shape in enumerate(every_code(6)):
        code = LagrangeCode(*shape, field)
        data = [p - 1 if i % 3 else (i + number) * 987654321987 % p for i in range(2 * shape[1])]
        start = (0, 13, 2**36 - 2)[number % 3]
        with simd_level(simd):
            got = by_transforms(torch.tensor(data, dtype=torch.int32), code, 3, start)
        assert got.tolist() == oracles.encode(data, KEY.reveal(), p, *shape, 3, start), code


@pytest.mark.parametrize(("shares", "blocks", "privacy"), [(37, 21, 12), (65, 63, 2), (64, 32, 16)])
@EVERY_LEVEL
def test_the_largest_residues_never_overflow(
    simd: str, shares: int, blocks: int, privacy: int
) -> None:
    """A column of blocks p - 1; and one whose blocks are 0 but for one p - 1, so is no constant."""
    p, code = SOLINAS31.modulus, LagrangeCode(shares, blocks, privacy)
    spike = [p - 1 if i == blocks - 1 else 0 for i in range(blocks)]
    data = [p - 1] * blocks + spike
    with simd_level(simd):
        got = by_transforms(torch.tensor(data, dtype=torch.int32), code)
    for column, own in enumerate((data[:blocks], spike)):
        rows = range(privacy)
        pads = [oracles.residue(KEY.reveal(), column, p, row=t, purpose=3) for t in rows]
        assert got[:, column].tolist() == oracles.encode_column(own, pads, shares, p)


def large_codes() -> list[tuple[int, int, int]]:
    """Sizes on both sides of every power of two up to 1024, and others."""
    rng, found = random.Random(7), [(1, 1, 0), (4096, 3, 2), (1025, 1, 1), (1000, 511, 300)]
    for size in (8, 16, 32, 64, 128, 256):
        for shares in (size - 1, size, size + 1):
            blocks = rng.choice((1, size // 2, size // 2 + 1, rng.randrange(1, shares)))
            found.append((shares, blocks, rng.randrange(shares - blocks + 1)))
        found.append((size, size, 0))
    return found


@EVERY_LEVEL
@BOTH
def test_large_codes_equal_products(simd: str, field: Field) -> None:
    with simd_level(simd):
        for number, shape in enumerate(large_codes()):
            code = LagrangeCode(*shape, field)
            length = (1, 17, 33)[number % 3] * shape[1] - number % 2 * (shape[1] // 2)
            data = drawn(field.modulus, length, number)
            data[::4] = field.modulus - 1
            where = number, number * 7
            assert torch.equal(by_transforms(data, code, *where), by_products(data, code, *where))


@pytest.mark.parametrize("threads", [1, 2])
@EVERY_LEVEL
def test_every_length_and_first_column_gives_the_columns_of_the_whole(
    simd: str, threads: int
) -> None:
    """However columns are cut: within vectors, blocks and panels, in both threads, streamed."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with simd_level(simd):
            code = LagrangeCode(11, 6, 3)
            whole = drawn(SOLINAS31.modulus, 6 * 1100)
            wanted = by_products(whole, code, 5, 100)
            for first, count in itertools.product((0, 1, 15, 28, 300), (1, 3, 16, 255, 257, 789)):
                part = whole[6 * first : 6 * (first + count) - 1]
                got = by_transforms(part, code, 5, 100 + first)
                assert torch.equal(got[:, :-1], wanted[:, first : first + count - 1])
            code = LagrangeCode(33, 2, 3)
            data = drawn(SOLINAS31.modulus, 2 * 33_001)
            assert torch.equal(by_transforms(data, code, 0, 3), by_products(data, code, 0, 3))
    finally:
        torch.set_num_threads(before)


@EVERY_LEVEL
def test_rejected_candidates_are_replaced_in_both_streams(simd: str) -> None:
    vector = json.loads((VECTORS / "residue_rejections.json").read_text())
    key = Key(bytes.fromhex(vector["key_hex"]))
    fixed = FixedPoint()
    cases = [f for f in vector["found"] if f["purpose"] == 3 and f["field"] == "SOLINAS31"]
    assert cases
    for answer in cases:
        code = LagrangeCode(5, 1, answer["row"] + 2)
        for before in (0, 9, 17):
            where = vector["stream"], answer["index"] - before
            data = drawn(SOLINAS31.modulus, 40)
            pads = [[0] * 40 for _ in range(code.privacy)]
            for row, column in itertools.product(range(code.privacy), range(40)):
                how = {"row": row, "stream": where[0], "purpose": 3}
                pads[row][column] = oracles.residue(
                    key.reveal(), where[1] + column, SOLINAS31.modulus, **how
                )
            assert pads[answer["row"]][before] == answer["value"]
            columns = [
                oracles.encode_column(
                    [int(data[c])], [row[c] for row in pads], 5, code.field.modulus
                )
                for c in range(40)
            ]
            with simd_level(simd):
                assert code.encode(data, key, *where).t().tolist() == columns
                floats = torch.randn(40)
                rounded = fixed.encode(floats, key, stream=where[0], start=where[1])
                got = code.encode(floats, key, *where, fixed=fixed)
                assert torch.equal(got, code.encode(rounded, key, *where))


@EVERY_LEVEL
@pytest.mark.parametrize("shape", [(16, 8, 4), (20, 11, 5), (300, 260, 9), (1, 1, 0)], ids=str)
@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31, WIDE], ids=lambda f: f.name)
def test_one_pass_equals_two(simd: str, shape: tuple[int, int, int], field: Field) -> None:
    code, fixed = LagrangeCode(*shape, field), FixedPoint(clip=0.9, bits=20, field=field)
    with simd_level(simd):
        for columns, start in ((1, 0), (70, 5), (300 // code.blocks, 16)):
            values = torch.randn(columns * code.blocks - code.blocks // 3)
            rounded = fixed.encode(values, KEY, stream=9, start=start * code.blocks)
            wanted = code.encode(rounded, KEY, 9, start)
            assert torch.equal(code.encode(values, KEY, 9, start, fixed=fixed), wanted)


@EVERY_LEVEL
def test_the_largest_steps_never_overflow(simd: str) -> None:
    """Values at the clip, whose steps are 2^30 - 2^20, and noise that rounds up and down."""
    clip = float(2**30 - 2**20)
    values = torch.tensor([clip, -clip, 3e38, -3e38, clip - 64, 0.0] * 50)
    for field in (SOLINAS31, MERSENNE31, SECOND):
        p, code = field.modulus, LagrangeCode(3, 2, 0, field)
        steps = oracles.quantize(values.tolist(), 1.0, clip, p, KEY.reveal())
        with simd_level(simd):
            matrix = torch.eye(2, dtype=torch.int32)
            got = pyfed.ops.quantize_encode(values, 1.0, clip, matrix, KEY, field, 2)
            assert got.t().reshape(-1).tolist() == steps
            rows = pyfed.ops.quantize_encode(
                *(values, 1.0, clip, code.encoding_matrix(), KEY, field, 2), standard=True
            )
            assert code.decode(rows, range(3)).tolist() == steps


@EVERY_LEVEL
@pytest.mark.parametrize("place", [0, 15, 16, 127, 400, 801, 802])
def test_bad_values_are_told_wherever_they_are(simd: str, place: int) -> None:
    code, fixed = LagrangeCode(9, 4, 2), FixedPoint()
    with simd_level(simd):
        for value in (SOLINAS31.modulus, -1):
            data = drawn(SOLINAS31.modulus, 803)
            data[place] = value
            with pytest.raises(ArgumentError, match=r"in data 1 of 803 elements are outside"):
                code.encode(data, KEY)
        for value in (float("nan"), float("inf"), -float("inf")):
            values = torch.zeros(803)
            values[place] = value
            with pytest.raises(ArgumentError, match="in values 1 of 803 elements are NaN or inf"):
                code.encode(values, KEY, fixed=fixed)
        matrix = code.encoding_matrix().clone()
        matrix.view(-1)[place % 54] = -1
        with pytest.raises(ArgumentError, match="in matrix 1 of 54 elements are outside"):
            lagrange_encode(drawn(9, 8), matrix, KEY, SOLINAS31, 4, standard=True)


def test_transforms_are_chosen_for_codes_on_subgroups_alone() -> None:
    def kind(shape: tuple[int, int, int], field: Field, standard: bool = True) -> str:
        return encode_kind(LagrangeCode(*shape, field).encoding_matrix(), field.code, standard)

    for shape in ((2, 1, 0), (4, 2, 1), (16, 1, 1), (100, 40, 30)):
        assert [kind(shape, f) for f in (SOLINAS31, WIDE)] == ["transform"] * 2
        assert kind(shape, MERSENNE31) == kind(shape, SOLINAS31, False) == "encode"
    assert kind((1, 1, 0), SOLINAS31) == kind((64, 1, 1), SOLINAS31) == "encode"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"fixed": 3.0}, DtypeError, "fixed is float; it must be a pyfed.FixedPoint"),
        ({"fixed": FixedPoint(field=MERSENNE31)}, ArgumentError, "fixed is for MERSENNE31"),
        ({"data": torch.zeros(3).int()}, DtypeError, "data has dtype torch.int32; it must be"),
        ({"data": torch.zeros(1, 3)}, ArgumentError, "data has 2 dimensions"),
        ({"data": torch.zeros(3, requires_grad=True)}, ArgumentError, "values require grad"),
        ({"start_column": 2**36 // 2}, ArgumentError, r"start \+ count"),
    ],
)
def test_bad_arguments_of_the_one_pass_are_named(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    given = {"data": torch.zeros(3), "key": KEY, "fixed": FixedPoint()}
    with pytest.raises(error, match=words):
        LagrangeCode(4, 2, 1).encode(**{**given, **arguments})


def test_without_a_key_floats_get_a_fresh_one() -> None:
    code, fixed, values = LagrangeCode(4, 2, 1), FixedPoint(clip=1.0), torch.full((64,), 0.3)
    first, second = code.encode(values, fixed=fixed), code.encode(values, fixed=fixed)
    assert not torch.equal(first, second)
    for rows in (first, second):
        back = fixed.decode(code.decode(rows, range(4)))
        assert (back - 0.3).abs().max() <= 1 / fixed.scale
