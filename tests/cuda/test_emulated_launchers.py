"""Launchers of the CUDA kernels: errors, refusals, no elements and more than 2^31.

Emulated, as in ``test_emulated.py``.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

import pyfed.ops  # noqa: F401  (declares the ops)
from agreement import SparseBytes, agree, broken, reference
from cases import KEY, residues
from pyfed import MERSENNE31, SOLINAS31
from pyfed.errors import ArgumentError

WORDS = KEY.words()
PRIMES = (SOLINAS31.modulus, MERSENNE31.modulus)
EVERY_PRIME = pytest.mark.parametrize("p", PRIMES, ids=("solinas31", "mersenne31"))


def test_nothing_is_launched_for_nothing(emulated: Any) -> None:
    p, none = PRIMES[0], torch.empty(0, dtype=torch.int32)
    for op, args in {
        "random_words": (WORDS, 0, 0, 0),
        "random_residues": (WORDS, 0, p, 0, 0),
        "field_matmul": (none.view(0, 3), residues(p, 3, 4), p),
        "field_sum": (none.view(3, 0), None, p),
        "quantize": (torch.empty(0), 1.0, 1.0, p, WORDS, 0, 0),
        "dequantize": (none, 1.0, p),
        "decode_sum": (none.view(3, 0), none.view(3, 0), residues(p, 2, 3), 1.0, p),
        "lagrange_encode": (none, residues(p, 4, 3), WORDS, p, 2, 0, 0, False),
        "lagrange_decode": (none.view(3, 0), residues(p, 2, 3), p, 0),
    }.items():
        agree(emulated, op, *args)
    assert emulated.control.launches == 0
    agree(emulated, "field_matmul", none.view(2, 0), none.view(0, 3), p)  # sums of nothing are 0
    agree(emulated, "field_sum", none.view(0, 5), None, p)
    assert emulated.control.launches == 0


@EVERY_PRIME
@pytest.mark.parametrize("bad", ["p", "negative"])
def test_a_residue_outside_the_field_is_told_of(emulated: Any, p: int, bad: str) -> None:
    value = p if bad == "p" else -1
    a, b, long = residues(p, 20, 70), residues(p, 70, 66), residues(p, 3, 600)
    for op, args, places in (
        ("field_matmul", (a, b, p), {0: (0, 1399), 1: (0, 4619)}),
        ("field_matmul", (long, residues(p, 600, 5), p), {0: (0, 1799), 1: (0, 2999)}),
        ("field_sum", (a, a[:, 0].clone(), p), {0: (0, 1399), 1: (0, 19)}),
        ("dequantize", (residues(p, 5000), 1.0, p), {0: (0, 4096, 4999)}),
        (
            "lagrange_encode",
            (a.view(-1), b, WORDS, p, 40, 0, 3, False),
            {0: (0, 1399), 1: (0, 4619)},
        ),
        ("lagrange_decode", (b, a, p, 1000), {0: (0, 4619), 1: (0, 1399)}),
    ):
        for argument, where in places.items():
            for place in where:
                wrong = list(args)
                wrong[argument] = broken(args[argument], place, value)
                with pytest.raises(ArgumentError, match="residue lies outside"):
                    emulated(op, *wrong)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", [None, WORDS], ids=("nearest", "random"))
def test_a_value_that_is_not_finite_is_told_of(
    emulated: Any, bad: float, key: torch.Tensor | None
) -> None:
    for place in (0, 4095, 5000):
        values = broken(torch.zeros(5001), place, bad)
        with pytest.raises(ArgumentError, match="NaN or infinite"):
            emulated("quantize", values, 1.0, 1.0, PRIMES[0], key, 0, 0)


def test_more_than_2_to_31_elements(emulated: Any) -> None:
    # Only the last blocks of each grid run. `tail` elements lie inside them.
    p, count, tail = PRIMES[0], 2**31 + 4321, 100
    emulated.control.last_blocks = 3
    key, results, operands = WORDS.data_ptr(), SparseBytes(4 * count), SparseBytes(8 * count)
    out, x = results.bytes.view(torch.int32), operands.bytes.view(torch.int32)
    last = residues(p, tail)
    x[count - tail : count] = last
    x[2 * count - tail :] = last
    start = 2**36 - count
    near = {"start": start + count - tail, "stream": 3}

    def check(name: str, wanted: torch.Tensor, *args: Any) -> None:
        out[-tail:] = -1
        assert emulated.launch(name, *args) == 0
        assert torch.equal(out[-tail:], wanted.view(torch.int32)), name
        out[-tail:] = 0

    words = reference("random_words", WORDS, tail, near["stream"], near["start"])
    check("random_words", words, key, start, count, 3, results.at)
    made = reference("random_residues", WORDS, tail, p, near["stream"], near["start"])
    check("random_residues", made, key, start, count, 3, p, results.at)
    sums = reference("field_sum", torch.stack([last, last]), None, p)
    check("field_sum", sums, operands.at, None, 2, count, p, results.at)
    lifted = reference("dequantize", last, 2.0, p)
    check("dequantize", lifted, operands.at, count, 2.0, p, results.at)
    floats = lifted.view(torch.int32)
    x[count - tail : count] = floats
    for address in (None, key):
        given = None if address is None else WORDS
        wanted = reference("quantize", lifted, 2.0, 2.0**20, p, given, 3, near["start"])
        args = (operands.at, count, 2.0, 2.0**20, p, address, 3, start, results.at)
        check("quantize", wanted, *args)
    x[count - tail : count] = last
    ones = torch.ones(1, 1, dtype=torch.int32)
    one, ends = ones.data_ptr(), (p, results.at, None)
    for m, n, a, b in ((count, 1, operands.at, one), (1, count, one, operands.at)):
        check("field_matmul", last, a, b, m, 1, n, *ends)
    check("lagrange_decode", last, operands.at, count, one, 1, 1, count, *ends)
    matrix = torch.tensor([[1, 1]], dtype=torch.int32)
    code = (operands.at, count, matrix.data_ptr(), 1, 1, 1, key, 3, start, p, results.at, None)
    wanted = reference("lagrange_encode", last, matrix, WORDS, p, 1, 3, near["start"], False)
    check("lagrange_encode", wanted[0], *code)


def test_launchers_give_the_device_back(emulated: Any) -> None:
    args = ("random_words", WORDS, 5, 0, 0)
    emulated.device = 1
    assert torch.equal(emulated(*args), reference(*args))
    assert emulated.current_device == 0
    emulated.control.fail = 1
    with pytest.raises(RuntimeError, match="CUDA: an error"):
        emulated(*args)
    assert emulated.current_device == 0
    emulated.device = 2
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        emulated(*args)


def test_a_modulus_without_kernel_is_refused(emulated: Any) -> None:
    one = torch.ones(1, 1, dtype=torch.int32)
    for op, args in {
        "field_matmul": (one, one, 5),
        "field_sum": (one, None, 5),
        "lagrange_encode": (one[0], one, WORDS, 5, 1, 0, 0, False),
        "lagrange_decode": (one, one, 5, 1),
    }.items():
        with pytest.raises(RuntimeError, match="no kernel for modulus 5"):
            emulated(op, *args)


def test_the_emulator_notices_faults(emulated: Any) -> None:
    message = emulated.launcher("bad_barrier", [ctypes.c_int])(0)
    assert b"wait at a barrier" in message
    assert emulated.launcher("dirty_memory", [ctypes.c_int])(0) is None
    assert emulated.control.dirty_blocks == 1
