"""The way from an op to a compiled kernel: what can run here, and how it is called."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch  # before _C: the extension then shares torch's OpenMP runtime

from pyfed.checks import error_word, raise_for
from pyfed.fields import MERSENNE31, SOLINAS31

_C: Any
try:
    from pyfed import _C

    MISSING = ""
except ImportError as error:  # the source tree without a build: reference and Triton still serve
    _C = None
    MISSING = f"the extension pyfed._C cannot be imported ({error})"

FAST_MODULI = (SOLINAS31.modulus, MERSENNE31.modulus)


def modulus_reason(modulus: int) -> str | None:
    """Why no field kernel serves this modulus; None when one does."""
    if modulus in FAST_MODULI:
        return None
    return f"modulus {modulus} has no kernel; SOLINAS31 and MERSENNE31 have"


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


def workspace(device: torch.device, kept_rows: int = 0) -> torch.Tensor | None:
    """Scratch memory of the modular products on CPU, wiped by the kernel; None on CUDA."""
    if device.type != "cpu":
        return None
    size = _C.product_workspace(kept_rows, torch.get_num_threads())
    return torch.empty(size, dtype=torch.int32)


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
