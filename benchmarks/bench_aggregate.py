"""What a server does at the end of a round: add up uploads, take the mask away, back to floats."""

from __future__ import annotations

from collections.abc import Callable

import torch

import pyfed
from contests import Baseline, Contest, random_residues, sizes
from pyfed import SOLINAS31
from pyfed.codes import lagrange_matrix

P = SOLINAS31.modulus
KEY = pyfed.Key(bytes(range(32)))
SCALE = 2.0**12
OPS = "pyfed, op by op"
INT64 = "torch, int64"
Size = tuple[int, int, int, int]


@sizes(
    cpu={(100, 1_000_000, 40, 30): (INT64, OPS)},
    cuda={(100, 1 << 24, 40, 30): (OPS,)},
    small=(9, 1003, 4, 3),
)
def bench_decode_sum(measure: Callable[[Contest], None], device: str, size: Size) -> None:
    clients, length, blocks, privacy = size
    uploads = random_residues(P, clients, length, device=device)
    code = pyfed.LagrangeCode(blocks + privacy, blocks, privacy)
    mask = random_residues(P, length, device=device)
    rows = code.encode(mask, KEY)
    sources, targets = SOLINAS31.share_points(len(rows)), SOLINAS31.block_points(blocks)
    matrix = lagrange_matrix(torch.tensor(sources), torch.tensor(targets), P).int().to(device)

    def by_ops() -> torch.Tensor:
        total = pyfed.ops.field_sum(uploads, SOLINAS31)
        decoded = pyfed.ops.lagrange_decode(rows, matrix, SOLINAS31, length)
        left = pyfed.ops.field_sum(torch.stack([total, decoded]), SOLINAS31, weights=[1, P - 1])
        return pyfed.ops.dequantize(left, SCALE, SOLINAS31)

    def by_int64() -> torch.Tensor:
        """The mask is decoded by pyfed: int64 products of 31 bits would wrap."""
        decoded = pyfed.ops.lagrange_decode(rows, matrix, SOLINAS31, length)
        left = uploads.sum(0, dtype=torch.int64).sub_(decoded).remainder_(P)
        return torch.where(left > P // 2, left - P, left).to(torch.float32).div_(SCALE)

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        assert torch.equal(output, expected)

    measure(
        Contest(
            op="decode_sum",
            shape=f"{clients} x {length:,}, K={blocks} T={privacy}",
            dtype="float32",
            run=lambda: pyfed.ops.decode_sum(uploads, rows, matrix, SOLINAS31, SCALE),
            expected=by_int64,
            bytes=4 * (clients * length + rows.numel() + length),
            macs=blocks * (blocks + privacy) * rows.shape[1],
            baselines={
                OPS: lambda: Baseline(by_ops, check),
                INT64: lambda: Baseline(by_int64, check, "the mask is decoded by pyfed"),
            },
        )
    )
