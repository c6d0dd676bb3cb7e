"""The two hot spots of SecEA between one asker and one answerer: a query, and its answer.

A query has a row for each entity that the asker wants, of an element for each of the M entities
that there are; an answer is its product with the answerer's shares, ⌈d / K⌉ + 1 columns wide.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import pyfed
from baselines import _equal
from contests import Baseline, Contest, random_residues, sizes
from pyfed import SOLINAS31

P = SOLINAS31.modulus
BEST = "field_matmul 256×256×4096"
ROWS = 8
"""Rows of an answer that are checked with Python's integers."""


def as_many_products(macs: int, device: str) -> Baseline:
    """The same number of multiply-adds as products of the shape that shows the kernel's rate."""
    m, k, n = 256, 256, 4096
    a, b = random_residues(P, m, k, device=device), random_residues(P, k, n, device=device)
    whole, rest = divmod(macs, m * k * n)
    narrow = b[:, : round(rest / (m * k))].contiguous()

    def run() -> None:
        for _ in range(whole):
            pyfed.ops.field_matmul(a, b, SOLINAS31)
        pyfed.ops.field_matmul(a, narrow, SOLINAS31)

    return Baseline(run, lambda output, expected: None, lacks="other numbers: it is the peak rate")


def some_rows(query: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Rows of the answer from first to last, by Python's integers."""
    columns = shares.T.tolist()
    rows = query[chosen_rows(len(query))].tolist()
    found = [[sum(map(int.__mul__, row, column)) % P for column in columns] for row in rows]
    return torch.tensor(found, dtype=torch.int32, device=query.device)


def chosen_rows(count: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, ROWS).long()


@sizes(
    cpu={(7_500, 15_000, 256, 3): (BEST,)},
    cuda={(7_500, 15_000, 256, 3): (BEST,)},
    small=(19, 33, 20, 3),
)
def bench_answer(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int, int, int]
) -> None:
    wanted, entities, features, blocks = size
    width = -(-features // blocks) + 1  # and the column of the ownership symbol
    query = random_residues(P, wanted, entities, device=device)
    shares = random_residues(P, entities, width, device=device)
    some = chosen_rows(wanted).to(device)
    macs = wanted * entities * width
    measure(
        Contest(
            op="SecEA answer",
            shape=f"{wanted:,} × {entities:,} × {width}",
            run=lambda: pyfed.ops.field_matmul(query, shares, SOLINAS31)[some],
            expected=lambda: some_rows(query, shares),
            bytes=4 * (wanted * entities + entities * width + wanted * width),
            macs=macs,
            baselines={BEST: lambda: as_many_products(macs, device)},
        )
    )


TWO_OPS = "random_residues and field_sum"


@sizes(cpu={(300, 15_000, 2): (TWO_OPS,)}, cuda={(3_750, 15_000, 2): (TWO_OPS,)}, small=(3, 41, 2))
def bench_query(
    measure: Callable[[Contest], None], device: str, size: tuple[int, int, int]
) -> None:
    """Unit rows hidden from one answerer: e · ℓ(α) + Z(α) (R_1 + α R_2 + …)."""
    wanted, entities, privacy = size
    count = wanted * entities
    data = torch.zeros(wanted, entities, dtype=torch.int32, device=device)
    data[torch.arange(wanted), torch.randperm(entities)[:wanted]] = 1
    matrix = random_residues(P, 1, 1 + privacy, device=device)
    key = pyfed.Key(bytes(range(32)))

    def two_ops() -> torch.Tensor:
        rows = [data.view(-1)]
        for number in range(privacy):
            rows.append(
                pyfed.ops.random_residues(key, count, SOLINAS31, stream=number, device=device)
            )
        return pyfed.ops.field_sum(torch.stack(rows), SOLINAS31, weights=matrix[0])

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        _equal()(torch.tensor(output.shape), torch.tensor([count]))

    measure(
        Contest(
            op="SecEA query",
            shape=f"{wanted:,} × {entities:,}, T={privacy}",
            run=lambda: pyfed.ops.lagrange_encode(data.view(-1), matrix, key, SOLINAS31, blocks=1),
            bytes=8 * count,
            macs=(1 + privacy) * count,
            chacha=4 * privacy * count,
            baselines={TWO_OPS: lambda: Baseline(two_ops, check, lacks="its rows lie in memory")},
        )
    )
