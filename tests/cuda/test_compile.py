"""What nvcc makes of the CUDA kernels: no spills, and the clearing of shared memory kept."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
ARCHITECTURES = ("80", "90a")
SOURCES = sorted(path.name for path in CSRC.glob("*.cu"))

if shutil.which("nvcc") is None:
    pytest.skip("nvcc was not found", allow_module_level=True)


class Kernel(NamedTuple):
    """One kernel as the assembler reports it."""

    name: str
    registers: int
    shared: int
    sass: str


class Built(NamedTuple):
    """One file for one architecture."""

    report: str
    kernels: list[Kernel]


def cuobjdump() -> str:
    """The disassembler: the toolkit's, or the one in the triton package."""
    found = shutil.which("cuobjdump")
    if found:
        return found
    spec = find_spec("triton")
    assert spec is not None, "neither the toolkit's cuobjdump nor the package triton is installed"
    return str(Path(str(spec.origin)).parent / "backends/nvidia/bin/cuobjdump")


def build(source: str, architecture: str, folder: Path) -> Built:
    cubin = folder / f"{source}.{architecture}.cubin"
    code = f"arch=compute_{architecture},code=sm_{architecture}"
    report = "-Xptxas=-v,-warn-spills,-warn-lmem-usage"
    command = ["nvcc", "-std=c++17", "-O3", "-cubin", "-gencode", code, report, str(CSRC / source)]
    done = subprocess.run([*command, "-o", str(cubin)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sass = subprocess.run(
        [cuobjdump(), "-sass", str(cubin)], capture_output=True, text=True, check=True
    ).stdout
    bodies = dict(part.split("\n", 1) for part in sass.split("Function : ")[1:])
    kernels = []
    for part in done.stderr.split("Compiling entry function '")[1:]:
        name = part.split("'", 1)[0]
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert registers is not None, part
        size = int(shared[1]) if shared else 0
        kernels.append(Kernel(name, int(registers[1]), size, bodies[name]))
    return Built(done.stderr, kernels)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Built]:
    folder = tmp_path_factory.mktemp("cubins")
    wanted = [(source, architecture) for source in SOURCES for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda pair: build(*pair, folder), wanted)
        return dict(zip(wanted, made, strict=True))


EVERY_BUILD = pytest.mark.parametrize(
    "build_of", [(s, a) for s in SOURCES for a in ARCHITECTURES], ids=lambda pair: "-sm_".join(pair)
)


@EVERY_BUILD
def test_registers_are_enough(
    builds: dict[tuple[str, str], Built], build_of: tuple[str, str]
) -> None:
    built = builds[build_of]
    assert built.kernels
    assert "warning" not in built.report
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", built.report
    )
    assert frames == [("0", "0", "0")] * len(built.kernels)
    for kernel in built.kernels:
        assert not re.search(r"\b(LDL|STL)\b", kernel.sass), kernel.name
        # Two blocks of 256 threads at once; one where sums alone take 128 registers, or 64 beside
        # the rounding of floats.
        one = re.search("hopper_.*ILi64E|hopper_encode_kernelILi32E.*Floats", kernel.name)
        most = 255 if one else 128
        assert kernel.registers <= most, kernel.name
        assert kernel.shared <= 48 << 10, kernel.name


@EVERY_BUILD
def test_shared_memory_is_cleared_last(
    builds: dict[tuple[str, str], Built], build_of: tuple[str, str]
) -> None:
    for kernel in builds[build_of].kernels:
        large = "hopper" in kernel.name and "IGMMA" in kernel.sass  # shared memory of the launch
        if kernel.shared == 0 and not large:
            assert "STS" not in kernel.sass, kernel.name
            continue
        # Zeros are stored after the last barrier, and nothing else is.
        last = kernel.sass.rsplit("BAR.SYNC", 1)[1]
        stores = re.findall(r"\bSTS\S* \[[^\]]*\], (\w+)", last)
        assert stores and set(stores) == {"RZ"}, f"{kernel.name}: {stores}"


