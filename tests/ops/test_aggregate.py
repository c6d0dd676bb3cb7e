"""A server's pass over uploads: exact at every bound, with what users would write as its oracle."""

from __future__ import annotations

from typing import Any

import flint
import numpy as np
import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, WIDE, Field, FixedPoint, Key, LagrangeCode
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import decode_sum, quantize_mask, random_residues
from runs import Run, runs_of, simd_level, simd_levels

FIELDS = (SOLINAS31, MERSENNE31)
P = SOLINAS31.modulus
RUNS = pytest.mark.parametrize(("op", "run"), runs_of("decode_sum", oracle=True))


def drawn(f: Field, *shape: int) -> torch.Tensor:
    return torch.randint(0, f.modulus, shape).to(torch.int32)


def bare(uploads: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor, p: int) -> np.ndarray:
    """By python-flint and 64-bit integers."""
    a = flint.nmod_mat(*matrix.shape, matrix.flatten().tolist(), p)
    b = flint.nmod_mat(*rows.shape, rows.flatten().tolist(), p)
    mask = np.array([[int(v) for v in row] for row in (a * b).tolist()]).T.reshape(-1)
    total = uploads.numpy().astype(np.int64).sum(0)
    return (total - mask[: len(total)]) % p


@RUNS
@pytest.mark.parametrize("f", FIELDS, ids=("solinas31", "mersenne31"))
def test_sums_of_random_uploads_equal_those_of_flint(op: str, run: Run, f: Field) -> None:
    """Around the ends of vectors, of panels, and of the part of a row that is summed at a time."""
    torch.manual_seed(8)
    shapes = [(5, 67, 3, 4), (9, 600, 17, 5)]
    if not run.interpreted:
        shapes += [(6, 1023, 1, 2), (7, 1025, 2, 3), (13, 4_099, 16, 3), (4, 10_241, 40, 7)]
    for clients, length, blocks, threshold in shapes:
        uploads, rows = drawn(f, clients, length), drawn(f, threshold, -(-length // blocks))
        matrix = drawn(f, blocks, threshold)
        wanted = bare(uploads, rows, matrix, f.modulus)
        lifted = np.where(wanted > f.modulus // 2, wanted - f.modulus, wanted).astype(np.float32)
        with run.active():
            assert np.array_equal(decode_sum(uploads, rows, matrix, f).numpy(), wanted)
            floats = decode_sum(uploads, rows, matrix, f, scale=2.0**9)
        assert np.array_equal(floats.numpy(), lifted / np.float32(2**9))


@RUNS
@pytest.mark.parametrize("f", FIELDS, ids=("solinas31", "mersenne31"))
def test_sums_of_p_are_0_and_the_lift_turns_behind_the_half(op: str, run: Run, f: Field) -> None:
    """In whole vectors and behind the last of them, with a mask of 0 and one of p - 1."""
    p, half = f.modulus, (f.modulus - 1) // 2
    pairs = [(1, p - 1), (0, half), (half, half + 1), (1, half), (p - 1, p - 1), (0, 0)] * 7
    uploads = torch.tensor(pairs, dtype=torch.int32).t()
    one = torch.ones(1, 1, dtype=torch.int32)
    for mask in (0, p - 1):
        rows = torch.full((1, len(pairs)), mask, dtype=torch.int32)
        wanted = [(sum(pair) - mask) % p for pair in pairs]
        with run.active():
            assert decode_sum(uploads, rows, one, f).tolist() == wanted
            floats = decode_sum(uploads, rows, one, f, scale=1.0)
        lifted = torch.tensor([v - p if v > half else v for v in wanted])
        assert torch.equal(floats, lifted.float())


@pytest.mark.parametrize("simd", simd_levels())
def test_more_rows_than_go_between_two_reductions(simd: str) -> None:
    """All p - 1, around 2^16 and 2^17 rows, in whole vectors and behind the last."""
    one = torch.ones(1, 1, dtype=torch.int32)
    for f in (*FIELDS, WIDE.planes[1]):
        p = f.modulus
        for clients in (2**16 - 1, 2**16, 2**16 + 1, 2**16 + 3, 2**17 + 4):
            uploads = torch.full((clients, 21), p - 1, dtype=torch.int32)
            mask = torch.arange(21, dtype=torch.int32)[None]
            with simd_level(simd):
                got = decode_sum(uploads, mask, one, f)
            assert got.tolist() == [(-clients - i) % p for i in range(21)]


@pytest.mark.parametrize("simd", simd_levels())
def test_a_bad_residue_is_told_of_wherever_it_stands(simd: str) -> None:
    uploads, rows, matrix = (
        torch.zeros(s, dtype=torch.int32) for s in ((5, 2_067), (2, 689), (3, 2))
    )
    for client, place, value in ((0, 0, P), (4, 2_066, -1), (3, 1_023, -(2**31)), (4, 1_024, P)):
        wrong = uploads.clone()
        wrong[client, place] = value
        with simd_level(simd), pytest.raises(ArgumentError, match=r"outside \[0, "):
            decode_sum(wrong, rows, matrix, SOLINAS31)


def test_a_round_of_masked_uploads_gives_the_weighted_sum() -> None:
    """Clients mask with vectors whose summed shares the server decodes."""
    clients, length = 6, 1_001
    fixed = FixedPoint(clip=1.0, bits=12, clients=clients, max_weight=3)
    code, field = LagrangeCode(shares=clients, blocks=3, privacy=2), SOLINAS31
    torch.manual_seed(4)
    steps = torch.randint(-2000, 2000, (clients, length))
    uploads, shares = [], torch.zeros(clients, -(-length // 3), dtype=torch.int64)
    for client in range(clients):
        key = Key.generate()
        floats = steps[client] / fixed.scale
        given = floats, fixed.scale, fixed.clip, field, [key], [1]
        uploads.append(quantize_mask(*given, key=key.derive("round"), weight=1 + client % 3))
        shares += code.encode(random_residues(key, length, field))
    rows, chosen = (shares % P).int(), (5, 0, 3, 1, 4)
    matrix = code.decoding_matrix(chosen)
    got = decode_sum(torch.stack(uploads), rows[list(chosen)], matrix, field, fixed.scale)
    weights = torch.tensor([1 + client % 3 for client in range(clients)])
    assert torch.equal(got, (weights @ steps).float() / fixed.scale)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"uploads": torch.zeros(2, 5)}, DtypeError, "uploads has dtype torch.float32"),
        ({"rows": torch.zeros(3).int()}, ArgumentError, "rows has 1 dimensions"),
        ({"matrix": torch.zeros(2, 4).int()}, ArgumentError, r"matrix is \(2, 4\) and rows is"),
        ({"rows": torch.zeros(3, 2).int()}, ArgumentError, "rows has 2 columns and matrix 2 rows"),
        ({"rows": torch.zeros(3, 4).int()}, ArgumentError, "rows has 4 columns"),
        ({"matrix": torch.zeros(0, 3).int()}, ArgumentError, "a block at least"),
        ({"scale": 3.0}, ArgumentError, "scale is 3.0"),
        ({"scale": "1"}, DtypeError, "scale is str"),
        ({"field": P}, DtypeError, r"field is int; it must be a pyfed\.Field"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"uploads": (2, 5), "rows": (3, 3), "matrix": (2, 3)}
    tensors = {name: torch.zeros(shape, dtype=torch.int32) for name, shape in given.items()}
    with pytest.raises(error, match=words):
        decode_sum(**{**tensors, "field": SOLINAS31, **arguments})
