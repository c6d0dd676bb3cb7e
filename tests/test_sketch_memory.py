"""Sketches take the memory of their result and no more: G, as floats or as bits, is nowhere.

Each is made in a process of its own, whose peak is looked at.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap

import pytest

from pyfed import native

if native._C is None or sys.platform != "linux":
    pytest.skip("needs the compiled kernels and Linux's /proc", allow_module_level=True)

ROWS, SAMPLES, FEATURES = 4096, 16384, 40
RESULT = 4 * ROWS * FEATURES
TRANSPOSED = 4 * SAMPLES * FEATURES
SIGN_BITS = ROWS * SAMPLES // 8  # 8 MiB; as float32, 256 MiB
SCRATCH = 2 << 20  # of two threads, each of which keeps about a second-level cache of panels
SLACK = 1 << 20  # of the allocator
PAGE = 1 << 16  # of the ballast
# Tensors have pages of their own, which are given back: freed memory that a process keeps
# could hold a result, or a matrix, without the peak's moving.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
assert RESULT + SCRATCH + SLACK < SIGN_BITS
assert TRANSPOSED + SCRATCH + SLACK < SIGN_BITS

KINDS = ("rademacher", "gaussian", "countsketch")
NOISE = ", noise_std=1.0, public=False"
STARTS = ", starts=torch.tensor([0, samples])"

SCRIPT = """
    import mmap
    import torch
    import pyfed
    from pyfed.ops import sketch

    def peak():  # that of getrusage begins at the parent's
        with open("/proc/self/status") as facts:
            return next(int(line.split()[1]) for line in facts if line.startswith("VmHWM")) * 1024

    torch.set_num_threads(2)
    key = pyfed.Key(bytes(range(32)))
    x, y = torch.ones({samples}, {features}), torch.ones({rows}, {features})

    def call(x, y, rows, samples):
        return {call}

    with pyfed.use_backend("cpu"):
        call(x[:600], y[:600], 600, 600)  # threads start, and code is loaded
        # Starting took more at times than is held now: fresh pages, until the peak moves.
        ballast, before = [], peak()
        while peak() == before:
            ballast.append(mmap.mmap(-1, {page}))
            ballast[-1].write(bytes({page}))
        before = peak()
        out = call(x, y, {rows}, {samples})
    print(peak() - before, out.nbytes)
"""


def growth(call: str) -> tuple[int, int]:
    """By how many bytes the peak of a process grew in a call, and how many its result has."""
    script = textwrap.dedent(SCRIPT).format(
        call=call, rows=ROWS, samples=SAMPLES, features=FEATURES, page=PAGE
    )
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, **ALLOCATOR},
    )
    grown, result = map(int, done.stdout.split())
    return grown, result


def test_a_matrix_in_memory_shows() -> None:
    grown, result = growth("torch.randn(rows, samples) @ x")
    assert result == RESULT
    assert grown > 4 * ROWS * SAMPLES
    grown, _ = growth("(torch.ones(rows, samples // 8, dtype=torch.uint8), x.sum(0))[1]")
    assert grown > SIGN_BITS - SLACK


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("rademacher", NOISE),
        ("gaussian", STARTS),
        ("countsketch", ""),
        *(
            pytest.param(*way, marks=pytest.mark.slow)
            for way in itertools.product(KINDS, ("", NOISE, STARTS))
        ),
    ],
)
def test_memory_grows_by_the_result_alone(kind: str, how: str) -> None:
    grown, result = growth(f"sketch(x, rows, key, {kind!r}{how})")
    assert result == RESULT
    assert grown < RESULT + SCRATCH + SLACK


@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_by_the_transposed_result_alone(kind: str) -> None:
    grown, result = growth(f"sketch(y, samples, key, {kind!r}, transpose=True)")
    assert result == TRANSPOSED
    assert grown < TRANSPOSED + SCRATCH + SLACK
