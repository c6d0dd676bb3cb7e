"""Interpreted Triton kernels of weighted means equal the reference, bit for bit, on every path."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import pytest
import torch

import pyfed
from matching import DEVICES, FLOATS, check_equal, floats_of, word_of
from pyfed.errors import ArgumentError
from pyfed.ops import weighted as ops
from pyfed.ops import weighted_mean
from pyfed.triton_kernels import weighted

pytestmark = pytest.mark.parametrize("device", DEVICES)

SIZES = (0, 1, 3, 8, 17, 64, 65, 130)


def means(tensors: list[list[torch.Tensor]], weights: Sequence[float]) -> tuple[torch.Tensor, ...]:
    """As a tuple, for the comparison."""
    return tuple(weighted_mean(tensors, weights))


def test_weighted_mean(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks whole and cut, groups of clients whole and cut, mixed dtypes, views off 16 bytes."""
    monkeypatch.setattr(weighted, "BLOCK", 64)
    monkeypatch.setattr(ops, "CUDA_CHUNK", 128)
    cases = []
    for clients, seed in itertools.product((1, 2, 3, 4, 5, 8, 9), range(30)):
        kinds = [((SIZES[i % 8],), FLOATS[(seed + i) % 3]) for i in range(seed % 7, seed % 7 + 3)]
        made = floats_of if seed % 2 else lambda s, d, e: torch.randn(s, device=e).to(d)
        gap = seed % 5 // 4  # one element in five lists
        tensors = [[made((n + gap,), d, device)[gap:] for (n,), d in kinds] for _ in range(clients)]
        weights = torch.randint(0, (3, 2**24)[seed % 2], (clients,)).tolist()
        weights[seed % clients] += 1
        cases.append(partial(means, tensors, weights))
    assert check_equal(cases) >= 200


def test_chunks_of_more_than_one_block(device: str) -> None:
    tensors = [[torch.randn(n, device=device) for n in (5000, 1024, 2047)] for _ in range(5)]
    assert check_equal([partial(means, tensors, [1.0, 0.5, 0.25, 3.0, 7.0])]) == 1


def test_means_are_rounded_after_each_product_and_each_sum(device: str) -> None:
    """Products of more than 24 bits, whose contraction with the sum would give other bits."""
    values = 1 + 2.0**-12 * torch.randint(0, 4096, (5, 200), device=device)
    weights = [0.1, 0.3, 1 / 3, 0.7, 1e-3]
    cases = [partial(means, [[row.to(dtype)] for row in values], weights) for dtype in FLOATS]
    assert check_equal(cases) == 3


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")  # those of numpy
def test_means_that_are_not_finite_are_reported(device: str) -> None:
    good = torch.ones(3, device=device)
    for bad in (float("nan"), float("inf")):
        broken = good.clone()
        broken[2] = bad
        with pyfed.use_backend("triton"), pytest.raises(ArgumentError, match=r"weighted|CUDA"):
            weighted_mean([[good, good], [good, broken]])
            pyfed.check()


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_mean_that_its_dtype_cannot_hold_is_reported(device: str) -> None:
    """Only rounding makes it infinite: weights of more than 1 in all reach the kernel so."""
    for dtype in FLOATS[1:]:
        source = torch.full((2,), torch.finfo(dtype).max, dtype=dtype, device=device)
        out, word = torch.zeros_like(source), word_of(device)
        table = ([source.data_ptr()], [out.data_ptr()], [2], [FLOATS.index(dtype) + 1])
        lists = [torch.tensor(numbers, device=device) for numbers in table]
        for weight, found in ((1.0, 0), (1.01, 2)):
            weights = torch.tensor([weight], device=device)
            chunks = torch.zeros(1, 2, dtype=torch.int64, device=device)
            weighted.weighted_mean(*lists, 1, weights, chunks, 1024, word)
            assert word.item() == found


def test_nothing_behind_a_mean_is_written(device: str) -> None:
    room = torch.full((100,), 7.0, device=device)
    source = torch.ones(50, device=device)
    lists = [[source.data_ptr()], [room.data_ptr()], [50], [1]]
    table = [torch.tensor(numbers, device=device) for numbers in lists]
    chunks = torch.tensor([[0, 0], [0, 32]], device=device)
    one = torch.ones(1, device=device)
    weighted.weighted_mean(*table, 1, one, chunks, 32, word_of(device))
    assert room.tolist() == [1.0] * 50 + [7.0] * 50
