"""``python -m pyfed [--json]``: what is installed, what can run here, and whether it is right.

Exits with 1 when a kernel that can run disagrees with the reference.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import pyfed
from pyfed import native
from pyfed.op import BACKENDS, OPS
from pyfed.self_check import self_check

WIDTH = 22  # of a column of the table
LABEL = 24  # of the name of a fact
_MAPS = Path("/proc/self/maps")


def openmp_runtimes(maps: str) -> list[str]:
    """The OpenMP runtimes among the files in the text of a ``/proc/<pid>/maps``."""
    found = re.findall(r"\s(/\S*/lib(?:gomp|iomp5|omp)[-.\w]*)", maps)
    return sorted(set(found))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{p.name}, compute capability {p.major}.{p.minor}" for p in properties]


def report() -> dict[str, Any]:
    """Everything that ``python -m pyfed`` tells, ready for JSON."""
    extension: dict[str, Any] = {"missing": native.MISSING}
    if not native.MISSING:
        extension = {**native._C.build_info(), "simd": native._C.simd()}
    checks = {name: {backend: self_check(name, backend) for backend in BACKENDS} for name in OPS}
    return {
        "pyfed": pyfed.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "gpus": _gpus(),
        "threads": torch.get_num_threads(),
        "openmp": openmp_runtimes(_MAPS.read_text()) if _MAPS.exists() else [],
        "extension": extension,
        "ops": checks,
    }


def text(facts: dict[str, Any]) -> str:
    """The report for people."""
    plain = {name: fact for name, fact in facts.items() if name not in ("ops", "extension")}
    plain |= {f"_C {name}": fact for name, fact in facts["extension"].items()}
    lines = []
    for name, fact in plain.items():
        shown = ", ".join(fact) if isinstance(fact, list) else fact
        lines.append(f"{name:<{LABEL}}{'none' if shown in (None, '') else shown}")
    if len(facts["openmp"]) > 1:
        lines.append(
            f"warning: {len(facts['openmp'])} OpenMP runtimes are loaded; their threads compete, "
            "and CPU kernels may be many times slower. Import torch before anything else."
        )
    lines += ["", " " * WIDTH + "".join(f"{backend:<{WIDTH}}" for backend in BACKENDS).rstrip()]
    notes: dict[str, list[str]] = {}
    for op, results in facts["ops"].items():
        row = f"{op:<{WIDTH}}"
        for backend, result in results.items():
            mark = "ok" if result == "ok" else "FAILED" if result.startswith("FAILED") else "-"
            row += f"{mark:<{WIDTH}}"
            if mark != "ok":
                notes.setdefault(f"{backend}: {result}", []).append(op)
        lines.append(row.rstrip())
    every = len(facts["ops"])
    for note, names in notes.items():
        lines.append(note if len(names) == every else f"{note} ({', '.join(names)})")
    return "\n".join(lines)


def failed(facts: dict[str, Any]) -> bool:
    """Whether any self-check failed."""
    results = (result for row in facts["ops"].values() for result in row.values())
    return any(result.startswith("FAILED") for result in results)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; 1 when a self-check failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m pyfed", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for programs and bug reports")
    options = parser.parse_args(arguments)
    facts = report()
    print(json.dumps(facts, indent=2) if options.json else text(facts))
    return int(failed(facts))


if __name__ == "__main__":
    sys.exit(main())
