"""Cases of pairwise masks: both signs, odd ranges, first candidates that are rejected."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from case import KEY, Case
from pyfed import MERSENNE31, SOLINAS31, Field

FIELDS = (SOLINAS31, MERSENNE31)
TINY = Field("tiny", 5)  # a candidate is rejected with probability 3/8
WIDEST = Field("widest", 2**31 - 19)
KEYS = tuple(KEY.derive("pair", number) for number in range(8))


def _residues(modulus: int, length: int) -> torch.Tensor:
    values = torch.randint(0, modulus, (length,), dtype=torch.int64)
    values[::7], values[3::7] = modulus - 1, 0
    return values.to(torch.int32)


def _signs(masks: int) -> list[int]:
    """Both signs, in no short period."""
    return [1 if number % 3 == 0 or number % 7 == 2 else -1 for number in range(masks)]


def add_masks() -> Iterator[Case]:
    """Cases of ``add_masks_``."""
    edges = [(3, 0, 0, 0), (0, 2, 0, 0), (1, 1, 0, 0), (2, 1, 1, 15), (15, 2, 0, 1), (16, 3, 0, 16)]
    several = [(17, 2, 3, 31), (130, 3, 1, 7), (257, 1, 2**32 - 1, 250)]  # blocks and programs
    ends = [(33, 1, 9, 2**36 - 33), (300, 2, 0, 2**36 - 300), (515, 1, 5, 2**35 + 13)]
    for f in (*FIELDS, TINY, WIDEST):
        for length, masks, stream, start in [*edges, *several, *ends] if f in FIELDS else several:
            args = _residues(f.modulus, length), [*KEYS[:masks]], _signs(masks), f
            name = f"{f.name}, length {length}, masks {masks}, stream {stream}, start {start}"
            yield Case(name, args, {"stream": stream, "start": start})
        for sign in (1, -1):
            full = torch.full((31,), f.modulus - 1, dtype=torch.int32)
            yield Case(f"{f.name}, all p - 1, sign {sign}", (full, [*KEYS], [sign] * len(KEYS), f))
        # More than a thread takes at a time, twice, and enough for several threads.
        big = _residues(f.modulus, 20_011), [*KEYS[:2]], _signs(2), f
        yield Case(f"{f.name}, large", big, {"start": 9}, large=True)
    # residue_rejections.json: these ranges hold second and third attempts.
    for f, start in ((SOLINAS31, 1335), (SOLINAS31, 21859138), (MERSENNE31, 761923131)):
        for sign in (1, -1):
            args = _residues(f.modulus, 19), [KEYS[0], KEY], [1, sign], f
            name = f"{f.name}, retries at {start}, sign {sign}"
            yield Case(name, args, {"stream": 7, "start": start - 9})
