"""Cases of the discrete Gaussian: from one base sample to eight, odd ranges, ends of streams."""

from __future__ import annotations

from collections.abc import Iterator

from case import KEY, Case

SIGMAS = (5e-324, 0.1, 0.5, 1.0, 2.0, 3.7, 8, 11.0, 60.0, 1000.0)
"""Tables of every depth, and none to two convolutions."""


def discrete_gaussian() -> Iterator[Case]:
    """Cases of ``discrete_gaussian``."""
    for count, stream, start in (
        *((0, 0, 0), (1, 0, 0), (15, 1, 1), (16, 0, 16), (17, 3, 15), (1003, 0, 0)),
        *((300, 2**32 - 1, 2**35 + 13), (530, 5, 2**36 - 530)),
    ):
        name = f"count {count}, stream {stream}, start {start}"
        yield Case(name, (count, 2.5, KEY), {"stream": stream, "start": start})
    for sigma in SIGMAS:
        yield Case(f"sigma {sigma}", (33, sigma, KEY), {"stream": 1, "start": 7})
    yield Case("large", (50_021, 3.0, KEY), {"start": 9}, large=True)
    yield Case("large, three convolutions", (20_003, 2.0**20, KEY), {"start": 9}, large=True)
