"""More than 2^31 elements, where a 32-bit index would wrap.

Inputs are zero pages that the system gives out only when they are written, so a test takes about
8 GiB, for its output. On a GPU they are what they are.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import mask_oracles
import oracles
import pyfed
from pyfed import SOLINAS31, Key
from pyfed.ops import (
    Indices,
    dequantize,
    field_matmul,
    field_sum,
    lagrange_decode,
    lagrange_encode,
    mask_add,
    mask_count,
    mask_pack,
    mask_popcount,
    mask_prune_,
    mask_select,
    mask_totals,
    mask_unpack,
    masked_mean,
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


BYTES = (COUNT + 7) // 8


def bits(rows: int, device: str) -> torch.Tensor:
    """Packed masks: row i has the elements PLACES[i:] set."""
    marks: dict[int, float] = {}
    for row in range(rows):
        for place in PLACES[row:]:
            byte = row * BYTES + place // 8
            marks[byte] = int(marks.get(byte, 0)) | 1 << place % 8
    return zeros(rows * BYTES, np.uint8, marks, device).view(rows, BYTES)


def test_packing_and_unpacking(device: str) -> None:
    packed = bits(1, device)[0]
    mask = zeros(COUNT, np.bool_, dict.fromkeys(PLACES, 1), device)
    assert torch.equal(mask_pack(mask), packed)
    assert int(mask_popcount(packed, COUNT)) == len(PLACES)
    del mask
    assert torch.nonzero(mask_unpack(packed, COUNT)).flatten().tolist() == list(PLACES)


def test_counting(device: str) -> None:
    packed = bits(3, device)
    wanted = {place: min(i + 1, 3) for i, place in enumerate(PLACES)}
    planes = mask_add(packed[:0], packed, COUNT, capacity=3)
    for counts in (mask_count(packed, COUNT), mask_totals(planes, COUNT)):
        assert counts.shape == (COUNT,)
        found = torch.nonzero(counts).flatten().tolist()
        assert {place: int(counts[place]) for place in found} == wanted


def test_selection(device: str) -> None:
    """The layer in one group: by index a tie is far below 2^31, by random words anywhere."""
    counts = zeros(COUNT, np.uint8, dict.fromkeys(PLACES, 2), device)
    more = Fraction(len(PLACES) + 2, COUNT)
    chosen = torch.nonzero(mask_select(counts, (COUNT,), more)).flatten().tolist()
    assert chosen == sorted([*PLACES, 2, 3])
    words = {
        place: oracles.word(KEY.reveal(), place, domain=mask_oracles.SELECTION) for place in PLACES
    }
    few = mask_select(counts, (COUNT,), Fraction(3, COUNT), ties="random", key=KEY)
    assert torch.nonzero(few).flatten().tolist() == sorted(sorted(PLACES, key=words.get)[:3])  # type: ignore[arg-type]


def test_selection_in_rows_and_columns(device: str) -> None:
    """2^16 + 1 rows of 2^15: the matrix is larger than 2^31, its groups are small."""
    shape = (2**16 + 1, 2**15)
    size = shape[0] * shape[1]
    last = size - 1
    counts = zeros(size, np.uint8, {0: 1, last: 1, last - 2**15: 1}, device)
    rows = mask_select(counts, shape, Fraction(1, shape[1]), "row", "index")
    assert int(torch.count_nonzero(rows)) == shape[0]
    assert int(torch.count_nonzero(rows[:, 0])) == shape[0] - 2
    assert bool(rows[-1, -1]) and bool(rows[-2, -1])
    del rows
    columns = mask_select(counts, shape, Fraction(1, shape[0]), "column", "index")
    assert int(torch.count_nonzero(columns[0])) == shape[1] - 1
    assert torch.nonzero(columns[1:]).tolist() == [[shape[0] - 3, shape[1] - 1]]


def test_pruning(device: str) -> None:
    counts = zeros(COUNT, np.uint8, dict.fromkeys(PLACES, 1), device)
    weight = zeros(
        COUNT, np.float16, {**dict.fromkeys(PLACES, 3.0), 5: 7.0, COUNT - 2: 8.0}, device
    )
    mask_prune_(weight, counts, Fraction(len(PLACES), COUNT))
    assert torch.nonzero(weight).flatten().tolist() == [5, COUNT - 2]
    assert (float(weight[5]), float(weight[COUNT - 2])) == (7, 8)


def test_means(device: str) -> None:
    marks = {place: 1.0 + i for i, place in enumerate(PLACES)}
    values = zeros(COUNT, np.float16, marks, device)[None]
    got = masked_mean(values, bits(1, device), weights=[3])
    assert torch.nonzero(got).flatten().tolist() == list(PLACES)
    assert [float(got[place]) for place in PLACES] == list(marks.values())
    del values, got
    places = torch.tensor(PLACES, device=device)
    sent = [torch.ones(len(PLACES), dtype=torch.float16, device=device)] * 2
    got = masked_mean(sent, Indices((COUNT,), [places, places]), denominator="all")
    assert torch.nonzero(got).flatten().tolist() == list(PLACES)
    assert bool((got[places] == 1).all())
    pyfed.check()
