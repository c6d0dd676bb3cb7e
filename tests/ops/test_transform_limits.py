"""Shares by transforms: the largest codes, the end of a stream, and what no code has."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import oracles
import pyfed
from pyfed import SOLINAS31, Field, FixedPoint, Key, LagrangeCode, native
from pyfed.errors import ArgumentError
from pyfed.interpolation import product
from pyfed.ops import encode, lagrange_encode
from pyfed.ops.lagrange import lagrange_encode_op
from pyfed.ops.random import PADDING, domain, words_reference
from runs import simd_level, simd_levels
from transforms import BOTH, EVERY_LEVEL, KEY, SECOND, by_products, by_transforms, drawn

if native._C is None:
    pytest.skip("needs the compiled kernels", allow_module_level=True)


def horner(coefficients: list[int], points: list[int], p: int) -> torch.Tensor:
    """A polynomial's values: int64."""
    x = torch.tensor(points)
    values = torch.zeros_like(x)
    for c in reversed(coefficients):
        values = (values * x + c) % p
    return values


@BOTH
@pytest.mark.parametrize("shape", [(4096, 4096, 0), (4096, 4095, 1), (4096, 2730, 1366)], ids=str)
def test_the_largest_codes_are_polynomials_at_their_points(
    field: Field, shape: tuple[int, int, int]
) -> None:
    """Blocks are values of a random polynomial; every group of blocks and every root is used."""
    p, (shares, blocks, privacy) = field.modulus, shape
    alphas, betas = oracles.points(p, shares, blocks)
    own = drawn(p, blocks).tolist()
    pads = [oracles.residue(KEY.reveal(), 7, p, row=t, purpose=3) for t in range(privacy)]
    binomial = product((torch.tensor(alphas)[:, None] - torch.tensor(betas)) % p, p)
    wanted = (horner(own, alphas, p) + binomial * horner(pads, alphas, p)) % p
    data, out = horner(own, betas, p).int(), torch.empty(shares, 1, dtype=torch.int32)
    matrix = torch.zeros(shares, blocks + privacy, dtype=torch.int32)  # looked at, not used
    for simd in simd_levels():
        scratch = native.transform_workspace(*shape)
        where = KEY.words(), 0, 7, p, out.fill_(-1), scratch
        with simd_level(simd):
            native.run("lagrange_transform", data.device, data, blocks, matrix, *shape, *where)
        assert torch.equal(out[:, 0].long(), wanted), simd


@EVERY_LEVEL
def test_candidates_are_rejected_at_the_end_of_a_stream_too(simd: str) -> None:
    """One in 2^14 is: some are here, of both rows, where an index has more than 32 bits."""
    code, columns = LagrangeCode(3, 1, 2), 40_000
    data = drawn(SOLINAS31.modulus, columns)
    for row in range(2):
        nonce = [row, 6, domain(PADDING, SOLINAS31.modulus)]
        words = words_reference(KEY.words(), 2**36 - columns, columns, nonce)
        assert (words & (2**31 - 1) >= SOLINAS31.modulus).any()
    with simd_level(simd):
        where = 6, 2**36 - columns
        assert torch.equal(by_transforms(data, code, *where), by_products(data, code, *where))


@pytest.mark.parametrize("prime", [SOLINAS31.modulus, SECOND.modulus])
def test_points_elsewhere_over_a_prime_that_allows_transforms_are_not_forgotten(prime: int) -> None:
    """The prime alone does not tell the points."""
    field = Field("mine", prime)
    code, fixed = LagrangeCode(7, 3, 2, field), FixedPoint(bits=12, field=field)
    data = drawn(prime, 50)
    shares = code.encode(data, KEY)
    assert shares.tolist() == by_products(data, code).tolist()
    assert torch.equal(code.decode(shares, range(7), 50), data)
    values = torch.full((9,), 0.5)
    rows = code.encode(values, KEY, fixed=fixed)
    assert torch.equal(fixed.decode(code.decode(rows, range(7))), values)


@pytest.mark.parametrize("shape", [(4097, 3), (2, 3), (2, 20_000), (8192, 1), (0, 1)], ids=str)
def test_a_matrix_that_no_code_has_is_refused_before_it_is_trusted(shape: tuple[int, int]) -> None:
    matrix, blocks = torch.ones(shape, dtype=torch.int32), shape[1]
    data, values = torch.ones(blocks, dtype=torch.int32), torch.ones(blocks)
    words = rf"standard is True and matrix is \({shape[0]}, {shape[1]}\)"
    with pytest.raises(ArgumentError, match=f"^lagrange_encode: {words}"):
        lagrange_encode(data, matrix, KEY, SOLINAS31, blocks, standard=True)
    with pytest.raises(ArgumentError, match=f"^quantize_encode: {words}"):
        pyfed.ops.quantize_encode(values, 1.0, 1.0, matrix, KEY, SOLINAS31, blocks, standard=True)


@pytest.mark.parametrize("failing", [False, True])
def test_a_fresh_key_is_wiped_even_where_nothing_comes_of_it(
    failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Key] = []
    monkeypatch.setattr(Key, "generate", lambda: made.append(Key(bytes(range(32)))) or made[-1])
    data = torch.full((4,), -1 if failing else 1, dtype=torch.int32)
    with pytest.raises(ArgumentError) if failing else contextlib.nullcontext():
        LagrangeCode(4, 2, 1).encode(data)
    assert [key.reveal() for key in made] == [bytes(32)]


def test_residues_between_two_passes_are_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where quantize_encode is two kernels: here the reference, on a GPU the others."""
    between: list[torch.Tensor] = []
    run = lagrange_encode_op.kernels["reference"].run

    def watched(residues: torch.Tensor, *rest: Any) -> torch.Tensor:
        between.append(residues)
        assert residues.all()
        return run(residues, *rest)

    kernels = {"reference": SimpleNamespace(run=watched)}
    monkeypatch.setattr(encode, "lagrange_encode_op", SimpleNamespace(kernels=kernels))
    with pyfed.use_backend("reference"):
        LagrangeCode(4, 2, 1).encode(torch.ones(6), KEY, fixed=FixedPoint())
    assert len(between) == 1
    assert not between[0].any()
