"""Encodings by transforms in shared memory, emulated: the bits of the product, and of the CPU.

Shapes are chosen by path: each parity of a transform's levels, several transforms, several groups
of blocks, each width of a tile. The CPU's transforms have tests of their own against products.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import SparseBytes, agree, broken, reference, shifted
from cases import KEY, largest, residues
from pyfed import WIDE, LagrangeCode, native
from pyfed.errors import ArgumentError
from pyfed.op import OPS
from pyfed.ops.encode_kind import cuda_encode_kind

WORDS = KEY.words()
PLANES = WIDE.planes
EVERY_PLANE = pytest.mark.parametrize("field", PLANES, ids=("solinas31", "second31"))
OP = "lagrange_encode"


@functools.cache
def matrix_of(shape: tuple[int, int, int], field: Any) -> torch.Tensor:
    return LagrangeCode(*shape, field).encoding_matrix()


def cpu(data: torch.Tensor, *rest: Any) -> torch.Tensor:
    return OPS[OP].kernels["cpu"].run(data, *rest)


def agree_with_cpu(emulated: Any, shape: tuple[int, int, int], field: Any, *where: Any) -> None:
    """For shapes whose matrix takes long; neither kernel uses it."""
    shares, blocks, privacy = shape
    length, stream, start = where
    data = residues(field.modulus, length)
    matrix = torch.zeros(shares, blocks + privacy, dtype=torch.int32)
    args = (data, matrix, WORDS, field.modulus, blocks, stream, start, True)
    wanted = cpu(*args)
    for backwards in (False, True):
        assert torch.equal(emulated(OP, *args, backwards=backwards), wanted), (shape, where)


SHAPES = [
    *((257, 128, 1), (300, 100, 30), (512, 256, 128), (1024, 1, 1), (257, 1, 0), (258, 2, 1)),
    *((259, 3, 1), (260, 5, 2), (290, 7, 9), (320, 31, 1), (511, 63, 64), (400, 250, 6)),
    *((257, 256, 1), (513, 500, 13)),
]


@EVERY_PLANE
@pytest.mark.parametrize("shape", SHAPES)
def test_shares_are_those_of_the_product(emulated: Any, field: Any, shape: Any) -> None:
    matrix, blocks = matrix_of(shape, field), shape[1]
    for columns, start in ((1, 0), (20, 15)):
        length = columns * blocks - (blocks > 1 and columns > 1)
        data = shifted(residues(field.modulus, length))
        where = (field.modulus, blocks, 2**32 - 1, start, True)
        before = emulated.control.launches
        agree(emulated, OP, data, shifted(matrix), WORDS, *where)
        assert emulated.control.launches == before + 4  # twice the factors and the transforms


@pytest.mark.parametrize("columns", range(1, 21))
def test_any_count_of_columns_at_any_start(emulated: Any, columns: int) -> None:
    starts = (0, 7 * columns % 16, 2**36 - columns)
    for shape in ((300, 100, 30), (700, 300, 260)):  # tiles of 16 and of 4 columns
        for start in starts:
            length = columns * shape[1] - columns // 2
            agree_with_cpu(emulated, shape, PLANES[0], length, columns, start)


@pytest.mark.parametrize(
    "shape",
    [
        *((1024, 700, 300), (1025, 513, 511), (2048, 1000, 900), (2049, 1023, 2)),
        *((4096, 2047, 2049), (4096, 4095, 1), (4000, 1, 2500), (4096, 64, 8)),
    ],
)
def test_large_codes_agree_with_the_cpu(emulated: Any, shape: Any) -> None:
    field = PLANES[shape[1] % 2]
    agree_with_cpu(emulated, shape, field, 17 * shape[1] - 1, 5, 11)


def test_every_count_of_blocks_agrees_with_the_cpu(emulated: Any) -> None:
    for blocks in range(1, 40):
        shape = (257, blocks, blocks * 5 % 23)
        agree_with_cpu(emulated, shape, PLANES[blocks % 2], 3 * blocks, 1, 14)


@EVERY_PLANE
@pytest.mark.parametrize("shape", [(257, 128, 0), (300, 100, 0), (1024, 1, 0), (512, 511, 0)])
def test_shares_at_the_bound_in_python_integers(emulated: Any, field: Any, shape: Any) -> None:
    p, (shares, blocks, _) = field.modulus, shape
    matrix = matrix_of(shape, field)
    # All p - 1 make a constant polynomial; the others, one that is large everywhere.
    got = emulated(OP, largest(p, 2 * blocks), matrix, WORDS, p, blocks, 0, 0, True)
    assert torch.equal(got, torch.full((shares, 2), p - 1, dtype=torch.int32))
    column = [(p - 1) if k % 3 else (p - 1) // 2 for k in range(blocks)]
    data = torch.tensor(column, dtype=torch.int32)
    got = emulated(OP, data, matrix, WORDS, p, blocks, 0, 0, True)
    for j in range(0, shares, 7):
        row = matrix[j].tolist()
        wanted = sum(a * b for a, b in zip(row, column, strict=True)) % p
        assert int(got[j, 0]) == wanted, j


def test_every_residue_of_a_share_at_the_bound(emulated: Any) -> None:
    # Values that make each intermediate number 0 or p - 1: one block at a time is p - 1.
    p, shape = PLANES[1].modulus, (257, 16, 0)
    data = torch.diag(torch.full((16,), p - 1, dtype=torch.int32)).reshape(-1)
    args = (data, matrix_of(shape, PLANES[1]), WORDS, p, 16, 0, 0, True)
    agree(emulated, OP, *args)
    wanted = [[-v % p for v in row] for row in args[1].tolist()]
    assert emulated(OP, *args).tolist() == wanted


def test_both_planes_of_a_wide_field(emulated: Any) -> None:
    shape = (257, 5, 2)
    data = torch.stack([residues(plane.modulus, 33) for plane in PLANES])
    matrix = torch.stack([matrix_of(shape, plane) for plane in PLANES])
    agree(emulated, OP, data, matrix, WORDS, WIDE.code, 5, 1, 3, True)


@EVERY_PLANE
def test_padding_is_rejected_alike(emulated: Any, field: Any) -> None:
    # SOLINAS31 rejects 6.1e-5 of the candidates, about 12 of these; the second prime four times so
    # many. Tiles of 16 columns, and of 8.
    for shape, columns in (((257, 1, 255), 800), ((600, 1, 599), 336)):
        assert columns * shape[2] > 2e5
        agree_with_cpu(emulated, shape, field, columns, 0, 3)


def test_pieces_of_a_vector_encode_alike(emulated: Any) -> None:
    p, matrix = PLANES[0].modulus, matrix_of((257, 3, 2), PLANES[0])
    data = residues(p, 3 * 50)
    whole = emulated(OP, data, matrix, WORDS, p, 3, 1, 100, True)
    for cut in (1, 28, 49):
        parts = [
            emulated(OP, piece, matrix, WORDS, p, 3, 1, 100 + first, True)
            for piece, first in ((data[: 3 * cut], 0), (data[3 * cut :], cut))
        ]
        assert torch.equal(torch.cat(parts, dim=1), whole)


def launch(emulated: Any, data: int, length: int, shape: Any, start: int, out: int) -> int:
    """With a matrix of zeros, which transforms look at and do not use."""
    shares, blocks, privacy = shape
    matrix = torch.zeros(shares, blocks + privacy, dtype=torch.int32)
    room = torch.empty(6 * blocks, dtype=torch.int32)
    code = (data, length, matrix.data_ptr(), *shape, WORDS.data_ptr(), 3, start)
    where = (PLANES[0].modulus, out, room.data_ptr())
    return emulated.launch("lagrange_transform", *code, *where)


@pytest.mark.parametrize(
    "shape, columns, width",
    [((257, 3, 2), 2**14 + 9, 32), ((257, 9, 6), 2**14, 32), ((257, 1, 1), 2**23 + 5, 256)],
)
def test_wide_tiles_of_many_columns(emulated: Any, shape: Any, columns: int, width: int) -> None:
    # Only the last two tiles run, and one block that makes factors; the third case has more than
    # 2^31 shares.
    shares, blocks, _ = shape
    p, tail, start = PLANES[0].modulus, width + 1, 2**35 + 7
    values, out = SparseBytes(4 * columns * blocks), SparseBytes(4 * columns * shares)
    last = residues(p, tail * blocks)
    values.bytes[-4 * tail * blocks :] = last.view(torch.uint8)
    emulated.control.last_blocks = 2
    assert launch(emulated, values.at, columns * blocks, shape, start, out.at) == 0
    assert emulated.control.dirty_blocks == 0
    got = out.bytes.view(torch.int32).view(shares, columns)
    matrix = matrix_of(shape, PLANES[0])
    wanted = reference(OP, last, matrix, WORDS, p, blocks, 3, start + columns - tail, True)
    assert torch.equal(got[:, -tail:], wanted)


@pytest.mark.parametrize(
    "shape, columns, start, tiles",
    [
        *(((512, 384, 128), 33, 0, 3), ((512, 384, 128), 33, 15, 3), ((512, 384, 128), 34, 15, 4)),
        *(((513, 257, 1), 33, 15, 5), ((1024, 500, 524), 33, 15, 5), ((1025, 513, 1), 33, 15, 9)),
        *(((257, 1, 0), 33, 0, 3), ((257, 1, 0), 33, 15, 3)),
    ],
)
def test_tiles_are_as_wide_as_they_can_be(
    emulated: Any, shape: Any, columns: int, start: int, tiles: int
) -> None:
    # 16 columns, 8 or 4; never more while tiles are few.
    data = torch.zeros(columns * shape[1], dtype=torch.int32)
    out = torch.empty(shape[0] * columns, dtype=torch.int32)
    assert launch(emulated, data.data_ptr(), len(data), shape, start, out.data_ptr()) == 0
    plan = (shape[0] * (shape[1] + shape[2]) + 4095) // 4096
    assert emulated.control.blocks_run == plan + tiles


def test_nothing_is_written_around_the_shares_and_the_factors(emulated: Any) -> None:
    for shape in ((257, 5, 2), (300, 63, 30), (700, 300, 212)):
        shares, blocks, privacy = shape
        data = residues(PLANES[0].modulus, 21 * blocks - (blocks > 1))
        matrix = torch.zeros(shares, blocks + privacy, dtype=torch.int32)
        around = torch.full((shares * 21 + 2048,), -7, dtype=torch.int32)
        room = torch.full((6 * blocks + 128,), -7, dtype=torch.int32)
        out = around[1024:-1024]
        code = (data.data_ptr(), len(data), matrix.data_ptr(), *shape, WORDS.data_ptr(), 3, 5)
        where = (PLANES[0].modulus, out.data_ptr(), room[64:].data_ptr())
        assert emulated.launch("lagrange_transform", *code, *where) == 0
        assert (around[:1024] == -7).all() and (around[-1024:] == -7).all() and (out >= 0).all()
        assert (room[:64] == -7).all() and (room[-64:] == -7).all()


@EVERY_PLANE
@pytest.mark.parametrize("bad", ["p", "negative"])
def test_a_residue_outside_the_field_is_told_of(emulated: Any, field: Any, bad: str) -> None:
    p, shape = field.modulus, (257, 9, 8)
    value = p if bad == "p" else -1
    data, matrix = residues(p, 20 * 9 - 4), matrix_of(shape, field)
    for places, make in (
        ((0, 100, 175), lambda place: (broken(data, place, value), matrix)),
        ((0, 4095, 4096, 257 * 17 - 1), lambda place: (data, broken(matrix, place, value))),
    ):
        for place in places:
            with pytest.raises(ArgumentError, match="residue lies outside"):
                emulated(OP, *make(place), WORDS, p, 9, 0, 3, True)


def test_nothing_is_launched_for_nothing(emulated: Any) -> None:
    none, matrix = torch.empty(0, dtype=torch.int32), matrix_of((257, 5, 2), PLANES[0])
    agree(emulated, OP, none, matrix, WORDS, PLANES[0].modulus, 5, 0, 0, True)
    assert emulated.control.launches == 0


def test_codes_without_transforms_are_refused(emulated: Any) -> None:
    data = matrix = torch.zeros(10, dtype=torch.int32)
    for shares, threshold, modulus in ((257, 2, 2**31 - 1), (4097, 2, None), (257, 258, None)):
        code = (data.data_ptr(), 10, matrix.data_ptr(), shares, 1, threshold - 1)
        where = (WORDS.data_ptr(), 0, 0, modulus or PLANES[0].modulus, data.data_ptr(), None)
        with pytest.raises(RuntimeError, match="no transforms"):
            emulated.launch("lagrange_transform", *code, *where)


def test_who_takes_transforms() -> None:
    def kind(shares: int, modulus: int, standard: bool = True) -> str:
        planes = 2 if modulus == WIDE.code else None
        shape = (shares, 3) if planes is None else (planes, shares, 3)
        return cuda_encode_kind(torch.zeros(shape, dtype=torch.int32), modulus, standard)

    p = PLANES[0].modulus
    assert kind(257, p) == kind(4096, PLANES[1].modulus) == kind(257, WIDE.code) == "transform"
    assert kind(256, p) == kind(256, WIDE.code) == kind(257, p, False) == "encode"
    assert kind(4096, 2**31 - 1) == "encode"
    assert native.transform_factors(torch.device("cpu"), 7).numel() == 42
