"""Floats to shares in one pass, emulated: the bits of rounding and then encoding, on every path.

The reference is the two ops one after the other. Which path serves is told by the launcher's name,
and by the room that it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import agree, reference, shifted
from cases import KEY, residues
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, LagrangeCode
from pyfed.op import OPS
from pyfed.ops.encode_kind import cuda_rounds_in_place

OP = "quantize_encode"
WORDS = KEY.words()
SECOND = WIDE.planes[1]
SCALE, CLIP = 2.0**10, 3.0


@pytest.fixture
def launched(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the launchers that are called."""
    names: list[str] = []
    launch = emulated.launch

    def noted(name: str, *args: object) -> Any:
        names.append(name)
        return launch(name, *args)

    monkeypatch.setattr(emulated, "launch", noted)
    yield names


def values_of(length: int) -> torch.Tensor:
    """Values of which some are clipped, some at the edges, some whole steps."""
    values = torch.randn(length) * 2
    values[::11], values[5::13], values[7::17] = CLIP, -CLIP, 0.5
    return values


def agree_in_one(
    emulated: Any, launched: list[str], kind: str, values: torch.Tensor, *rest: Any
) -> None:
    """Bits of the reference, by launches of the fused kernels alone."""
    del launched[:]
    agree(emulated, OP, values, SCALE, CLIP, *rest)
    assert set(launched) == {f"quantize_{kind}"}


def random_matrix(field: Field, shares: int, inner: int) -> torch.Tensor:
    return residues(field.modulus, shares, inner)


