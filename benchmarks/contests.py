"""What one benchmark compares: a call into pyfed, what it must return, and its rivals."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import pyfed

Size = tuple[int, ...]
Output = torch.Tensor | list[torch.Tensor]


def equal(output: Output, expected: Output) -> bool:
    """The same numbers in the same shapes."""
    if isinstance(output, torch.Tensor) and isinstance(expected, torch.Tensor):
        return torch.equal(output, expected)
    return all(map(torch.equal, output, expected)) and len(output) == len(expected)


@dataclass(frozen=True)
class Baseline:
    """What a user would call without pyfed, on the same inputs.

    Args:
        run: the call that is timed.
        check: given what ``run`` returned and what pyfed must return, raises AssertionError unless
            the baseline keeps its own promise.
        lacks: what it leaves undone of pyfed's work; empty when it does the same work.
    """

    run: Callable[[], Any]
    check: Callable[[Any, Any], None]
    lacks: str = ""


@dataclass(frozen=True)
class Contest:
    """One op on one shape.

    Args:
        op: name of the op, or of the chain of ops.
        shape: the sizes, for people.
        run: the call into pyfed; it must give the same bits every time, or, where ``expected`` is
            given, the first time.
        bytes: the least that must cross memory: inputs read once and outputs written once.
        macs: multiply-adds in the field.
        chacha: bytes of ChaCha20 keystream.
        baselines: name → a function that prepares it, called only when it is measured.
        expected: gives what ``run`` must return; None: ``run`` itself on the reference backend.
        holds: tells whether an output is right, where that is less work than to make another one
            slowly; the first output of ``run`` that it accepts is then what ``run`` must return.
        float_macs: multiply-adds in float32, where the work is a product with a matrix of floats.
        butterflies: those of the transforms that can do the work of ``macs``; 0: none can.
        dtype: of the data.
    """

    op: str
    shape: str
    run: Callable[[], Output]
    bytes: int
    macs: int = 0
    chacha: int = 0
    baselines: Mapping[str, Callable[[], Baseline]] = field(default_factory=dict)
    expected: Callable[[], Output] | None = None
    holds: Callable[[Any], bool] | None = None
    butterflies: int = 0
    float_macs: int = 0
    dtype: str = "int32"

    @property
    def group(self) -> str:
        """Backends and baselines of one group stand side by side."""
        return f"{self.op} {self.shape}"

    def reference(self) -> Output:
        """What ``run`` must return; AssertionError where it returns something else."""
        if self.holds is not None:
            output = self.run()
            assert self.holds(output), f"{self.group}: the result is wrong"
            return output
        if self.expected is not None:
            return self.expected()
        with pyfed.use_backend("reference"):
            return self.run()


@dataclass(frozen=True)
class Sizes:
    """The sizes of a benchmark: (sizes → names of baselines) on each device, and a small one."""

    cpu: Mapping[Size, Iterable[str]]
    cuda: Mapping[Size, Iterable[str]]
    small: Size


def sizes(
    *, cpu: Mapping[Size, Iterable[str]], cuda: Mapping[Size, Iterable[str]], small: Size
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parametrise a benchmark by device, size and contestant; see ``pytest_generate_tests``.

    Args:
        cpu: sizes that one core does in milliseconds, each with the baselines it is held against.
        cuda: sizes well beyond a GPU's caches.
        small: the size at which every contestant runs once when nothing is timed.
    """

    def add(bench: Callable[..., None]) -> Callable[..., None]:
        bench.sizes = Sizes(cpu, cuda, small)  # type: ignore[attr-defined]
        return bench

    return add


@functools.cache
def backends(device: str) -> tuple[str, ...]:
    """The backends that are timed on a device: kernels, never the reference or interpreted ones."""
    try:
        from pyfed import _C
    except ImportError:
        _C = None
    if device == "cpu":
        return ("cpu",) if _C else ()
    compiled = ("cuda",) if _C and _C.build_info()["cuda"] else ()
    return compiled + (("triton",) if importlib.util.find_spec("triton") else ())


def random_residues(modulus: int, *shape: int, device: str = "cpu", seed: int = 20) -> torch.Tensor:
    """Residues from a fixed seed, int32: the same for every contestant."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(0, modulus, shape, dtype=torch.int32, device=device, generator=generator)


def random_elements(field: pyfed.Field, *shape: int, device: str = "cpu") -> torch.Tensor:
    """As :func:`random_residues`, over any field: planes, where there are two, come first."""
    planes = [
        random_residues(plane.modulus, *shape, device=device, seed=20 + number)
        for number, plane in enumerate(field.planes)
    ]
    return torch.stack(planes) if field.lead else planes[0]


def butterflies(shares: int, blocks: int, privacy: int) -> int:
    """Of the transforms that make a column's shares, at least; see docs/kernels.md.

    Back for each bit of K, and forth from S ≥ K + T coefficients for N shares.
    """
    back = sum((1 << bit) * bit // 2 for bit in range(blocks.bit_length()) if blocks >> bit & 1)
    return back + shares * (blocks + privacy - 1).bit_length() // 2


def random_floats(count: int, device: str = "cpu") -> torch.Tensor:
    """Normal float32 values from a fixed seed, of about the size of model updates."""
    generator = torch.Generator(device).manual_seed(20)
    return torch.randn(count, device=device, generator=generator).mul_(0.25)
