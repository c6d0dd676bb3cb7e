"""Sums of packed uploads, held against Python's integers."""

from __future__ import annotations

import random

import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, WIDE
from pyfed.fields import Field
from pyfed.secagg.uploads import BLOCK, summed

FIELDS = [SOLINAS31, MERSENNE31, WIDE]


def check(field: Field, clients: int, width: int, masked: bool, device: str) -> None:
    rng = random.Random(f"{field.name} {clients} {width}")
    primes = [plane.modulus for plane in field.planes]
    ends = {0: 0, 1: -1}  # the first residue is 0 everywhere, and the second p - 1

    def vector() -> list[list[int]]:
        return [[ends.get(i, rng.randrange(p)) % p for i in range(width)] for p in primes]

    vectors, mask = [vector() for _ in range(clients)], vector()
    packed = [b"".join(w.to_bytes(4, "little") for row in v for w in row) for v in vectors]
    minus = torch.tensor(mask, dtype=torch.int32, device=device) if masked else None
    if minus is not None:
        minus = minus.view(*field.lead, width)
        before = minus.clone()
    total = summed(packed, width, field, torch.device(device), minus)
    assert total.dtype == torch.int32 and total.shape == (*field.lead, width)
    assert total.device.type == device
    rows = total.view(-1, width).tolist()
    for number, p in enumerate(primes):
        wanted = [
            sum(v[number][i] for v in vectors) - masked * mask[number][i] for i in range(width)
        ]
        assert rows[number] == [w % p for w in wanted]
    assert minus is None or torch.equal(minus, before)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_sums_equal_those_of_integers(field: Field, width: int, masked: bool) -> None:
    for clients in (1, 2, 5):
        check(field, clients, width, masked, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_sums_on_a_gpu_equal_those_of_integers(field: Field, masked: bool) -> None:
    for clients, width in ((1, 1), (2, 7), (5, 3000)):
        check(field, clients, width, masked, "cuda")
