"""Interpreted Triton kernels of banks: steps bit for bit, norms as near as float32 allows."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

import pyfed
from matching import DEVICES, check_equal
from pyfed.errors import ArgumentError
from pyfed.ops import bank_adamw_, bank_sgd_, segment_clip_
from pyfed.triton_kernels import bank

pytestmark = pytest.mark.parametrize("device", DEVICES)

LENGTHS = (1, 3, 4, 64, 66, 130, 192)
SPECIAL = (0.0, -0.0, 1e-45, -1e-39, 1e-20, -1.0, 3.0, 1e15)


def arenas(count: int, clients: int, length: int, seed: int, device: str) -> list[torch.Tensor]:
    """Normal numbers, or few different ones, with both zeros and subnormals."""
    if seed % 2:
        return list(torch.randn(count, clients, length, device=device))
    special = torch.tensor(SPECIAL)[torch.randint(0, len(SPECIAL), (count, clients, length))]
    return list(special.to(device))


def adamw(
    given: list[torch.Tensor], steps: torch.Tensor, **how: object
) -> tuple[torch.Tensor, ...]:
    made = [t.clone() for t in given]
    bank_adamw_(*made, steps, **how)
    return tuple(made)


def sgd(given: list[torch.Tensor], steps: torch.Tensor, **how: object) -> tuple[torch.Tensor, ...]:
    made = [t.clone() for t in given]
    momentum = made[2] if how.get("momentum") else None
    bank_sgd_(*made[:2], momentum, steps, **how)
    return tuple(made)


def test_bank_adamw(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of every alignment, whole blocks and tails, clients that are skipped, own rates."""
    monkeypatch.setattr(bank, "BLOCK", 64)
    cases = []
    for seed, (length, clients, t) in enumerate(
        itertools.product(LENGTHS, (1, 2, 5), (1, 2, 7, 100, 5000, 10, 3, 4, 0, 1000))
    ):
        given = arenas(4, clients, length, seed, device)
        given[3].abs_()
        steps = torch.randint(0, 3, (clients,), device=device) * t
        how = {
            "lr": torch.rand(clients, device=device) if seed % 3 else 1e-3,
            "betas": ((0.9, 0.999), (0.0, 0.5))[seed % 5 == 0],
            "weight_decay": (0.01, 0.0)[seed % 4 == 0],
        }
        cases.append(partial(adamw, given, steps, **how))
    assert check_equal(cases) >= 200


def test_bank_sgd(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without momentum, its first step and later ones, dampening, decay and Nesterov."""
    monkeypatch.setattr(bank, "BLOCK", 64)
    cases = []
    rules = (
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
    )
    for seed, (length, clients, rule, _) in enumerate(
        itertools.product(LENGTHS, (1, 2, 5), rules, range(2))
    ):
        steps = torch.randint(0, 4, (clients,), device=device)
        rate = torch.rand(clients, device=device) if seed % 3 else 0.1
        given = arenas(3, clients, length, seed, device)
        cases.append(partial(sgd, given, steps, lr=rate, **rule))
    assert check_equal(cases) >= 200


def clipped(grads: torch.Tensor, limits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    own = grads.clone()
    return segment_clip_(own, limits), own


def test_segment_clip(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one chunk and more; those within the limit keep their bits, others come near."""
    monkeypatch.setattr(bank, "CHUNK", 64)
    monkeypatch.setattr(bank, "BLOCK", 64)
    monkeypatch.setattr(bank, "PARTIALS", 2)
    count = 0
    for length, clients, seed in itertools.product(LENGTHS, (1, 2, 5), range(10)):
        grads = torch.randn(clients, length, device=device) * 10.0 ** (seed - 5)
        norms = grads.double().norm(dim=1)
        limits = (norms * torch.rand(clients, device=device) * 2 + 1e-9).float()
        if seed == 9:
            limits[-1] = float("inf")
        found, own = [], []
        for backend in ("reference", "triton"):
            with pyfed.use_backend(backend):
                norm, row = clipped(grads, limits)
            found.append(norm)
            own.append(row)
        # One rounding of the norm, at most another one beside it, and as many in the factor.
        assert torch.allclose(*found, rtol=2.0**-23, atol=0.0)
        assert torch.allclose(*own, rtol=2.0**-21, atol=1e-45)
        kept = limits / (found[1] + 1e-6) >= 1
        assert torch.equal(own[1][kept].view(torch.int32), grads[kept].view(torch.int32))
        count += 1
    assert count >= 200


def test_norms_are_the_same_in_every_run_and_count_in_float64(device: str) -> None:
    grads = torch.randn(2, 3 * bank.CHUNK + 5, device=device)
    grads *= torch.tensor([[1e25], [1e-30]], device=device)  # float32 cannot hold their squares
    with pyfed.use_backend("triton"):
        norms = [segment_clip_(grads.clone(), 1.0) for _ in range(2)]
    assert torch.equal(*norms)
    exact = grads.double().square().sum(1).sqrt()
    assert torch.allclose(norms[0], exact.float(), rtol=2.0**-23, atol=0.0)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")  # those of numpy
def test_a_norm_that_is_not_finite_changes_nothing(device: str) -> None:
    for bad in (float("nan"), float("inf"), 3.4e38):
        grads = torch.full((3, 5), 2.0, device=device)
        grads[1, 2:] = bad
        before = grads.clone()
        with pyfed.use_backend("triton"), pytest.raises(ArgumentError, match=r"segment|CUDA"):
            segment_clip_(grads, 1.0)
            pyfed.check()
        assert torch.equal(grads.view(torch.int32), before.view(torch.int32))


def test_arenas_without_elements(device: str) -> None:
    for shape in ((0, 3), (3, 0)):
        given = [torch.zeros(shape, device=device) for _ in range(4)]
        steps = torch.ones(shape[0], dtype=torch.int64, device=device)
        with pyfed.use_backend("triton"):
            assert segment_clip_(given[0], 1.0).tolist() == [0.0] * shape[0]
            assert bank_adamw_(*given, steps, 0.1).shape == shape
            assert bank_sgd_(*given[:2], None, steps, 0.1).shape == shape
