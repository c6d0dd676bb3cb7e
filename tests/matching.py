"""What the tests of Triton's mask kernels share: comparison with the reference, and draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

import pyfed
from pyfed.ops import mask_pack

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_equal(cases: Iterable[Callable[[], Any]]) -> int:
    """Check each case on Triton against the reference; how many there were."""
    count = 0
    for count, case in enumerate(cases, 1):
        with pyfed.use_backend("reference"):
            wanted = case()
        with pyfed.use_backend("triton"):
            got = case()
        pyfed.check()
        pairs = zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]
        for ours, theirs in pairs:
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape, f"case {count}"
            both = (t.contiguous().view(-1).view(torch.uint8) for t in (ours, theirs))
            assert torch.equal(*both), f"case {count}"
    return count


def bools(*shape: int, density: float = 0.5, device: str) -> torch.Tensor:
    return torch.rand(shape, device=device) < density


def packed(mask: torch.Tensor) -> torch.Tensor:
    with pyfed.use_backend("reference"):
        result: torch.Tensor = mask_pack(mask)
    return result


def word_of(device: str) -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device=device)


def floats_of(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Few different floats, with both zeros and subnormals."""
    special = torch.tensor([0.0, -0.0, 6e-8, -6e-8, 0.25, -0.25, 1.5, -1.5, 3e4, -3e4])
    return special[torch.randint(0, 10, shape)].to(dtype).to(device)
