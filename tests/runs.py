"""The ways in which an op can run: device, backend, SIMD level, threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch

import pyfed.ops  # which declares the ops
from pyfed.op import BACKENDS, OPS, Backend

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
SIMD_LEVELS = ("plain", "avx2", "avx512")
LACKING: dict[str, tuple[Backend, ...]] = {
    "discrete_gaussian": ("cuda",),
    "lora_merge_": ("cuda",),
    "lora_linear": ("cuda",),
    "lora_linear_backward": ("cuda",),
    "sketch": ("cuda",),
}
"""The backends that an op has no kernel for, by name of the op; all others must be there."""


def runnable(op: str, device: str, *, real: bool = False) -> tuple[Backend, ...]:
    """The backends that must serve an op on this device here, the reference first.

    With ``real``, interpreted Triton is left out. Whether the extension and the Triton kernels can
    be imported is not asked: where they cannot, the tests that need them fail.
    """
    where = {
        "reference": True,
        "cpu": device == "cpu",
        "cuda": device == "cuda",
        "triton": device == "cuda" or (os.environ.get("TRITON_INTERPRET") == "1" and not real),
    }
    return tuple(b for b in BACKENDS if where[b] and b in OPS[op].kernels)


@contextmanager
def simd_level(name: str) -> Iterator[None]:
    """Run the CPU kernels at one SIMD level; ValueError where the processor lacks it."""
    from pyfed import _C

    before = _C.set_simd(name)
    try:
        yield
    finally:
        _C.set_simd(before)


def simd_levels() -> tuple[str, ...]:
    """The SIMD levels of this processor; the plain one where the extension is missing."""
    levels = []
    for name in SIMD_LEVELS:
        try:
            with simd_level(name):
                levels.append(name)
        except (ImportError, ValueError):
            continue
    return tuple(levels) or ("plain",)


class Run(NamedTuple):
    """One way to run an op."""

    device: str
    backend: Backend
    simd: str = ""
    threads: int = 0

    @property
    def name(self) -> str:
        """Such as ``cpu-avx2-2threads``."""
        parts = [self.backend]
        if self.device == "cuda" and self.backend != "cuda":
            parts.append("on_cuda")
        if self.simd:
            parts += [self.simd, f"{self.threads}threads"]
        return "-".join(parts)

    @property
    def interpreted(self) -> bool:
        """Whether Triton runs without a GPU, which takes about a thousand times longer."""
        return self.backend == "triton" and self.device == "cpu"

    @contextmanager
    def active(self) -> Iterator[None]:
        """Force this way for the ops called inside; its error word is read at the end."""
        before = torch.get_num_threads()
        try:
            if self.threads:
                torch.set_num_threads(self.threads)
            with pyfed.use_backend(self.backend):
                if self.simd:
                    with simd_level(self.simd):
                        yield
                else:
                    yield
            pyfed.check()
        finally:
            torch.set_num_threads(before)


def runs_of(op: str, *, oracle: bool = False) -> list[object]:
    """All runs of an op on this machine, as pytest parameters.

    With ``oracle``, those on the CPU alone: a package that a test compares with may be missing on a
    machine that is there for its GPU.
    """
    found = []
    for device, marks in (("cpu", ()), ("cuda", (pytest.mark.gpu,))):
        if oracle and device == "cuda":
            continue
        for backend in runnable(op, device):
            ways = [Run(device, backend)]
            if backend == "cpu":
                ways = [Run(device, backend, s, t) for s in simd_levels() for t in (1, 2)]
            found += [pytest.param(op, run, id=f"{op}-{run.name}", marks=marks) for run in ways]
    return found


OP_RUNS = [parameter for op in OPS for parameter in runs_of(op)]
