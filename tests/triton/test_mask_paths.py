"""Interpreted Triton kernels for packed masks equal the reference, bit for bit, on every path.

Sizes stand around bytes, words, tiles and groups of clients. Each test counts its cases.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch

from matching import DEVICES, bools, check_equal, packed, word_of
from pyfed.checks import BAD_PADDING, TOO_MANY
from pyfed.ops import mask_add, mask_count, mask_pack, mask_popcount, mask_totals, mask_unpack
from pyfed.triton_kernels import counts, masks

LENGTHS = (0, 1, 7, 8, 9, 31, 32, 33, 64, 65, 127, 128, 129)

pytestmark = pytest.mark.parametrize("device", DEVICES)


def some_masks(device: str) -> list[torch.Tensor]:
    """Masks of one row, of few long rows, and of many short ones; with and without tails."""
    rows = ((), (1,), (2,), (33,), (2, 3))
    shapes = [(*r, n) for r in rows for n in LENGTHS]
    shapes += [(n,) for n in (4095, 4096, 4097)] + [(2, n) for n in (520, 4095, 4096, 4097)]
    shapes += [(0, 5), (3, 0), (32, 64), (31, 65), (65, 16), (3, 1, 600)]
    found = [bools(*s, density=d, device=device) for s in shapes for d in (0.4, 1.0, 0.0)]
    return [*found, bools(9, 70, device=device).t(), bools(9, 70, device=device)[:, ::3]]


def test_mask_pack(device: str) -> None:
    assert check_equal(partial(mask_pack, mask) for mask in some_masks(device)) >= 200


def test_mask_unpack(device: str) -> None:
    cases = [partial(mask_unpack, packed(m), m.shape[-1]) for m in some_masks(device)]
    wide = packed(bools(9, 64, device=device))
    cases.append(partial(mask_unpack, wide[:, ::2], 32))
    cases.append(partial(mask_unpack, wide.flatten()[1:], 8 * wide.numel() - 8))
    assert check_equal(cases) >= 200


def test_mask_popcount(device: str) -> None:
    cases = [partial(mask_popcount, packed(m), m.shape[-1]) for m in some_masks(device)]
    wide = packed(bools(9, 64, device=device))
    cases.append(partial(mask_popcount, wide.t(), 72))
    assert check_equal(cases) >= 200


def test_mask_count(device: str) -> None:
    """Up to more clients than 8 planes and a byte hold, in words of 32 bits and in bytes."""
    cases = []
    few, many = (0, 1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 31, 33, 64, 65), (127, 128, 247, 248, 249)
    places = [*itertools.product(few, LENGTHS[1:]), *itertools.product(many, (9, 32))]
    places += [(255, 3), (256, 32), (257, 33), (500, 64), (2, 1025), (2, 4128), (0, 0)]
    for clients, length in places:
        # Full masks reach the largest count.
        mask = bools(clients, length, density=1.1 if length % 2 else 0.7, device=device)
        cases.append(partial(mask_count, packed(mask), length))
    wide = packed(bools(9, 64, device=device))
    cases.append(partial(mask_count, wide.t(), 72))
    cases.append(partial(mask_count, wide.flatten()[1:65].view(2, 32), 256))  # not aligned
    assert check_equal(cases) >= 200


def in_planes(totals: torch.Tensor, planes: int) -> torch.Tensor:
    shifts = torch.arange(planes, device=totals.device)[:, None]
    return packed(((totals >> shifts) & 1).to(torch.bool))


def test_mask_add(device: str) -> None:
    cases = []
    for planes, clients, length in itertools.product(
        (0, 1, 3, 8, 9, 15, 16), (0, 1, 7, 8, 9, 17), (1, 9, 32, 33, 129)
    ):
        most = min(2**planes - 1, 65535 - clients)
        totals = torch.randint(0, most + 1, (length,), device=device)
        totals[::2] = most  # the carry runs through all planes
        mask = bools(clients, length, density=1.1 if length % 2 else 0.7, device=device)
        state = in_planes(totals, planes)
        cases.append(partial(mask_add, state, packed(mask), length, most + clients))
    for length in (1056, 1025, 4128):
        state = in_planes(torch.arange(length, device=device), 13)
        mask = packed(bools(3, length, device=device))
        cases.append(partial(mask_add, state, mask, length, 65535))
    state = in_planes(torch.arange(256, device=device), 8)
    cases.append(partial(mask_add, state[:, :0], state[:, :0], 0, 3))
    cases.append(partial(mask_add, state[:, ::2], state[:2, 1::2], 128, 300))
    assert check_equal(cases) >= 200


def test_mask_totals(device: str) -> None:
    cases = []
    for planes, length in itertools.product(range(17), LENGTHS):
        totals = torch.randint(0, 2**planes, (length,), device=device)
        cases.append(partial(mask_totals, in_planes(totals, planes), length))
    for planes, length in itertools.product((8, 16), (1025, 4128)):
        totals = torch.arange(length, device=device)
        cases.append(partial(mask_totals, in_planes(totals % 256, planes), length))
    assert check_equal(cases) >= 200


def launchers(length: int, device: str) -> list[tuple[Any, list[torch.Tensor]]]:
    """Launchers that take packed masks, and such masks of ``length`` elements."""
    rows, few = packed(bools(3, length, device=device)), packed(bools(2, length, device=device))
    return [
        (lambda m, w: masks.mask_unpack(m, length, w), [rows]),
        (lambda m, w: masks.mask_popcount(m, length, w), [rows]),
        (lambda m, w: counts.mask_count(m, length, w), [rows]),
        (lambda p, m, w: counts.mask_add(p, m, length, 4, w), [few, rows]),
        (lambda p, m, w: counts.mask_add(p, m, length, 2, w), [few[:1] * 0, rows]),
        (lambda m, w: counts.mask_totals(m, length, w), [rows]),
    ]


@pytest.mark.parametrize("length", [1, 15, 30, 1100])
def test_every_set_padding_bit_is_reported(device: str, length: int) -> None:
    for launch, rows in launchers(length, device):
        word = word_of(device)
        launch(*rows, word)
        assert word.item() == 0
        for given in rows:
            for bit in range(length % 8, 8):
                given[-1, -1] ^= 1 << bit
                launch(*rows, word)
                given[-1, -1] ^= 1 << bit
                assert word.item() == BAD_PADDING
                word.zero_()


@pytest.mark.parametrize("length", [33, 64])
def test_a_total_that_does_not_fit_is_reported(device: str, length: int) -> None:
    for total, clients, planes in ((3, 1, 2), (65535, 1, 16), (65535, 200, 16), (0, 9, 3)):
        totals = torch.zeros(length, dtype=torch.int64, device=device)
        totals[-1] = total
        state = in_planes(totals, total.bit_length())
        mask = packed(bools(clients, length, density=1.1, device=device))
        word = word_of(device)
        counts.mask_add(state, mask, length, planes, word)
        assert word.item() == TOO_MANY
        word.zero_()
        counts.mask_add(state, mask[:0], length, max(planes, total.bit_length()), word)
        assert word.item() == 0
