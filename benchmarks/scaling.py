"""Count and select on one thread and on two, and the memory that it takes beside its input.

Run as ``python benchmarks/scaling.py``; times are wall times, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from pathlib import Path

import torch

import pyfed
from votes import packed_votes

ROUNDS = 15


def vote(packed: torch.Tensor, length: int) -> torch.Tensor:
    """From packed votes to the half of a layer that has the most."""
    counts = pyfed.ops.mask_count(packed, length)
    return pyfed.ops.mask_select(counts, (length,), 0.5)


def seconds(threads: int, packed: torch.Tensor, length: int) -> float:
    """Wall time of one call."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    vote(packed, length)
    return time.perf_counter() - began


def _peak() -> int:
    """The most bytes that this process has had resident since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def peak_beside_input(packed: torch.Tensor, length: int) -> int:
    """Bytes that the first call adds to what is resident, at its peak (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide what is used
    Path("/proc/self/clear_refs").write_text("5")  # makes the present size the peak
    before = _peak()
    vote(packed, length)
    return _peak() - before


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--weights", type=int, default=1 << 24)
    options = parser.parse_args()
    length = options.weights
    packed = packed_votes(options.clients, length)
    torch.set_num_threads(1)
    vote(*_small(packed))  # what is loaded once is not counted
    memory = peak_beside_input(packed, length) / length
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for threads, found in times.items():
            found.append(seconds(threads, packed, length))
    one, two = (statistics.median(found) for found in times.values())
    print(f"{options.clients} clients, {length:,} weights: count and select")
    print(f"one thread {1e3 * one:.1f} ms, two {1e3 * two:.1f} ms: {one / two:.2f}×")
    print(f"peak memory beside the input: {memory:.2f} bytes a weight")


def _small(packed: torch.Tensor) -> tuple[torch.Tensor, int]:
    return packed[:, :128].contiguous(), 1024


if __name__ == "__main__":
    main()
