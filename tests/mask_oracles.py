"""What the mask ops must compute, written with NumPy, Python integers and no part of it.

Bits are those of ``numpy.packbits``; selection is a sort of every group by (count, tie key, index);
means are float32 sums in the order of the clients, one rounding for each operation.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

import oracles

Array = np.ndarray[Any, Any]
SELECTION = 7 << 24  # the purpose in the third nonce word
F32 = np.float32


def pack(mask: Array) -> Array:
    """Bool (…, n) → uint8 (…, ⌈n / 8⌉)."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack(packed: Array, length: int) -> Array:
    """Uint8 (…, ⌈n / 8⌉) → 0 and 1, uint8 (…, n)."""
    return np.unpackbits(packed, axis=-1, count=length, bitorder="little")


def totals(planes: Array, length: int) -> list[int]:
    """Σ_b 2^b · planes[b, j], in Python integers."""
    bits = unpack(planes, length).tolist() if len(planes) else []
    return [sum(row[j] << b for b, row in enumerate(bits)) for j in range(length)]


def planes_of(values: Sequence[int], planes: int) -> Array:
    """Bit b of every value, packed: uint8 (planes, ⌈n / 8⌉)."""
    bits = [[value >> b & 1 for value in values] for b in range(planes)]
    return pack(np.array(bits, dtype=bool).reshape(planes, len(values)))


def pruned(size: int, sparsity: float | Fraction | int, rounding: str = "floor") -> int:
    """K of ``size`` in exact rationals; a float is what it prints as."""
    exact = Fraction(str(sparsity)) * size
    return {
        "floor": math.floor(exact),
        "ceil": math.ceil(exact),
        "nearest": math.floor(exact + Fraction(1, 2)),
    }[rounding]


def groups(shape: Sequence[int], group: str) -> list[list[int]]:
    """The flat indices of every group, each in row-major order of its tile."""
    rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
    at = np.arange(rows * columns).reshape(rows, columns)
    if not at.size:
        return []
    if group == "layer":
        return [at.ravel().tolist()]
    if group == "row":
        return at.tolist()  # type: ignore[no-any-return]
    if group == "column":
        return at.T.tolist()  # type: ignore[no-any-return]
    first, mark, second = re.fullmatch(r"(\d+)([x:])(\d+)", group).groups()  # type: ignore[union-attr]
    high, wide = (1, int(second)) if mark == ":" else (int(first), int(second))
    return [
        at[r : r + high, c : c + wide].ravel().tolist()
        for r in range(0, rows, high)
        for c in range(0, columns, wide)
    ]


def per_group(group: str, size: int, sparsity: Any, rounding: str) -> int:
    """How many of a group of ``size`` are pruned; an N:M pattern says it itself."""
    if ":" in group:
        kept, of = group.split(":")
        return int(of) - int(kept)
    return pruned(size, sparsity, rounding)


def random_keys(key: bytes, count: int, stream: int) -> list[int]:
    """The tie keys of random ties: the words of the stream for selections."""
    return [oracles.word(key, i, stream=stream, domain=SELECTION) for i in range(count)]


def select(
    counts: Sequence[int], ties: Sequence[float], cut: list[list[int]], takes: Sequence[int]
) -> Array:
    """The first of every group in the order (highest count, lowest tie, lowest place in it)."""
    chosen = np.zeros(len(counts), dtype=bool)
    votes, keys = np.array(counts, dtype=np.int64), np.array(ties)
    for places, k in zip(cut, takes, strict=True):
        inside = np.array(places)
        order = np.lexsort((np.arange(len(places)), keys[inside], -votes[inside]))
        chosen[inside[order[:k]]] = True
    return chosen


def bits_of(value: float) -> int:
    """The bits of a float32."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def composite_select(
    counts: Sequence[int], ties: Sequence[int], cut: list[list[int]], takes: Sequence[int]
) -> Array:
    """The same by one sort of Python integers that hold count, tie key (32 bits) and place."""
    chosen = np.zeros(len(counts), dtype=bool)
    for places, k in zip(cut, takes, strict=True):
        order = sorted(
            (65_535 - counts[j]) << 80 | ties[j] << 48 | place for place, j in enumerate(places)
        )
        for number in order[:k]:
            chosen[places[number & (2**48 - 1)]] = True
    return chosen


def magnitude_key(value: float) -> int:
    """The magnitude as an integer in the same order: its float32 bits without the sign."""
    return bits_of(value) & 0x7FFFFFFF


def score_key(value: float) -> int:
    """The score as an integer in the same order: with both zeros equal."""
    low = bits_of(value) & 0x7FFFFFFF
    return 2**31 - low if bits_of(value) >> 31 else 2**31 + low


def bfloat16(values: Array) -> Array:
    """Float32 rounded to bfloat16, half to even, as float32."""
    bits = values.astype(F32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return rounded.astype(np.uint32).view(F32)


def rounded(values: Array, dtype: str) -> Array:
    """Float32 rounded once to a dtype, as float32."""
    if dtype == "bfloat16":
        return bfloat16(values)
    with np.errstate(over="ignore"):
        return values.astype(np.dtype(dtype)).astype(F32)


def prune(
    weight: Array, counts: Sequence[int], mask: Array, clients: int | None, dtype: str
) -> Array:
    """0 where pruned, else w · float32((m - votes) / m), rounded to the dtype; float32."""
    kept = weight.astype(F32)
    if clients is not None:
        factors = (F32(clients) - np.array(counts, dtype=F32)) / F32(clients)
        kept = rounded(kept * factors, dtype)
    return np.where(mask, F32(0), kept)


def mean(
    values: Array,
    held: Array,
    weights: Sequence[int],
    denominator: str,
    min_votes: int,
    server: Array,
    dtype: str,
) -> Array:
    """The masked mean of float32 values (clients, n), where ``held``; float32 (n,)."""
    total = np.zeros(values.shape[1], dtype=F32)
    with np.errstate(invalid="ignore", over="ignore"):
        for own, mine, weight in zip(values, held, weights, strict=True):
            total = np.where(mine, total + own * F32(weight), total)
    held_by = held.astype(np.int64)
    below = {
        "keepers": (held_by * np.array(weights, dtype=np.int64)[:, None]).sum(0),
        "all": np.full(values.shape[1], sum(weights)),
        "one": np.ones(values.shape[1], dtype=np.int64),
    }[denominator]
    used = (held_by.sum(0) >= min_votes) & (below > 0)
    quotient = total / np.where(used, below, 1).astype(F32)
    return np.where(used, rounded(quotient, dtype), server)