# Shares, K, T, columns, start_column. K of one, of a panel and more (16, or 64 from 17 shares on),
# no multiple of 16 and one; columns and starts that end and begin within blocks of 16.
SMALL = [
    *((1, 1, 0, 1, 0), (2, 1, 1, 300, 5), (15, 1, 14, 257, 16), (4, 3, 1, 260, 2**36 // 3 - 260)),
    *(
        (9, 5, 3, 85, 37),
        (7, 16, 2, 17, 1),
        (8, 17, 1, 33, 15),
        (3, 290, 0, 7, 3),
        (15, 33, 9, 9, 8),
    ),
    *((5, 32, 2, 18, 2**31 - 18), (8, 1000, 1, 2, 0)),
]
TALL = [(17, 1, 2, 63, 3), (40, 20, 9, 13, 15), (64, 64, 1, 5, 0), (33, 65, 3, 62, 9)]
DIGITS = [
    *((16, 1, 15, 257, 0), (16, 9, 3, 300, 15), (16, 16, 8, 64, 1), (17, 7, 2, 131, 2**32 + 7)),
    *((32, 31, 1, 128, 16), (33, 32, 8, 65, 14), (64, 64, 0, 64, 5), (64, 40, 20, 67, 0)),
    *((20, 100, 3, 64, 11), (16, 35, 2, 70, 2**36 // 35 - 70), (64, 128, 1, 65, 1)),
]


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31, SECOND], ids=lambda field: field.name)
@pytest.mark.parametrize("shape", [*SMALL, *TALL], ids=str)
def test_products_of_64_bit_sums(
    emulated: Any, launched: list[str], field: Field, shape: tuple[int, ...]
) -> None:
    shares, blocks, privacy, columns, start = shape
    values = values_of(columns * blocks - (blocks > 1))
    matrix = random_matrix(field, shares, blocks + privacy)
    where = (WORDS, field.modulus, blocks, 2**32 - 1, start, False)
    agree_in_one(emulated, launched, "encode", shifted(values), matrix, *where)
    assert emulated.room is None


def products_of_digits(
    emulated: Any, launched: list[str], field: Field, shape: tuple[int, ...]
) -> None:
    emulated.matrix_units = True
    shares, blocks, privacy, columns, start = shape
    values = values_of(columns * blocks - blocks // 2)
    matrix = random_matrix(field, shares, blocks + privacy)
    where = (WORDS, field.modulus, blocks, 4, start, False)
    agree_in_one(emulated, launched, "encode", shifted(values), matrix, *where)
    assert emulated.room is not None and not emulated.room.any()


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31, SECOND], ids=lambda field: field.name)
@pytest.mark.parametrize("shape", DIGITS, ids=str)
def test_products_of_digits(
    emulated: Any, launched: list[str], field: Field, shape: tuple[int, ...]
) -> None:
    products_of_digits(emulated, launched, field, shape)


@pytest.mark.parametrize("shape", DIGITS, ids=str)
def test_products_of_digits_on_hopper(
    emulated: Any, launched: list[str], shape: tuple[int, ...]
) -> None:
    emulated.use_hopper(True)
    products_of_digits(emulated, launched, SOLINAS31, shape)


@pytest.mark.parametrize("field", [SOLINAS31, SECOND], ids=lambda field: field.name)
@pytest.mark.parametrize(
    "shape",  # tiles of 16 columns, of 8 and of 4
    [
        *((257, 1, 1, 20, 15), (257, 5, 2, 33, 0), (300, 100, 30, 20, 7), (257, 128, 1, 1, 9)),
        *((513, 257, 1, 11, 5), (700, 300, 260, 9, 2**36 // 300 - 9)),
    ],
    ids=str,
)
def test_transforms(
    emulated: Any, launched: list[str], field: Field, shape: tuple[int, ...]
) -> None:
    shares, blocks, privacy, columns, start = shape
    values = values_of(columns * blocks - blocks // 2)
    if shares * blocks < 50_000:
        matrix = LagrangeCode(shares, blocks, privacy, field).encoding_matrix()
        where = (WORDS, field.modulus, blocks, 4, start, True)
        agree_in_one(emulated, launched, "transform", shifted(values), matrix, *where)
        return
    # The matrix takes long, and transforms do not use it.
    matrix = torch.zeros(shares, blocks + privacy, dtype=torch.int32)
    args = (values, SCALE, CLIP, matrix, WORDS, field.modulus, blocks, 4, start, True)
    wanted = OPS[OP].kernels["cpu"].run(*args)
    for backwards in (False, True):
        assert torch.equal(emulated(OP, *args, backwards=backwards), wanted)


@pytest.mark.parametrize("columns", range(1, 18))
def test_any_count_of_columns_at_any_start(
    emulated: Any, launched: list[str], columns: int
) -> None:
    start, p = 5 * columns % 16, SOLINAS31.modulus
    for shares, blocks in ((3, 2), (17, 7)):
        values, matrix = values_of(columns * blocks), random_matrix(SOLINAS31, shares, blocks + 1)
        where = (WORDS, p, blocks, 0, start, False)
        agree_in_one(emulated, launched, "encode", values, matrix, *where)
    matrix = LagrangeCode(300, 3, 1).encoding_matrix()
    values = values_of(columns * 3)
    where = (WORDS, p, 3, 0, start, True)
    agree_in_one(emulated, launched, "transform", values, matrix, *where)


@pytest.mark.parametrize("shape", [(5, 3, 2), (20, 9, 5), (257, 4, 2)], ids=str)
def test_both_planes_of_a_wide_field_hold_one_rounding(
    emulated: Any, launched: list[str], shape: tuple[int, int, int]
) -> None:
    emulated.matrix_units = True
    code = LagrangeCode(*shape, WIDE)
    kind = "transform" if shape[0] > 256 else "encode"
    values = values_of(70 * shape[1] - 1)
    where = (WORDS, WIDE.code, shape[1], 1, 3, True)
    agree_in_one(emulated, launched, kind, values, code.encoding_matrix(), *where)
    assert len(launched) == 4  # two planes, in two orders of threads


def test_rounding_takes_every_fraction_of_a_step(emulated: Any) -> None:
    # One share is the rounded value itself: about a quarter of these round up.
    emulated.matrix_units = True
    for shares, columns in ((1, 5000), (16, 5000)):
        values = torch.full((columns,), 0.25)
        matrix = torch.ones(shares, 1, dtype=torch.int32)
        p = SOLINAS31.modulus
        got = emulated(OP, values, 1.0, 1.0, matrix, WORDS, p, 1, 0, 3, False)
        wanted = reference("quantize", values, 1.0, 1.0, p, WORDS, 0, 3)
        assert (got == wanted).all() and 0.2 < got.float().mean() < 0.3


def test_values_at_the_bound(emulated: Any) -> None:
    emulated.matrix_units = True
    for field in (SOLINAS31, MERSENNE31, SECOND):
        largest = float(2**30 - 2**20)
        values = torch.tensor([largest, -largest, 2 * largest, -3e38, 1e-45, -0.0] * 30)
        for shares in (2, 16):
            matrix = random_matrix(field, shares, 2)
            where = (WORDS, field.modulus, 2, 0, 9, False)
            agree(emulated, OP, values, 1.0, largest, matrix, *where)


def test_padding_is_rejected_alike(emulated: Any, launched: list[str]) -> None:
    # The second prime rejects 2.4e-4 of the candidates: about 16 and 8 of these 2^16 and 2^15.
    emulated.matrix_units, p = True, SECOND.modulus
    for shares, columns in ((2, 2**16), (16, 2**15)):
        matrix = random_matrix(SECOND, shares, 2)
        where = (WORDS, p, 1, 0, 3, False)
        agree_in_one(emulated, launched, "encode", values_of(columns), matrix, *where)


def test_more_shares_are_rounded_first(emulated: Any, launched: list[str]) -> None:
    p = SOLINAS31.modulus
    matrix = random_matrix(SOLINAS31, 65, 3)
    agree(emulated, OP, values_of(90), SCALE, CLIP, matrix, WORDS, p, 2, 0, 5, False)
    assert set(launched) == {"quantize", "lagrange_encode"}
    wide = torch.zeros(2, 64, 3, dtype=torch.int32)
    assert cuda_rounds_in_place(wide, "encode") and cuda_rounds_in_place(matrix, "transform")
    assert not cuda_rounds_in_place(matrix, "encode")
