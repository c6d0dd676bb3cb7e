"""Settings of every test: interpreted Triton where there is no GPU, fixed seeds, no leftovers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# device_count asks the driver's management library, so CUDA is not initialised here.
HAS_CUDA = torch.cuda.device_count() > 0
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

# cases.py, draws.py, oracles.py and runs.py are shared by the tests, under any import mode.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a CUDA device where there is none."""
    if HAS_CUDA:
        return
    here = [item for item in items if item.get_closest_marker("gpu") is None]
    elsewhere = [item for item in items if item.get_closest_marker("gpu") is not None]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = here


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
