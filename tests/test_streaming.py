"""Streams: the bits of one piece, whatever the chunks; places in the whole; little memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyfed
from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, FixedPoint, Key, LagrangeCode
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.streaming import decode_stream, encode_stream, shard, upload_stream

KEY, MINE = Key(bytes(range(32))), Key(bytes(32))
PAIRS = [KEY.derive("pair", i) for i in range(3)]
SIGNS = [1, -1, 1]
FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31, WIDE], ids=lambda f: f.name)


def joined(parts: Iterator[tuple[int, torch.Tensor]]) -> tuple[list[int], torch.Tensor]:
    """Where the parts begin, and all of them side by side."""
    pieces = [(first, part.clone()) for first, part in parts]
    return [first for first, _ in pieces], torch.cat([part for _, part in pieces], dim=-1)


def cut(values: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Pieces of random sizes along the last axis, empty ones among them."""
    rng, at, pieces = random.Random(seed), 0, []
    while at < values.shape[-1]:
        size = rng.choice((0, 1, 2, 7, 30, 200))
        pieces.append(values[..., at : at + size])
        at += size
    return pieces


def sources(values: torch.Tensor, folder: Path) -> dict[str, Any]:
    """One vector as everything that a stream takes."""
    path = folder / "values"
    values.numpy().tofile(path)
    dtype = values.numpy().dtype
    mapped = np.memmap(path, dtype=dtype, mode="r")
    shared = torch.from_file(str(path), shared=True, size=values.numel(), dtype=values.dtype)
    return {
        "a tensor": values,
        "a matrix": values.view(-1, 3) if values.numel() % 3 == 0 else values,
        "a mapped file": mapped,
        "a tensor of a file": shared,
        "an iterator": iter(cut(values, 1)),
        "a state dict": {str(i): t for i, t in enumerate(cut(values, 2))},
        "arrays and tensors": [
            values[:100].numpy(),
            [values[100:101]],
            (t for t in [values[101:]]),
        ],
    }


