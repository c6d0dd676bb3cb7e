"""The CUDA kernels, run thread by thread on the CPU, give the reference's bits.

Cases are chosen by path: tails, misaligned pointers, every tile shape, split inner dimensions,
rejections, the bounds of lazy reductions. Each runs twice, with the threads between two barriers
in either order, so that a missing barrier shows. See ``emulate.h``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import agree, reference, shifted
from cases import CASES, KEY, largest, residues
from pyfed import MERSENNE31, SOLINAS31, WIDE
from pyfed.errors import PyfedError
from pyfed.op import OPS

WORDS = KEY.words()
PRIMES = (SOLINAS31.modulus, MERSENNE31.modulus)
EVERY_PRIME = pytest.mark.parametrize("p", PRIMES, ids=("solinas31", "mersenne31"))
SECOND = WIDE.planes[1].modulus  # the same code with other bounds
BOUNDED = pytest.mark.parametrize("p", (*PRIMES, SECOND), ids=("solinas31", "mersenne31", "second"))


def served(op: str) -> Iterator[tuple[Any, ...]]:
    """The contract's cases whose modulus has a kernel."""
    for case in CASES[op]:
        args = case.torch_args(op, "cpu")
        moduli = [a for a in args if isinstance(a, int) and a > 2]
        if op.startswith(("field_", "lagrange_")) and not set(moduli) & {*PRIMES, WIDE.code}:
            continue
        yield args


@pytest.mark.parametrize("op", [op for op in OPS if "cuda" in OPS[op].kernels])
def test_cases_of_the_contract(emulated: Any, op: str) -> None:
    for args in served(op):
        agree(emulated, op, *args)


@pytest.mark.parametrize("start", [0, 1, 15, 16, 2**35 + 13, 2**36 - 8203])
@pytest.mark.parametrize("count", [1, 17, 4079, 4080, 4081, 4096, 4097, 8203])
def test_words_at_the_ends_of_blocks(emulated: Any, count: int, start: int) -> None:
    agree(emulated, "random_words", WORDS, count, 2**32 - 1, start)


@pytest.mark.parametrize("p", [3, 5, 7, 17, 65537, 2**30 + 3, 2**31 - 2**19 + 1, *PRIMES])
@pytest.mark.parametrize("start", [0, 11, 2**36 - 4099])
def test_residues_are_rejected_alike(emulated: Any, p: int, start: int) -> None:
    agree(emulated, "random_residues", WORDS, 4099, p, 7, start)


def test_a_residue_without_candidate_is_told_of(emulated: Any) -> None:
    # Modulus 257 rejects 255 of 512 candidates: 16 in a row for about 3 of these residues.
    args = (WORDS, 200_000, 257, 0, 0)
    for run in (reference, emulated):
        with pytest.raises(PyfedError, match="16 candidates"):
            run("random_residues", *args)


@EVERY_PRIME
@pytest.mark.parametrize("m, n", [(1, 1), (4, 9), (5, 8), (16, 257), (17, 65), (65, 63), (130, 10)])
@pytest.mark.parametrize("k", [1, 3, 4, 5, 8, 9, 16, 17, 63, 66, 130])
def test_products_of_any_shape(emulated: Any, p: int, m: int, n: int, k: int) -> None:
    agree(emulated, "field_matmul", residues(p, m, k), residues(p, k, n), p)


@EVERY_PRIME
@pytest.mark.parametrize(
    "m, k, n",
    [
        *((1, 512, 1), (5, 2047, 8), (9, 2049, 3), (3, 20_011, 2), (1, 70_001, 1)),  # dot
        *((3, 2049, 20), (16, 4097, 9), (20, 5000, 20), (65, 4100, 9)),  # tiles, split
    ],
)
def test_long_products_are_split(emulated: Any, p: int, m: int, k: int, n: int) -> None:
    agree(emulated, "field_matmul", residues(p, m, k), residues(p, k, n), p)
    a, b = largest(p, m, k), largest(p, k, n)
    for got in (
        emulated("field_matmul", a, b, p),
        emulated("field_matmul", a, b, p, backwards=True),
    ):
        assert torch.equal(got, torch.full((m, n), k % p, dtype=torch.int32))  # k · (-1)²


