"""Cases of the ops that pack masks, count their bits, and sum them over clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from case import Case

LENGTHS = (0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1003)
CLIENTS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 127, 128, 255, 256, 257)


def random_bits(*shape: int, density: float = 0.5) -> torch.Tensor:
    """A random mask: bool of such a shape."""
    return torch.rand(shape) < density


def packed_bits(length: int, *rows: int, density: float = 0.5) -> torch.Tensor:
    """Random packed masks, uint8 (…, ⌈length / 8⌉), with clean padding; not made by an op."""
    bits = random_bits(*rows, length, density=density).to(torch.int64)
    padded = torch.nn.functional.pad(bits, (0, -length % 8)).view(*rows, (length + 7) // 8, 8)
    return (padded << torch.arange(8)).sum(-1).to(torch.uint8)


def _mask_pack() -> Iterator[Case]:
    for length in LENGTHS:
        yield Case(f"{length} elements", (random_bits(length),))
    for shape in ((3, 0), (0, 5), (2, 3, 17), (5, 64), (3, 513), (9, 1), (1, 1, 1, 8)):
        yield Case(f"{shape}", (random_bits(*shape),))
    yield Case("all ones", (torch.ones(3, 77, dtype=torch.bool),))
    yield Case("all zeros", (torch.zeros(3, 77, dtype=torch.bool),))
    yield Case("large", (random_bits(7, 100_003),), large=True)


def _rows_of_bits() -> Iterator[Case]:
    """Cases of the ops that take (packed, length)."""
    for length in LENGTHS:
        yield Case(f"{length} elements", (packed_bits(length), length))
    for *rows, length in ((3, 0), (0, 5), (2, 3, 17), (5, 64), (3, 513), (9, 1), (1, 1, 1, 8)):
        yield Case(f"{rows} rows of {length}", (packed_bits(length, *rows), length))
    yield Case("all ones", (packed_bits(77, 3, density=1), 77))
    yield Case("all zeros", (packed_bits(77, 3, density=0), 77))
    yield Case("large", (packed_bits(100_003, 7), 100_003), large=True)


def _mask_count() -> Iterator[Case]:
    for number, clients in enumerate(CLIENTS):
        length = LENGTHS[::-1][number % len(LENGTHS)] or 77
        yield Case(f"{clients} clients of {length}", (packed_bits(length, clients), length))
    yield Case("no element", (packed_bits(0, 5), 0))
    for clients in (255, 256):
        ones = packed_bits(41, clients, density=1)
        yield Case(f"{clients} clients set all", (ones, 41))
    for clients, length in ((300, 20_003), (64, 60_003)):
        case = packed_bits(length, clients), length
        yield Case(f"large, {clients} clients", case, large=True)


def _mask_add() -> Iterator[Case]:
    for planes, clients, length, capacity in (
        *((0, 0, 9, 0), (0, 3, 0, 3), (0, 1, 1, 1), (0, 3, 70, 3), (1, 1, 8, 2), (2, 4, 65, 7)),
        *((3, 8, 513, 15), (7, 0, 33, 127), (4, 0, 33, 300), (7, 128, 31, 255), (8, 1, 64, 256)),
        *((8, 17, 1003, 300), (15, 9, 77, 65_535), (0, 257, 45, 257), (6, 63, 511, 65_535)),
    ):
        args = packed_bits(length, planes), packed_bits(length, clients), length, capacity
        yield Case(f"{clients} clients of {length} to {planes} planes up to {capacity}", args)
    nearly = packed_bits(29, 16, density=1)
    nearly[2] = 0  # 65,531 for each
    yield Case("the largest total", (nearly, packed_bits(29, 4, density=1), 29, 65_535))
    args = packed_bits(70_003, 6), packed_bits(70_003, 20), 70_003, 65_535
    yield Case("large", args, large=True)


def _mask_totals() -> Iterator[Case]:
    for planes, length in (
        *((0, 9), (3, 0), (1, 1), (1, 8), (2, 65), (7, 33), (8, 513), (9, 31), (15, 77)),
        *((16, 64), (16, 1003), (5, 7), (8, 512), (12, 511)),
    ):
        yield Case(f"{planes} planes of {length}", (packed_bits(length, planes), length))
    for planes in (8, 16):
        yield Case(f"{planes} full planes", (packed_bits(41, planes, density=1), 41))
        args = packed_bits(100_003, planes), 100_003
        yield Case(f"large, {planes} planes", args, large=True)


MASK_MAKERS: dict[str, Callable[[], Iterator[Case]]] = {
    "mask_pack": _mask_pack,
    "mask_unpack": _rows_of_bits,
    "mask_popcount": _rows_of_bits,
    "mask_count": _mask_count,
    "mask_add": _mask_add,
    "mask_totals": _mask_totals,
}
