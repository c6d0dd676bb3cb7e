"""What a second thread brings, what votes take beside their input, and cost against length.

    python benchmarks/scaling.py              # threads, then votes
    python benchmarks/scaling.py --lengths    # nanoseconds a value from 1e6 to 1e8 as well

Times of threads are wall times, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pyfed
from contests import random_floats, random_residues
from ratios import Ratio, interleaved, timer_of
from verified import KEY
from votes import packed_votes

ROUNDS = 15
LENGTHS = (10**6, 10**7, 10**8)
FIELD = pyfed.SOLINAS31
Call = Callable[[], Any]


def vote(packed: torch.Tensor, length: int) -> torch.Tensor:
    """From packed votes to the half of a layer that has the most."""
    counts = pyfed.ops.mask_count(packed, length)
    return pyfed.ops.mask_select(counts, (length,), 0.5)


COLUMNS = 1 << 13
"""Results of 8 MB, which the allocator keeps: new pages cost the same whatever the kernel."""


def kernels(columns: int = COLUMNS) -> dict[str, Call]:
    """What is timed on one thread and on two; results have 1024 bytes a column."""
    a = random_residues(FIELD.modulus, 256, 256)
    b = random_residues(FIELD.modulus, 256, columns)
    code = pyfed.LagrangeCode(256, 128, 64)
    data = random_residues(FIELD.modulus, 128 * columns)
    code.encode(data[:1], KEY)  # makes its matrix
    return {
        "matrix product 256×256": functools.partial(pyfed.ops.field_matmul, a, b, FIELD),
        "encoding by transforms N=256 K=128 T=64": functools.partial(code.encode, data, KEY),
        "ChaCha20 words": functools.partial(pyfed.ops.random_words, KEY, 256 * columns),
        "ChaCha20 residues": functools.partial(
            pyfed.ops.random_residues, KEY, 256 * columns, FIELD
        ),
    }


def on_threads(count: int, call: Call) -> Call:
    """The call on so many threads."""

    def run() -> None:
        torch.set_num_threads(count)
        call()

    return run


def second_thread(columns: int = COLUMNS) -> dict[str, Ratio]:
    """How many times faster two threads are than one, by kernel."""
    before = torch.get_num_threads()
    try:
        return {
            name: interleaved(on_threads(2, call), on_threads(1, call), rounds=ROUNDS)
            for name, call in kernels(columns).items()
        }
    finally:
        torch.set_num_threads(before)


def cost_of_a_value(lengths: tuple[int, ...] = LENGTHS) -> dict[str, dict[int, float]]:
    """Seconds a value on one thread, the median of half a second: kernel → length."""
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=100)
    code = pyfed.LagrangeCode(100, 40, 30)
    keys = [KEY.derive("pair", i) for i in range(10)]
    works: dict[str, Callable[[torch.Tensor], Any]] = {
        "rounded": lambda x: fixed.encode(x, KEY),
        "rounded and encoded N=100 K=40 T=30": lambda x: code.encode(x, KEY, fixed=fixed),
        "rounded, 10 masks": lambda x: pyfed.ops.quantize_mask(
            x, fixed.scale, fixed.clip, FIELD, keys, [1, -1] * 5, key=KEY
        ),
    }
    torch.set_num_threads(1)
    timer = timer_of("cpu")
    found: dict[str, dict[int, float]] = {name: {} for name in works}
    for length in lengths:
        values = random_floats(length)
        for name, work in works.items():
            work(values)
            rounds: list[float] = []
            while len(rounds) < 5 or sum(rounds) < 0.5:
                began = timer()
                work(values)
                rounds.append(timer() - began)
            found[name][length] = statistics.median(rounds) / length
    return found


def seconds(threads: int, packed: torch.Tensor, length: int) -> float:
    """Wall time of one vote."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    vote(packed, length)
    return time.perf_counter() - began


def _peak() -> int:
    """The most bytes that this process has had resident since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def peak_beside_input(packed: torch.Tensor, length: int) -> int:
    """Bytes that the first vote adds to what is resident, at its peak (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide what is used
    Path("/proc/self/clear_refs").write_text("5")  # makes the present size the peak
    before = _peak()
    vote(packed, length)
    return _peak() - before


def print_votes(clients: int, length: int) -> None:
    """Time and memory of counting and selecting."""
    packed = packed_votes(clients, length)
    torch.set_num_threads(1)
    vote(packed[:, :128].contiguous(), 1024)  # what is loaded once is not counted
    memory = peak_beside_input(packed, length) / length
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for threads, found in times.items():
            found.append(seconds(threads, packed, length))
    one, two = (statistics.median(found) for found in times.values())
    print(f"{clients} clients, {length:,} weights: count and select")
    print(f"one thread {1e3 * one:.1f} ms, two {1e3 * two:.1f} ms: {one / two:.2f}×")
    print(f"peak memory beside the input: {memory:.2f} bytes a weight")


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--weights", type=int, default=1 << 24)
    parser.add_argument("--lengths", action="store_true", help="cost of a value by length")
    options = parser.parse_args()
    for columns in (COLUMNS, 8 * COLUMNS):
        print(f"Results of {columns * 1024 / 1e6:.1f} MB")
        for name, ratio in second_thread(columns).items():
            quartiles = f"{ratio.low:.2f} – {ratio.high:.2f}"
            print(f"{name}: two threads {ratio.median:.2f}× as fast as one [{quartiles}]")
    print_votes(options.clients, options.weights)
    if options.lengths:
        for name, costs in cost_of_a_value().items():
            low, high = min(costs.values()), max(costs.values())
            parts = [f"{1e9 * cost:.3g} ns at {length:,}" for length, cost in costs.items()]
            print(f"{name}: {', '.join(parts)}; ± {(high - low) / (high + low):.0%}")


if __name__ == "__main__":
    main()
