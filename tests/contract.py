"""What the tests of the contract share: calls, the reference's answers, comparison of bits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

import pyfed
from case import Case
from cases import CASES
from pyfed.op import OPS
from runs import Run


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit, so that -0.0 differs from 0.0, and True from 2."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    left, right = (
        t.cpu().clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)
        for t in (a, b)
    )
    return torch.equal(left, right)


def outcome(op: str, args: Sequence[Any]) -> list[torch.Tensor]:
    """The result of a call, and after it the arguments that the op writes."""
    return [OPS[op].torch_op(*args), *(args[place] for place in OPS[op].written)]


def expected(op: str, case: Case) -> list[torch.Tensor]:
    """What the reference gives, on the CPU."""
    with pyfed.use_backend("reference"):
        return outcome(op, case.torch_args(op, "cpu"))


@functools.cache
def answers(op: str) -> list[tuple[Case, list[torch.Tensor]]]:
    """All cases of an op with the reference's outcome."""
    return [(case, expected(op, case)) for case in CASES[op]]


def cases_of(op: str, run: Run, *, every: bool = False) -> list[Case]:
    """The cases that a run can take in reasonable time: few where Triton is interpreted."""
    if not run.interpreted:
        return list(CASES[op])
    small = [case for case in CASES[op] if not case.large]
    return small[:: max(1, len(small) // (20 if every else 6))]


def memory_of(t: torch.Tensor) -> torch.Tensor:
    """A copy of all the bytes that a tensor's storage has, its gaps among them."""
    storage = t.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=t.device).set_(storage).clone()


def with_content(t: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's storage, once the tensor holds ``content``."""
    storage = t.untyped_storage().clone()
    twin = torch.empty(0, dtype=t.dtype, device=t.device)
    twin.set_(storage, t.storage_offset(), t.shape, t.stride()).copy_(content)
    return torch.empty(0, dtype=torch.uint8, device=t.device).set_(storage)


def check_cases(
    op: str,
    run: Run,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    *,
    every: bool = False,
) -> None:
    """Every case, with its tensors changed in layout only, gives the reference's bits.

    An argument that is written gets the reference's bits too, and the memory in its gaps stays.
    """
    usable = set(map(id, cases_of(op, run, every=every)))
    for case, wanted in answers(op):
        if id(case) not in usable:
            continue
        args = [
            change(a) if isinstance(a, torch.Tensor) else a for a in case.torch_args(op, run.device)
        ]
        written = [args[place] for place in OPS[op].written]
        after = [with_content(t, new) for t, new in zip(written, wanted[1:], strict=True)]
        with run.active():
            got = outcome(op, args)
        assert got[0].is_contiguous(), case.name
        assert got[0].device.type == run.device, case.name
        for one, right in zip(got, wanted, strict=True):
            assert same_bits(one, right), case.name
        for t, memory in zip(written, after, strict=True):
            assert torch.equal(memory_of(t), memory), case.name


def strided(t: torch.Tensor) -> torch.Tensor:
    """The same values at every second place of memory full of something else."""
    if t.dim() == 0:
        return t
    wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), filler(t))
    wide[..., ::2] = t
    return wide[..., ::2]


def transposed(t: torch.Tensor) -> torch.Tensor:
    """The same values, first dimension fastest, behind one element that is not theirs."""
    moved = t.transpose(0, -1) if t.dim() else t
    memory = t.new_full((t.numel() + 1,), filler(t))[1:].view(moved.shape)
    memory.copy_(moved)
    return memory.transpose(0, -1) if t.dim() else memory


def filler(t: torch.Tensor) -> int:
    """What is put between the elements: all bits set, where the dtype has such a number."""
    return 255 if t.dtype == torch.uint8 else -1


def few_cases(op: str) -> list[Case]:
    """Small cases that differ in kind: the first with work, two between, and the last."""
    small = [c for c, wanted in answers(op) if not c.large and wanted[0].numel() > 1]
    if len(small) < 40:  # one kind of argument; opcheck and the compiler take their time
        return [small[0], small[-1]]
    return [small[0], small[len(small) // 3], small[2 * len(small) // 3], small[-1]]
