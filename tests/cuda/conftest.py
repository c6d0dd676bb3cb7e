"""The CUDA kernels on the CPU: csrc/*.cu compiled by g++ against ``emulate.h``."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pyfed import checks, native
from pyfed.op import OPS

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
# Kernels have unroll pragmas for nvcc alone, and inline functions that not every file calls; g++
# takes a switch of fibers under AddressSanitizer for a longjmp.
QUIET = ("-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-clobbered")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SANITIZED = os.environ.get("PYFED_EMULATE_SANITIZED") == "1"

# The launchers' arguments: pointer, int64, int, uint32, float; then errors, device and stream.
TYPES = {
    "p": ctypes.c_void_p,
    "q": ctypes.c_int64,
    "i": ctypes.c_int,
    "I": ctypes.c_uint32,
    "f": ctypes.c_float,
}
ARGUMENTS = {
    "random_words": "pqqIp",
    "random_residues": "pqqIIp",
    "add_masks": "pqppqIIq",
    "quantize_mask": "pqffIpppqiIqp",
    "decode_sum": "pqqpqpqqfIpp",
    "field_matmul": "ppqqqIpp",
    "field_sum": "ppqqIp",
    "quantize": "pqffIpIqp",
    "dequantize": "pqfIp",
    "dequantize_wide": "pqfIIp",
    "field_lift": "pqIIp",
    "lagrange_encode": "pqpqqqpIqIpp",
    "lagrange_transform": "pqpqqqpIqIpp",
    "quantize_encode": "pqffpqqqpIqIpp",
    "quantize_transform": "pqffpqqqpIqIpp",
    "lagrange_decode": "pqpqqqIpp",
    "mask_pack": "pqqp",
    "mask_unpack": "pqqp",
    "mask_popcount": "pqqp",
    "mask_count": "pqqp",
    "mask_add": "pqpqqqp",
    "mask_totals": "pqqp",
    "mask_select": "pipipqqqqqiIpqp",
    "mask_prune": "pipipippqqqqqqiIpqp",
    "masked_mean": "piqqqipppqppiqp",
    "counter_dropout": "piqqqpppIfp",
    "weighted_mean": "pqqqqpp",
    "segment_clip": "pqqppp",
    "bank_adamw": "ppppqqp",
    "bank_sgd": "pppqqp",
}
POISONED = {
    "add_masks": (),
    "mask_select": (-1, -3),
    "mask_prune": (-1, -3),
    "segment_clip": (-1, -2),
    "bank_adamw": (),
    "bank_sgd": (),
}
"""The arguments that a kernel writes and does not read; else that is the last tensor."""
RUBBISH = 0x5A


class Control(ctypes.Structure):
    """What ``emulate.h`` lets a test set and read."""

    _fields_ = (
        ("last_blocks", ctypes.c_int64),
        ("backwards", ctypes.c_int),
        ("fail", ctypes.c_int),
        ("launches", ctypes.c_int),
        ("blocks_run", ctypes.c_int64),
        ("dirty_blocks", ctypes.c_int),
        ("multiprocessors", ctypes.c_int),
        ("capability", ctypes.c_int),
        ("lacks_code", ctypes.c_int),
    )


def poison_means(table: Any, clients: Any, tensors: Any) -> None:
    """The table of weighted_mean tells where its means lie, their sizes and their dtypes."""
    means = table[clients * tensors :][: 3 * tensors].view(3, tensors).T.tolist()
    for address, size, kind in means:
        ctypes.memset(address, RUBBISH, size * (4 if kind == 1 else 2))


class Emulator:
    """The emulated launchers, behind the glue of ``pyfed/ops`` that also serves real devices."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.emulated_control.restype = ctypes.POINTER(Control)
        self.library.emulated_device.restype = ctypes.POINTER(ctypes.c_int)
        self.library.emulated_launcher.restype = ctypes.c_void_p
        self.library.emulated_set_wgmma.restype = ctypes.c_bool
        self.device = 0
        self.on_hopper = False  # whether products on matrix units are by Hopper's instruction
        self.matrix_units = False  # whether products of 16 rows or more run on them
        self.room: torch.Tensor | None = None  # what the last encoding or product was given

    @property
    def control(self) -> Control:
        return self.library.emulated_control().contents

    @property
    def current_device(self) -> int:
        return int(self.library.emulated_device().contents.value)

    def use_hopper(self, wanted: bool) -> None:
        """Have products on matrix units by Hopper's instruction, or by the older one."""
        self.on_hopper = wanted
        self.library.emulated_set_wgmma(wanted)

    def launcher(self, name: str, types: list[Any]) -> Any:
        address = self.library.emulated_launcher(name.encode())
        return ctypes.CFUNCTYPE(ctypes.c_char_p, *types)(address)

    def launch(self, name: str, *args: object) -> int:
        """Call a launcher with numbers and addresses; give the error word."""
        types = [TYPES[letter] for letter in ARGUMENTS[name]]
        call = self.launcher(name, [*types, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p])
        word = ctypes.c_int(0)
        message = call(*args, ctypes.addressof(word), self.device, None)
        if message is not None:
            raise RuntimeError(message.decode())
        return word.value

    def _workspace(
        self, device: torch.device, kept_rows: int = 0, digits: int = 0
    ) -> torch.Tensor | None:
        """Take the place of ``native.workspace``: what CUDA devices are given, full of rubbish."""
        self.room = None
        if digits and self.matrix_units:
            self.room = torch.empty(digits, dtype=torch.int32)
            self.room.view(torch.uint8).fill_(RUBBISH)
        return self.room

    def _transform_factors(self, device: torch.device, blocks: int) -> torch.Tensor:
        """Take the place of ``native.transform_factors``: the same room, full of rubbish."""
        self.room = torch.empty(6 * blocks, dtype=torch.int32)
        self.room.view(torch.uint8).fill_(RUBBISH)
        return self.room

    def _run(self, name: str, device: torch.device, *args: object) -> None:
        """Take the place of ``native.run``; outputs come poisoned to the kernel."""
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        results = [t for t in tensors if t is not self.room]
        outs = [args[i] for i in POISONED[name]] if name in POISONED else results[-1:]
        for tensor in outs:
            assert isinstance(tensor, torch.Tensor)
            tensor.view(-1).view(torch.uint8).fill_(RUBBISH)
        if name == "weighted_mean":
            poison_means(*args[:3])
        error = self.launch(name, *(native._pointer(a) for a in args))
        assert self.control.dirty_blocks == 0, "a block left something in shared memory"
        checks.raise_for(name, error)

    def __call__(self, op: str, *args: object, backwards: bool = False) -> torch.Tensor:
        """What the torch op's CUDA kernel gives for these arguments."""
        with self.in_place(backwards):
            return OPS[op].kernels["cuda"].run(*args)

    @contextmanager
    def in_place(self, backwards: bool) -> Iterator[None]:
        self.control.backwards = int(backwards)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "run", self._run)
            patch.setattr(native, "workspace", self._workspace)
            patch.setattr(native, "transform_factors", self._transform_factors)
            yield


