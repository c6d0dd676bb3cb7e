"""The walk over msgpack's tags agrees with msgpack, and refuses before anything is allocated."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import msgpack
import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg.packing import DEPTH, expect_few_objects, kind_name


def some_value(rng: random.Random, depth: int = 0) -> Any:
    """A value of any kind that messages may hold, and all sizes of tags."""
    kinds = ["int", "bytes", "str", "none", "bool", "float", *(["array"] * 2 * (depth < 3))]
    kind = rng.choice(kinds)
    if kind == "int":
        return rng.choice((-1, 1)) * rng.randrange(1 << rng.choice((5, 7, 8, 16, 32, 63)))
    if kind == "bytes":
        return rng.randbytes(rng.choice((0, 1, 31, 32, 255, 256, 65535, 65536)))
    if kind == "str":
        return "x" * rng.choice((0, 1, 31, 32, 255, 256, 65535, 65536))
    if kind == "array":
        return [some_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 15, 16, 20)))]
    return {"none": None, "bool": rng.random() < 0.5, "float": rng.random()}[kind]


def objects(value: Any) -> int:
    return 1 + sum(objects(member) for member in value) if isinstance(value, list) else 1


def test_objects_are_counted_as_msgpack_reads_them() -> None:
    rng = random.Random(1)
    for _ in range(300):
        value = some_value(rng)
        packed = memoryview(msgpack.packb(value))
        expect_few_objects(packed, objects(value))
        if objects(value) > 1:
            with pytest.raises(ProtocolError, match="more than"):
                expect_few_objects(packed, objects(value) - 1)


def test_what_msgpack_refuses_is_refused() -> None:
    rng = random.Random(2)
    refused = 0
    for _ in range(2000):
        data = bytearray(msgpack.packb(some_value(rng))[:64])
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            msgpack.unpackb(bytes(data), max_map_len=0, max_ext_len=0, strict_map_key=False)
        except ValueError:
            refused += 1
            try:
                expect_few_objects(memoryview(data), 10**6)
            except ProtocolError:
                continue
            # Only what a later step refuses may pass here: text that is no UTF-8.
            with pytest.raises(UnicodeDecodeError):
                msgpack.unpackb(bytes(data), max_map_len=0, max_ext_len=0)
    assert refused > 200


@pytest.mark.parametrize("size", [0, 1, 2])
def test_bytes_that_are_cut_short_or_followed_are_refused(size: int) -> None:
    packed = msgpack.packb([1, b"abc", "text", 300])
    with pytest.raises(ProtocolError, match="cut short"):
        expect_few_objects(memoryview(packed[: len(packed) - 1 - size]), 100)
    with pytest.raises(ProtocolError, match="follow"):
        expect_few_objects(memoryview(packed + bytes(size + 1)), 100)


def test_maps_extensions_and_deep_nests_are_refused() -> None:
    for value in ({}, {1: 2}, msgpack.ExtType(1, b"x"), msgpack.Timestamp(1)):
        with pytest.raises(ProtocolError, match="map or an extension"):
            expect_few_objects(memoryview(msgpack.packb([value])), 100)
    nest: Any = []
    for _ in range(DEPTH - 1):
        nest = [nest]
    expect_few_objects(memoryview(msgpack.packb(nest)), 100)
    with pytest.raises(ProtocolError, match="nested"):
        expect_few_objects(memoryview(msgpack.packb([[nest]])), 100)


def test_millions_of_tiny_objects_take_no_memory() -> None:
    hostile = memoryview(msgpack.packb([[0] * 4_000_000]))
    with pytest.raises(ProtocolError):  # what the first call alone imports is no part of it
        expect_few_objects(hostile, 1000)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="more than 1000 objects"):
            expect_few_objects(hostile, 1000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_type_is_read_from_the_third_field() -> None:
    head = [1, "LightSecAgg", "Upload", b"", 0, 0, -1, b""]
    assert kind_name(memoryview(msgpack.packb(head))) == "Upload"
    for bad in (
        head[:7],
        [1, 2, 3, 4, 5, 6, 7, 8],
        7,
        [1, "LightSecAgg", b"Upload", 0, 0, 0, 0, 0],
    ):
        with pytest.raises(ProtocolError, match="header of 8 fields"):
            kind_name(memoryview(msgpack.packb(bad)))
    for cut in range(1, 14):
        with pytest.raises(ProtocolError):
            kind_name(memoryview(msgpack.packb(head)[:cut]))
