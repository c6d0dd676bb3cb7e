"""Votes to masks: the whole way from packed votes, and selection alone by kind of group."""

from __future__ import annotations

from collections.abc import Callable

import torch

import mask_baselines as user
import pyfed
from contests import Contest, sizes
from votes import packed_votes


@sizes(
    cpu={(64, 1 << 24): (user.TABLE, user.UNPACKBITS, user.TOPK)},
    cuda={(64, 1 << 28): (user.TABLE, user.TOPK)},
    small=(9, 1003),
)
def bench_vote(measure: Callable[[Contest], None], device: str, size: tuple[int, int]) -> None:
    """From packed votes to the half of a layer that has the most."""
    clients, length = size
    packed = packed_votes(clients, length, device)
    k = length // 2

    def run() -> torch.Tensor:
        counts = pyfed.ops.mask_count(packed, length)
        return pyfed.ops.mask_select(counts, (length,), 0.5)

    table, numpy = user.count_by_table, user.count_by_unpackbits
    measure(
        Contest(
            op="mask_count, mask_select",
            shape=f"{clients}×{length:,}",
            dtype="uint8",
            run=run,
            expected=lambda: user.vote(packed, length, k, table).run(),
            # Votes once, counts out and in, the mask out.
            bytes=packed.numel() + 3 * length,
            baselines={
                user.TABLE: lambda: user.vote(packed, length, k, table),
                user.UNPACKBITS: lambda: user.vote(packed, length, k, numpy),
                user.TOPK: lambda: user.stack_sum_topk(packed, length, k),
            },
        )
    )


def selection(
    group: str, counts: torch.Tensor, rows: int, columns: int, weight: torch.Tensor | None = None
) -> Contest:
    """Half of every group."""
    shape = (rows, columns)
    k, dim = (columns // 2, 1) if group == "row" else (rows // 2, 0)
    ties = "index" if weight is None else "magnitude"
    sparsity = None if ":" in group else 0.5
    how = {"group": group, "ties": ties, "weight": weight}
    return Contest(
        op=f"mask_select, {group}" + ("" if weight is None else ", ties by magnitude"),
        shape=f"{rows}×{columns}",
        dtype="uint8",
        run=lambda: pyfed.ops.mask_select(counts, shape, sparsity, **how),
        bytes=2 * counts.numel() + (0 if weight is None else weight.nbytes),
        baselines={user.SORT: lambda: user.sort_groups(counts, shape, k, dim)},
    )


def counts_of(clients: int, rows: int, columns: int, device: str) -> torch.Tensor:
    return pyfed.ops.mask_count(packed_votes(clients, rows * columns, device), rows * columns)


MATRIX = {"cuda": {(11008, 4096): (user.SORT,)}, "small": (12, 24)}


@sizes(cpu={(4096, 1024): (user.SORT,)}, **MATRIX)
def bench_select_rows(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    measure(selection("row", counts_of(64, *size, device), *size))


@sizes(cpu={(4096, 1024): (user.SORT,)}, **MATRIX)
def bench_select_columns(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    measure(selection("column", counts_of(64, *size, device), *size))


@sizes(cpu={(4096, 1024): ()}, cuda={(11008, 4096): ()}, small=(12, 24))
def bench_select_columns_by_magnitude(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    generator = torch.Generator(device).manual_seed(20)
    weight = torch.randn(size, device=device, generator=generator)
    measure(selection("column", counts_of(64, *size, device), *size, weight))


@sizes(cpu={(4096, 1024): ()}, cuda={(11008, 4096): ()}, small=(12, 24))
def bench_select_2_of_4(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    measure(selection("2:4", counts_of(64, *size, device), *size))


@sizes(cpu={(4096, 1024): (user.SORT,)}, cuda={(11008, 4096): (user.SORT,)}, small=(12, 24))
def bench_mask_prune_(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int]
) -> None:
    """Ties by index, so that pruning twice prunes the same weights."""
    counts = counts_of(64, *size, device)
    generator = torch.Generator(device).manual_seed(20)
    weight = torch.randn(size, device=device, generator=generator).to(torch.bfloat16)
    k = counts.numel() // 2
    measure(
        Contest(
            op="mask_prune_",
            shape=f"{size[0]}×{size[1]}",
            dtype="bfloat16",
            run=lambda: pyfed.ops.mask_prune_(weight, counts, 0.5, ties="index"),
            bytes=2 * counts.numel() + 2 * weight.nbytes,
            baselines={user.SORT: lambda: user.sort_and_prune(weight, counts, k)},
        )
    )
