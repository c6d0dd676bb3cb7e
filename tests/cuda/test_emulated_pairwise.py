"""The CUDA kernel of pairwise masks, run on the CPU; see ``emulate.h``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agreement import SparseBytes, agree, broken, reference, shifted
from cases import KEY, largest, residues
from pyfed import MERSENNE31, SOLINAS31
from pyfed.errors import ArgumentError, PyfedError

PRIMES = (SOLINAS31.modulus, MERSENNE31.modulus)
EVERY_PRIME = pytest.mark.parametrize("p", PRIMES, ids=("solinas31", "mersenne31"))
ENDS = (1, 15, 16, 17, 225, 240, 256, 257, 497, 4079, 4081, 4097)
"""Lengths around the ends of ChaCha20 blocks and of thread blocks with 16, 8 and one groups."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def keyed(masks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The words of different keys, and signs of both kinds."""
    keys = [KEY.derive("mask", number).words() for number in range(masks)]
    signs = [(1, -1, -1)[number % 3] for number in range(masks)]
    stacked = torch.stack(keys) if keys else torch.empty(0, 8, dtype=torch.int32)
    return stacked, torch.tensor(signs, dtype=torch.int32)


@EVERY_PRIME
@pytest.mark.parametrize("masks", [0, 1, 2, 3, 7, 17])
def test_masks_of_any_number_and_any_shape(emulated: Any, p: int, masks: int) -> None:
    for number, length in enumerate(ENDS[: None if masks < 8 else 8]):
        start = (0, 1, 15, 16, 2**35 + 13, 2**36 - length)[number % 6]
        args = (*keyed(masks), p, number, start)
        agree(emulated, "add_masks_", residues(p, length), *args)


@EVERY_PRIME
def test_misaligned_residues(emulated: Any, p: int) -> None:
    for start in (0, 5):
        args = (*keyed(5), p, 2**32 - 1, start)
        agree(emulated, "add_masks_", shifted(residues(p, 1000)), *args)


@pytest.mark.parametrize("p", [3, 5, 17, 1610612741, 2**31 - 2**19 + 1])
@pytest.mark.parametrize("masks", [1, 18])
def test_any_prime_and_many_rejections(emulated: Any, p: int, masks: int) -> None:
    for start in (0, 11):
        agree(emulated, "add_masks_", residues(p, 700), *keyed(masks), p, 7, start)


@pytest.mark.parametrize(("p", "index"), [(PRIMES[0], 1335), (PRIMES[1], 761923131)])
def test_candidates_that_are_rejected_in_the_fast_fields(emulated: Any, p: int, index: int) -> None:
    keys = torch.stack([KEY.words(), keyed(1)[0][0], KEY.words()])  # see residue_rejections.json
    for signs in ([1, 1, 1], [-1, 1, -1]):
        args = (keys, torch.tensor(signs, dtype=torch.int32), p, 7, index - 9)
        agree(emulated, "add_masks_", residues(p, 19), *args)


@EVERY_PRIME
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_same_sign_wrap_many_times(emulated: Any, p: int, sign: int) -> None:
    keys, _ = keyed(50)
    signs = torch.full((50,), sign, dtype=torch.int32)
    for x in (largest(p, 33), torch.zeros(33, dtype=torch.int32)):
        agree(emulated, "add_masks_", x, keys, signs, p, 0, 0)


def test_blocks_share_the_masks_only_where_the_vector_is_short(emulated: Any) -> None:
    p, blocks = PRIMES[0], []
    for length, masks in ((4096, 1), (4096, 2), (4096, 40), (256 * 4096, 8)):
        before = emulated.control.blocks_run
        emulated("add_masks_", residues(p, length), *keyed(masks), p, 0, 0)
        blocks.append(emulated.control.blocks_run - before)
    assert blocks == [1, 2, 16, 256]


def test_a_residue_without_candidate_is_told_of(emulated: Any) -> None:
    # Modulus 257 rejects 255 of 512 candidates: 16 in a row for about 3 of these residues.
    x, args = torch.zeros(200_000, dtype=torch.int32), (KEY.words()[None], torch.ones(1).int())
    for run in (reference, emulated):
        with pytest.raises(PyfedError, match="16 candidates"):
            run("add_masks_", x.clone(), *args, 257, 0, 0)


def test_only_residues_that_are_asked_for_can_fail(emulated: Any) -> None:
    keys, one = KEY.words()[None], torch.ones(1, dtype=torch.int32)

    def fails(length: int, start: int) -> bool:
        x = torch.zeros(length, dtype=torch.int32)
        return bool(launch(emulated, x, keys, one, 257, 0, start))

    near = next(start for start in range(0, 200_000, 1000) if fails(1000, start))
    at = next(start for start in range(near, near + 1000) if fails(1, start))
    # Its neighbours in the same ChaCha20 block, before it and after it.
    inside = at % 16
    assert 0 < inside < 15
    assert not fails(inside, at - inside)
    assert not fails(15 - inside, at + 1)
    assert fails(16, at - inside)


def launch(
    emulated: Any,
    x: torch.Tensor,
    keys: torch.Tensor,
    signs: torch.Tensor,
    p: int,
    stream: int,
    start: int,
) -> int:
    """The error word of a launch."""
    pointers = (x.data_ptr(), len(x), keys.data_ptr(), signs.data_ptr())
    word: int = emulated.launch("add_masks", *pointers, len(signs), p, stream, start)
    return word


@EVERY_PRIME
def test_residues_outside_the_field_are_told_of_and_masked(emulated: Any, p: int) -> None:
    for masks in (0, 3):
        keys, signs = keyed(masks)
        for value in (p, -1, 2**31 - 1, -(2**31)):
            if value < 0 or value >= p:
                x = broken(residues(p, 600), 599, value)
                wanted = broken(x, 599, 0)
                reference("add_masks_", wanted, keys, signs, p, 0, 3)
                with pytest.raises(ArgumentError, match="residue lies outside"):
                    emulated("add_masks_", x, keys, signs, p, 0, 3)
                assert torch.equal(x, wanted)


def test_more_than_2_to_31_elements(emulated: Any) -> None:
    # Only the last blocks of the grid run. `tail` elements lie inside them.
    p, count, tail = PRIMES[0], 2**31 + 4321, 100
    emulated.control.last_blocks = 3
    x = SparseBytes(4 * count)
    words = x.bytes.view(torch.int32)
    words[-tail:] = wanted = residues(p, tail)
    keys, signs = keyed(3)
    start = 2**36 - count
    reference("add_masks_", wanted, keys, signs, p, 3, 2**36 - tail)
    assert launch(emulated, words, keys, signs, p, 3, start) == 0
    assert torch.equal(words[-tail:], wanted)
