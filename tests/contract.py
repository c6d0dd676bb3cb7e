"""What the tests of the contract share: calls, the reference's answers, comparison of bits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

import pyfed
from bounds import BOUNDS
from case import Case, with_tensors
from cases import CASES
from lora_oracles import Between
from pyfed.op import OPS
from pyfed.self_check import results_of
from runs import Run

Answer = list[torch.Tensor | Between]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit, so that -0.0 differs from 0.0, and True from 2."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    left, right = (
        t.cpu().clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)
        for t in (a, b)
    )
    return torch.equal(left, right)


def fits(got: torch.Tensor, right: torch.Tensor | Between) -> bool:
    """Equal bit for bit, or between two bounds where a sum may be added in any order."""
    if not isinstance(right, Between):
        return same_bits(got, right)
    low, high = right.ends(got.device.type)
    if got.dtype != low.dtype or got.shape != low.shape:
        return False
    return bool(((low <= got.cpu()) & (got.cpu() <= high)).all())


def outcome(op: str, args: Sequence[Any]) -> list[torch.Tensor]:
    """The results of a call, and after them the arguments that the op writes."""
    return results_of(OPS[op], tuple(args))


def expected(op: str, case: Case) -> Answer:
    """What the reference gives, on the CPU; where sums may be off, what they may be."""
    if op in BOUNDS:
        args, kwargs = case.on(op, "cpu")
        return list(BOUNDS[op](*args, **kwargs))
    with pyfed.use_backend("reference"):
        return list(outcome(op, case.torch_args(op, "cpu")))


def written_by(op: str, args: Sequence[Any]) -> list[torch.Tensor]:
    """The arguments that a call writes."""
    return [args[place] for place in OPS[op].written if args[place] is not None]


@functools.cache
def answers(op: str) -> list[tuple[Case, Answer]]:
    """All cases of an op with the right outcome."""
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


def with_content(memory: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The bytes of the storage of ``t`` as they were, but those of its elements as they are."""
    storage = memory.clone().untyped_storage()
    twin = torch.empty(0, dtype=t.dtype, device=t.device)
    twin.set_(storage, t.storage_offset(), t.shape, t.stride()).copy_(t)
    return torch.empty(0, dtype=torch.uint8, device=t.device).set_(storage)


def check_cases(
    op: str,
    run: Run,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    *,
    every: bool = False,
) -> None:
    """Every case, with its tensors changed in layout only, gives the right outcome.

    In an argument that is written, the memory in its gaps stays.
    """
    usable = set(map(id, cases_of(op, run, every=every)))
    for case, wanted in answers(op):
        if id(case) not in usable:
            continue
        args = [with_tensors(a, change) for a in case.torch_args(op, run.device)]
        written = written_by(op, args)
        before = [memory_of(t) for t in written]
        with run.active():
            got = outcome(op, args)
        for result in got[: len(got) - len(written)]:
            assert result.is_contiguous(), case.name
        for one, right in zip(got, wanted, strict=True):
            assert one.device.type == run.device, case.name
            assert fits(one, right), case.name
        for t, memory in zip(written, before, strict=True):
            assert torch.equal(memory_of(t), with_content(memory, t)), case.name


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


def size_of(wanted: Answer) -> int:
    """How many elements the first result has."""
    return (wanted[0].low if isinstance(wanted[0], Between) else wanted[0]).numel()


def few_cases(op: str) -> list[Case]:
    """Small cases that differ in kind: the first with work, two between, and the last."""
    small = [c for c, wanted in answers(op) if not c.large and size_of(wanted) > 1]
    if len(small) < 40:  # one kind of argument; opcheck and the compiler take their time
        return [small[0], small[-1]]
    return [small[0], small[len(small) // 3], small[2 * len(small) // 3], small[-1]]
