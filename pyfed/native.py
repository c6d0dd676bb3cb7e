"""The way from an op to a compiled kernel: what can run here, and how it is called."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch  # before _C: the extension then shares torch's OpenMP runtime

from pyfed.checks import error_word, raise_for
from pyfed.fields import MERSENNE31, WIDE, plane_moduli

_C: Any
try:
    from pyfed import _C

    MISSING = ""
except ImportError as error:  # the source tree without a build: reference and Triton still serve
    _C = None
    MISSING = f"the extension pyfed._C cannot be imported ({error})"

TRANSFORM_MODULI = tuple(plane.modulus for plane in WIDE.planes)
"""The primes whose share points are a subgroup; SOLINAS31 is the first."""
FAST_MODULI = (*TRANSFORM_MODULI, MERSENNE31.modulus)
_MOST_INNER = 1 << 14  # kMostInner of csrc/digits.cuh: what an int32 sum of digits holds
_MOST_DIGITS = 1 << 26  # words: 256 MiB


def modulus_reason(modulus: int) -> str | None:
    """Why no field kernel serves this field's code; None when one does."""
    for prime in plane_moduli(modulus):
        if prime not in FAST_MODULI:
            return f"modulus {prime} has no kernel; SOLINAS31, MERSENNE31 and WIDE have"
    return None


def planes(modulus: int, *tensors: torch.Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Each plane's prime and its part of the tensors: views of what stands at the leading axis.

    Args:
        modulus: a field's code; of one prime field there is one plane, and nothing is taken apart.
        tensors: residues, or None, which stays.
    """
    moduli = plane_moduli(modulus)
    for number, prime in enumerate(moduli):
        yield prime, *(t if t is None or len(moduli) == 1 else t[number] for t in tensors)


def each_plane(
    place: int, *tensors: int
) -> Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]:
    """Let a function of one prime serve two: it is called for each plane, and results are stacked.

    Args:
        place: of the modulus among the positional arguments.
        tensors: the places of those that have planes.
    """

    def wrap(run: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(run)
        def every(*args: Any) -> torch.Tensor:
            if args[place] < 2**31:
                return run(*args)
            results = []
            for prime, *parts in planes(args[place], *(args[t] for t in tensors)):
                changed = dict(zip(tensors, parts, strict=True)) | {place: prime}
                results.append(run(*(changed.get(i, value) for i, value in enumerate(args))))
            return torch.stack(results)

        return every

    return wrap


def cpu_reason(tensor: torch.Tensor) -> str | None:
    """Why compiled CPU kernels cannot serve this tensor; None when they can."""
    if MISSING:
        return MISSING
    if tensor.device.type != "cpu":
        return f"the tensors are on {tensor.device}"
    return None


def cuda_reason(tensor: torch.Tensor) -> str | None:
    """Why compiled CUDA kernels cannot serve this tensor; None when they can."""
    if MISSING:
        return MISSING
    if not _C.build_info()["cuda"]:
        return "pyfed was built without CUDA"
    if tensor.device.type != "cuda":
        return f"the tensors are on {tensor.device}"
    return None


@functools.cache
def _triton_missing() -> str | None:
    found = importlib.util.find_spec("triton")
    if found is None or found.origin is None:  # a mere folder of that name has no origin
        return "the package triton is not installed"
    return None


def triton_reason(tensor: torch.Tensor) -> str | None:
    """Why Triton kernels cannot serve this tensor; None when they can."""
    missing = _triton_missing()
    if missing:
        return missing
    if tensor.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"the tensors are on {tensor.device}"


def run(name: str, device: torch.device, *args: object) -> None:
    """Call the compiled kernel ``name`` for this device; raise what it reports (CUDA: later).

    Tensors among the arguments are passed as pointers, so they must be contiguous; None becomes 0.
    """
    raw = [_pointer(argument) for argument in args]
    if device.type == "cpu":
        raise_for(name, getattr(_C, f"{name}_cpu")(*raw, torch.get_num_threads()))
        return
    word = error_word(device)
    stream = torch.cuda.current_stream(device).cuda_stream
    getattr(_C, f"{name}_cuda")(*raw, word.data_ptr(), word.device.index, stream)


def _pointer(argument: object) -> object:
    if argument is None:
        return 0
    return argument.data_ptr() if isinstance(argument, torch.Tensor) else argument


_EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def addresses(tensors: list[torch.Tensor], each: int) -> torch.Tensor | None:
    """Where thousands of tensors begin: int64, on the CPU.

    None unless all are on one device and every one is contiguous and, by shape and dtype, like the
    one ``each`` before it; None also where that cannot be told fast.
    """
    if _C is None or _EXCHANGE is None:
        return None
    found = torch.empty(len(tensors), dtype=torch.int64)
    alike = _C.addresses(tensors, each, _EXCHANGE, _PLAIN, found.data_ptr())
    return found if alike else None


def digit_words(rows: int, columns: int, *inner: int) -> int:
    """Words of scratch that a modular product on int8 matrix units wants; 0 where others serve.

    The matrix units win where a product has 16 rows or more: 16 of their multiply-adds make one of
    the field (csrc/digits.cuh), against one wide multiplication of the other kernels.

    Args:
        rows: of the left factor, the one that becomes digits, 16 bytes for each element.
        columns: of the right factor; fewer than a tile has leave the matrix units idle.
        inner: columns of the left factor, each kind of them rounded up to eights.
    """
    octets = sum((count + 7) // 8 for count in inner)
    size = (rows + 7) // 8 * octets * 256
    fits = 0 < sum(inner) <= _MOST_INNER and size <= _MOST_DIGITS
    return size if fits and rows >= 16 and columns >= 64 else 0


def workspace(device: torch.device, kept_rows: int = 0, digits: int = 0) -> torch.Tensor | None:
    """Scratch memory of the modular products, wiped by the kernel; None where they want none.

    Args:
        device: where they run.
        kept_rows: what ``product_workspace`` on a CPU is asked for.
        digits: words that they want on CUDA, from :func:`digit_words`.
    """
    if device.type != "cpu":
        return torch.empty(digits, dtype=torch.int32, device=device) if digits else None
    size = _C.product_workspace(kept_rows, torch.get_num_threads())
    return torch.empty(size, dtype=torch.int32)


def transform_workspace(shares: int, blocks: int, privacy: int) -> torch.Tensor:
    """Scratch memory of an encoding by transforms on CPU, wiped by the kernel."""
    size = _C.transform_workspace(shares, blocks, privacy, torch.get_num_threads())
    return torch.empty(size, dtype=torch.int32)


def transform_factors(device: torch.device, blocks: int) -> torch.Tensor:
    """Scratch memory of an encoding by transforms on CUDA: 3 factors of 2 words for each block.

    The bound is that of ``plan_factors`` in csrc/lagrange_plan.h. Nothing secret stands there.
    """
    return torch.empty(6 * blocks, dtype=torch.int32, device=device)


class TritonReport:
    """The error word that a Triton kernel sets: sticky on CUDA, raised at once elsewhere."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.sticky = device.type == "cuda"
        self.word = error_word(device) if self.sticky else torch.zeros(1, dtype=torch.int32)

    def __enter__(self) -> torch.Tensor:
        return self.word

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None and not self.sticky:
            raise_for(self.name, int(self.word.item()))
