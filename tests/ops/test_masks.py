"""Packed masks are those of NumPy, at every length, and padding is watched over."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import mask_oracles as oracles
from clients import LENGTHS, masks, packed
from contract import same_bits
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import mask_pack, mask_popcount, mask_unpack
from runs import Run, runs_of

PACK_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_pack"))
UNPACK_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_unpack"))
POPCOUNT_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_popcount"))
ROWS: tuple[tuple[int, ...], ...] = ((), (1,), (5,), (2, 3), (0,))
READERS = pytest.mark.parametrize("op", [mask_unpack, mask_popcount], ids=lambda op: op.__name__)


def drawn(run: Run) -> Iterator[oracles.Array]:
    """Masks of every length and number of rows: random, empty and full ones."""
    lengths = LENGTHS[::6] if run.interpreted else LENGTHS
    for number, length in enumerate(lengths):
        rows = ROWS[number % len(ROWS)]
        yield masks(number, *rows, length, density=(0.5, 0.0, 1.0, 0.1)[number % 4])
        yield masks(number, 3, length, density=0.9)


@PACK_RUNS
def test_packing_equals_packbits(op: str, run: Run) -> None:
    for bits in drawn(run):
        with run.active():
            got = mask_pack(torch.from_numpy(bits).to(run.device))
        assert same_bits(got, torch.from_numpy(oracles.pack(bits))), bits.shape


@UNPACK_RUNS
def test_unpacking_equals_unpackbits_and_undoes_packing(op: str, run: Run) -> None:
    for bits in drawn(run):
        with run.active():
            got = mask_unpack(packed(bits, run.device), bits.shape[-1])
        assert same_bits(got, torch.from_numpy(bits)), bits.shape


@POPCOUNT_RUNS
def test_popcounts_equal_the_sum_of_the_bits(op: str, run: Run) -> None:
    for bits in drawn(run):
        with run.active():
            got = mask_popcount(packed(bits, run.device), bits.shape[-1])
        wanted = torch.from_numpy(np.asarray(bits.sum(-1, dtype=np.int64)))
        assert same_bits(got, wanted), bits.shape


def test_element_i_is_bit_i_mod_8_of_byte_i_div_8() -> None:
    """Frozen: masks are sent to other parties in this form."""
    for element in range(17):
        mask = torch.zeros(17, dtype=torch.bool)
        mask[element] = True
        wanted = [0, 0, 0]
        wanted[element // 8] = 1 << element % 8
        assert mask_pack(mask).tolist() == wanted


@pytest.mark.parametrize("rows", [1, 2, 7])
@READERS
def test_every_padding_bit_of_every_row_is_refused(op: object, rows: int) -> None:
    for length in (1, 4, 7, 9, 15, 63, 65, 513, 1001):
        good = packed(masks(length, rows, length))
        for row in range(rows):
            for bit in range(length % 8, 8):
                bad = good.clone()
                bad[row, -1] |= 1 << bit
                text = (
                    rf"in packed the last byte of 1 of {rows} rows has a bit set behind its "
                    rf"{length} elements; the first is row \({row},\); padding bits must be 0"
                )
                with pytest.raises(ArgumentError, match=text):
                    op(bad, length)  # type: ignore[operator]


def test_padding_that_cannot_be_is_not_looked_for() -> None:
    full = torch.full((3, 2), 255, dtype=torch.uint8)
    assert mask_popcount(full, 16).tolist() == [16, 16, 16]
    assert bool(mask_unpack(full, 16).all())


@READERS
def test_packed_masks_of_a_wrong_length_are_refused(op: object) -> None:
    for length, size in ((8, 2), (9, 1), (0, 1), (17, 2), (64, 9)):
        text = rf"packed has shape \(3, {size}\); for length {length} its last dimension must be"
        with pytest.raises(ArgumentError, match=text):
            op(torch.zeros(3, size, dtype=torch.uint8), length)  # type: ignore[operator]
    with pytest.raises(ArgumentError, match=r"length is -1; it must be in \[0, "):
        op(torch.zeros(0, dtype=torch.uint8), -1)  # type: ignore[operator]
    with pytest.raises(ArgumentError, match=r"packed has shape \(\)"):
        op(torch.tensor(0, dtype=torch.uint8), 0)  # type: ignore[operator]


@READERS
def test_wrong_types_are_refused_by_name(op: object) -> None:
    good = torch.zeros(1, dtype=torch.uint8)
    with pytest.raises(DtypeError, match=r"packed has dtype torch.int8; it must be torch.uint8"):
        op(good.to(torch.int8), 3)  # type: ignore[operator]
    with pytest.raises(DtypeError, match=r"packed is list; it must be a torch.Tensor"):
        op([0], 3)  # type: ignore[operator]
    for length in (3.0, True, None):
        with pytest.raises(DtypeError, match=r"length is \w+; it must be an int"):
            op(good, length)  # type: ignore[operator]
    with pytest.raises(ArgumentError, match=r"packed has layout torch.sparse_coo"):
        op(good.to_sparse(), 3)  # type: ignore[operator]


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(DtypeError, match=r"mask has dtype torch.uint8; it must be torch.bool"):
        mask_pack(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ArgumentError, match="mask has no dimension"):
        mask_pack(torch.tensor(True))