@BOUNDED
@pytest.mark.parametrize("value", ["largest", "half", "half_up"])
@pytest.mark.parametrize("k", [8, 9, 64, 513])
def test_products_at_the_bound(emulated: Any, p: int, value: str, k: int) -> None:
    # (p - 1) / 2 and its negative are the centred operands of largest magnitude.
    v = {"largest": p - 1, "half": (p - 1) // 2, "half_up": (p + 1) // 2}[value]
    for w in (v, (p - 1) // 2):
        for m, n in ((2, 2), (2, 9), (17, 9)):
            a = torch.full((m, k), v, dtype=torch.int32)
            b = torch.full((k, n), w, dtype=torch.int32)
            got = emulated("field_matmul", a, b, p)
            assert torch.equal(got, torch.full((m, n), k * v * w % p, dtype=torch.int32))


@EVERY_PRIME
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clients", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 130, 1024, 4097])
def test_sums_of_any_shape(emulated: Any, p: int, weighted: bool, clients: int, count: int) -> None:
    x = residues(p, clients, count)
    agree(emulated, "field_sum", x, residues(p, clients) if weighted else None, p)


@BOUNDED
@pytest.mark.parametrize(
    "clients, count", [(5000, 1), (4097, 7), (2500, 132), (3, 262_149), (2, 262_148)]
)
def test_sums_are_spread_over_threads(emulated: Any, p: int, clients: int, count: int) -> None:
    x = largest(p, clients, count)
    agree(emulated, "field_sum", x, None, p)
    for got in (emulated("field_sum", x, x[:, 0].clone(), p),):
        assert torch.equal(got, torch.full((count,), clients % p, dtype=torch.int32))


@EVERY_PRIME
@pytest.mark.parametrize("count", [1, 5, 4095, 4096, 4097, 8195])
@pytest.mark.parametrize("start", [None, 0, 13, 2**36 - 8195])
def test_rounding_with_tails(emulated: Any, p: int, count: int, start: int | None) -> None:
    values = torch.randn(count) * 3
    values[::5] = torch.tensor([0.5, -0.5, 1.5, -2.5, -0.0]).repeat(count)[: len(values[::5])]
    key = None if start is None else WORDS
    for scale, clip in ((1.0, 2.0), (2.0**20, 1023.0), (2.0**-100, 1.0)):
        args = (scale, clip, p, key, 3, start or 0)
        agree(emulated, "quantize", values, *args)
        agree(emulated, "quantize", shifted(values), *args)


@pytest.mark.parametrize("p", [3, 257, *PRIMES])
@pytest.mark.parametrize("count", [1, 5, 4095, 4096, 4097, 8195])
def test_lifting_back_with_tails(emulated: Any, p: int, count: int) -> None:
    values = residues(p, count)
    for scale in (1.0, 2.0**100, 2.0**-100):
        agree(emulated, "dequantize", values, scale, p)
        agree(emulated, "dequantize", shifted(values), scale, p)


def test_misaligned_operands(emulated: Any) -> None:
    p = PRIMES[0]
    x, w = shifted(residues(p, 5, 8)), shifted(residues(p, 5))
    agree(emulated, "field_sum", x, w, p)
    agree(emulated, "field_matmul", x, shifted(residues(p, 8, 12)), p)
    matrix = shifted(residues(p, 6, 5))
    agree(emulated, "lagrange_encode", shifted(residues(p, 37)), matrix, WORDS, p, 3, 0, 5, False)
    agree(emulated, "lagrange_decode", x, matrix, p, 47)


ENCODINGS = [  # shares, blocks, privacy, length, start_column: every tile shape and panel depth
    *((1, 1, 0, 1, 0), (2, 1, 1, 300, 0), (16, 8, 4, 2100, 15), (16, 17, 0, 999, 3)),
    *((5, 2, 33, 600, 2**36 - 300), (16, 16, 16, 257 * 16, 1), (3, 40, 1, 39, 14)),
    *((17, 5, 3, 333, 5), (64, 40, 24, 40 * 65, 0), (50, 70, 3, 70 * 64 - 1, 9)),
    *((33, 3, 66, 3 * 49, 15), (40, 64, 64, 641, 31), (65, 9, 7, 300, 2**35 + 7)),
    *((100, 40, 30, 40 * 33, 1), (128, 130, 5, 1000, 12), (90, 2, 129, 65, 3)),
    *((129, 6, 5, 97, 8), (256, 3, 260, 51, 0), (256, 257, 1, 257 * 17, 15)),
    *((257, 4, 2, 100, 2), (520, 2, 3, 33, 6), (300, 300, 0, 301, 0)),
]


@EVERY_PRIME
@pytest.mark.parametrize("shares, blocks, privacy, length, start", ENCODINGS)
def test_encodings_of_any_shape(
    emulated: Any, p: int, shares: int, blocks: int, privacy: int, length: int, start: int
) -> None:
    data, matrix = residues(p, length), residues(p, shares, blocks + privacy)
    agree(emulated, "lagrange_encode", data, matrix, WORDS, p, blocks, 9, start, False)


@EVERY_PRIME
def test_encodings_at_the_bound(emulated: Any, p: int) -> None:
    for shares, blocks in ((3, 8), (20, 65), (100, 129), (130, 257)):
        data, matrix = largest(p, blocks * 18), largest(p, shares, blocks)
        got = emulated("lagrange_encode", data, matrix, WORDS, p, blocks, 0, 0, False)
        assert torch.equal(got, torch.full((shares, 18), blocks % p, dtype=torch.int32))


def test_padding_is_rejected_alike(emulated: Any) -> None:
    # SOLINAS31 rejects 6.1e-5 of the candidates: about 8 of these 2^17.
    p, columns = PRIMES[0], 2**15
    data = torch.zeros(columns, dtype=torch.int32)
    matrix = torch.eye(5, dtype=torch.int32)
    agree(emulated, "lagrange_encode", data, matrix, WORDS, p, 1, 0, 3, False)


def test_pieces_of_a_vector_encode_alike(emulated: Any) -> None:
    p = PRIMES[0]
    data, matrix = residues(p, 3 * 700), residues(p, 20, 5)
    whole = emulated("lagrange_encode", data, matrix, WORDS, p, 3, 1, 100, False)
    for cut in (1, 16, 333):
        parts = [
            emulated("lagrange_encode", piece, matrix, WORDS, p, 3, 1, 100 + first, False)
            for piece, first in ((data[: 3 * cut], 0), (data[3 * cut :], cut))
        ]
        assert torch.equal(torch.cat(parts, dim=1), whole)


@EVERY_PRIME
@pytest.mark.parametrize(
    "blocks, threshold, columns",
    [
        *((1, 1, 1), (1, 5, 300), (8, 12, 257), (16, 17, 256), (15, 33, 70)),
        *((17, 20, 63), (40, 70, 65), (64, 64, 64), (65, 80, 65), (130, 140, 40)),
    ],
)
@pytest.mark.parametrize("dropped", [0, 1])
def test_decodings_of_any_shape(
    emulated: Any, p: int, blocks: int, threshold: int, columns: int, dropped: int
) -> None:
    rows, matrix = residues(p, threshold, columns), residues(p, blocks, threshold)
    agree(emulated, "lagrange_decode", rows, matrix, p, blocks * columns - dropped)
