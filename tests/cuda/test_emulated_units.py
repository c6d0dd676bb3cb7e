"""Products on int8 matrix units, emulated: what holds for either instruction alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import SparseBytes, agree, broken, shifted
from cases import KEY, residues
from pyfed import native
from pyfed.errors import ArgumentError

WORDS = KEY.words()
PRIMES = (2**31 - 2**17 + 1, 2**31 - 1, 2**31 - 2**19 + 1)
EVERY_PRIME = pytest.mark.parametrize("p", PRIMES, ids=("solinas31", "mersenne31", "second31"))


@pytest.mark.parametrize(
    "shares, blocks, privacy, columns, start",
    [
        *((16, 17, 16, 257, 15), (16, 1, 33, 240, 2**35 + 7), (31, 33, 7, 130, 0)),
        *((32, 8, 0, 128, 2**36 - 128), (40, 65, 66, 64, 1), (33, 64, 8, 65, 14)),
    ],
)
def test_encodings_of_any_depth(
    units: Any, shares: int, blocks: int, privacy: int, columns: int, start: int
) -> None:
    p = PRIMES[0]
    data, matrix = shifted(residues(p, blocks * columns)), residues(p, shares, blocks + privacy)
    args = data, shifted(matrix), WORDS, p, blocks, 2**32 - 1, start, False
    agree(units, "lagrange_encode", *args)


def test_padding_is_rejected_alike(units: Any) -> None:
    # SOLINAS31 rejects 6.1e-5 of the candidates: about 8 of these 2^17.
    p, columns = PRIMES[0], 2**13
    data, matrix = torch.zeros(columns, dtype=torch.int32), torch.eye(17, dtype=torch.int32)
    agree(units, "lagrange_encode", data, matrix, WORDS, p, 1, 0, 3, False)


@EVERY_PRIME
@pytest.mark.parametrize("bad", ["p", "negative"])
def test_a_residue_outside_the_field_is_told_of(units: Any, p: int, bad: str) -> None:
    value = p if bad == "p" else -1
    a, b = residues(p, 17, 10), residues(p, 10, 65)
    for op, args in (
        ("field_matmul", (a, b, p)),
        ("lagrange_encode", (b.view(-1), a, WORDS, p, 9, 0, 3, False)),
        ("lagrange_decode", (b, a, p, 1000)),
    ):
        for argument in (0, 1):
            for place in (0, args[argument].numel() - 1):
                wrong = list(args)
                wrong[argument] = broken(args[argument], place, value)
                with pytest.raises(ArgumentError, match="residue lies outside"):
                    units(op, *wrong)


def test_pieces_of_a_vector_encode_alike(units: Any) -> None:
    p = PRIMES[0]
    data, matrix = residues(p, 3 * 200), residues(p, 20, 5)
    whole = units("lagrange_encode", data, matrix, WORDS, p, 3, 1, 100, False)
    for cut in (65, 99):
        parts = [
            units("lagrange_encode", piece, matrix, WORDS, p, 3, 1, 100 + first, False)
            for piece, first in ((data[: 3 * cut], 0), (data[3 * cut :], cut))
        ]
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_nothing_is_written_around_the_output(units: Any) -> None:
    p, key = PRIMES[0], WORDS.data_ptr()
    left, right = residues(p, 17, 5), residues(p, 5, 67)
    a, b, data = left.data_ptr(), right.data_ptr(), residues(p, 3 * 67 - 1)
    room = units._workspace(torch.device("cpu"), digits=native.digit_words(17, 67, 3, 2))
    for op, args, count in (
        ("field_matmul", (a, b, 17, 5, 67, p), 17 * 67),
        ("lagrange_encode", (data.data_ptr(), 200, a, 17, 3, 2, key, 1, 5, p), 17 * 67),
        ("lagrange_decode", (b, 67, a, 17, 5, 17 * 67 - 20, p), 17 * 67 - 20),
    ):
        around = torch.full((count + 2048,), -7, dtype=torch.int32)
        out = around[1024:-1024]
        assert units.launch(op, *args, out.data_ptr(), room.data_ptr()) == 0
        assert (around[:1024] == -7).all() and (around[-1024:] == -7).all() and (out >= 0).all()


def test_more_than_2_to_31_outputs(units: Any) -> None:
    # Only the last tiles of columns run: of 64 and 6, or of 70. The digits take one block.
    p, rows, columns, tail = PRIMES[0], 33, 2**27 + 70, 70
    units.control.last_blocks = 1 if units.on_hopper else 2
    room = units._workspace(torch.device("cpu"), digits=native.digit_words(rows, columns, 1))
    right, out = SparseBytes(4 * columns), SparseBytes(4 * rows * columns)
    left, last = residues(p, rows, 1), residues(p, tail)
    right.bytes[-4 * tail :] = last.view(torch.uint8)
    wanted = left.long() * last.long() % p
    sizes = (left.data_ptr(), right.at, rows, 1, columns, p, out.at, room.data_ptr())
    assert units.launch("field_matmul", *sizes) == 0
    got = out.bytes.view(torch.int32)
    assert torch.equal(got.view(rows, columns)[:, -tail:].long(), wanted)
    got[-tail:] = 0  # and now the same as a decoding, whose rows are as long
    sizes = (right.at, columns, left.data_ptr(), rows, 1, rows * columns, p, out.at)
    assert units.launch("lagrange_decode", *sizes, room.data_ptr()) == 0
    assert torch.equal(got[-rows * tail :].view(tail, rows).long(), wanted.t())
