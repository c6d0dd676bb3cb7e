"""Products on int8 matrix units, emulated: the reference's bits at every edge and bound.

``emulate.h`` has a model of the instruction, which is checked here against plain integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import SparseBytes, agree, broken, shifted
from cases import KEY, largest, residues
from pyfed import native
from pyfed.errors import ArgumentError

WORDS = KEY.words()
PRIMES = (2**31 - 2**17 + 1, 2**31 - 1, 2**31 - 2**19 + 1)
EVERY_PRIME = pytest.mark.parametrize("p", PRIMES, ids=("solinas31", "mersenne31", "second31"))


@pytest.fixture
def units(emulated: Any) -> Iterator[Any]:
    """The emulator, with matrix units; their room holds nothing afterwards."""
    emulated.matrix_units = True
    yield emulated
    assert emulated.room is not None, "no product ran on the matrix units"
    assert not emulated.room.any(), "digits are left in the room"


def test_the_model_of_the_instruction_multiplies_bytes(emulated: Any) -> None:
    left = torch.randint(0, 256, (16, 32), dtype=torch.uint8)
    right = torch.randint(-128, 128, (32, 8), dtype=torch.int8)
    left[::3, ::5], right[::7, ::2] = 255, -128
    start = torch.randint(-(2**20), 2**20, (16, 8), dtype=torch.int32)
    # Fragments as PTX ISA 9.7.14.5 has them: byte or sum i of lane 4 · group + thread.
    lane = torch.arange(32)
    group, thread = (lane // 4)[:, None], (lane % 4)[:, None]
    i = torch.arange(16)[None, :]
    a = left[group + 8 * (i // 4 % 2), 4 * thread + i % 4 + 16 * (i // 8)].contiguous()
    b = right[4 * thread + i[:, :8] % 4 + 16 * (i[:, :8] // 4), group].contiguous()
    sums = (group + 8 * (i[:, :4] // 2), 2 * thread + i[:, :4] % 2)
    d = start[sums].contiguous()
    call = emulated.launcher("multiply_bytes", [ctypes.c_void_p] * 3)
    for backwards in (0, 1):
        emulated.control.backwards = backwards
        got = d.clone()
        assert call(a.data_ptr(), b.data_ptr(), got.data_ptr()) is None
        assert torch.equal(got, (start + left.int() @ right.int())[sums])
    d.fill_(2**31 - 1)
    a.fill_(1), b.fill_(1)
    assert b"overflows" in call(a.data_ptr(), b.data_ptr(), d.data_ptr())
    message = emulated.launcher("lonely_thread", [ctypes.c_int])(0)
    assert b"lacks threads" in message


EDGES = (16, 17, 63, 64, 65, 255, 256, 257)


@EVERY_PRIME
@pytest.mark.parametrize("shares", EDGES)
def test_encodings_at_the_edges_of_tiles(units: Any, p: int, shares: int) -> None:
    blocks, privacy = {16: (3, 9), 63: (1, 2), 257: (9, 1)}.get(shares, (2, 3))
    columns = 64 if shares > 65 else 67
    data = residues(p, blocks * columns - 1)
    matrix = residues(p, shares, blocks + privacy)
    agree(units, "lagrange_encode", data, matrix, WORDS, p, blocks, 9, shares % 17, False)


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
@pytest.mark.parametrize("blocks", EDGES)
def test_decodings_at_the_edges_of_tiles(units: Any, p: int, blocks: int) -> None:
    threshold, columns = {16: (9, 257), 17: (33, 129), 64: (66, 65)}.get(blocks, (3, 64))
    rows, matrix = residues(p, threshold, columns), residues(p, blocks, threshold)
    agree(units, "lagrange_decode", rows, matrix, p, blocks * columns - blocks // 2)


@EVERY_PRIME
@pytest.mark.parametrize("m", EDGES)
def test_products_at_the_edges_of_tiles(units: Any, p: int, m: int) -> None:
    k, n = {16: (17, 300), 17: (40, 64), 65: (64, 130)}.get(m, (7, 66))
    agree(units, "field_matmul", shifted(residues(p, m, k)), shifted(residues(p, k, n)), p)


@EVERY_PRIME
def test_products_at_the_bound(units: Any, p: int) -> None:
    # The residues with the largest bytes.
    byte = {PRIMES[0]: 0x7FFCFFFF, PRIMES[1]: p - 1, PRIMES[2]: 0x7FF6FFFF}[p]
    half = (p - 1) // 2
    for left, right in ((p - 1, p - 1), (half, byte), (half + 1, byte), (p - 128, byte)):
        a = torch.full((17, 129), left, dtype=torch.int32)
        b = torch.full((129, 64), right, dtype=torch.int32)
        got = units("field_matmul", a, b, p)
        wanted = torch.full((17, 64), 129 * left * right % p, dtype=torch.int32)
        assert torch.equal(got, wanted)
    data, matrix = largest(p, 70 * 64), largest(p, 20, 70)
    got = units("lagrange_encode", data, matrix, WORDS, p, 70, 0, 0, False)
    assert torch.equal(got, torch.full((20, 64), 70 % p, dtype=torch.int32))
    got = units("lagrange_decode", data.view(70, 64), matrix, p, 20 * 64)
    assert torch.equal(got, torch.full((20 * 64,), 70 % p, dtype=torch.int32))


def digit_sums(u: int, p: int) -> list[int]:
    """What the digits of u · 2^8j mod p in each place add up to, over j."""
    sums = [0] * 4
    for j in range(4):
        v = u * 2 ** (8 * j) % p
        raised = (v - p if 2 * v > p else v) + 0x80808080
        for place in range(4):
            sums[place] += (raised >> 8 * place & 255) - 128
    return sums


def test_the_longest_product_fits_its_sums(units: Any) -> None:
    # The model of the instruction refuses a sum beyond int32; these come to 2/3 of the bound, and
    # the joined ones of the second factor are far below zero.
    p, k = PRIMES[1], 1 << 14
    found = {u: digit_sums(u, p) for u in torch.randint(0, p, (4000,)).tolist()}
    largest_sum = max(found, key=lambda u: max(map(abs, found[u])))
    most_negative = min(found, key=lambda u: found[u][3])
    assert max(map(abs, found[largest_sum])) > 4 * 80 and found[most_negative][3] < -4 * 40
    left = torch.tensor([largest_sum, most_negative], dtype=torch.int32).repeat(17)[:33]
    got = units("field_matmul", left[:, None].expand(33, k), largest(p, k, 64), p)
    wanted = -(k * left.long()) % p
    assert torch.equal(got.long(), wanted[:, None].expand(33, 64))


def test_who_is_given_room_for_digits() -> None:
    assert native.digit_words(15, 64, 8) == native.digit_words(16, 63, 8) == 0
    assert native.digit_words(16, 64, 8) == 2 * 1 * 64 * 4  # 16 bytes an element
    assert native.digit_words(17, 64, 1, 9) == 3 * 3 * 64 * 4
    assert native.digit_words(256, 10**9, 1 << 14) == 256 * (1 << 14) * 4
    assert native.digit_words(16, 64, 1 << 14, 1) == native.digit_words(16, 64, 0) == 0
    assert native.digit_words(1 << 16, 1 << 16, 1 << 14) == 0  # 16 GiB


def test_one_row_less_takes_the_other_kernels(emulated: Any) -> None:
    emulated.matrix_units, p = True, PRIMES[0]
    args = residues(p, 130), residues(p, 15, 5), WORDS, p, 2, 0, 0, False
    agree(emulated, "lagrange_encode", *args)
    assert emulated.room is None


@EVERY_PRIME
@pytest.mark.parametrize("bad", ["p", "negative"])
def test_a_residue_outside_the_field_is_told_of(units: Any, p: int, bad: str) -> None:
    value = p if bad == "p" else -1
    a, b = residues(p, 17, 10), residues(p, 10, 65)
    for op, args, places in (
        ("field_matmul", (a, b, p), {0: (0, 169), 1: (0, 649)}),
        ("lagrange_encode", (b.view(-1), a, WORDS, p, 9, 0, 3, False), {0: (0, 649), 1: (0, 169)}),
        ("lagrange_decode", (b, a, p, 1000), {0: (0, 649), 1: (0, 169)}),
    ):
        for argument, where in places.items():
            for place in where:
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
    # Only the last two tiles of columns run, which have 64 and 6; the digits take one block.
    p, rows, columns, tail = PRIMES[0], 33, 2**27 + 70, 70
    units.control.last_blocks = 2
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
