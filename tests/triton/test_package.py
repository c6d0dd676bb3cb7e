"""The Triton kernels stand at the bottom: what they may import, and what they repeat from above."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pyfed.triton_kernels
from pyfed import checks, fields
from pyfed.ops import random as random_ops
from pyfed.triton_kernels import common
from pyfed.triton_kernels import random as kernels

FOLDER = Path(pyfed.triton_kernels.__file__).parent
ALLOWED = {"math", "torch", "triton"}


def test_kernels_import_only_torch_triton_and_one_another() -> None:
    files = sorted(FOLDER.glob("*.py"))
    assert len(files) >= 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
                assert found <= ALLOWED, f"{file.name} imports {found - ALLOWED}"
            elif isinstance(node, ast.ImportFrom):
                package = (node.module or "").split(".")[0]
                beside = node.level == 1 and (FOLDER / f"{package}.py").exists()
                assert beside or (node.level == 0 and package in ALLOWED), f"{file.name}: {package}"


def test_the_bare_name_is_refused() -> None:
    code = f"import sys; sys.path.insert(0, {str(FOLDER.parent)!r}); import triton_kernels"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert "import pyfed.triton_kernels" in done.stderr


def test_numbers_that_kernels_repeat_are_those_of_the_library() -> None:
    bits = ("BAD_RESIDUE", "NOT_FINITE", "ALL_REJECTED", "BAD_PADDING", "TOO_MANY", "BAD_COUNT")
    for name in (*bits, "BAD_PLACE"):
        assert getattr(common, name).value == getattr(checks, name)
    for name in ("WORDS", "RESIDUES", "ROUNDING", "PADDING", "SELECTION"):
        assert getattr(kernels, name) == getattr(random_ops, name)
    assert kernels.ATTEMPTS.value == random_ops.ATTEMPTS
    for modulus in (*kernels.FIELD_IDS, 17, 2**31 - 19):
        assert kernels.FIELD_IDS.get(modulus, 0) == fields.field_id(modulus)
    for purpose in (kernels.RESIDUES, kernels.PADDING):
        modulus = fields.MERSENNE31.modulus
        assert kernels.domain_of(purpose, modulus) == random_ops.domain(purpose, modulus)


def test_every_module_imports_under_its_own_name() -> None:
    for file in FOLDER.glob("[a-z]*.py"):
        assert importlib.import_module(f"pyfed.triton_kernels.{file.stem}")
