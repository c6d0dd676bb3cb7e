"""More than 2^31 elements, where a 32-bit index would wrap.

Inputs are zero pages that the system gives out only when they are written, so a test takes about
8 GiB, for its output. On a GPU they are what they are.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oracles
import pyfed
from pyfed import SOLINAS31, Key
from pyfed.ops import (
    dequantize,
    field_matmul,
    field_sum,
    lagrange_decode,
    lagrange_encode,
    quantize,
    random_residues,
    random_words,
)
from runs import DEVICES

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("device", DEVICES)]
KEY, P = Key(bytes(range(32))), SOLINAS31.modulus
COUNT = 2**31 + 37
PLACES = (0, 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, COUNT - 1)


def zeros(count: int, dtype: type, marks: dict[int, float], device: str) -> torch.Tensor:
    """Zeros but for a few marks; NumPy leaves untouched pages to the system."""
    values = np.zeros(count, dtype=dtype)
    for place, mark in marks.items():
        values[place] = mark
    return torch.from_numpy(values).to(device)


def test_words_and_residues(device: str) -> None:
    words = random_words(KEY, COUNT, start=5, device=device)
    for place in PLACES:
        assert int(words[place]) == oracles.signed(oracles.word(KEY.reveal(), 5 + place))
    del words
    made = random_residues(KEY, COUNT, SOLINAS31, start=5, device=device)
    for place in PLACES:
        assert int(made[place]) == oracles.residue(KEY.reveal(), 5 + place, P)


def test_rounding(device: str) -> None:
    marks = {place: 0.3 + 0.1 * i for i, place in enumerate(PLACES)}
    values = zeros(COUNT, np.float32, marks, device)
    got = quantize(values, 64.0, 4.0, SOLINAS31, KEY, start=3)
    assert int(torch.count_nonzero(got)) == len(PLACES)
    for place in PLACES:
        mark = [float(values[place])]
        wanted = oracles.quantize(mark, 64.0, 4.0, P, KEY.reveal(), start=3 + place)
        assert [int(got[place])] == wanted


def test_the_way_back(device: str) -> None:
    marks = {place: P - 1 - i for i, place in enumerate(PLACES)}
    got = dequantize(zeros(COUNT, np.int32, marks, device), 4.0, SOLINAS31)
    assert int(torch.count_nonzero(got)) == len(PLACES)
    assert [float(got[place]) for place in PLACES] == [-(1 + i) / 4 for i in range(len(PLACES))]


def test_sums(device: str) -> None:
    clients, columns = 2**16 + 3, 2**15
    x = zeros(clients * columns, np.int32, {0: 7, clients * columns - 1: P - 1}, device)
    got = field_sum(x.view(clients, columns), SOLINAS31)
    assert (int(got[0]), int(got[-1]), int(torch.count_nonzero(got))) == (7, P - 1, 2)


def test_products(device: str) -> None:
    rows, columns = 2**16 + 3, 2**15
    a = torch.arange(rows, dtype=torch.int32, device=device)[:, None]
    b = zeros(columns, np.int32, {0: 3, columns - 1: P - 1}, device)[None]
    got = field_matmul(a, b, SOLINAS31)
    assert got.shape == (rows, columns)
    assert int(torch.count_nonzero(got)) == 2 * (rows - 1)
    assert (int(got[-1, 0]), int(got[-1, -1])) == (3 * (rows - 1), P - (rows - 1))


def test_encoding(device: str) -> None:
    blocks = 2**11
    marks = {place: i + 1 for i, place in enumerate(PLACES)}
    data = zeros(COUNT, np.int32, marks, device)
    matrix = torch.ones(1, blocks, dtype=torch.int32, device=device)
    got = lagrange_encode(data, matrix, KEY, SOLINAS31, blocks)
    wanted: dict[int, int] = {}
    for place, mark in marks.items():
        wanted[place // blocks] = wanted.get(place // blocks, 0) + mark
    assert got.shape == (1, COUNT // blocks + 1)
    found = torch.nonzero(got[0]).flatten().tolist()
    assert {column: int(got[0, column]) for column in found} == wanted


def test_decoding(device: str) -> None:
    blocks, columns = 2**11, 2**20 + 1
    rows = zeros(columns, np.int32, {0: 5, columns - 1: P - 2}, device)[None]
    matrix = torch.arange(1, blocks + 1, dtype=torch.int32, device=device)[:, None]
    got = lagrange_decode(rows, matrix, SOLINAS31, blocks * columns)
    assert got.numel() == blocks * columns > 2**31
    assert int(torch.count_nonzero(got)) == 2 * blocks
    assert got[:blocks].tolist() == [5 * (k + 1) for k in range(blocks)]
    assert got[-blocks:].tolist() == [-2 * (k + 1) % P for k in range(blocks)]
    pyfed.check()
