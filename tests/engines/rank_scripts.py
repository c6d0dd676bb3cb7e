"""What six ranks do in one session; test_engines.py looks at what they saw."""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.distributed as dist
from engine_scenes import SECRET, pairs_of_drops, protocol, some_updates, weights

from pyfed import SOLINAS31, Key
from pyfed.engines.distributed import SecureSum, all_reduce, secure_sum


def check_scripts(rank: int, size: int) -> list[Any]:
    agreed = protocol(size, dropouts=2)
    updates, seen = some_updates(agreed), []
    for number, drop in enumerate(pairs_of_drops(size)):
        lost = next((phase for phase, ranks in drop.items() if rank in ranks), None)
        key = Key(SECRET).derive("client", number, rank)
        result = secure_sum(
            agreed, updates[rank], weights(size)[rank], round=number, key=key, lost=lost
        )
        seen.append((result.residues, result.included, result.total_weight))
    return seen


def check_shares_travel_while_something_else_does(rank: int, size: int) -> tuple[int, list[float]]:
    """The offline steps in a thread, with a group of their own."""
    agreed, own, sums = protocol(size), dist.new_group(), 0
    step = SecureSum(agreed, own)
    offline = threading.Thread(target=step.share)
    offline.start()
    for _ in range(20):
        sums += int(all_reduce(torch.ones(5, dtype=torch.int32), SOLINAS31)[0])
    offline.join()
    result = step.reduce(torch.full((agreed.parameters.length,), 0.5), weight=rank)
    return sums, result.mean[:2].tolist()


def check_a_long_vector(rank: int, size: int) -> int:
    """How many of many sums are wrong, all residues as large as can be."""
    top = SOLINAS31.modulus - 1
    x = torch.full((1_000_003,), top, dtype=torch.int32)
    return int((all_reduce(x, SOLINAS31) != (size * top) % SOLINAS31.modulus).sum())
