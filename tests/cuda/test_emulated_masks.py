"""The CUDA kernels of packed masks and counts, run on the CPU; see ``emulate.h``.

Rows begin at any byte, and every class of bit planes and of row lengths occurs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyfed.ops
from agreement import SparseBytes, agree, reference, shifted
from pyfed.errors import ArgumentError


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def packed_masks(rows: int, length: int, share: float = 0.5) -> torch.Tensor:
    """Random packed masks in which every fifth element is set in all."""
    mask = torch.rand(rows, length) < share
    mask[:, ::5] = True
    return reference("mask_pack", mask)


LENGTHS = (1, 7, 8, 31, 32, 33, 64, 511, 512, 513, 8200, 8223)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("rows", [1, 3])
def test_packing_of_any_shape(emulated: Any, rows: int, length: int) -> None:
    mask = torch.rand(rows, length) < 0.5
    packed = reference("mask_pack", mask)
    for given, bits in ((mask, packed), (shifted(mask), shifted(packed))):
        agree(emulated, "mask_pack", given)
        agree(emulated, "mask_unpack", bits, length)
        agree(emulated, "mask_popcount", bits, length)


def test_long_rows_are_counted_by_many_blocks(emulated: Any) -> None:
    length = 2**19 + 77  # more than a block's 2^14 words
    packed = packed_masks(2, length)
    agree(emulated, "mask_popcount", packed, length)
    agree(emulated, "mask_popcount", torch.full((1, 2**17), 255, dtype=torch.uint8), 2**20)


COUNTS = (0, 1, 2, 7, 8, 9, 15, 16, 63, 64, 65, 127, 128, 129, 255, 256, 300)


@pytest.mark.parametrize("clients", COUNTS)
@pytest.mark.parametrize("length", [1, 33, 64, 100, 8192 + 40])
def test_counts_of_any_shape(emulated: Any, clients: int, length: int) -> None:
    packed = packed_masks(clients, length)
    agree(emulated, "mask_count", packed, length)
    if clients:
        agree(emulated, "mask_count", shifted(packed), length)
    whole = torch.full_like(packed, 255)
    whole[:, -1] = 255 >> (-length % 8)
    got = emulated("mask_count", whole, length)
    assert torch.equal(got.to(torch.int64), torch.full((length,), clients))


def test_counts_of_the_most_clients(emulated: Any) -> None:
    packed = torch.full((65_535, 1), 1, dtype=torch.uint8)
    assert emulated("mask_count", packed, 1).tolist() == [65_535]
    full = torch.full((16, 1), 1, dtype=torch.uint8)
    assert emulated("mask_totals", full, 1).tolist() == [65_535]
    none = packed[:0]
    assert emulated("mask_add", none, packed, 1, 16).flatten().tolist() == [1] * 16


@pytest.mark.parametrize("planes", [0, 1, 4, 7, 8, 9, 16])
@pytest.mark.parametrize("clients", [0, 1, 8, 17])
@pytest.mark.parametrize("length", [1, 33, 64, 100])
def test_planes_of_any_shape(emulated: Any, planes: int, clients: int, length: int) -> None:
    given, packed = packed_masks(planes, length), packed_masks(clients, length)
    given[planes // 2 :] = 0  # so that no total is too large
    fits = (2 ** (planes // 2) - 1 + clients).bit_length()
    for out_planes in sorted({fits, min(16, fits + 3), 16}):
        agree(emulated, "mask_add", given, packed, length, out_planes)
    agree(emulated, "mask_totals", given, length)
    if planes and clients:
        agree(emulated, "mask_add", shifted(given), shifted(packed), length, 16)
        agree(emulated, "mask_totals", shifted(given), length)


@pytest.mark.parametrize("clients, planes", [(1, 0), (3, 2), (16, 4), (200, 7), (256, 8)])
def test_a_total_that_does_not_fit_is_told_of(emulated: Any, clients: int, planes: int) -> None:
    packed = torch.zeros(clients, 5, dtype=torch.uint8)
    packed[:, 4] = 64  # element 38 of 39
    fits = clients.bit_length()
    none = packed[:0]
    agree(emulated, "mask_add", none, packed, 39, fits)
    if 2**planes - 1 < clients:
        with pytest.raises(ArgumentError, match="does not fit in the bit planes"):
            emulated("mask_add", none, packed, 39, planes)
    full = torch.zeros(16, 5, dtype=torch.uint8)
    full[:, 0] = 1  # 65,535, which one more carries out of all 16 planes
    with pytest.raises(ArgumentError, match="does not fit in the bit planes"):
        emulated("mask_add", full, full[:1], 39, 16)


@pytest.mark.parametrize("length", [1, 39, 52, 8191])
def test_set_padding_is_told_of(emulated: Any, length: int) -> None:
    packed = packed_masks(3, length)
    for row in range(3):
        bad = packed.clone()
        bad[row, -1] |= 128
        for op, args in (
            *(("mask_unpack", (bad, length)), ("mask_popcount", (bad, length))),
            *(("mask_count", (bad, length)), ("mask_totals", (bad, length))),
            *(("mask_add", (bad, packed, length, 16)), ("mask_add", (packed, bad, length, 16))),
        ):
            with pytest.raises(ArgumentError, match="behind the last element"):
                emulated(op, *args)
            with pytest.raises(ArgumentError, match="behind the last element"):
                emulated(op, *(shifted(a) if isinstance(a, torch.Tensor) else a for a in args))


def test_nothing_is_launched_for_nothing(emulated: Any) -> None:
    none, no_votes = torch.empty(3, 0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)
    for op, args in {
        "mask_pack": (none.to(torch.bool),),
        "mask_unpack": (none, 0),
        "mask_popcount": (no_votes.view(0, 4), 30),
        "mask_count": (none, 0),
        "mask_add": (none, none, 0, 4),
        "mask_totals": (none, 0),
        "mask_select": (no_votes, None, None, [0, 4], 0, 4, 1, 4, 2, 0, 0),
        "mask_prune_": (torch.empty(0, 4), no_votes, None, None, None, 0, 4, 1, 4, 2, 0, 0),
        "masked_mean": pyfed.ops.masked_mean.prepare(torch.empty(3, 0)),
    }.items():
        agree(emulated, op, *args)
    assert emulated.control.launches == 0
    agree(emulated, "mask_popcount", none, 0)  # no bits: 0


def test_more_than_2_to_31_elements(emulated: Any) -> None:
    # Only the last blocks of each grid run. The last elements lie inside them.
    count, tail = 2**31 + 64 * 1024, 96
    emulated.control.last_blocks = 3
    wide, packed = SparseBytes(2 * count), SparseBytes(count // 4)
    last = torch.rand(tail) < 0.5
    wide.bytes[count - tail : count] = last.to(torch.uint8)
    bits = reference("mask_pack", last)

    def check(name: str, got: torch.Tensor, wanted: torch.Tensor, *args: Any) -> None:
        got.fill_(90)
        assert emulated.launch(name, *args) == 0
        assert torch.equal(got, wanted.view(torch.uint8)), name
        got.zero_()

    out = packed.bytes[count // 8 - tail // 8 : count // 8]
    check("mask_pack", out, bits, wide.at, 1, count, packed.at)
    for start in (count // 8, count // 4):  # two clients
        packed.bytes[start - tail // 8 : start] = bits
    elements = wide.bytes[count - tail : count]
    check("mask_unpack", elements, last, packed.at, 1, count, wide.at)
    twice = last.to(torch.uint8) * 2
    check("mask_count", elements, twice, packed.at, 2, count, wide.at)
    check("mask_totals", elements, last.to(torch.uint8) * 3, packed.at, 2, count, wide.at)
