"""What is built, installed and imported: wheel, sdist, top-level names, lean imports, the stub."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import pyfed.ops  # noqa: F401  (declares the ops)
from pyfed import _C
from pyfed.op import OPS

ROOT = Path(__file__).parent.parent
SOURCES = ("csrc", "pyfed", "triton_kernels")
FILES = (
    *("CMakeLists.txt", "MANIFEST.in", "pyproject.toml", "setup.py"),
    *("CHANGELOG.md", "LICENSE", "README.md", "constraints.txt"),
)


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    """Standard output of the interpreter of this environment, with its tools on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "CMAKE_ARGS")}
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=inherited | {"PATH": path} | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources and nothing that a build has left."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        left = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=left)
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    build = (
        f"from scikit_build_core.setuptools.build_meta import build_sdist as b; b({str(folder)!r})"
    )
    python("-c", build, cwd=checkout)
    (archive,) = folder.iterdir()
    shutil.unpack_archive(archive, folder)
    return folder / archive.name.removesuffix(".tar.gz")


def build_wheel(source: Path, folder: Path, **environment: str) -> Path:
    """Build a wheel with the tools of this environment, which needs no network."""
    how = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    python("-m", "pip", "wheel", *how, str(source), cwd=folder, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def installed(wheel: Path, folder: Path) -> Path:
    """The wheel's content in a folder, after a look at its top-level names and its files."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    top = {path.name for path in folder.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"pyfed"}
    assert len(top) == 2
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    sources = {
        str(path.relative_to(ROOT)).replace("triton_kernels", "pyfed/triton_kernels")
        for name in ("pyfed", "triton_kernels")
        for path in (ROOT / name).rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }
    extension = f"pyfed/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    inside = {name for name in names if name.startswith("pyfed/")}
    assert inside == sources | {extension, "pyfed/py.typed"}
    return folder


def test_the_sdist_holds_all_that_a_build_needs(sdist: Path) -> None:
    for name in SOURCES:
        wanted = {
            p.name
            for p in (ROOT / name).iterdir()
            if p.suffix in (".py", ".cpp", ".cu", ".cuh", ".h")
        }
        assert wanted <= {p.name for p in (sdist / name).iterdir()}
    assert (sdist / "CMakeLists.txt").exists()
    assert not list(sdist.rglob("*.so"))


QUICKLY = "'-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG'"  # in half the time of a release


@pytest.mark.parametrize(
    "settings", [QUICKLY, pytest.param("", marks=pytest.mark.slow)], ids=["quickly", "release"]
)
def test_a_cpu_wheel_from_the_sdist_holds_pyfed_alone_and_works(
    sdist: Path, tmp_path: Path, settings: str
) -> None:
    wheel = build_wheel(sdist, tmp_path, PYFED_CUDA="OFF", CMAKE_ARGS=settings)
    site = installed(wheel, tmp_path / "site")
    # -S keeps site-packages, and with it the checkout's own pyfed, out; torch comes from the path.
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])
    script = (
        "import torch; from pyfed import _C, __main__ as main;"
        "assert not main.failed(main.report());"
        "print(main.__file__, _C.build_info()['cuda'])"
    )
    where, cuda = python("-S", "-c", script, cwd=tmp_path, PYTHONPATH=path).split()
    assert Path(where).is_relative_to(site)
    assert cuda == "False"


@pytest.mark.slow
def test_the_default_wheel_holds_pyfed_alone(checkout: Path, tmp_path: Path) -> None:
    """With CUDA where nvcc is, and in build isolation, as a user's pip does it."""
    python("-m", "pip", "wheel", "--no-deps", "--wheel-dir", ".", str(checkout), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    site = installed(wheel, tmp_path / "site")
    script = "import torch; from pyfed import _C; print(_C.build_info()['cuda'])"
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])
    printed = python("-S", "-c", script, cwd=tmp_path, PYTHONPATH=path)
    assert printed.strip() == str(shutil.which("nvcc") is not None)


def test_a_wrong_build_setting_is_refused_with_the_choices(tmp_path: Path) -> None:
    done = subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}"],
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYFED_CUDA": "yes", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode != 0
    assert "PYFED_CUDA is 'yes'; it must be AUTO, ON or OFF" in done.stderr


def test_importing_pyfed_loads_neither_torch_nor_triton(tmp_path: Path) -> None:
    script = (
        "import sys, pyfed, pyfed.errors; print('torch' in sys.modules, 'triton' in sys.modules)"
    )
    assert python("-c", script, cwd=tmp_path).split() == ["False", "False"]


def test_using_pyfed_on_the_cpu_touches_neither_cuda_nor_our_triton_kernels(
    tmp_path: Path,
) -> None:
    script = (
        "import sys, torch, pyfed;"
        "pyfed.ops.random_words(pyfed.Key.generate(), 5); pyfed.LagrangeCode(4, 2, 1);"
        "print(torch.cuda.is_initialized(), 'pyfed.triton_kernels' in sys.modules)"
    )
    assert python("-c", script, cwd=tmp_path).split() == ["False", "False"]


@pytest.mark.parametrize(
    "module", ["errors", "keys", "fields", "secagg.messages", "secagg.channel", "secagg.session"]
)
def test_a_control_process_needs_no_torch(module: str, tmp_path: Path) -> None:
    script = f"import sys, pyfed.{module}; print('torch' in sys.modules)"
    assert python("-c", script, cwd=tmp_path).strip() == "False"


def test_the_installed_triton_kernels_have_no_bare_name(tmp_path: Path) -> None:
    script = """
from importlib.util import find_spec
print(find_spec("pyfed.triton_kernels") is not None, find_spec("triton_kernels") is not None)
"""
    assert python("-c", script, cwd=tmp_path).split() == ["True", "False"]


def test_the_stub_and_the_ops_name_all_of_the_extension() -> None:
    stub = ast.parse((ROOT / "pyfed" / "_C.pyi").read_text())
    declared = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    backends = {"cpu", "cuda"} if _C.build_info()["cuda"] else {"cpu"}
    kernels = {  # an op that ends in _ works in place; its kernels are named without
        f"{name.rstrip('_')}_{backend}"
        for name, op in OPS.items()
        for backend in backends & {*op.kernels}
    }
    # Kernels that an op takes beside its own, or instead of it.
    beside = ("lagrange_transform", "quantize_transform", "dequantize_wide")
    kernels |= {f"{name}_{backend}" for name in beside for backend in backends}
    assert {name for name in dir(_C) if not name.startswith("_")} == declared | kernels


def test_the_extension_needs_system_libraries_alone() -> None:
    listed = subprocess.run(["ldd", _C.__file__], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].split("/")[-1].split(".so")[0] for line in listed.splitlines()}
    system = {"linux-vdso", "ld-linux-x86-64", "ld-linux-aarch64"}
    wanted = {"libgomp", "libstdc++", "libgcc_s", "libc", "libm", "libdl", "libpthread", "librt"}
    assert "libgomp" in names
    assert names <= system | wanted
