"""CUDA kernels as they stand in the extension: no spills, and shared memory is cleared."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from pyfed import native

CSRC = Path(__file__).parents[2] / "csrc"
ARCHITECTURES = ("80", "90a")
SOURCES = sorted(path.name for path in CSRC.glob("*.cu"))

BUILD = native._C.build_info()
if not {f"{a}-real" for a in ARCHITECTURES} <= set(BUILD["cuda_architectures"].split()):
    pytest.skip("the extension was built without code for sm_80 and sm_90a", True)


class Kernel(NamedTuple):
    """One kernel as it stands in the extension."""

    name: str
    usage: dict[str, int]  # REG, STACK, SHARED, LOCAL
    sass: str


Builds = dict[tuple[str, str], list[Kernel]]
"""Kernels by source file and architecture."""


def cuobjdump(target: Path, *arguments: str) -> None:
    """Keep the disassembler's answer: the toolkit's, or that of the one in the triton package."""
    program = shutil.which("cuobjdump")
    if program is None:
        spec = find_spec("triton")
        assert spec is not None, "neither the toolkit's cuobjdump nor triton is installed"
        program = str(Path(str(spec.origin)).parent / "backends/nvidia/bin/cuobjdump")
    with target.open("w") as file:
        subprocess.run([program, *arguments, str(native._C.__file__)], stdout=file, check=True)


def disassemble(folder: Path) -> None:
    """Write what the kernels of each architecture use, and their instructions: half a minute."""

    def written(architecture: str) -> None:
        for option in ("-res-usage", "-sass"):
            arguments = (option, "-arch", f"sm_{architecture}")
            cuobjdump(folder / f"{architecture}{option}", *arguments)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(written, ARCHITECTURES))


def by_function(dump: str, mark: str) -> Iterator[tuple[str, str, str]]:
    """Architecture, name and text of every function in a dump."""
    for part in dump.split("\narch = sm_")[1:]:
        architecture, rest = part.split("\n", 1)
        for function in rest.split(mark)[1:]:
            name, text = function.split("\n", 1)
            yield architecture, name.rstrip(":"), text


@pytest.fixture(scope="module")
def builds(once: Callable[[str, Callable[[Path], object]], Path]) -> Builds:
    folder = once("sass", disassemble)

    def dumped(option: str) -> str:
        return "".join((folder / f"{a}{option}").read_text() for a in ARCHITECTURES)

    usage = {}
    for architecture, name, text in by_function(dumped("-res-usage"), " Function "):
        found = re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text.split("\n", 1)[0])
        usage[architecture, name] = {key: int(value) for key, value in found}
    kernels = defaultdict(list)
    for architecture, name, text in by_function(dumped("-sass"), "\t\tFunction : "):
        source = re.search(r"_GLOBAL__N__[0-9a-f]+_\d+_(\w+)_cu_[0-9a-f]{8}", name)
        assert source is not None, name
        kernel = Kernel(name, usage.pop((architecture, name)), text)
        if (source[1], architecture) == ("digits_hopper", "90a"):
            kernel.usage["SHARED"] -= 1024  # CUDA's own, where shared memory is of the launch
        kernels[f"{source[1]}.cu", architecture].append(kernel)
    assert not usage
    return kernels


EVERY_BUILD = pytest.mark.parametrize(
    "build_of", [(s, a) for s in SOURCES for a in ARCHITECTURES], ids=lambda pair: "-sm_".join(pair)
)


@EVERY_BUILD
def test_registers_are_enough(builds: Builds, build_of: tuple[str, str]) -> None:
    assert builds[build_of]
    for kernel in builds[build_of]:
        assert kernel.usage["STACK"] == kernel.usage["LOCAL"] == 0, kernel.name
        assert not re.search(r"\b(LDL|STL)\b", kernel.sass), kernel.name
        # Two blocks of 256 threads at once; one where sums alone take 128 registers, or 64 beside
        # the rounding of floats.
        one = re.search("hopper_.*ILi64E|hopper_encode_kernelILi32E.*Floats", kernel.name)
        most = 255 if one else 128
        assert kernel.usage["REG"] <= most, kernel.name
        assert kernel.usage["SHARED"] <= 48 << 10, kernel.name


@EVERY_BUILD
def test_shared_memory_is_cleared_last(builds: Builds, build_of: tuple[str, str]) -> None:
    for kernel in builds[build_of]:
        large = "hopper" in kernel.name and "IGMMA" in kernel.sass  # shared memory of the launch
        if kernel.usage["SHARED"] == 0 and not large:
            assert "STS" not in kernel.sass, kernel.name
            continue
        # Zeros are stored after the last barrier, and nothing else is.
        last = kernel.sass.rsplit("BAR.SYNC", 1)[1]
        stores = re.findall(r"\bSTS\S* \[[^\]]*\], (\w+)", last)
        assert stores and set(stores) == {"RZ"}, f"{kernel.name}: {stores}"


def test_secrets_pass_through_shared_memory_that_is_cleared(
    builds: Builds,
) -> None:
    # Should one stop using shared memory, the test above would say nothing of it.
    kernels = [k for built in builds.values() for k in built]
    names = " ".join(k.name for k in kernels if k.usage["SHARED"] or "IGMMA" in k.sass)
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
def test_products_of_digits_run_on_the_matrix_units(builds: Builds, architecture: str) -> None:
    kernels = {k.name: k.sass for k in builds["digits.cu", architecture]}
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


def hopper_kernel(built: list[Kernel], product: str, source: str, rows: int) -> Kernel:
    """The only kernel of a product, of so many rows a tile."""
    name = f"hopper_{product}_kernelILi{rows}E"
    [kernel] = [k for k in built if name in k.name and source in k.name]
    return kernel


@pytest.mark.parametrize("product, source, rows", HOPPER)
def test_products_of_digits_run_on_the_warpgroups_of_hopper(
    builds: Builds, product: str, source: str, rows: int
) -> None:
    kernel = hopper_kernel(builds["digits_hopper.cu", "90a"], product, source, rows)
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
    builds: Builds, product: str, source: str, rows: int
) -> None:
    kernel = hopper_kernel(builds["digits_hopper.cu", "80"], product, source, rows)
    assert kernel.usage["REG"] < 32  # by which wgmma_serves tells it
    assert "BPT.TRAP" in kernel.sass and "MMA" not in kernel.sass and "ST" not in kernel.sass
