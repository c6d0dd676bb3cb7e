"""Compile every Triton kernel ahead of time, as its launchers would, and print what came of it.

    python compile_all.py 80 [0]

prints one JSON object a line; without an architecture, the names of the kernels; with a share of 0
or 1 every fourth launch. No GPU is needed: launches are recorded instead of run, and what Triton
would have specialised each of them on is worked out from the kernel's parameters. Run it in a
process of its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lora_calls
import mask_calls
import sketch_calls
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import pyfed.triton_kernels
from pyfed.triton_kernels import (
    aggregate,
    discrete,
    field,
    fixed,
    lagrange,
    lift,
    pairwise,
    random,
    upload,
)

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
P = 2**31 - 1
KEY = torch.zeros(8, dtype=torch.int32)
WORD = torch.zeros(1, dtype=torch.int32)
FRESH = (
    *("out", "left", "word", "sums", "votes", "below", "prefix", "threshold", "wanted", "panel"),
    *("row_of", "sign_of"),
)
"""Always aligned: no views of a caller's tensor."""
KINDS = {
    **{torch.int8: "*i8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64"},
    **{torch.uint8: "*u8", torch.float16: "*fp16", torch.bfloat16: "*bf16"},
    **{torch.float32: "*fp32", torch.float64: "*fp64"},
}


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


# Calls of the launchers that between them take every specialisation of every kernel.
CALLS: tuple[Callable[[], object], ...] = (
    lambda: random.random_words(KEY, 1, 0, 0),
    lambda: random.random_residues(KEY, 1, P, 0, 0, WORD),
    lambda: discrete.discrete_gaussian(KEY, _zeros(3, 5), _zeros(2), 1, 0, 0),
    lambda: pairwise.add_masks_(_zeros(3), _zeros(2, 8), _zeros(2), P, 0, 0, WORD),
    lambda: field.field_matmul(_zeros(8, 3), _zeros(3, 9), P, WORD),  # narrow tiles
    lambda: field.field_matmul(_zeros(64, 3), _zeros(3, 65), P, WORD),  # wide tiles
    lambda: field.field_matmul(_zeros(9, 3), _zeros(3, 8), P, WORD),  # transposed
    lambda: field.field_matmul(_zeros(65, 3), _zeros(3, 64), P, WORD),
    lambda: field.field_sum(_zeros(2, 3), None, P, WORD),
    lambda: field.field_sum(_zeros(2, 3), _zeros(2), P, WORD),
    lambda: fixed.quantize(torch.zeros(3), 1.0, 1.0, P, KEY, 0, 0, WORD),
    lambda: fixed.quantize(torch.zeros(3), 1.0, 1.0, P, None, 0, 0, WORD),
    lambda: fixed.dequantize(_zeros(3), 1.0, P, WORD),
    lambda: lift.field_lift(_zeros(3), (P,), WORD),
    lambda: lift.field_lift(_zeros(2, 3), (P, 2**31 - 2**19 + 1), WORD),
    lambda: lift.dequantize_wide(_zeros(2, 3), 1.0, (P, 2**31 - 2**19 + 1), WORD),
    lambda: upload.quantize_mask(
        *(torch.zeros(3), 1.0, 1.0, P, KEY, _zeros(2, 8), _zeros(2), 1, 0, 0, WORD)
    ),
    lambda: upload.quantize_mask(
        *(torch.zeros(3), 1.0, 1.0, P, None, _zeros(2, 8), _zeros(2), 1, 0, 0, WORD)
    ),
    lambda: aggregate.decode_sum(_zeros(2, 9), _zeros(5, 3), _zeros(3, 5), 1.0, P, WORD),
    lambda: aggregate.decode_sum(_zeros(2, 9), _zeros(5, 3), _zeros(3, 5), None, P, WORD),
    lambda: lagrange.lagrange_encode(_zeros(9), _zeros(8, 5), KEY, P, 3, 0, 0, WORD),
    lambda: lagrange.lagrange_encode(_zeros(9), _zeros(64, 5), KEY, P, 3, 0, 0, WORD),
    lambda: lagrange.lagrange_decode(_zeros(5, 3), _zeros(3, 5), P, 9, WORD),
    lambda: lagrange.lagrange_decode(_zeros(70, 3), _zeros(64, 70), P, 192, WORD),
    *mask_calls.CALLS,
    *lora_calls.CALLS,
    *sketch_calls.CALLS,
)


