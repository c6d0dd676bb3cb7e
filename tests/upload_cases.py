"""Cases of a client's upload and of the server's sum: odd ranges, both signs, odd layouts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from case import KEY, Case
from pairwise_cases import KEYS, TINY, WIDEST
from pyfed import MERSENNE31, SOLINAS31, Field

FIELDS = (SOLINAS31, MERSENNE31)


def quantize_mask() -> Iterator[Case]:
    """Cases of ``quantize_mask``."""
    places = [(0, 1, 0, 0), (1, 0, 0, 15), (17, 2, 3, 31), (300, 3, 2**32 - 1, 2**36 - 300)]
    for f in (*FIELDS, TINY, WIDEST):
        scale, clip = (0.5, 4.0) if f is TINY else (2.0**13, 4.0)
        for length, masks, stream, start in places:
            key = KEY if masks != 1 else None
            args = torch.randn(length) * 3, scale, clip, f, [*KEYS[:masks]], [1, -1, 1][:masks]
            how = {"key": key, "stream": stream, "start": start, "weight": 1 + (f is SOLINAS31)}
            yield Case(f"{f.name}, length {length}, masks {masks}, start {start}", args, how)
        big = torch.randn(20_011), scale, clip, f, [*KEYS[:2]], [-1, 1]
        yield Case(f"{f.name}, large", big, {"key": KEY, "start": 9}, large=True)
    for f in FIELDS:
        ends = torch.tensor([1.0, -1.0, 0.0, -0.0, 0.25, -3.4e38, 3.4e38] * 5)
        for weight, scale in ((0, 1.0), ((f.modulus - 1) // 2, 1.0), (7, 2.0**27), (1, 2.0**29)):
            how = {"key": None, "weight": weight, "start": 5}
            yield Case(f"{f.name}, weight {weight}", (ends, scale, 1.0, f, [KEYS[0]], [-1]), how)
        half = torch.randn(33).to(torch.float16)
        yield Case(f"{f.name}, float16", (half, 2.0**9, 2.0, f, [*KEYS[:2]], [1, 1]), {"key": KEY})
    # residue_rejections.json: these ranges hold second and third attempts.
    for f, start in ((SOLINAS31, 1335), (SOLINAS31, 21859138), (MERSENNE31, 761923131)):
        args = torch.randn(19), 2.0**8, 2.0, f, [KEYS[0], KEY], [1, -1]
        how = {"key": KEY, "stream": 7, "start": start - 9}
        yield Case(f"{f.name}, retries at {start}", args, how)


def decode_sum() -> Iterator[Case]:
    """Cases of ``decode_sum``."""
    shapes = [(0, 5, 1, 1), (3, 0, 2, 2), (1, 1, 1, 1), (2, 17, 3, 5), (5, 35, 16, 3)]
    shapes += [(9, 1003, 17, 4), (4, 259, 40, 2), (6, 33, 70, 1), (8, 300, 2, 9)]
    for f in FIELDS:
        for number, (clients, length, blocks, threshold) in enumerate(shapes):
            args = _parts(f, clients, length, blocks, threshold)
            for scale in (2.0**13, None) if number % 2 else (None, 2.0**-100):
                name = f"{f.name}, {clients} of {length} in {blocks}, scale {scale}"
                yield Case(name, (*args, f), {"scale": scale})
        for value in (0, (f.modulus - 1) // 2, f.modulus - 1):
            full = [torch.full_like(part, value) for part in _parts(f, 13, 70, 3, 8)]
            full[1].fill_(f.modulus - 1)
            yield Case(f"{f.name}, all {value}", (*full, f), {"scale": 1.0})
        big = _parts(f, 7, 60_013, 12, 20)
        yield Case(f"{f.name}, large", (*big, f), {"scale": 2.0**13}, large=True)


def _parts(
    f: Field, clients: int, length: int, blocks: int, threshold: int
) -> tuple[torch.Tensor, ...]:
    """Uploads, rows and a matrix, with the extremes in them."""
    shapes = ((clients, length), (threshold, -(-length // blocks)), (blocks, threshold))
    parts = tuple(torch.randint(0, f.modulus, shape).to(torch.int32) for shape in shapes)
    for part in parts:
        part.view(-1)[::7], part.view(-1)[3::7] = f.modulus - 1, 0
    return parts
