"""Settings of every test: interpreted Triton where there is no GPU, fixed seeds, no leftovers."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

# Workers share the cores: a thread that waits for another by spinning takes the time of a third.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP reads it when torch is loaded

import pytest
import torch

# device_count asks the driver's management library, so CUDA is not initialised here.
HAS_CUDA = torch.cuda.device_count() > 0
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

# cases.py, draws.py, oracles.py and runs.py are shared by the tests, under any import mode.
sys.path.insert(0, str(Path(__file__).parent))

if not HAS_CUDA and find_spec("triton") is not None:
    from quick_interpreter import make_quick

    make_quick()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a CUDA device where there is none."""
    if HAS_CUDA:
        return
    here = [item for item in items if item.get_closest_marker("gpu") is None]
    elsewhere = [item for item in items if item.get_closest_marker("gpu") is not None]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = here


def pytest_collection_finish() -> None:
    """Tests and modules stay to the end; the garbage collector need not look at them each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # extensions tell of leaks otherwise


Once = Callable[[str, Callable[[Path], object]], Path]
"""Takes a folder's name and what fills it, and gives the folder."""


@pytest.fixture(scope="session")
def once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Folders that the first worker to ask fills, while others that ask wait for it."""
    root = tmp_path_factory.getbasetemp()
    if hasattr(pytestconfig, "workerinput"):
        root = root.parent  # the run's, with a folder for each worker

    def filled(name: str, fill: Callable[[Path], object]) -> Path:
        folder, unfinished = root / name, root / f"{name}-{os.getpid()}"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return filled


@pytest.fixture(autouse=True)
def fixed_state() -> Iterator[None]:
    """The same seed for every test, and no thread count, SIMD level or error word left behind."""
    import pyfed
    from pyfed import native

    torch.manual_seed(20)
    threads = torch.get_num_threads()
    simd = native._C.simd() if native._C is not None else None
    yield
    torch.set_num_threads(threads)
    if simd is not None:
        native._C.set_simd(simd)
    pyfed.check()
