"""Interpreted Triton kernels of pairwise masks equal the reference on every path through them."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

import pyfed
from cases import residues
from matching import DEVICES, check_equal, word_of
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.checks import ALL_REJECTED, BAD_RESIDUE
from pyfed.ops import add_masks_
from pyfed.triton_kernels import pairwise

KEYS = [Key(bytes([number]) * 32) for number in range(5)]
FIELDS = (SOLINAS31, MERSENNE31)
LANES = 16
TILE = 16 * LANES

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "LANES", LANES)


def added(
    values: torch.Tensor, keys: list[Key], signs: list[int], f: Field, stream: int, start: int
) -> torch.Tensor:
    """To a copy, so that every backend is given the same."""
    return add_masks_(values.clone(), keys, signs, f, stream, start)


def signs_of(masks: int) -> list[int]:
    return [(1, -1, -1)[number % 3] for number in range(masks)]


def test_add_masks(device: str) -> None:
    cases = []
    lengths = (1, 2, 15, 16, 17, 33, TILE - 1, TILE + 1)
    places = itertools.product(lengths, (0, 1, 15, 16, 2**36), (0, 2**32 - 1), FIELDS)
    for number, (length, start, stream, f) in enumerate(places):  # 160
        masks = (1, 0, 1, 0, 2)[number % 5]
        values = residues(f.modulus, length).to(device)
        given = (KEYS[:masks], signs_of(masks), f, stream, min(start, 2**36 - length))
        cases.append(partial(added, values, *given))
    for masks, f, sign in itertools.product((0, 1, 3), FIELDS, (-1, 0, 1)):  # 18
        signs = signs_of(masks) if sign == 0 else [sign] * masks
        values = torch.full((40,), f.modulus - 1 if sign else 0, dtype=torch.int32, device=device)
        cases.append(partial(added, values, KEYS[:masks], signs, f, 1, 9))
    # Rejected candidates are drawn again, several times in the small fields.
    for p, start in itertools.product((3, 5, 7, 13, 97, 769, 1610612741), (0, 7, 2**33 + 5)):  # 21
        values = residues(p, 17).to(device)
        given = (KEYS[start % 5 :][:1], [(1, -1)[p % 2]], Field(f"tiny{p}", p), 5, start)
        cases.append(partial(added, values, *given))
    tiny = Field("tiny", 5)
    cases.append(partial(added, residues(5, 40).to(device), KEYS[:3], [1, 1, -1], tiny, 2, 3))
    assert check_equal(cases) == 200


def test_vectors_with_gaps(device: str) -> None:
    cases = []
    for f in FIELDS:
        values = residues(f.modulus, 31, 2).to(device)
        for mine in (values[:, 1], values.t()[0][::3], values.view(-1)[1:]):
            given = (KEYS[:2], [1, -1], f, 0, 3)
            cases.append(partial(lambda x, *rest: add_masks_(x.clone(), *rest), mine, *given))
    assert check_equal(cases) == 6
    values = torch.zeros(9, 2, dtype=torch.int32, device=device)
    with pyfed.use_backend("triton"):
        add_masks_(values[:, 1], KEYS[:1], [1], SOLINAS31)
    assert not values[:, 0].any()
    assert values[:, 1].all()


def launched(
    values: torch.Tensor, masks: int, modulus: int, start: int, word: torch.Tensor
) -> torch.Tensor:
    device = values.device
    keys = torch.arange(8 * masks, dtype=torch.int32, device=device).view(masks, 8)
    signs = torch.tensor(signs_of(masks), dtype=torch.int32, device=device)
    pairwise.add_masks_(values, keys, signs, modulus, 0, start, word)
    return values


def test_residues_outside_the_field_are_told_of_and_masked(device: str) -> None:
    p = SOLINAS31.modulus
    for masks, place in ((0, 299), (2, 0)):
        wanted = launched(
            torch.zeros(300, dtype=torch.int32, device=device), masks, p, 5, word := word_of(device)
        )
        assert word.item() == 0
        for bad in (p, -1, 2**31 - 1, -(2**31)):
            values = torch.zeros(300, dtype=torch.int32, device=device)
            values[place] = bad
            assert torch.equal(launched(values, masks, p, 5, word), wanted)
            assert word.item() == BAD_RESIDUE
            word.zero_()


def test_a_residue_that_is_never_accepted_is_reported(device: str) -> None:
    """With 31 low bits for the prime 3, all 16 candidates are rejected but for one in 2^25."""
    for count, found in ((5, ALL_REJECTED), (0, 0)):  # lanes that are not asked for cannot fail
        values, word = torch.zeros(5, dtype=torch.int32, device=device), word_of(device)
        keys = KEYS[0].words(device)
        signs = torch.ones(1, dtype=torch.int32, device=device)
        pairwise.add_masks_kernel[(1,)](
            *(values, keys, signs, word, 0, 0, count, 1, 0, 0, 3, 2**31 - 1), LANES=LANES
        )
        assert word.item() == found
        assert bool(((values >= 0) & (values < 3)).all())


def test_nothing_beside_the_vector_is_written(device: str) -> None:
    room = torch.full((100,), 7, dtype=torch.int32, device=device)
    launched(room[30:70], 2, SOLINAS31.modulus, 2**20 + 9, word_of(device))
    assert bool((room[:30] == 7).all())
    assert bool((room[70:] == 7).all())
    assert bool((room[30:70] != 7).any())
