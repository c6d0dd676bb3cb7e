"""Calls of the launchers of adapters, banks and means that between them take every kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyfed.triton_kernels import bank, dropout, lora, merge, weighted

KEY = torch.zeros(8, dtype=torch.int32)
WORD = torch.zeros(1, dtype=torch.int32)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
DROPOUT = (2**31, 2.0)


def long(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def dropped(dtype: torch.dtype, features: int) -> None:
    x = torch.zeros(4, features, dtype=dtype)
    dropout.counter_dropout(x, KEY, long(0, 1), long(0, 2, 4), *DROPOUT)


def merged(base: torch.dtype, factors: torch.dtype, features: int, transposed: bool) -> None:
    a = torch.zeros(8, features, dtype=factors)
    weight = torch.zeros(features, features, dtype=base)
    merge.lora_merge_(weight, a, a.T.contiguous(), torch.ones(8), transposed)


def trained(dtype: torch.dtype, rows: int, features: int, rank: int, random: bool) -> None:
    """A pass forward and back of two clients."""
    x = torch.zeros(rows, features, dtype=dtype)
    a, b = torch.zeros(2, rank, features), torch.zeros(2, features, rank)
    rest = (torch.ones(2), long(0, 1, rows), KEY if random else None, long(0, 1), *DROPOUT)
    _, hidden = lora.lora_linear(x, x, a, b, *rest)
    lora.lora_linear_backward(x, x, a, b, hidden, *rest)


def averaged(aligned: bool) -> None:
    table = (long(0, 0), long(0), long(1), long(1))
    weighted.weighted_mean(*table, 2, torch.ones(2), long(0, 0).view(1, 2), 16384, WORD, aligned)


def stepped(length: int) -> None:
    row, factors = torch.zeros(2, length), torch.zeros(2, 8)
    bank.segment_clip_(row, torch.ones(2), WORD)
    bank.bank_adamw_(row, row, row, row, factors)
    bank.bank_sgd_(row, row, row, factors)
    bank.bank_sgd_(row, row, None, factors)


CALLS: tuple[Callable[[], object], ...] = (
    *(lambda d=d, n=n: dropped(d, n) for d, n in zip(FLOATS, (8, 5, 8), strict=True)),
    *(
        lambda base=base, factors=factors, n=n, t=t: merged(base, factors, n, t)
        for base, factors, n, t in (
            (torch.bfloat16, torch.float32, 64, False),
            (torch.float16, torch.float16, 64, True),
            (torch.float32, torch.float32, 9, False),
            (torch.float32, torch.float32, 2048, True),
            (torch.bfloat16, torch.bfloat16, 2048, False),
        )
    ),
    *(
        lambda d=d, r=r, n=n, k=k, p=p: trained(d, r, n, k, p)
        for d, r, n, k, p in (
            (torch.bfloat16, 9, 48, 4, True),
            (torch.float32, 9, 5, 3, True),
            (torch.float16, 9999, 48, 32, True),
            (torch.float32, 9999, 48, 32, True),
            (torch.bfloat16, 9999, 48, 16, False),
        )
    ),
    *(lambda a=a: averaged(a) for a in (True, False)),
    *(lambda n=n: stepped(n) for n in (3, 4)),
)
