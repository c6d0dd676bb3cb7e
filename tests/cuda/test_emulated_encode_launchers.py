"""Launchers from floats to shares: errors, refusals, no values, and more than 2^31 shares.

Emulated, as in ``test_emulated_encode.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import SparseBytes, agree, broken, reference
from cases import KEY, residues
from pyfed import MERSENNE31, SOLINAS31, LagrangeCode, native
from pyfed.errors import ArgumentError

OP = "quantize_encode"
WORDS = KEY.words()
SCALE, CLIP = 2.0**10, 3.0


def values_within(length: int) -> torch.Tensor:
    """Values of which some are clipped."""
    return torch.randn(length) * 2


@pytest.mark.parametrize(
    "shape, standard", [((3, 5, 2), False), ((20, 9, 2), False), ((257, 9, 8), True)], ids=str
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_told_of(
    emulated: Any, shape: tuple[int, int, int], standard: bool, bad: float
) -> None:
    emulated.matrix_units, p = True, SOLINAS31.modulus
    shares, blocks, privacy = shape
    matrix = residues(SOLINAS31.modulus, shares, blocks + privacy)
    values = torch.zeros(70 * blocks - 2)
    for place in (0, 16, len(values) - 1):
        with pytest.raises(ArgumentError, match="NaN or infinite"):
            emulated(
                *(OP, broken(values, place, bad), 1.0, 1.0, matrix, WORDS),
                *(p, blocks, 0, 3, standard),
            )
    for place in (0, matrix.numel() - 1):
        with pytest.raises(ArgumentError, match="residue lies outside"):
            args = (values, 1.0, 1.0, broken(matrix, place, p), WORDS)
            emulated(OP, *args, p, blocks, 0, 3, standard)


def test_nothing_is_launched_for_nothing(emulated: Any) -> None:
    for shares, standard in ((3, False), (257, True)):
        matrix, none = residues(SOLINAS31.modulus, shares, 3), torch.empty(0)
        where = (WORDS, SOLINAS31.modulus, 2, 0, 0, standard)
        agree(emulated, OP, none, SCALE, CLIP, matrix, *where)
    assert emulated.control.launches == 0


def test_codes_without_transforms_are_refused(emulated: Any) -> None:
    room = torch.zeros(10).data_ptr()
    code = (room, 10, 1.0, 1.0, room, 257, 1, 1, WORDS.data_ptr(), 0, 0, MERSENNE31.modulus)
    with pytest.raises(RuntimeError, match="no transforms"):
        emulated.launch("quantize_transform", *code, room, None)


def launch(emulated: Any, kind: str, values: int, shape: Any, matrix: Any, out: int) -> int:
    shares, blocks, privacy, length, start = shape
    columns = -(-length // blocks)
    if kind == "transform":
        room = emulated._transform_factors(torch.device("cpu"), blocks)
    else:
        digits = native.digit_words(shares, columns, blocks, privacy)
        room = emulated._workspace(torch.device("cpu"), digits=digits)
    code = (values, length, SCALE, CLIP, matrix.data_ptr(), shares, blocks, privacy)
    where = (WORDS.data_ptr(), 1, start, SOLINAS31.modulus, out, native._pointer(room))
    return int(emulated.launch(f"quantize_{kind}", *code, *where))


PATHS = [("encode", 9), ("encode", 40), ("transform", 257)]


@pytest.mark.parametrize("kind, shares", PATHS)
def test_nothing_is_written_around_the_shares(emulated: Any, kind: str, shares: int) -> None:
    emulated.matrix_units = True
    matrix = residues(SOLINAS31.modulus, shares, 5)
    shape = (shares, 3, 2, 3 * 67 - 1, 5)
    around = torch.full((shares * 67 + 2048,), -7, dtype=torch.int32)
    out, values = around[1024:-1024], values_within(3 * 67 - 1)
    assert launch(emulated, kind, values.data_ptr(), shape, matrix, out.data_ptr()) == 0
    assert (around[:1024] == -7).all() and (around[-1024:] == -7).all() and (out >= 0).all()


@pytest.mark.parametrize(
    "kind, shares, columns", [(*PATHS[0], 2**28), (*PATHS[1], 2**26), (*PATHS[2], 2**23 + 5)]
)
def test_more_than_2_to_31_shares(emulated: Any, kind: str, shares: int, columns: int) -> None:
    # Only the last two tiles run, and the stream is near its end.
    emulated.matrix_units, blocks, tail, p = True, 3, 33, SOLINAS31.modulus
    start, length = 2**36 // blocks - columns, blocks * columns
    values, out = SparseBytes(4 * length), SparseBytes(4 * shares * columns)
    last = values_within(blocks * tail)
    values.bytes[-4 * blocks * tail :] = last.view(torch.uint8)
    matrix = LagrangeCode(shares, blocks, 2).encoding_matrix()
    emulated.control.last_blocks = 2
    shape = (shares, blocks, 2, length, start)
    assert launch(emulated, kind, values.at, shape, matrix, out.at) == 0
    got = out.bytes.view(torch.int32).view(shares, columns)[:, -tail:]
    where = (matrix, WORDS, p, blocks, 1, start + columns - tail, False)
    assert torch.equal(got, reference(OP, last, SCALE, CLIP, *where))


def test_a_prime_without_kernels_is_refused(emulated: Any) -> None:
    matrix = torch.ones(2, 2, dtype=torch.int32)
    room = torch.zeros(10)
    code = (room.data_ptr(), 4, 1.0, 1.0, matrix.data_ptr(), 2, 1, 1, WORDS.data_ptr(), 0, 0, 257)
    with pytest.raises(RuntimeError, match="no kernel for modulus 257"):
        emulated.launch("quantize_encode", *code, room.data_ptr(), None)