def compile_library(folder: Path, flags: tuple[str, ...]) -> None:
    """Build the emulated kernels as a shared library, emulated.so."""
    sources = [*sorted(CSRC.glob("*.cu")), HERE / "emulated.cpp"]

    def built(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        where = ("-DPYFED_EMULATE", f"-I{HERE}", f"-I{CSRC}", "-x", "c++", "-c", str(source))
        subprocess.run(["g++", *FLAGS, *QUIET, *flags, *where, "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(built, sources))
    library = str(folder / "emulated.so")
    subprocess.run(["g++", *flags, "-shared", *objects, "-o", library], check=True)


@pytest.fixture(scope="session")
def emulated_library(once: Callable[[str, Callable[[Path], object]], Path]) -> Emulator:
    flags = SANITIZE if SANITIZED else ()
    folder = once("emulated", lambda folder: compile_library(folder, flags))
    return Emulator(folder / "emulated.so")


@pytest.fixture
def emulated(emulated_library: Emulator) -> Iterator[Emulator]:
    """The emulator in its first state."""
    ctypes.memset(ctypes.addressof(emulated_library.control), 0, ctypes.sizeof(Control))
    emulated_library.device = 0
    emulated_library.matrix_units = False
    emulated_library.use_hopper(False)
    yield emulated_library
    assert emulated_library.current_device == 0, "a launcher did not give the device back"


def on_matrix_units(emulated: Emulator, hopper: bool) -> Iterator[Emulator]:
    """The emulator with matrix units; their room holds nothing afterwards."""
    emulated.matrix_units = True
    emulated.use_hopper(hopper)
    yield emulated
    assert emulated.room is not None, "no product ran on the matrix units"
    assert not emulated.room.any(), "digits are left in the room"


@pytest.fixture
def mma(emulated: Emulator) -> Iterator[Emulator]:
    """The emulator with matrix units since sm_80."""
    yield from on_matrix_units(emulated, hopper=False)


@pytest.fixture
def hopper(emulated: Emulator) -> Iterator[Emulator]:
    """The emulator with the matrix units of sm_90a."""
    yield from on_matrix_units(emulated, hopper=True)


@pytest.fixture(params=[False, True], ids=["mma", "wgmma"])
def units(emulated: Emulator, request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """The emulator with matrix units, the ones and the others."""
    yield from on_matrix_units(emulated, request.param)
