"""What tests of the paths through Triton kernels share: the comparison, and operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

import pyfed


def check_equal(cases: Iterable[Callable[[], torch.Tensor]]) -> int:
    """Check each case on Triton against the reference; how many there were."""
    count = 0
    for count, case in enumerate(cases, 1):
        with pyfed.use_backend("reference"):
            wanted = case()
        with pyfed.use_backend("triton"):
            got = case()
        pyfed.check()
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape, f"case {count}"
        assert torch.equal(got.view(torch.int32), wanted.view(torch.int32)), f"case {count}"
    return count


def residues(modulus: int, *shape: int, device: str) -> torch.Tensor:
    """Random residues; every third one is among the extremes."""
    values = torch.randint(0, modulus, shape, device=device)
    extremes = torch.tensor([0, 1, modulus - 1, modulus // 2, modulus // 2 + 1], device=device)
    flat = values.view(-1)
    flat[::3] = extremes[torch.arange(len(flat[::3]), device=device) % 5]
    return values.to(torch.int32)


def filled(value: int, *shape: int, device: str) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.int32, device=device)


def word_of(device: str) -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device=device)
