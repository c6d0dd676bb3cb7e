"""What tests of emulated kernels share: comparison with the reference, in both thread orders."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import torch

from case import tensors_in
from pyfed.op import OPS


def reference(op: str, *args: Any) -> Any:
    return OPS[op].kernels["reference"].run(*args)


def bits(values: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor."""
    return values.reshape(-1).view(torch.uint8)


def run_kept(op: str, run: Callable[[], Any], args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The results, and what the op left in arguments that it writes, which then are restored."""
    written = [args[place] for place in OPS[op].written if args[place] is not None]
    before = [tensor.clone() for tensor in written]
    found = [*tensors_in(run()), *(tensor.clone() for tensor in written)]
    for tensor, old in zip(written, before, strict=True):
        tensor.copy_(old)
    return found


def agree(emulated: Any, op: str, *args: Any) -> None:
    """The emulated kernel gives the reference's bits, in either order of threads."""
    wanted = run_kept(op, lambda: reference(op, *args), args)
    for backwards in (False, True):
        got = run_kept(op, lambda: emulated(op, *args, backwards=backwards), args)  # noqa: B023
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            assert torch.equal(bits(mine), bits(theirs)), f"{op}: {args}"


def shifted(values: torch.Tensor) -> torch.Tensor:
    """The same values, contiguous, one element of 4 bytes or less off a 16-byte boundary."""
    size = values.element_size()
    per = 16 // size
    room = torch.empty(values.numel() + per, dtype=values.dtype)
    first = (per - room.data_ptr() % 16 // size + 1) % per
    view = room[first : first + values.numel()].view(values.shape)
    assert view.data_ptr() % 16 == size
    return view.copy_(values)


def broken(values: torch.Tensor, place: int, value: float) -> torch.Tensor:
    copy = values.clone()
    copy.view(-1)[place] = value
    return copy


class SparseBytes:
    """Zeros whose pages take memory only where they are written."""

    def __init__(self, count: int) -> None:
        no_reserve = 0x4000  # MAP_NORESERVE on Linux, which Python 3.13 knows by name
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        self.bytes = torch.frombuffer(mmap.mmap(-1, count, flags), dtype=torch.uint8)
        self.at = self.bytes.data_ptr()
