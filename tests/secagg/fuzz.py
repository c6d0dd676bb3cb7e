"""Damaged, forged and misplaced messages: mutations of bytes, and of what the bytes stand for.

A mutation of raw bytes mostly meets the checksum behind a message, so most mutations here make it
right again: of edited bytes, of edited fields, and of encodings that no encoder gives.
Everything follows from a seed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from pyfed.secagg.session import canonical
from secagg.checksums import CHECKSUM, checked

BOUNDS = (0, 1, -1, 2, 5, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, -(2**63))
LEADS = (0x90, 0xC0, 0xC1, 0xC4, 0xC6, 0xCA, 0xCF, 0xD9, 0xDC, 0xDD, 0xDF, 0xFF)
CLAIMS = (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")
Path = tuple[int, ...]


def tree(data: bytes) -> list[Any]:
    """The fields of a message, as lists that may be changed."""
    fields = msgpack.unpackb(data[:-CHECKSUM], use_list=True)
    assert isinstance(fields, list)
    return fields


def from_tree(fields: Any) -> bytes:
    return checked(canonical(fields))


def edited(rng: random.Random, content: bytes) -> bytes:
    """A few random edits: flips, inserted and removed pieces, pieces of itself, leading bytes."""
    out = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, edit = rng.randrange(len(out) + 1), rng.randrange(5)
        if edit == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif edit == 1:
            out[at:at] = rng.randbytes(rng.randint(1, 6))
        elif edit == 2:
            del out[at : at + rng.randint(1, 40)]
        elif edit == 3:
            begin = rng.randrange(len(content))
            out[at:at] = content[begin : begin + rng.randint(1, 60)]
        elif at < len(out):
            out[at] = rng.choice(LEADS)
    return bytes(out)


def paths(value: Any, here: Path = ()) -> list[Path]:
    """The place of every node below ``value``."""
    out = []
    if isinstance(value, list):
        for i, item in enumerate(value):
            out += [(*here, i), *paths(item, (*here, i))]
    return out


def node(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def put(value: Any, path: Path, new: Any) -> None:
    node(value, path[:-1])[path[-1]] = new


def other_type(rng: random.Random) -> Any:
    choices: tuple[Any, ...] = (None, True, False, 0.5, "text", b"bytes", 7, -3, [], [[]], [None])
    return rng.choice((*choices, {}, {"a": 1}, rng.choice(BOUNDS), rng.randbytes(32)))


def changed_bytes(rng: random.Random, old: bytes, modulus: int) -> bytes:
    """Bytes of another content or size; also words at and beyond the modulus."""
    edit = rng.randrange(8)
    if edit == 0 or not old:
        return old + rng.randbytes(rng.choice((1, 4, 32, 1000)))
    at = rng.randrange(len(old))
    if edit == 1:
        return old[:at]
    if edit == 2:
        return bytes(len(old))
    if edit == 3:
        return rng.randbytes(len(old))
    if edit == 4 and len(old) >= 4:
        word = rng.choice((modulus, modulus - 1, 2**31 - 1, 2**32 - 1, 0))
        at -= at % 4
        return (old[:at] + struct.pack("<I", word) + old[at + 4 :])[: len(old)]
    if edit == 5:
        return old + old
    return old[:at] + bytes([old[at] ^ 1 << rng.randrange(8)]) + old[at + 1 :]


def changed_array(rng: random.Random, old: list[Any]) -> list[Any]:
    """Entries taken out, repeated, exchanged, reversed, wrapped."""
    new, edit = list(old), rng.randrange(7)
    if edit == 0 or not old:
        return [*new, rng.choice(BOUNDS)] if not old or rng.random() < 0.5 else []
    at, to = rng.randrange(len(old)), rng.randrange(len(old))
    if edit == 1:
        del new[at]
    elif edit == 2:
        new.insert(to, new[at])
    elif edit == 3:
        new[at], new[to] = new[to], new[at]
    elif edit == 4:
        new.reverse()
    elif edit == 5:
        return [new]
    else:
        new[at] = other_type(rng)
    return new


def restructured(rng: random.Random, data: bytes, pool: Sequence[bytes], modulus: int) -> bytes:
    """One to three fields of a message changed in type, value, size or order, or exchanged."""
    fields = tree(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not fields:
            break
        path = rng.choice(paths(fields))
        if rng.random() < 0.3:  # large bodies have most of the places; headers get their part
            path = (rng.randrange(len(fields)),)
        old = node(fields, path)
        edit = rng.random()
        if edit < 0.2:
            new = other_type(rng)
        elif edit < 0.45:
            other = tree(rng.choice(pool))
            new = other[path[0]] if path[0] < len(other) and len(path) == 1 else old
            if len(path) > 1:
                new = node(other, rng.choice(paths(other)))
        elif type(old) is int:
            new = rng.choice((*BOUNDS, min(old + 1, 2**64 - 1), max(old - 1, -(2**63))))
        elif isinstance(old, bytes):
            new = changed_bytes(rng, old, modulus)
        elif isinstance(old, list):
            new = changed_array(rng, old)
        elif isinstance(old, str):
            new = rng.choice((old[:-1], old + "s", old.encode(), "Hello", "SwiftAgg", "Upload"))
        else:
            new = other_type(rng)
        put(fields, path, new)
    if rng.random() < 0.05:
        fields = rng.choice((fields[:-1], [*fields, 0], [fields], fields[:8], fields[::-1]))
    return from_tree(fields)


def loose(rng: random.Random, value: Any) -> bytes:
    """An encoding of the same fields that may be longer than the canonical one."""
    long = rng.random() < 0.1
    if isinstance(value, list):
        head = struct.pack(">BI", 0xDD, len(value)) if long else msgpack.packb([0] * len(value))
        if not long:
            head = head[: len(head) - len(value)]
        return bytes(head) + b"".join(loose(rng, item) for item in value)
    if not long:
        return canonical(value)
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    if isinstance(value, str):
        return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
    if type(value) is int and value >= 0:
        return struct.pack(">BQ", 0xCF, value)
    return struct.pack(">Bq", 0xD3, value) if type(value) is int else canonical(value)


def claiming(rng: random.Random, data: bytes) -> bytes:
    """A size of up to 4 GiB or 2^32 entries, claimed somewhere in a message."""
    content = data[:-CHECKSUM]
    at = rng.randrange(len(content))
    size = rng.choice((2**32 - 1, 2**31, 2**24, 10**6))
    return checked(content[:at] + rng.choice(CLAIMS) + struct.pack(">I", size) + content[at:])


def readdressed(rng: random.Random, data: bytes, clients: int) -> bytes:
    """Another round, sender, recipient, session, version, protocol or type in the header."""
    fields = tree(data)
    place = rng.randrange(8)
    numbers = (-1, 0, 1, rng.randrange(clients), clients, 2**64 - 1)
    names = ("LightSecAgg", "SwiftAgg", "SecAggPlus", "SecEA", "lightsecagg", "")
    fields[place] = (
        rng.choice((0, 2, 255)),
        rng.choice(names),
        rng.choice(("Hello", "Roster", "Share", "Inbox", "Upload", "Survivors", "Result", "Hop")),
        rng.randbytes(32),
        rng.choice((0, 1, 2, 2**63, 2**64 - 1)),
        rng.choice(numbers),
        rng.choice(numbers),
        rng.randbytes(rng.choice((0, 1, 63, 64, 65))),
    )[place]
    return from_tree(fields)


class Fuzzer:
    """Makes hostile bytes out of a genuine message.

    Args:
        seed: everything follows from it.
        pool: genuine messages of all kinds, phases, rounds, sessions, modes and protocols.
        clients: how many clients there are.
        modulus: of the field.
    """

    def __init__(self, seed: int, pool: Sequence[bytes], clients: int, modulus: int) -> None:
        self.rng = random.Random(seed)
        self.pool, self.clients, self.modulus = pool, clients, modulus

    def hostile(self, data: bytes) -> bytes:
        """One hostile message made of ``data``; never equal to it."""
        rng = self.rng
        makers: tuple[Callable[[], bytes], ...] = (
            lambda: edited(rng, data),
            lambda: data[: rng.randrange(len(data))],
            lambda: checked(edited(rng, data[:-CHECKSUM])),
            lambda: checked(data[: rng.randrange(len(data) - CHECKSUM)]),
            lambda: restructured(rng, data, self.pool, self.modulus),
            lambda: restructured(rng, data, self.pool, self.modulus),
            lambda: restructured(rng, data, self.pool, self.modulus),
            lambda: restructured(rng, rng.choice(self.pool), self.pool, self.modulus),
            lambda: readdressed(rng, data, self.clients),
            lambda: readdressed(rng, rng.choice(self.pool), self.clients),
            lambda: rng.choice(self.pool),
            lambda: rng.choice(self.pool),
            lambda: checked(loose(rng, tree(data))),
            lambda: claiming(rng, data),
        )
        while True:
            out = rng.choice(makers)()
            if out != data:
                return out

    def source(self, genuine: int) -> int:
        """Whom the engine takes a hostile message to be from: mostly the genuine source."""
        if self.rng.random() < 0.9:
            return genuine
        return self.rng.choice((-1, 0, 1, self.rng.randrange(self.clients), self.clients))
