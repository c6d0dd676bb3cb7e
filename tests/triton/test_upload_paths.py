"""Interpreted Triton kernels of uploads and their sum equal the reference on every path."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch

from cases import residues
from matching import DEVICES, check_equal, word_of
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.checks import ALL_REJECTED, BAD_RESIDUE, NOT_FINITE
from pyfed.ops import decode_sum, quantize_mask
from pyfed.triton_kernels import aggregate, upload

KEYS = [Key(bytes([number]) * 32) for number in range(3)]
FIELDS = (SOLINAS31, MERSENNE31)
LANES, BLOCK = 16, 32
TILE = 16 * LANES

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "LANES", LANES)
    monkeypatch.setattr(aggregate, "BLOCK", BLOCK)


def test_quantize_mask(device: str) -> None:
    cases = []
    lengths, places = (1, 15, 17, TILE - 1, TILE + 1), (0, 15, 2**36)
    for number, (length, start, f) in enumerate(itertools.product(lengths, places, FIELDS)):  # 30
        masks, key = (1, 0, 2)[number % 3], (None, KEYS[2])[number % 2]
        values = torch.randn(length, device=device) * 3
        given = values, 2.0**13, 4.0, f, KEYS[:masks], [-1, 1][:masks]
        how = {"key": key, "weight": (1, 5)[number % 2], "stream": 2**32 - 1}
        cases.append(partial(quantize_mask, *given, **how, start=min(start, 2**36 - length)))
    for p, sign in itertools.product((5, 97, 1610612741), (1, -1)):  # 6
        values = torch.tensor([1.0, -1.0, 0.5, 0.0] * 5, device=device)
        f = Field(f"tiny{p}", p)
        cases.append(partial(quantize_mask, values, 2.0, 1.0, f, KEYS[:1], [sign], start=7))
    gaps = torch.randn(40, 2, device=device)[:, 1]
    cases.append(partial(quantize_mask, gaps, 2.0, 1.0, SOLINAS31, KEYS[:1], [1], KEYS[1]))
    assert check_equal(cases) == 37


def test_decode_sum(device: str) -> None:
    cases = []
    shapes = itertools.product((0, 1, 3), (0, 1, BLOCK, BLOCK + 1), (1, 3), FIELDS, (None, 0.25))
    for clients, length, blocks, f, scale in shapes:  # 96
        uploads = residues(f.modulus, clients, length).to(device)
        rows = residues(f.modulus, 2, -(-length // blocks)).to(device)
        matrix = residues(f.modulus, blocks, 2).to(device)
        cases.append(partial(decode_sum, uploads, rows, matrix, f, scale))
    for f, scale in itertools.product(FIELDS, (None, 1.0)):  # 4
        full = [torch.full(s, f.modulus - 1).int().to(device) for s in ((9, 20), (4, 10), (2, 4))]
        cases.append(partial(decode_sum, *full, f, scale))
    assert check_equal(cases) == 100


def test_what_is_wrong_is_reported(device: str) -> None:
    words, signs = KEYS[0].words(device)[None], torch.ones(1).int().to(device)
    word = word_of(device)
    values = torch.zeros(TILE + 3, device=device)
    values[-1] = float("nan")
    upload.quantize_mask(values, 1.0, 1.0, 5, None, words[:0], signs[:0], 1, 0, 0, word)
    assert int(word) == NOT_FINITE
    word.zero_()
    # Modulus 2^30 + 3 rejects nearly half; see tests/ops/test_upload.py for the index.
    raw = Key(bytes(range(32))).words(device)[None]
    upload.quantize_mask(values[:9], 1.0, 1.0, 2**30 + 3, None, raw, signs, 1, 11, 67_566, word)
    assert int(word) == ALL_REJECTED
    for place, value in itertools.product(range(3), (-1, SOLINAS31.modulus)):
        parts = [torch.zeros(s).int().to(device) for s in ((4, 40), (2, 20), (2, 2))]
        parts[place].view(-1)[-1] = value
        word.zero_()
        aggregate.decode_sum(*parts, 1.0, SOLINAS31.modulus, word)
        assert int(word) == BAD_RESIDUE


def test_the_decoded_mask_is_overwritten(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []
    decode = aggregate.lagrange_decode

    def recorded(*args: Any) -> torch.Tensor:
        made.append(decode(*args))
        assert made[-1].all()
        return made[-1]

    monkeypatch.setattr(aggregate, "lagrange_decode", recorded)
    parts = [torch.ones(s).int().to(device) for s in ((4, 40), (2, 20), (2, 2))]
    got = aggregate.decode_sum(*parts, None, SOLINAS31.modulus, word_of(device))
    assert got.unique().tolist() == [2]
    assert len(made) == 1
    assert not made[0].any()
