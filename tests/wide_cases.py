"""Cases over WIDE: two planes at a leading axis, with the extremes of both in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from case import KEY, Case
from pyfed import WIDE

PRIMES = tuple(plane.modulus for plane in WIDE.planes)


def residues(*shape: int) -> torch.Tensor:
    """Random residues of both planes, (2, …), the largest and 0 among them."""
    values = torch.stack([torch.randint(0, p, shape) for p in PRIMES])
    for plane, p in zip(values, PRIMES, strict=True):
        flat = plane.view(-1)
        flat[::7], flat[3::7] = p - 1, 0
    return values.to(torch.int32)


def largest(*shape: int) -> torch.Tensor:
    """All residues p - 1, of both planes: (2, …)."""
    return torch.stack([torch.full(shape, p - 1, dtype=torch.int32) for p in PRIMES])


def _random_residues() -> Iterator[Case]:
    for count, stream, start in ((0, 0, 0), (33, 9, 2**36 - 33)):
        where = {"stream": stream, "start": start}
        yield Case(f"WIDE, count {count}, start {start}", (KEY, count, WIDE), where)


def _add_masks() -> Iterator[Case]:
    for length, masks in ((0, 2), (17, 1), (515, 3)):
        keys = [KEY.derive("pair", number) for number in range(masks)]
        args = residues(length), keys, [1, -1, 1][:masks], WIDE
        yield Case(f"WIDE, length {length}, masks {masks}", args, {"stream": 3, "start": 31})


def _field_matmul() -> Iterator[Case]:
    for m, k, n in ((2, 0, 3), (17, 33, 65), (5, 300, 2)):
        yield Case(f"WIDE, ({m}, {k}) x ({k}, {n})", (residues(m, k), residues(k, n), WIDE))
    yield Case("WIDE, all p - 1", (largest(9, 129), largest(129, 4), WIDE))
    yield Case("WIDE, large", (residues(70, 131), residues(131, 1003), WIDE), large=True)


def _field_sum() -> Iterator[Case]:
    for shape in ((4, 0), (3,), (5, 2, 3)):
        yield Case(f"WIDE, {shape}", (residues(*shape), WIDE))
    heavy = {"weights": [2**63 - 1, 0, *PRIMES, PRIMES[0] - 1]}
    yield Case("WIDE, weights", (residues(5, 19), WIDE), heavy)
    most = {"weights": torch.full((257,), WIDE.modulus - 1)}  # -1 in both planes
    yield Case("WIDE, all p - 1, weighted", (largest(257, 9), WIDE), most)


def _quantize() -> Iterator[Case]:
    for key in (None, KEY):
        how = {"key": key, "stream": 3, "start": 5}
        for shape in ((), (3, 0), (3, 35)):
            yield Case(f"WIDE, {shape}", (torch.randn(shape), 2.0**13, 4.0, WIDE), how)


def _lifts(*more: object) -> Iterator[Case]:
    half = (WIDE.modulus - 1) // 2
    special = [0, 1, -1, half, -half, half - 1, 2**24 + 1, -(2**24) - 3, 2**53 + 1, 3 * 2**39 + 1]
    pair = [[v % p for v in special] for p in PRIMES]
    yield Case("WIDE, special", (torch.tensor(pair, dtype=torch.int32), *more, WIDE))
    for shape in ((), (0,), (3, 5)):
        yield Case(f"WIDE, {shape}", (residues(*shape) if shape else largest(), *more, WIDE))
    yield Case("WIDE, large", (residues(100_003), *more, WIDE), large=True)


def _lagrange_encode() -> Iterator[Case]:
    for length, shares, blocks, privacy, start in ((7, 5, 3, 2, 1), (130, 1, 1, 3, 2**36 - 130)):
        matrix = residues(shares, blocks + privacy)
        args = residues(length), matrix, KEY, WIDE, blocks, 5, start
        yield Case(f"WIDE, {length} in {blocks} + {privacy} to {shares}", args)
    yield Case("WIDE, all p - 1", (largest(99), largest(7, 40), KEY, WIDE, 33))


def _lagrange_decode() -> Iterator[Case]:
    yield Case("WIDE, 5 x 7 to 20 in 3", (residues(5, 7), residues(3, 5), WIDE, 20))
    yield Case("WIDE, all p - 1", (largest(70, 5), largest(3, 70), WIDE, 15))


WIDE_MAKERS: dict[str, Callable[[], Iterator[Case]]] = {
    "random_residues": _random_residues,
    "add_masks_": _add_masks,
    "field_matmul": _field_matmul,
    "field_sum": _field_sum,
    "quantize": _quantize,
    "dequantize": lambda: _lifts(2.0**13),
    "field_lift": _lifts,
    "lagrange_encode": _lagrange_encode,
    "lagrange_decode": _lagrange_decode,
}
