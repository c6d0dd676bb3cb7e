"""Interpreted Triton kernels of masked means equal the reference, bit for bit, on every path."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch

import pyfed
from matching import DEVICES, FLOATS, bools, check_equal, floats_of, packed, word_of
from pyfed.errors import ArgumentError
from pyfed.ops import masked_mean
from pyfed.ops.places import Indices, Rectangles
from pyfed.triton_kernels import means

pytestmark = pytest.mark.parametrize("device", DEVICES)


def test_masked_mean(device: str) -> None:
    """Every form with every denominator, rule for empty elements, dtype, and with weights."""
    cases = []
    settings = itertools.product(((1,), (7,), (3, 7), (9, 65), (5, 206)), (0, 1, 4), FLOATS)
    for number, (shape, clients, dtype) in enumerate(settings):
        values = torch.randn(clients, *shape, device=device).to(dtype)
        held = bools(clients, *shape, density=0.4, device=device)
        boxes = []
        for client in range(clients):
            spans = [sorted(torch.randint(0, n + 1, (2,)).tolist()) for n in shape[:2]]
            boxes.append(tuple((a, b) for a, b in spans[: client % 3]))
        boxed = Rectangles(shape, tuple(boxes))
        none = [values[:0].flatten()]
        cut = torch.cat(none + [boxed.cut(values[i], i).flatten() for i in range(clients)])
        listed = Indices(shape, [h.flatten().nonzero()[:, 0] for h in held])
        forms: list[tuple[torch.Tensor, Any, Any]] = [
            *((values, None, None), (values, held, None), (values[held], held, shape)),
            *((cut, boxed, None), (values[held], listed, None)),
        ]
        for own, by, whole in forms:
            choice = number + len(cases)
            weights = torch.randint(0, (5, 2**24)[choice % 2], (clients,), device=device)
            given: dict[str, Any] = {
                "weights": None if choice % 3 == 0 else weights,
                "denominator": ("keepers", "all", "one")[choice // 2 % 3],
                "min_votes": 1 + choice % 2,
                "shape": whole,
            }
            if dtype == torch.float16 and given["denominator"] == "one":
                given["denominator"] = "keepers"  # sums may exceed what float16 holds
            if choice % 4 < 2:
                given |= {"empty": "keep", "server": floats_of(shape, dtype, device)}
            cases.append(partial(masked_mean, own, by, **given))
    assert check_equal(cases) >= 200


def test_means_round_halves_to_even_and_only_once(device: str) -> None:
    """float32 sums whose double rounding, truncation or contraction would give another number."""
    cases = []
    for dtype, step in ((torch.float16, 2.0**-10), (torch.bfloat16, 2.0**-7)):
        values = 1 + step * torch.arange(64, device=device).repeat(2, 1)
        values[1] += step  # means lie half a step between two numbers
        cases.append(partial(masked_mean, values.to(dtype)))
    values = 1 + 2.0**-12 * torch.randint(0, 4096, (5, 500), device=device)
    weights = [2**24 - 1, 2**24 - 3, 12345677, 3, 2**23 + 1]  # products of more than 24 bits
    cases.append(partial(masked_mean, values, weights=weights))
    assert check_equal(cases) == 3


def test_empty_means(device: str) -> None:
    cases = [
        partial(masked_mean, torch.zeros(2, 0, 3, device=device)),
        partial(masked_mean, torch.zeros(0, 3, device=device)),
    ]
    assert check_equal(cases) == 2


@pytest.mark.filterwarnings("ignore:overflow")  # that of numpy, which interprets
def test_means_that_are_not_finite_are_reported(device: str) -> None:
    huge = torch.full((2, 3), 6e4, dtype=torch.float16, device=device)
    nan = torch.tensor([[float("nan"), 1.0, float("inf")]], device=device)
    bf16 = torch.full((2, 3), 3.3e38, device=device).to(torch.bfloat16)
    for values in (huge, nan, bf16):
        with pyfed.use_backend("triton"), pytest.raises(ArgumentError, match=r"masked_mean|CUDA"):
            masked_mean(values, denominator="one")
            pyfed.check()
    with pyfed.use_backend("triton"):
        held = torch.tensor([[False, True, False]], device=device)
        assert masked_mean(nan, held).tolist() == [0, 1, 0]


def test_indices_and_counts_out_of_range_touch_nothing(device: str) -> None:
    """The op reports them before; a kernel that runs all the same must stay in its tensors."""
    values = torch.ones(3, device=device)
    places = torch.tensor([-1, 1, 2**40], device=device)
    starts = torch.tensor([0, 3], device=device)
    word = word_of(device)
    out = means.masked_mean(
        *(values, None, places, starts, None, None, 1, 4, [4], 0, 3, 0, 1, word),
    )
    assert out.tolist() == [0, 1, 0, 0]
    held = packed(bools(1, 4, density=1.1, device=device))
    first = torch.zeros(1, 1, dtype=torch.int64, device=device)
    out = means.masked_mean(
        *(values, held, None, first, None, None, 1, 4, [4], 0, 1, 0, 1, word),
    )
    assert out.tolist() == [1, 1, 1, 0]
    with pyfed.use_backend("triton"), pytest.raises(ArgumentError, match=r"masked_mean|CUDA"):
        masked_mean(values, Indices((4,), [torch.tensor([2, 2, 3], device=device)]))
        pyfed.check()
