"""Passes that do several steps at once leave nothing secret behind: see test_stack_wiped.py."""

from __future__ import annotations

import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, Field, native
from pyfed.ops.fixed import quantize_op
from pyfed.ops.lagrange import lagrange_decode_op
from pyfed.ops.random import (
    PADDING,
    RESIDUES,
    ROUNDING,
    domain,
    residues_reference,
    words_reference,
)
from runs import simd_level
from test_stack_wiped import (
    BY_CHANCE,
    EVERY_LEVEL,
    FIELDS,
    KEY,
    NUMBERS,
    OTHER,
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


@EVERY_LEVEL
@FIELDS
@pytest.mark.parametrize("rounding", [False, True])
def test_masked_uploads(simd: str, f: Field, rounding: bool) -> None:
    values, p = torch.rand(1300) * 2e6 + 2e6, f.modulus
    own, keys = KEY.words(), torch.stack([OTHER.words(), OTHER.derive("more").words()])
    masks = [residues_reference(key, 9, 1300, 0, 3, RESIDUES, p) for key in keys]
    noise = words_reference(own, 9, 1300, [0, 3, domain(ROUNDING)])
    given = own if rounding else None
    rounded = quantize_op.kernels["reference"].run(values, 16.0, 4e6, p, given, 3, 9)
    sums, out = (masks[0].long() - masks[1]) % p, empty(1300)
    args = (values, 1300, 16.0, 4e6, p, given, keys, torch.tensor([1, -1]).int(), 2, 3, 3, 9, out)
    with simd_level(simd):
        stack = stack_after(lambda: run("quantize_mask", *args))
    assert torch.equal(out, (3 * rounded.long() + sums) % p)
    steps = centred(rounded, p)
    secrets = (*masks, sums, rounded, steps, 3 * steps, keys, *([noise, own] if rounding else []))
    assert found(stack, *secrets) <= BY_CHANCE


@EVERY_LEVEL
@FIELDS
def test_unmasked_sums(simd: str, f: Field) -> None:
    """The masks' sum, and what it hides, in panels and on the stack."""
    p, (clients, length, blocks, threshold) = f.modulus, (5, 2600, 3, 4)
    uploads, rows = drawn(f, clients, length), drawn(f, threshold, -(-length // blocks))
    matrix, kernels = drawn(f, blocks, threshold), lagrange_decode_op.kernels
    mask = kernels["reference"].run(rows, matrix, p, length)
    sums = uploads.long().sum(0) % p
    bare = (sums - mask) % p
    for threads in (1, 2):
        out, scratch = empty(length), scratch_of(blocks, threads)
        sizes = (rows, rows.shape[1], matrix, blocks, threshold, 0.0, p, scratch, out)
        with simd_level(simd):
            args = (uploads, clients, length, *sizes)
            stack = stack_after(lambda: run("decode_sum", *args, threads=threads))  # noqa: B023
        assert torch.equal(out, bare)
        assert is_clean(scratch)
        hidden = (mask, centred(mask, p), sums, bare, centred(bare, p))
        assert found(stack, *hidden) <= BY_CHANCE
