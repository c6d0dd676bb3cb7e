"""The products behind LagrangeCode: bounds, layout, random rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import oracles
import pyfed
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.errors import ArgumentError, BackendError, DtypeError
from pyfed.ops import lagrange_decode, lagrange_encode
from runs import Run, runs_of

KEY = Key(bytes(range(32)))
VECTORS = Path(__file__).parents[1] / "vectors"
FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
ENCODE_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("lagrange_encode"))
DECODE_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("lagrange_decode"))
INNER = (*range(1, 71), *range(255, 258), *range(511, 514), *range(1023, 1026), 4096)


def inner_sizes(run: Run) -> tuple[int, ...]:
    interpreted = run.interpreted
    return (1, 3, 4, 5, 31, 32, 33, 64, 65, 257, 1025) if interpreted else INNER


def residues(value: int, *shape: int, device: str = "cpu") -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.int32, device=device)


@FIELDS
@ENCODE_RUNS
def test_encoding_the_largest_residues_never_overflows(op: str, run: Run, field: Field) -> None:
    p = field.modulus
    for k in inner_sizes(run):
        data = residues(p - 1, 9 * k - k // 2, device=run.device)  # the last column is padded
        matrix = residues(p - 1, 5, k, device=run.device)
        with run.active():
            got = lagrange_encode(data, matrix, KEY, field, k)
        assert got[:, :8].unique().tolist() == [k]
        assert got[:, 8].unique().tolist() == [k - k // 2]


@FIELDS
@DECODE_RUNS
def test_decoding_the_largest_residues_never_overflows(op: str, run: Run, field: Field) -> None:
    p = field.modulus
    for k in inner_sizes(run):
        rows = residues(p - 1, k, 7, device=run.device)
        matrix = residues(p - 1, 5, k, device=run.device)
        with run.active():
            assert lagrange_decode(rows, matrix, field, 33).unique().tolist() == [k]


@ENCODE_RUNS
def test_random_rows_are_the_padding_stream_at_its_rejections(op: str, run: Run) -> None:
    """The identity matrix shows the random rows themselves."""
    vector = json.loads((VECTORS / "residue_rejections.json").read_text())
    key, stream = Key(bytes.fromhex(vector["key_hex"])), vector["stream"]
    found = [f for f in vector["found"] if f["purpose"] == oracles.PADDING]
    assert sorted(f["retries"] for f in found) == [1, 1, 2]
    matrix = torch.eye(4, dtype=torch.int32, device=run.device)
    for answer in found:
        field, index = getattr(pyfed, answer["field"]), answer["index"]
        data = torch.arange(1, 40, dtype=torch.int32, device=run.device)  # 20 columns of 2
        for before in (0, 7, 19):
            start = index - before
            with run.active():
                got = lagrange_encode(data, matrix, key, field, 2, stream, start).tolist()
            assert got[0] == list(range(1, 40, 2))
            assert got[1] == [*range(2, 40, 2), 0]
            assert got[2 + answer["row"]][before] == answer["value"]
            for row in (0, 1):
                where = {"row": row, "stream": stream, "purpose": oracles.PADDING}
                wanted = [
                    oracles.residue(key.reveal(), start + c, field.modulus, **where)
                    for c in range(20)
                ]
                assert got[2 + row] == wanted


@ENCODE_RUNS
def test_pieces_of_whole_columns_equal_the_whole(op: str, run: Run) -> None:
    """However the columns are cut, among them at the end of a stream's range."""
    length, blocks = 500, 3
    data = (torch.arange(length, dtype=torch.int64) * 987654321 % MERSENNE31.modulus).int()
    matrix = (torch.arange(30).reshape(6, 5) * 123456789 % MERSENNE31.modulus).int()
    data, matrix = data.to(run.device), matrix.to(run.device)
    start = 2**36 - 167
    with run.active():
        whole = lagrange_encode(data, matrix, KEY, MERSENNE31, blocks, 5, start)
        for cut in (0, 1, 16, 17, 100, 167):
            pieces = [
                lagrange_encode(part, matrix, KEY, MERSENNE31, blocks, 5, begin)
                for part, begin in (
                    (data[: cut * blocks], start),
                    (data[cut * blocks :], start + cut),
                )
            ]
            assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_the_reference_serves_any_prime_and_the_kernels_say_that_they_do_not() -> None:
    tiny, one = Field("tiny", 11), residues(1, 1, 1)
    assert lagrange_encode(residues(7, 3), one, KEY, tiny, 1).tolist() == [[7, 7, 7]]
    assert lagrange_decode(one, one, tiny, 1).tolist() == [1]
    with pyfed.use_backend("cpu"), pytest.raises(BackendError, match="modulus 11 has no kernel"):
        lagrange_encode(residues(7, 3), one, KEY, tiny, 1)
    with pyfed.use_backend("cpu"), pytest.raises(BackendError, match="modulus 11 has no kernel"):
        lagrange_decode(one, one, tiny, 1)


DATA, MATRIX = residues(1, 5), residues(1, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"data": DATA.long()}, DtypeError, "data has dtype torch.int64; it must be torch.int32"),
        ({"data": MATRIX}, ArgumentError, "data has 2 dimensions"),
        ({"matrix": DATA}, ArgumentError, "matrix has 1 dimensions"),
        ({"matrix": MATRIX.float()}, DtypeError, "matrix has dtype torch.float32"),
        ({"key": None}, DtypeError, "key is NoneType; it must be a pyfed.Key"),
        ({"field": 11}, DtypeError, "field is int"),
        ({"blocks": 0}, ArgumentError, "blocks is 0; it must be in"),
        ({"blocks": 4}, ArgumentError, "blocks is 4; it must be in"),
        ({"stream": 2**32}, ArgumentError, "stream is 4294967296"),
        ({"start_column": 2**36 - 1}, ArgumentError, r"start \+ count"),
        ({"start_column": -1}, ArgumentError, "start is -1"),
    ],
)
def test_bad_arguments_of_encode_are_named(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    given = {"data": DATA, "matrix": MATRIX, "key": KEY, "field": SOLINAS31, "blocks": 2}
    with pytest.raises(error, match=words):
        lagrange_encode(**{**given, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"rows": DATA}, ArgumentError, "rows has 1 dimensions"),
        ({"rows": MATRIX.long()}, DtypeError, "rows has dtype torch.int64"),
        ({"matrix": MATRIX}, ArgumentError, r"matrix is \(4, 3\) and rows is \(4, 3\)"),
        ({"length": 7}, ArgumentError, "length is 7; it must be in"),
        ({"length": -1}, ArgumentError, "length is -1"),
    ],
)
def test_bad_arguments_of_decode_are_named(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    given = {"rows": MATRIX, "matrix": residues(1, 2, 4), "field": SOLINAS31, "length": 6}
    with pytest.raises(error, match=words):
        lagrange_decode(**{**given, **arguments})
