"""The points of the grid, what each costs, and which are left out because they cost too much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from contests import butterflies

NUMBERS = (4, 8, 16, 32, 64, 100, 128, 256, 512, 1024)
LENGTHS = {
    "cpu": (10**4, 10**6, 10**7, 10**8),
    "cuda": (10**4, 10**6, 10**7, 10**8, 10**9),
}
CODED = ("encode", "decode", "matmul")
WORKS = (*CODED, "field_sum", "masks")
FIELDS = ("SOLINAS31", "MERSENNE31", "WIDE")


def _bulk(shares: int) -> tuple[int, int]:
    """As little privacy and as few dropouts as a tenth of the clients, the rest for speed."""
    tenth = math.ceil(shares / 10)
    return shares - 2 * tenth, tenth


FAMILIES: dict[str, Callable[[int], tuple[int, int]]] = {
    "half": lambda n: (n // 2, n // 2),
    "fifth": lambda n: (max(n // 5, 1), n // 2),
    "single": lambda n: (1, n // 2),
    "bulk": _bulk,
}
"""Name → N → (K, T)."""

MOST_BYTES = {"cpu": 4 * 10**9, "cuda": 48 * 10**9}
"""Of the largest tensor of a point."""

MOST_SECONDS = 12.0
"""That one call may take, by the rates below."""

RATES = {
    "cpu": {"bytes": 6e9, "macs": 30e9, "chacha": 3e9},
    "cuda": {"bytes": 3e12, "macs": 10e12, "chacha": 1e12},
}
"""A second, of a machine that is not fast: what is planned with and never reported."""


@dataclass(frozen=True)
class Point:
    """One size of one kind of work.

    Args:
        work: one of ``WORKS``.
        field: name of the field.
        family: how K and T follow from N; "" where there is no code.
        shares: N: shares of a code, clients of a sum, masks of an upload.
        blocks: K, 0 where there is no code.
        privacy: T, 0 where there is no code.
        length: L, values of one client.
    """

    work: str
    field: str
    family: str
    shares: int
    blocks: int
    privacy: int
    length: int

    @property
    def planes(self) -> int:
        """Primes that the field is made of."""
        return 2 if self.field == "WIDE" else 1

    @property
    def columns(self) -> int:
        """C = ⌈L / K⌉."""
        return -(-self.length // self.blocks) if self.blocks else self.length

    @property
    def threshold(self) -> int:
        """U = K + T."""
        return self.blocks + self.privacy

    @property
    def shape(self) -> str:
        """For people."""
        if self.family:
            return f"L={self.length:,} N={self.shares} K={self.blocks} T={self.privacy}"
        return f"L={self.length:,} N={self.shares}"

    @property
    def macs(self) -> int:
        """Multiply-adds in a field of one prime, as a product of matrices has them."""
        rows = {"encode": self.shares, "matmul": self.shares, "decode": self.blocks}
        return self.planes * rows.get(self.work, 0) * self.threshold * self.columns

    @property
    def chacha(self) -> int:
        """Bytes of keystream: of roundings (one for all planes), random rows and masks."""
        residues = {"encode": self.privacy * self.columns, "masks": self.shares * self.length}
        words = self.planes * residues.get(self.work, 0)
        return 4 * (words + (self.length if self.work in ("encode", "masks") else 0))

    @property
    def butterflies(self) -> int:
        """Of the transforms that make an encoding, where the field's points allow them."""
        if self.work != "encode" or self.field == "MERSENNE31":
            return 0
        return self.planes * self.columns * butterflies(self.shares, self.blocks, self.privacy)

    @property
    def bytes(self) -> int:
        """The least that crosses memory: inputs once, outputs once."""
        rows = {
            "encode": self.planes * self.shares * self.columns + self.length,
            "decode": self.planes * (self.threshold * self.columns + self.length),
            "matmul": self.planes * (self.threshold + self.shares) * self.columns,
            "field_sum": self.planes * (self.shares + 1) * self.length,
            "masks": (1 + self.planes) * self.length,
        }
        return 4 * rows[self.work]

    def seconds(self, device: str) -> float:
        """What a call might take."""
        rates = RATES[device]
        work = self.chacha / rates["chacha"] + self.macs / rates["macs"]
        return work + self.bytes / rates["bytes"]

    def left_out(self, device: str) -> str | None:
        """Why the point is not measured on this device; None: it is."""
        if self.bytes > MOST_BYTES[device]:
            most = MOST_BYTES[device] / 1e9
            return f"moves {self.bytes / 1e9:.3g} GB, above the {most:.3g} GB that are allowed"
        if self.seconds(device) > MOST_SECONDS:
            return f"a call would take about {self.seconds(device):.0f} s"
        return None

    def summary(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)


def points(
    device: str,
    works: tuple[str, ...] = WORKS,
    fields: tuple[str, ...] = FIELDS,
    families: tuple[str, ...] = tuple(FAMILIES),
    numbers: tuple[int, ...] = NUMBERS,
    lengths: tuple[int, ...] | None = None,
) -> Iterator[Point]:
    """Every point of the grid on a device, those that are left out among them.

    Lengths stand outermost, so that what is made for one of them is made once.
    """
    for length in lengths or LENGTHS[device]:
        for field in fields:
            for work in works:
                for shares in numbers:
                    if work not in CODED:
                        yield Point(work, field, "", shares, 0, 0, length)
                        continue
                    seen = set()
                    for family in families:
                        blocks, privacy = FAMILIES[family](shares)
                        if (blocks, privacy) not in seen:  # small N: families meet
                            seen.add((blocks, privacy))
                            yield Point(work, field, family, shares, blocks, privacy, length)
