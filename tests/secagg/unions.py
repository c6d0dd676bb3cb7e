"""Entity sets, and what their pseudonyms and cells must be."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import random
from typing import Any

import torch

from pyfed import SOLINAS31, Field, Key
from pyfed.secagg.union import EntityUnion, pseudonyms

GROUP = Key(bytes(range(32)))
SALT = b"salt of an attempt"


def spelled(entity: str | bytes | int) -> bytes:
    """The bytes that stand for an id, spelled out apart from the library."""
    if isinstance(entity, str):
        return b"s" + entity.encode("utf-8", "surrogatepass")
    if isinstance(entity, bytes):
        return b"b" + entity
    size = next(n for n in itertools.count(1) if -(2 ** (8 * n - 1)) <= entity < 2 ** (8 * n - 1))
    return b"i" + (entity % 256**size).to_bytes(size, "little")


def words_of(entity: str | bytes | int) -> tuple[int, ...]:
    digest = hmac.new(bytes(range(32)), spelled(entity), hashlib.sha256).digest()
    whole = int.from_bytes(digest[:16], "little")
    return tuple((whole >> 32 * i) % 2**30 for i in range(4))


def hashes_of(words: tuple[int, ...], salt: bytes, cells: int) -> tuple[list[int], list[int]]:
    """Check words and cells of a pseudonym, in Python integers."""
    start = hashlib.sha256(b"pyfed/v1/union-cells" + len(salt).to_bytes(4, "little") + salt)
    packed = b"".join(word.to_bytes(4, "little") for word in words)
    whole = int.from_bytes(hashlib.sha256(start.digest() + packed).digest(), "little")
    digits = [(whole >> 32 * i) % 2**32 for i in range(6)]
    edges = [i * cells // 4 for i in range(5)]
    places = [edges[i] + digits[2 + i] * (edges[i + 1] - edges[i]) // 2**32 for i in range(4)]
    return [digit % 2**30 for digit in digits[:2]], places


def as_rows(entities: Any) -> list[list[int]]:
    return sorted(list(words_of(entity)) for entity in entities)


def summed(tables: list[torch.Tensor], field: Field = SOLINAS31) -> torch.Tensor:
    total = torch.stack(tables).to(torch.int64).sum(0) % field.modulus
    return total.to(torch.int32)


def direct_table(union: EntityUnion, sets: list[Any], salt: bytes = SALT, seed: int = 0) -> Any:
    """The sum of clients' tables, without secure aggregation."""
    keys = [Key(random.Random(f"{seed} {i}").randbytes(32)) for i in range(len(sets))]
    tables = [
        union.table(pseudonyms(GROUP, own), salt, key) for own, key in zip(sets, keys, strict=True)
    ]
    return summed(tables, union.field)
