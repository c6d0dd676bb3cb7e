"""Products with the matrix instruction of Hopper, on a device that has it: the reference's bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pyfed.ops
from cases import KEY, residues
from pyfed import SOLINAS31, native
from pyfed.op import OPS

pytestmark = pytest.mark.gpu
P = SOLINAS31.modulus


@pytest.fixture(autouse=True)
def wgmma() -> Iterator[None]:
    """The compiled kernels, with the switch on."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the instruction is that of compute capability 9.0")
    before = native._C.set_wgmma(True)
    if not native._C.wgmma_serves():
        native._C.set_wgmma(before)
        pytest.skip("this build has no code for sm_90a")
    with pyfed.use_backend("cuda"):
        yield
    native._C.set_wgmma(before)


def calls(rows: int, data: int, random: int, columns: int) -> list[tuple[str, tuple[Any, ...]]]:
    """One product, encoding and decoding on the host, of this size."""
    inner, words = data + random, KEY.words()
    matrix, flat = residues(P, rows, inner), residues(P, data * columns - data // 2)
    right = residues(P, inner, columns)
    return [
        ("field_matmul", (matrix, right, P)),
        ("lagrange_encode", (flat, matrix, words, P, data, 3, 5, False)),
        ("lagrange_decode", (right, matrix, P, rows * columns - rows // 2)),
    ]


def on_device(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.cuda() if isinstance(a, torch.Tensor) else a for a in args)


def reference(op: str, args: tuple[Any, ...]) -> torch.Tensor:
    with pyfed.use_backend("cpu"):
        made: torch.Tensor = OPS[op].torch_op(*args)
    return made


SHAPES = [
    *((16, 3, 5, 64), (17, 8, 8, 1000), (32, 40, 30, 4099), (33, 32, 0, 128), (64, 70, 59, 70_000)),
    *((100, 40, 30, 300_000), (200, 300, 200, 20_000), (256, 129, 1, 9999)),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_a_cpu(shape: tuple[int, int, int, int]) -> None:
    for op, args in calls(*shape):
        wanted = reference(op, args)
        there = on_device(args)
        for _ in range(2):  # what the first leaves behind is nothing to the second
            assert torch.equal(OPS[op].torch_op(*there).cpu(), wanted), op
    pyfed.check()


def test_graphs_capture_and_replay() -> None:
    for op, args in calls(64, 40, 30, 5000):
        there = on_device(args)
        OPS[op].torch_op(*there)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = OPS[op].torch_op(*there)
        for turn in range(2):
            later = (args[0].flip(0).contiguous() if turn else args[0], *args[1:])
            there[0].copy_(later[0])
            graph.replay()
            assert torch.equal(got.cpu(), reference(op, later)), op


def test_nothing_waits_for_the_device() -> None:
    for op, args in calls(64, 40, 30, 5000):
        there = on_device(args)
        OPS[op].torch_op(*there)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            OPS[op].torch_op(*there)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_switch_changes_no_bit() -> None:
    for op, args in calls(100, 40, 30, 100_000):
        there = on_device(args)
        got = OPS[op].torch_op(*there)
        native._C.set_wgmma(False)
        assert torch.equal(OPS[op].torch_op(*there), got), op
        native._C.set_wgmma(True)
