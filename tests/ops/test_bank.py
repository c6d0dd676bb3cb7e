"""Clipping every client's gradient: torch's own clipping, client by client."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import bank_oracles as oracles
from contract import fits, memory_of, same_bits, with_content
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import segment_clip_
from runs import Run, runs_of

CLIP_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("segment_clip_"))


def parameters(row: torch.Tensor) -> list[torch.nn.Parameter]:
    """A client's gradient in the parameters of a model: of three shapes."""
    cuts = (0, row.numel() // 3, row.numel() // 2, row.numel())
    made = []
    for first, last in itertools.pairwise(cuts):
        own = torch.nn.Parameter(torch.zeros(last - first, dtype=row.dtype, device=row.device))
        own.grad = row[first:last].clone()
        made.append(own)
    return made


def by_torch(grads: torch.Tensor, limits: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms and clipped rows, as torch.nn.utils.clip_grad_norm_ has them."""
    norms, rows = [], []
    for row, limit in zip(grads, limits, strict=True):
        own = parameters(row)
        norms.append(torch.nn.utils.clip_grad_norm_(own, limit))
        rows.append(torch.cat([p.grad for p in own]))  # type: ignore[misc]
    return torch.stack(norms), torch.stack(rows)


@CLIP_RUNS
def test_each_row_is_clipped_as_torch_clips_a_client(op: str, run: Run) -> None:
    limits = [0.5, 1.0, 1e3, 2.0, 30.0]
    grads = torch.randn(5, 301, device=run.device) * torch.tensor(
        [[1.0], [1e-3], [9.0], [3e3], [1]]
    ).to(run.device)
    wanted = by_torch(grads, limits)
    for limit in (
        torch.tensor(limits, device=run.device),
        torch.tensor(limits).double().to(run.device),
    ):
        clipped = grads.clone()
        with run.active():
            norms = segment_clip_(clipped, limit)
        torch.testing.assert_close(norms, wanted[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(clipped, wanted[1], rtol=1e-6, atol=0)


def test_float64_is_torchs_to_the_last_digits() -> None:
    grads = torch.randn(4, 97, dtype=torch.float64)
    limits = [0.5, 1e-9, 1e9, 7.0]
    wanted = by_torch(grads, limits)
    clipped = grads.clone()
    each = torch.tensor(limits, dtype=torch.float64)
    norms = segment_clip_(clipped, each)
    torch.testing.assert_close(norms, wanted[0], rtol=1e-14, atol=0)
    torch.testing.assert_close(clipped, wanted[1], rtol=1e-14, atol=0)
    for got, right in zip((norms, clipped), oracles.clip(grads, each), strict=True):
        assert fits(got, right)


@CLIP_RUNS
def test_rows_within_their_limit_keep_their_bits(op: str, run: Run) -> None:
    grads = torch.tensor([[3.0, 4.0, -0.0], [1e-20, 1.4e-45, 0.0], [0.0, 0.0, -0.0]])
    grads = grads.to(run.device)
    for limit in (5.00001, 7.0, math.inf):
        kept = grads.clone()
        with run.active():
            norms = segment_clip_(kept, limit)
        assert same_bits(kept, grads)
        assert norms.tolist()[::2] == [5.0, 0.0]


@CLIP_RUNS
def test_what_is_clipped_has_the_norm_of_its_limit(op: str, run: Run) -> None:
    """And its direction; 1e-6 is the part that the formula takes off."""
    grads = torch.randn(3, 1000, device=run.device)
    limits = torch.tensor([0.1, 1.0, 10.0], device=run.device)
    clipped = grads.clone()
    with run.active():
        norms = segment_clip_(clipped, limits)
    after = clipped.double().norm(dim=1)
    torch.testing.assert_close(after, (limits * norms / (norms + 1e-6)).double(), rtol=1e-6, atol=0)
    directions = torch.nn.functional.cosine_similarity(grads.double(), clipped.double())
    torch.testing.assert_close(directions, torch.ones_like(directions), rtol=1e-12, atol=0)


@CLIP_RUNS
def test_a_norm_may_be_far_below_or_above_its_elements_squares(op: str, run: Run) -> None:
    """Squares of 1e30 and 1e-30 do not fit in float32."""
    for size in (1e30, 1e-30, 1e-40):
        grads = torch.full((2, 100), size, device=run.device)
        grads[1] *= -1
        with run.active():
            norms = segment_clip_(grads, math.inf)
        torch.testing.assert_close(
            norms, torch.full_like(norms, size) * 10, rtol=1e-6, atol=1.5e-45
        )


@CLIP_RUNS
def test_a_client_changes_no_bit_of_another(op: str, run: Run) -> None:
    for length in (5, 70, 4097) if not run.interpreted else (70,):
        grads = torch.randn(4, length, device=run.device)
        other = grads.clone()
        other[2] = 1e30
        limits = torch.tensor([0.5, 1e9, 3.0, 2.0], device=run.device)
        changed = limits.clone()
        changed[2] = 1e-5
        with run.active():
            norms, others = segment_clip_(grads, limits), segment_clip_(other, changed)
        for client in (0, 1, 3):
            assert same_bits(grads[client], other[client])
            assert same_bits(norms[client], others[client])
        assert not torch.equal(norms[2], others[2])


@CLIP_RUNS
def test_the_order_of_the_clients_and_their_number_change_no_bit(op: str, run: Run) -> None:
    grads = torch.randn(6, 515, device=run.device)
    limits = torch.rand(6, device=run.device) * 40 + 1
    order = torch.tensor([3, 5, 0, 1, 4, 2], device=run.device)
    together, moved = grads.clone(), grads[order]
    with run.active():
        norms, after = segment_clip_(together, limits), segment_clip_(moved, limits[order])
        assert same_bits(norms[order], after) and same_bits(together[order], moved)
        for client in range(6):
            alone = grads[client : client + 1].clone()
            norm = segment_clip_(alone, limits[client : client + 1])
            assert same_bits(norm[0], norms[client]) and same_bits(alone[0], together[client])


@CLIP_RUNS
def test_a_part_of_an_arena_is_clipped_in_place(op: str, run: Run) -> None:
    whole = torch.randn(5, 50, device=run.device)
    part = whole[1:4, 7:40:2]
    before, memory = part.clone(), memory_of(part)
    with run.active():
        norms = segment_clip_(part, 1.0)
    for got, right in zip((norms, part), oracles.clip(before.cpu(), 1.0), strict=True):
        assert fits(got, right)
    assert torch.equal(memory_of(part), with_content(memory, part))


G = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("grads", "max_norm", "error", "words"),
    [
        ([1.0], 1.0, DtypeError, "grads is list; it must be a torch.Tensor"),
        (G.half(), 1.0, DtypeError, "grads has dtype torch.float16; it must be torch.float32 or"),
        (G[0], 1.0, ArgumentError, r"grads has 1 dimensions, shape \(3,\); it must have 2"),
        (G.clone().requires_grad_(), 1.0, ArgumentError, "grads requires grad; call it under"),
        (G[:1].expand(2, 3), 1.0, ArgumentError, "grads shows one number in memory at many places"),
        (G, 0, ArgumentError, "max_norm is 0; it must be more than 0"),
        (G, -1.0, ArgumentError, "max_norm is -1.0; it must be 0 or more"),
        (G, math.nan, ArgumentError, "max_norm is nan; it must be 0 or more"),
        (G, "1", DtypeError, "max_norm is str; it must be a number or a tensor"),
        (G, True, DtypeError, "max_norm is bool; it must be a number or a tensor"),
        (G, torch.ones(3), ArgumentError, "max_norm has 3 elements; there are 2 clients"),
        (G, torch.ones(2, 1), ArgumentError, "max_norm has 2 dimensions"),
        (G, torch.ones(2).int(), DtypeError, "max_norm has dtype torch.int32; it must be"),
        (
            G,
            torch.tensor([1.0, 0.0]),
            ArgumentError,
            r"max_norm of clients \[1\] is not more than 0",
        ),
        (G, torch.tensor([-1, math.nan]), ArgumentError, r"of clients \[0, 1\] is not more than 0"),
        (
            G * torch.tensor([[1.0], [math.nan]]),
            1.0,
            ArgumentError,
            r"in grads the rows of clients \[1\] hold NaN or infinite numbers",
        ),
        (G * 3e38, 1.0, ArgumentError, "the norm of a row does not fit in float32"),
    ],
)
def test_wrong_arguments_are_refused_by_name_and_nothing_is_changed(
    grads: Any, max_norm: Any, error: type[Exception], words: str
) -> None:
    before = memory_of(grads.detach()) if isinstance(grads, torch.Tensor) else None
    with pytest.raises(error, match=f"^segment_clip_: .*{words}"):
        segment_clip_(grads, max_norm)
    assert before is None or torch.equal(memory_of(grads.detach()), before)