class Launch(NamedTuple):
    """A kernel and the arguments of one launch, by name."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


def kernels() -> dict[str, Any]:
    """Every function of the package that a launcher may start, by name."""
    found = {}
    for module in pkgutil.iter_modules(pyfed.triton_kernels.__path__):
        content = vars(importlib.import_module(f"pyfed.triton_kernels.{module.name}"))
        for name, value in content.items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                found[name] = value
    return found


def launches() -> list[Launch]:
    """What CALLS would launch."""
    recorded = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        arguments = dict(zip(kernel.arg_names, args, strict=False))
        names = set(kernel.arg_names)
        arguments |= {name: value for name, value in kwargs.items() if name in names}
        options = {name: value for name, value in kwargs.items() if name not in names}
        recorded.append(Launch(kernel, arguments, options))

    original, JITFunction.run = JITFunction.run, record
    try:
        for call in CALLS:
            call()
    finally:
        JITFunction.run = original
    return recorded


def source_of(launch: Launch, aligned: bool) -> ASTSource:
    """The source of a launch whose pointers are multiples of 16 bytes, or are not."""
    signature, constants, attributes = {}, {}, {}
    for parameter in launch.kernel.params:
        name, value = parameter.name, launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = KINDS[value.dtype]
            if (aligned or name in FRESH) and not parameter.do_not_specialize:
                attributes[(parameter.num,)] = [["tt.divisibility", 16]]
        elif parameter.annotation_type and parameter.do_not_specialize:
            signature[name] = parameter.annotation_type
        else:  # its values would each compile the kernel again
            raise TypeError(
                f"{launch.kernel.__name__}: {name} is a number; annotate it with its type and name "
                "it in do_not_specialize"
            )
    return ASTSource(launch.kernel, signature, constants, attributes)


def _cuobjdump(option: str, cubin: Path) -> str:
    command = [str(TOOLS / "cuobjdump"), option, str(cubin)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compiled(launch: Launch, arch: int, aligned: bool) -> dict[str, Any]:
    """Registers, stack and the interesting instructions of one kernel for one architecture."""
    source = source_of(launch, aligned)
    target = GPUTarget("cuda", arch, 32)
    result = triton.compile(source, target=target, options=dict(launch.options))
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(result.asm["cubin"])
        usage = _cuobjdump("-res-usage", cubin)
        sass = _cuobjdump("-sass", cubin)
    used = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\S+\s+)?([A-Z0-9]+)", sass, re.M)
    return {
        "kernel": launch.kernel.__name__,
        "arch": arch,
        "aligned": aligned,
        "constants": {k: v for k, v in launch.arguments.items() if k.isupper()},
        "registers": used["REG"],
        "stack": used["STACK"],
        "local": used["LOCAL"],
        "shared": result.metadata.shared,
        "instructions": len(instructions),
        "stored_last": re.findall(r"\bSTS\S* \[[^\]]*\], (\w+)", sass.rsplit("BAR.SYNC", 1)[-1]),
        "spills": sum(instruction in ("LDL", "STL") for instruction in instructions),
        "matrix": {name: instructions.count(name) for name in ("IMMA", "IGMMA", "HMMA", "HGMMA")},
        "contracts": result.metadata.enable_fp_fusion,
        "inexact": re.findall(r"\bfma\.|\S+\.ftz\S*|div\.(?:full|approx)\S*", result.asm["ptx"]),
    }


def variants(arches: list[int], share: int | None = None) -> Iterator[dict[str, Any]]:
    """Compile each distinct launch for each architecture, with pointers aligned and not.

    With a share, 0 or 1, only every fourth launch of a kernel; of all its first one.
    """
    seen: dict[str, set[str]] = {}
    for launch in launches():
        for aligned in (True, False):
            own = seen.setdefault(launch.kernel.__name__, set())
            identity = source_of(launch, aligned).hash()
            if identity in own:
                continue
            number = len(own)
            own.add(identity)
            if share is not None and number and number % 4 != share:
                continue
            for arch in arches:
                yield compiled(launch, arch, aligned)


if __name__ == "__main__":
    if not sys.argv[1:]:
        print("\n".join(sorted(kernels())))
    given, halves = sys.argv[1:2], sys.argv[2:3]
    for line in variants([int(arch) for arch in given], int(halves[0]) if halves else None):
        print(json.dumps(line), flush=True)
