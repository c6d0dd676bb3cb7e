"""What a benchmark ran on, in words that say nothing about whose machine it is."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy
import torch

import pyfed


def cpu_model() -> str:
    """The processor's own name, such as ``AMD EPYC 9654 96-Core Processor``."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nvidia_driver() -> str:
    """Version of the driver, or "unknown"."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.stdout.strip() else "unknown"


def versions() -> dict[str, str]:
    """Of everything that a figure depends on."""
    from importlib import metadata

    found = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {"numpy": numpy.__version__, "pyfed": pyfed.__version__}
    for package in ("triton", "python-flint", "galois", "cryptography", "flwr"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, Any]:
    """Processor, GPU where there is one, build and versions."""
    info: dict[str, Any] = {"cpu": cpu_model(), "cores": cpu_cores(), "versions": versions()}
    try:
        from pyfed import _C

        info |= {"simd": _C.simd(), "build": _C.build_info()}
    except ImportError:
        info |= {"simd": "none", "build": {}}
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
        info["driver"] = nvidia_driver()
        info["cuda"] = torch.version.cuda
    info["name"] = name_of(info)
    return info


def name_of(info: dict[str, Any]) -> str:
    """A file name for a machine: ``amd-epyc-avx512-2-cores``, or the name of its GPU."""
    if "gpu" in info:
        words = info["gpu"]
    else:
        model = re.sub(r"\((R|TM|r|tm)\)|@.*|CPU|Processor|\d+-Core", " ", info["cpu"])
        words = f"{model} {info['simd']} {info['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