@FIELDS
@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_encoded_chunks_are_one_piece(field: Field, blocks: int, tmp_path: Path) -> None:
    code = LagrangeCode(blocks + 4, blocks, 2, field)
    fixed = FixedPoint(clip=1.0, bits=16, clients=3, field=field)
    values = torch.randn(1002)
    where = {"stream": 5, "start_column": 77}
    residues = fixed.encode(values, KEY, stream=5, start=77 * blocks)
    whole = code.encode(residues, KEY, **where)
    for name, source in sources(values, tmp_path).items():
        for size in (1, 100, 5000) if name == "a tensor" else (100,):
            stream = encode_stream(code, source, KEY, fixed=fixed, chunk=size, **where)
            starts, shares = joined(stream)
            step = max(size // blocks, 1)
            assert starts == list(range(77, 77 + whole.shape[-1], step)), name
            assert torch.equal(shares, whole), name
    _, shares = joined(encode_stream(code, cut(residues, 3), KEY, chunk=64, **where))
    assert torch.equal(shares, whole)


@FIELDS
def test_masked_chunks_are_one_piece(field: Field, tmp_path: Path) -> None:
    fixed = FixedPoint(clip=1.0, bits=12, clients=3, max_weight=9, field=field)
    values = torch.randn(1002)
    whole = fixed.encode(values, MINE, 7, stream=4, start=13)
    pyfed.ops.add_masks_(whole, PAIRS, SIGNS, field, stream=6, start=13)
    more: dict[str, Any] = {"weight": 7, "stream": 4, "mask_stream": 6, "start": 13}
    for name, source in sources(values, tmp_path).items():
        starts, masked = joined(upload_stream(fixed, source, MINE, PAIRS, SIGNS, chunk=99, **more))
        assert starts == list(range(13, 1015, 99)), name
        assert torch.equal(masked, whole), name
    whole = fixed.encode(values, MINE, 7, stream=4, start=13)
    pyfed.ops.add_masks_(whole, PAIRS, SIGNS, field, stream=4, start=13)
    more["mask_stream"] = 4  # the same for both
    assert torch.equal(
        joined(upload_stream(fixed, values, MINE, PAIRS, SIGNS, chunk=99, **more))[1], whole
    )
    half = values.bfloat16()
    wanted = fixed.encode(half, None)
    assert torch.equal(joined(upload_stream(fixed, half, None, [], [], chunk=64))[1], wanted)


@FIELDS
def test_decoded_chunks_are_one_piece(field: Field, tmp_path: Path) -> None:
    code = LagrangeCode(9, 3, 2, field)
    fixed = FixedPoint(clip=1.0, bits=16, clients=3, field=field)
    values = torch.randn(1001)
    data = fixed.encode(values, KEY)
    shares, chosen = code.encode(data, KEY), [8, 1, 0, 5, 2, 3]
    rows = shares[..., chosen, :]
    files = []
    for number, row in enumerate(rows.unbind(-2)):
        row.numpy().tofile(path := tmp_path / str(number))
        files.append(np.memmap(path, dtype=np.int32, mode="r", shape=tuple(row.shape)))
    for given in (rows, rows.numpy(), list(rows.unbind(-2)), files):
        starts, got = joined(decode_stream(code, given, chosen, 1001, chunk=100))
        assert starts == list(range(0, 1001, 99))
        assert torch.equal(got, data)
    _, floats = joined(
        decode_stream(code, files, chosen, 1001, fixed=fixed, total_weight=3, chunk=64)
    )
    assert torch.equal(floats, fixed.decode(data, 3))
    starts, got = joined(decode_stream(code, rows[..., 40:], chosen, 30, start_column=40, chunk=12))
    assert starts == [120, 132, 144]
    assert torch.equal(got, data[..., 120:150])


def test_wrong_rows_are_repaired_over_all_chunks_together() -> None:
    code, data = LagrangeCode(9, 3, 2), torch.arange(300, dtype=torch.int32)
    shares = code.encode(data, KEY)
    shares[4, 10] ^= 1
    assert torch.equal(
        joined(decode_stream(code, shares, range(9), 300, correct=1, chunk=30))[1], data
    )
    with pytest.raises(DecodeError) as caught:
        joined(decode_stream(code, shares, range(9), 300, chunk=30))
    assert caught.value.rows == (4,)
    shares[6, 90] ^= 1  # in another chunk: two in all
    assert torch.equal(
        joined(decode_stream(code, shares, range(9), 300, correct=2, chunk=30))[1], data
    )
    with pytest.raises(DecodeError, match=r"rows \[4, 6\] were wrong") as caught:
        joined(decode_stream(code, shares, range(9), 300, correct=1, chunk=30))
    assert caught.value.rows == (4, 6)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("columns", [0, 1, 15, 16, 17, 500])
def test_shards_cover_all_columns_once_and_are_even(columns: int, parts: int) -> None:
    ranges = shard(columns, parts)
    assert [c for r in ranges for c in r] == list(range(columns))
    assert len(ranges) == parts
    assert all(r.start % 16 == 0 or r.start == columns for r in ranges)
    assert max(map(len, ranges)) <= columns / parts + 16


def test_shards_on_their_own_are_the_whole() -> None:
    code = LagrangeCode(6, 3, 2)
    fixed = FixedPoint(clip=1.0, bits=16, clients=3)
    values = torch.randn(1000)
    whole = code.encode(fixed.encode(values, KEY), KEY)
    parts = [
        joined(
            encode_stream(
                code, values[3 * r.start : 3 * r.stop], KEY, fixed=fixed, start_column=r.start
            )
        )[1]
        for r in shard(334, 4)
    ]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_a_fresh_key_serves_a_whole_stream_and_is_wiped() -> None:
    code, data = LagrangeCode(4, 1, 2), torch.zeros(5000, dtype=torch.int32)
    first, second = (joined(encode_stream(code, data, chunk=100))[1] for _ in range(2))
    assert torch.equal(code.decode(first[:3], range(3)), data)
    assert not torch.equal(first, second)
    assert len(first[0].unique()) > 4990  # no chunk repeats another's padding


def poisoned(count: int, place: int, value: float, dtype: torch.dtype) -> torch.Tensor:
    values = torch.zeros(count, dtype=dtype)
    values[place] = value
    return values


def test_bad_elements_are_told_with_their_place_in_the_whole() -> None:
    code, fixed = LagrangeCode(4, 3, 1), FixedPoint(clients=3)
    nan = poisoned(1000, 700, float("nan"), torch.float32)
    with pytest.raises(ArgumentError, match="source is nan at element 730; it must be finite"):
        joined(encode_stream(code, nan, KEY, fixed=fixed, start_column=10, chunk=90))
    with pytest.raises(ArgumentError, match="source is nan at element 705; it must be finite"):
        joined(upload_stream(fixed, cut(nan, 5), KEY, [], [], start=5, chunk=90))
    large = poisoned(1000, 700, SOLINAS31.modulus, torch.int32)
    with pytest.raises(ArgumentError, match=r"is 2147352577 at element 700; it must be in \[0, "):
        joined(encode_stream(code, large, KEY, chunk=90))
    rows = torch.stack([torch.zeros(300, dtype=torch.int32)] * 4)
    rows[2, 250] = -1
    with pytest.raises(ArgumentError, match="rows is -1 at row 2, column 257; it must be in"):
        joined(decode_stream(code, rows, range(4), 900, start_column=7, chunk=90))
    pair = torch.zeros(2, 300, dtype=torch.int32)
    pair[1, 299] = WIDE.planes[1].modulus
    with pytest.raises(ArgumentError, match="is 2146959361 at row 1, element 299"):
        joined(encode_stream(LagrangeCode(4, 3, 1, WIDE), pair, KEY, chunk=90))


CODE, FIXED, DATA = LagrangeCode(3, 1, 1), FixedPoint(clients=3), torch.zeros(5, dtype=torch.int32)
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: encode_stream(CODE, DATA.long(), KEY), DtypeError, "int64; it must be torch.int32"),
    (lambda: encode_stream(CODE, DATA.float(), KEY), DtypeError, "it must be torch.int32"),
    (lambda: encode_stream(CODE, DATA, KEY, fixed=FIXED), DtypeError, "it must be torch.float32"),
    (lambda: encode_stream(CODE, "file", KEY), DtypeError, "source is str"),
    (lambda: encode_stream(CODE, [DATA, 3], KEY), DtypeError, "source is int"),
    (lambda: encode_stream(CODE, DATA, KEY, chunk=0), ArgumentError, "chunk is 0"),
    (lambda: encode_stream(CODE, DATA, b"key"), DtypeError, "a pyfed.Key"),
    (lambda: encode_stream(CODE, DATA, KEY, start_column=-1), ArgumentError, "start_column is -1"),
    (lambda: encode_stream(FIXED, DATA, KEY), DtypeError, "code is FixedPoint"),
    (
        lambda: encode_stream(CODE, DATA, KEY, fixed=FixedPoint(field=WIDE)),
        ArgumentError,
        "over WIDE; it must be over SOLINAS31",
    ),
    (
        lambda: encode_stream(LagrangeCode(3, 1, 1, WIDE), DATA, KEY),
        ArgumentError,
        "must hold the 2 planes",
    ),
    (
        lambda: upload_stream(FIXED, [DATA.float(), DATA.half()], KEY, [], []),
        ArgumentError,
        "must be alike",
    ),
    (lambda: upload_stream(FIXED, DATA.float(), KEY, [KEY], []), ArgumentError, "signs has 0"),
    (lambda: upload_stream(FIXED, DATA.float(), KEY, [], [], weight=2), ArgumentError, "weight"),
    (lambda: upload_stream(FIXED, DATA.float(), b"key", [], []), DtypeError, "a pyfed.Key"),
    (lambda: upload_stream(FIXED, DATA.float(), KEY, [], [], mask_stream=-1), ArgumentError, "-1"),
    (lambda: encode_stream(CODE, DATA, KEY, stream=2**32), ArgumentError, "stream is 4294967296"),
    (lambda: upload_stream(CODE, DATA.float(), KEY, [], []), DtypeError, "a pyfed.FixedPoint"),
    (lambda: decode_stream(CODE, DATA, [0, 1], 5), ArgumentError, "2 dimensions"),
    (lambda: decode_stream(CODE, [DATA, DATA[1:]], [0, 1], 4), ArgumentError, "one length"),
    (lambda: decode_stream(CODE, {"a": DATA}, [0], 4), DtypeError, "rows is dict"),
    (lambda: decode_stream(CODE, [DATA, "x"], [0, 1], 4), DtypeError, r"rows\[1\] is str"),
    (lambda: decode_stream(CODE, [DATA] * 2, [0, 1], 6), ArgumentError, "length is 6"),
    (lambda: shard(5, 0), ArgumentError, "parts is 0"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_what_is_no_stream_is_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        list(call())
