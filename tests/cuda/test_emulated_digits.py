"""Products on int8 matrix units, emulated: the reference's bits at every edge and bound.

``emulate.h`` has a model of the instruction, which is checked here against plain integers.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import agree, shifted
from cases import KEY, largest, residues
from pyfed import native

WORDS = KEY.words()
PRIMES = (2**31 - 2**17 + 1, 2**31 - 1, 2**31 - 2**19 + 1)
EVERY_PRIME = pytest.mark.parametrize("p", PRIMES, ids=("solinas31", "mersenne31", "second31"))


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
def test_encodings_at_the_edges_of_tiles(mma: Any, p: int, shares: int) -> None:
    blocks, privacy = {16: (3, 9), 63: (1, 2), 257: (9, 1)}.get(shares, (2, 3))
    columns = 64 if shares > 65 else 67
    data = residues(p, blocks * columns - 1)
    matrix = residues(p, shares, blocks + privacy)
    agree(mma, "lagrange_encode", data, matrix, WORDS, p, blocks, 9, shares % 17, False)


@EVERY_PRIME
@pytest.mark.parametrize("blocks", EDGES)
def test_decodings_at_the_edges_of_tiles(mma: Any, p: int, blocks: int) -> None:
    threshold, columns = {16: (9, 257), 17: (33, 129), 64: (66, 65)}.get(blocks, (3, 64))
    rows, matrix = residues(p, threshold, columns), residues(p, blocks, threshold)
    agree(mma, "lagrange_decode", rows, matrix, p, blocks * columns - blocks // 2)


@EVERY_PRIME
@pytest.mark.parametrize("m", EDGES)
def test_products_at_the_edges_of_tiles(mma: Any, p: int, m: int) -> None:
    k, n = {16: (17, 300), 17: (40, 64), 65: (64, 130)}.get(m, (7, 66))
    agree(mma, "field_matmul", shifted(residues(p, m, k)), shifted(residues(p, k, n)), p)


@EVERY_PRIME
def test_products_at_the_bound(mma: Any, p: int) -> None:
    # The residues with the largest bytes.
    byte = {PRIMES[0]: 0x7FFCFFFF, PRIMES[1]: p - 1, PRIMES[2]: 0x7FF6FFFF}[p]
    half = (p - 1) // 2
    for left, right in ((p - 1, p - 1), (half, byte), (half + 1, byte), (p - 128, byte)):
        a = torch.full((17, 129), left, dtype=torch.int32)
        b = torch.full((129, 64), right, dtype=torch.int32)
        got = mma("field_matmul", a, b, p)
        wanted = torch.full((17, 64), 129 * left * right % p, dtype=torch.int32)
        assert torch.equal(got, wanted)
    data, matrix = largest(p, 70 * 64), largest(p, 20, 70)
    got = mma("lagrange_encode", data, matrix, WORDS, p, 70, 0, 0, False)
    assert torch.equal(got, torch.full((20, 64), 70 % p, dtype=torch.int32))
    got = mma("lagrange_decode", data.view(70, 64), matrix, p, 20 * 64)
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


def test_the_longest_product_fits_its_sums(mma: Any) -> None:
    # The model of the instruction refuses a sum beyond int32; these come to 2/3 of the bound, and
    # the joined ones of the second factor are far below zero.
    p, k = PRIMES[1], 1 << 14
    found = {u: digit_sums(u, p) for u in torch.randint(0, p, (4000,)).tolist()}
    largest_sum = max(found, key=lambda u: max(map(abs, found[u])))
    most_negative = min(found, key=lambda u: found[u][3])
    assert max(map(abs, found[largest_sum])) > 4 * 80 and found[most_negative][3] < -4 * 40
    left = torch.tensor([largest_sum, most_negative], dtype=torch.int32).repeat(17)[:33]
    got = mma("field_matmul", left[:, None].expand(33, k), largest(p, k, 64), p)
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
