"""Encodings by transforms and from floats leave nothing secret behind: see test_stack_wiped.py."""

from __future__ import annotations

import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, Field, native
from pyfed.ops.fixed import quantize_op
from pyfed.ops.random import PADDING, ROUNDING, domain, residues_reference, words_reference
from runs import simd_level
from test_stack_wiped import (
    BY_CHANCE,
    EVERY_LEVEL,
    FIELDS,
    KEY,
    NUMBERS,
    centred,
    drawn,
    empty,
    found,
    is_clean,
    run,
    scratch_of,
    stack_after,
)


@EVERY_LEVEL
@pytest.mark.parametrize(NUMBERS, [(7, 3, 2, 101), (40, 21, 13, 1300), (33, 1, 2, 700)])
def test_shares_by_transforms(
    simd: str, shares: int, blocks: int, privacy: int, length: int
) -> None:
    key, p, columns = KEY.words(), SOLINAS31.modulus, -(-length // blocks)
    data, matrix = drawn(SOLINAS31, length), drawn(SOLINAS31, shares, blocks + privacy)
    random = [residues_reference(key, 9, columns, t, 3, PADDING, p) for t in range(privacy)]
    for threads in (1, 2):
        size = native._C.transform_workspace(shares, blocks, privacy, threads)
        out, scratch = empty(shares, columns), torch.full((size,), -(2**31), dtype=torch.int32)
        args = (length, matrix, shares, blocks, privacy, key, 3, 9, p, out, scratch)
        with simd_level(simd):
            stack = stack_after(lambda: run("lagrange_transform", data, *args, threads=threads))  # noqa: B023
        assert is_clean(scratch)
        assert found(stack, out, torch.stack(random), data, key) <= BY_CHANCE


@EVERY_LEVEL
@FIELDS
@pytest.mark.parametrize("kind", ["encode", "transform"])
@pytest.mark.parametrize(NUMBERS, [(7, 3, 2, 101), (9, 260, 1, 1300)])
def test_floats_to_shares(
    simd: str, f: Field, kind: str, shares: int, blocks: int, privacy: int, length: int
) -> None:
    key, p, columns = KEY.words(), f.modulus, -(-length // blocks)
    if kind == "transform" and (f is MERSENNE31 or shares < blocks):
        pytest.skip("no such code")
    values, matrix = torch.rand(length) * 2e6 + 2e6, drawn(f, shares, blocks + privacy)
    noise = words_reference(key, 9 * blocks, length, [0, 3, domain(ROUNDING)])
    rounded = quantize_op.kernels["reference"].run(values, 16.0, 4e6, p, key, 3, 9 * blocks)
    size = native._C.transform_workspace(shares, blocks, privacy, 1)
    scratch = scratch_of(0, 1)
    if kind == "transform":
        scratch = torch.full((size,), -(2**31), dtype=torch.int32)
    out = empty(shares, columns)
    where = (shares, blocks, privacy, key, 3, 9, p, out, scratch)
    args = (values, length, 16.0, 4e6, matrix, *where)
    with simd_level(simd):
        stack = stack_after(lambda: run(f"quantize_{kind}", *args))
    assert is_clean(scratch)
    assert found(stack, out, noise, rounded, centred(rounded, p), key) <= BY_CHANCE