def test_secrets_pass_through_shared_memory_that_is_cleared(
    builds: dict[tuple[str, str], Built],
) -> None:
    # Should one stop using shared memory, the test above would say nothing of it.
    kernels = [k for b in builds.values() for k in b.kernels]
    names = " ".join(k.name for k in kernels if k.shared or "IGMMA" in k.sass)
    for kernel in (
        *("random_words", "random_residues", "add_masks", "quantize_random", "field_matmul"),
        "quantize_mask",
        *("field_dot", "field_sum", "lagrange_encode", "lagrange_decode", "mask_popcount"),
        "lagrange_transform",
        *("index_mean", "select_tally", "select_pick", "select_emit", "select_tile"),
        *("select_strip", "select_small", "digit_matmul", "digit_encode", "digit_decode"),
        *("hopper_matmul", "hopper_encode", "hopper_decode"),
    ):
        assert f"{kernel}_kernel" in names, kernel
    rounding = " ".join(name for name in names.split() if "Floats" in name)
    for kernel in ("lagrange_encode", "digit_encode", "lagrange_transform"):
        assert f"{kernel}_kernel" in rounding, kernel


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_of_digits_run_on_the_matrix_units(
    builds: dict[tuple[str, str], Built], architecture: str
) -> None:
    kernels = {k.name: k.sass for k in builds["digits.cu", architecture].kernels}
    products = {name: body for name, body in kernels.items() if "digits_kernel" not in name}
    assert len(products) == 4  # and two of them encode: residues and floats
    for product, sass in products.items():
        # The loop: 16 instructions on 4 + 2 reads of 16 bytes, and no barrier among them.
        loop = sass[sass.index("IMMA") : sass.rindex("IMMA")]
        assert len(re.findall(r"\bIMMA\.16832\.U8\.S8\b", sass)) == 16, product
        assert "BAR" not in loop
        words = 1 if "Floats" in product else 0  # that round, in the places of the residues
        assert len(re.findall(r"\bLDS\.128\b", sass)) == 4 + words, product
        first_two_and_next = 4
        assert len(re.findall(r"\bLDG\.E\.128\b", sass)) == first_two_and_next, product


HOPPER = [
    (product, source, rows)
    for product, source in (
        ("matmul", ""),
        ("encode", "Residues"),
        ("encode", "Floats"),
        ("decode", ""),
    )
    for rows in (16, 32, 64)
]


def hopper_kernel(built: Built, product: str, source: str, rows: int) -> Kernel:
    """The only kernel of a product, of so many rows a tile."""
    name = f"hopper_{product}_kernelILi{rows}E"
    [kernel] = [k for k in built.kernels if name in k.name and source in k.name]
    return kernel


@pytest.mark.parametrize("product, source, rows", HOPPER)
def test_products_of_digits_run_on_the_warpgroups_of_hopper(
    builds: dict[tuple[str, str], Built], product: str, source: str, rows: int
) -> None:
    built = builds["digits_hopper.cu", "90a"]
    assert "serialized" not in built.report  # what the assembler says of products that it waits for
    kernel = hopper_kernel(built, product, source, rows)
    # Four products of a panel, the left operand from registers, and nothing waits for them but the
    # one place behind the next panel's filling.
    instruction = rf"\bIGMMA\.64x{4 * rows}x32\.U8\.S8 R\d+, (R\d+), gdesc\[UR\d+\]"
    left = re.findall(instruction, kernel.sass)
    assert len(left) == kernel.sass.count("IGMMA") == 4 and len(set(left)) == 4
    assert len(re.findall(r"\bWARPGROUP\.DEPBAR\b", kernel.sass)) == 1
    assert kernel.sass.count("FENCE.VIEW.ASYNC") == 1
    words = 1 if source == "Floats" else 0  # that round, in the places of the residues
    assert len(re.findall(r"\bLDS\.128\b", kernel.sass)) == 4 + words
    assert "LDGSTS" in kernel.sass


@pytest.mark.parametrize("product, source, rows", HOPPER)
def test_without_sm_90a_they_are_a_trap(
    builds: dict[tuple[str, str], Built], product: str, source: str, rows: int
) -> None:
    kernel = hopper_kernel(builds["digits_hopper.cu", "80"], product, source, rows)
    assert kernel.registers < 32  # by which wgmma_serves tells it
    assert "BPT.TRAP" in kernel.sass and "MMA" not in kernel.sass and "ST" not in kernel.sass
