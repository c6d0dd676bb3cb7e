"""The CUDA kernels of uploads and of their sum, run on the CPU; see ``emulate.h``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agreement import agree, broken, shifted
from cases import KEY, largest, residues
from pyfed import MERSENNE31, SOLINAS31
from pyfed.errors import ArgumentError, PyfedError

PRIMES = (SOLINAS31.modulus, MERSENNE31.modulus)
EVERY_PRIME = pytest.mark.parametrize("p", PRIMES, ids=("solinas31", "mersenne31"))
OWN = KEY.derive("own").words()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


def keyed(masks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The words of different keys, and signs of both kinds."""
    keys = [KEY.derive("mask", number).words() for number in range(masks)]
    stacked = torch.stack(keys) if keys else torch.empty(0, 8, dtype=torch.int32)
    signs = [(1, -1, -1)[number % 3] for number in range(masks)]
    return stacked, torch.tensor(signs, dtype=torch.int32)


@EVERY_PRIME
@pytest.mark.parametrize("masks", [0, 1, 2, 7, 17])
@pytest.mark.parametrize("key", [OWN, None], ids=("random", "nearest"))
def test_uploads_of_any_shape(emulated: Any, p: int, masks: int, key: torch.Tensor | None) -> None:
    for number, length in enumerate((1, 16, 241, 257, 4081)[: None if masks < 8 else 4]):
        start = (0, 1, 15, 2**36 - length, 2**35 + 13)[number]
        values, weight = torch.randn(length) * 3, (1, 0, 7)[number % 3]
        args = (values, 2.0**10, 4.0, p, key, *keyed(masks), weight, number, start)
        agree(emulated, "quantize_mask", *args)
        agree(emulated, "quantize_mask", shifted(values), *args[1:])


def test_uploads_over_a_prime_with_many_rejections(emulated: Any) -> None:
    for p in (5, 1610612741):
        args = (torch.randn(500), 0.5, 2.0, p, OWN, *keyed(18), 1, 7, 11)
        agree(emulated, "quantize_mask", *args)


def test_values_that_are_not_finite_and_masks_that_are_missing_are_told_of(emulated: Any) -> None:
    rest = (1.0, 1.0, PRIMES[0], OWN, *keyed(2), 1, 0, 3)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="NaN or infinite"):
            emulated("quantize_mask", broken(torch.zeros(600), 599, value), *rest)
    # Modulus 257 rejects 255 of 512 candidates: 16 in a row for about 3 of these residues.
    with pytest.raises(PyfedError, match="16 candidates"):
        emulated("quantize_mask", torch.zeros(200_000), 1.0, 1.0, 257, None, *keyed(1), 1, 0, 0)


@EVERY_PRIME
@pytest.mark.parametrize("scale", [None, 2.0**13])
def test_sums_of_uploads(emulated: Any, p: int, scale: float | None) -> None:
    for clients, length, blocks, threshold in (
        *((0, 5, 1, 1), (1, 1, 1, 1), (4, 64, 3, 2), (5, 1027, 17, 3), (9, 1029, 2, 2)),
    ):
        shapes = (clients, length), (threshold, -(-length // blocks)), (blocks, threshold)
        uploads, rows, matrix = (residues(p, *shape) for shape in shapes)
        agree(emulated, "decode_sum", uploads, rows, matrix, scale, p)
        if clients:
            agree(emulated, "decode_sum", shifted(uploads), rows, matrix, scale, p)
    full = largest(p, 70, 33), largest(p, 5, 11), largest(p, 3, 5)
    agree(emulated, "decode_sum", *full, scale, p)


@EVERY_PRIME
def test_a_residue_outside_the_field_is_told_of_in_every_argument(emulated: Any, p: int) -> None:
    args = [residues(p, 6, 100), residues(p, 2, 34), residues(p, 3, 2)]
    for number, place in ((0, 599), (0, 0), (1, 67), (2, 5)):
        for value in (p, -1):
            wrong = [broken(a, place, value) if i == number else a for i, a in enumerate(args)]
            with pytest.raises(ArgumentError, match="residue lies outside"):
                emulated("decode_sum", *wrong, 1.0, p)
