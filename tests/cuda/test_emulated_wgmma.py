"""Products on the matrix units of Hopper, emulated: the reference's bits at every edge and bound.

``emulate_wgmma.h`` has a model of the instruction, which reads shared memory by way of the matrix
descriptor; it is checked here against plain integers.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import agree, shifted
from cases import KEY, largest, residues

WORDS = KEY.words()
PRIMES = (2**31 - 2**17 + 1, 2**31 - 1, 2**31 - 2**19 + 1)
EVERY_PRIME = pytest.mark.parametrize(
    "p",  # primes are told apart after the sums, by what test_emulated_digits.py tests for each
    [
        pytest.param(PRIMES[0], id="solinas31"),
        pytest.param(PRIMES[1], id="mersenne31", marks=pytest.mark.slow),
        pytest.param(PRIMES[2], id="second31", marks=pytest.mark.slow),
    ],
)


def in_core_matrices(
    matrix: torch.Tensor, to_next_bytes: int, to_next_columns: int
) -> torch.Tensor:
    """Bytes (32, n) as the matrix units read them from shared memory: K-major, not swizzled.

    A core matrix has 8 columns of 16 inner bytes each, one column after another.
    """
    memory = torch.full((1 << 14,), 0x5A, dtype=torch.uint8).view(torch.int8)
    for column in range(matrix.shape[1]):
        for half in range(2):
            at = column // 8 * to_next_columns + half * to_next_bytes + column % 8 * 16
            memory[at : at + 16] = matrix[16 * half : 16 * half + 16, column]
    return memory


@pytest.mark.parametrize("columns", [64, 128, 256])
@pytest.mark.parametrize("bytes_first", [True, False])
def test_the_model_of_the_instruction_multiplies_bytes(
    emulated: Any, columns: int, bytes_first: bool
) -> None:
    left = torch.randint(0, 256, (64, 32), dtype=torch.uint8)
    right = torch.randint(-128, 128, (32, columns), dtype=torch.int8)
    left[::3, ::5], right[::7, ::2] = 255, -128
    start = torch.randint(-(2**20), 2**20, (64, columns), dtype=torch.int32)
    # Fragments as PTX ISA has them for m64nNk32: byte or sum i of lane
    # 4 · group + thread of each warp.
    number = torch.arange(128)
    first, lane = (number // 32 * 16)[:, None], number % 32
    group, thread = (lane // 4)[:, None], (lane % 4)[:, None]
    i = torch.arange(columns // 2)[None, :]
    byte = i[:, :16]
    rows = first + group + 8 * (byte // 4 % 2)
    a = left[rows, 4 * thread + byte % 4 + 16 * (byte // 8)].contiguous()
    sums = (first + group + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * thread + i % 2)
    d = start[sums].contiguous()
    steps = (128, 256) if bytes_first else (16 * columns, 128)
    memory = in_core_matrices(right, *steps)
    call = emulated.launcher("multiply_bytes_async", [ctypes.c_void_p] * 3 + [ctypes.c_int] * 3)
    for backwards in (0, 1):
        emulated.control.backwards = backwards
        got = d.clone()
        assert call(a.data_ptr(), memory.data_ptr(), got.data_ptr(), columns, *steps) is None
        assert torch.equal(got, (start + left.int() @ right.int())[sums])
        got = d.clone()
        call(a.data_ptr(), memory.data_ptr(), got.data_ptr(), columns, *steps[::-1])
        assert not torch.equal(got, (start + left.int() @ right.int())[sums])
        far = a.data_ptr(), memory.data_ptr(), got.data_ptr(), columns, 1 << 14, 128
        assert b"out of shared" in call(*far)
    d.fill_(2**31 - 1)
    a.fill_(1), memory.fill_(1)
    message = call(a.data_ptr(), memory.data_ptr(), d.data_ptr(), columns, *steps)
    assert b"overflows" in message


@pytest.mark.parametrize(
    "fault, message",
    [
        *((0, "lacks threads"), (1, "without a fence"), (2, "in no group")),
        *((3, "want different products"), (4, "without a proxy fence")),
    ],
)
def test_what_the_model_refuses(emulated: Any, fault: int, message: str) -> None:
    assert message in emulated.launcher("faulty_products", [ctypes.c_int])(fault).decode()


EDGES = (16, 17, 32, 33, 64, 65, 129)


@EVERY_PRIME
@pytest.mark.parametrize("shares", EDGES)
def test_encodings_at_the_edges_of_tiles(hopper: Any, p: int, shares: int) -> None:
    blocks, privacy = {16: (3, 9), 33: (1, 2), 129: (9, 1)}.get(shares, (2, 3))
    columns = 64 if shares > 65 else 131
    data = residues(p, blocks * columns - 1)
    matrix = residues(p, shares, blocks + privacy)
    agree(hopper, "lagrange_encode", data, matrix, WORDS, p, blocks, 9, shares % 17, False)


@EVERY_PRIME
@pytest.mark.parametrize("blocks", EDGES)
def test_decodings_at_the_edges_of_tiles(hopper: Any, p: int, blocks: int) -> None:
    threshold, columns = {16: (9, 257), 17: (33, 129), 64: (66, 127)}.get(blocks, (3, 64))
    rows, matrix = residues(p, threshold, columns), residues(p, blocks, threshold)
    agree(hopper, "lagrange_decode", rows, matrix, p, blocks * columns - blocks // 2)


@EVERY_PRIME
@pytest.mark.parametrize("m", EDGES)
def test_products_at_the_edges_of_tiles(hopper: Any, p: int, m: int) -> None:
    k, n = {16: (17, 300), 17: (40, 64), 65: (64, 130)}.get(m, (7, 127))
    agree(hopper, "field_matmul", shifted(residues(p, m, k)), shifted(residues(p, k, n)), p)


# 16 octets of inner elements stay in shared memory; more go through it again for each tile.
@pytest.mark.parametrize("k", [128, 129, 300])
@pytest.mark.parametrize("m", [20, 70])
@pytest.mark.parametrize("multiprocessors", [1, 2])
def test_a_block_makes_one_tile_after_another(
    hopper: Any, multiprocessors: int, m: int, k: int
) -> None:
    hopper.control.multiprocessors = multiprocessors
    p, n = PRIMES[2], 560
    before = hopper.control.blocks_run
    agree(hopper, "field_matmul", residues(p, m, k), residues(p, k, n), p)
    digits = -(-(-(-m // 8) * -(-k // 8)) // 8)
    tiles = {20: 2 * multiprocessors, 70: 2}[m]  # two blocks a multiprocessor; two tiles of rows
    assert hopper.control.blocks_run - before == 2 * (digits + tiles)  # in both orders


def test_encodings_in_few_blocks(hopper: Any) -> None:
    hopper.control.multiprocessors, p = 1, PRIMES[0]
    for blocks, privacy in ((40, 30), (90, 50)):
        data, matrix = residues(p, blocks * 600 - 3), residues(p, 33, blocks + privacy)
        agree(hopper, "lagrange_encode", data, matrix, WORDS, p, blocks, 1, 5, False)


@EVERY_PRIME
def test_products_at_the_bound(hopper: Any, p: int) -> None:
    # The residues with the largest bytes.
    byte = {PRIMES[0]: 0x7FFCFFFF, PRIMES[1]: p - 1, PRIMES[2]: 0x7FF6FFFF}[p]
    half = (p - 1) // 2
    for left, right in ((p - 1, p - 1), (half, byte), (half + 1, byte), (p - 128, byte)):
        a = torch.full((17, 129), left, dtype=torch.int32)
        b = torch.full((129, 64), right, dtype=torch.int32)
        got = hopper("field_matmul", a, b, p)
        wanted = torch.full((17, 64), 129 * left * right % p, dtype=torch.int32)
        assert torch.equal(got, wanted)
    data, matrix = largest(p, 70 * 64), largest(p, 40, 70)
    got = hopper("lagrange_encode", data, matrix, WORDS, p, 70, 0, 0, False)
    assert torch.equal(got, torch.full((40, 64), 70 % p, dtype=torch.int32))
    got = hopper("lagrange_decode", data.view(70, 64), matrix, p, 40 * 64)
    assert torch.equal(got, torch.full((40 * 64,), 70 % p, dtype=torch.int32))


def test_the_longest_product_fits_its_sums(hopper: Any) -> None:
    # The model of the instruction refuses a sum beyond int32; digits of 0x3F7F7F7F, or of its
    # negative, add up to 508 in one place, of at most 512.
    p, k = PRIMES[1], 1 << 14
    left = torch.tensor([0x3F7F7F7F, p - 0x40808080, p - 1, 1], dtype=torch.int32).repeat(4)
    got = hopper("field_matmul", left[:, None].expand(16, k), largest(p, k, 64), p)
    wanted = -(k * left.long()) % p
    assert torch.equal(got.long(), wanted[:, None].expand(16, 64))


@pytest.mark.parametrize("why", ["", "switched off", "capability", "lacks_code"])
def test_where_they_cannot_serve_the_others_do(hopper: Any, why: str) -> None:
    if why == "switched off":
        assert hopper.library.emulated_set_wgmma(False) is True
    elif why:
        setattr(hopper.control, why, {"capability": 100, "lacks_code": 1}[why])
    p, before = PRIMES[0], hopper.control.blocks_run
    agree(hopper, "field_matmul", residues(p, 64, 8), residues(p, 8, 128), p)
    tiles = 2 if why else 1  # of 64 or 128 columns; a block makes the digits; in both orders
    assert hopper.control.blocks_run - before == 2 * (1 + tiles)
