"""The contract of every op, checked on the inputs of ``cases.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import pyfed
from bad_values import NONE_IS_BAD, bad_calls
from case import KEY, public
from cases import CASES
from contract import (
    answers,
    cases_of,
    check_cases,
    memory_of,
    outcome,
    same_bits,
    strided,
    transposed,
)
from pyfed.errors import ArgumentError, BackendError
from pyfed.op import BACKENDS, OPS
from runs import DEVICES, LACKING, OP_RUNS, Run, runnable

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)
EVERY_OP = pytest.mark.parametrize("op", OPS)
EVERY_RUN = pytest.mark.parametrize(("op", "run"), OP_RUNS)


def test_every_op_has_cases() -> None:
    assert set(CASES) == set(OPS)
    assert all(CASES.values())


def test_every_op_is_public_and_nothing_else_but_its_classes() -> None:
    classes = {name for name in pyfed.ops.__all__ if inspect.isclass(getattr(pyfed.ops, name))}
    assert classes == {"Indices", "Rectangles"}
    assert set(pyfed.ops.__all__) == set(OPS) | classes


@EVERY_OP
def test_every_op_has_every_backend_but_those_declared_lacking(op: str) -> None:
    assert set(OPS[op].kernels) == set(BACKENDS) - set(LACKING.get(op, ()))


@EVERY_RUN
def test_every_backend_equals_the_reference(op: str, run: Run) -> None:
    check_cases(op, run, every=True)


@pytest.mark.parametrize("layout", [strided, transposed])
@EVERY_RUN
def test_non_contiguous_and_offset_inputs_are_right(
    op: str, run: Run, layout: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    check_cases(op, run, layout)


@EVERY_RUN
def test_every_element_of_the_output_is_written(
    op: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate(*args: Any, **kwargs: Any) -> torch.Tensor:
            fresh = make(*args, **kwargs)
            # 0x5A5A5A5A is a residue of neither field's answers by more than chance.
            fresh.view(-1).view(torch.uint8).fill_(0x5A)
            return fresh

        return allocate

    for owner, name in (
        *((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided")),
        *((torch.Tensor, "new_empty"), (torch.Tensor, "new_empty_strided")),
    ):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    check_cases(op, run)


@EVERY_RUN
def test_inputs_are_untouched_and_not_aliased(op: str, run: Run) -> None:
    """But for those that the schema says are written; and those are noticed by autograd."""
    written = OPS[op].written
    for case in cases_of(op, run):
        args = case.torch_args(op, run.device)
        tensors = [(i, a) for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
        before = [(t.clone(), t._version) for _, t in tensors]
        with run.active():
            got = OPS[op].torch_op(*args)
        for (place, t), (old, version) in zip(tensors, before, strict=True):
            if place in written:
                assert t._version > version, case.name
            else:
                assert same_bits(t, old), case.name
                assert t._version == version, case.name
            apart = got.untyped_storage().data_ptr() != t.untyped_storage().data_ptr()
            assert apart or got.numel() == 0, case.name


@EVERY_RUN
def test_a_call_gives_the_same_again(op: str, run: Run) -> None:
    """Nothing is kept from one call to the next: no counter, no scratch that is not cleared."""
    case, wanted = next((c, w) for c, w in answers(op) if c.large != run.interpreted)
    for _ in range(3):
        with run.active():
            got = outcome(op, case.torch_args(op, run.device))
        assert all(map(same_bits, got, wanted)), case.name


def bad_calls_of(op: str, device: str) -> Iterator[tuple[list[Any], str]]:
    """Small calls with a bad value each."""
    for case, wanted in answers(op):
        if case.large or wanted[0].numel() == 0:  # an empty result is made of no value
            continue
        args = case.torch_args(op, device)
        if all(a.numel() < 700 for a in args if isinstance(a, torch.Tensor)):
            yield from bad_calls(op, args)


@EVERY_RUN
def test_values_outside_the_domain_are_refused_and_nothing_is_changed(op: str, run: Run) -> None:
    calls = list(bad_calls_of(op, run.device))
    assert bool(calls) == (op not in NONE_IS_BAD)
    if run.interpreted:
        calls = calls[:: max(1, len(calls) // 12)]
    for args, words in calls:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        before = [(memory_of(t), t._version) for t in tensors]
        with pytest.raises(ArgumentError, match=words), run.active():
            OPS[op].torch_op(*args)
        for place, (t, (memory, version)) in enumerate(zip(tensors, before, strict=True)):
            if run.device == "cuda" and place in OPS[op].written:
                continue  # a device does not wait for its own checks
            assert torch.equal(memory_of(t), memory)
            assert t._version == version
    case = next(case for case, wanted in answers(op) if wanted[0].numel() and not case.large)
    with run.active():  # the fault is not remembered
        OPS[op].torch_op(*case.torch_args(op, run.device))


@EVERY_OP
def test_a_forced_backend_that_cannot_run_says_why(op: str) -> None:
    args = CASES[op][0].torch_args(op, "cpu")
    reason = OPS[op].objection("cuda", args)
    assert reason
    with pyfed.use_backend("cuda"), pytest.raises(BackendError) as caught:
        OPS[op].torch_op(*args)
    assert str(caught.value) == f"{op}: backend 'cuda' cannot run: {reason}"


@ON_DEVICES
@EVERY_OP
def test_explain_names_the_kernel_that_runs_and_why_others_do_not(op: str, device: str) -> None:
    args, kwargs = CASES[op][0].on(op, device)
    lines = public(op).explain(*args, **kwargs).splitlines()
    told = dict(line.removeprefix(f"{op}: ").split(": ", 1) for line in lines)
    assert set(told) == set(BACKENDS)
    fastest = next(b for b in ("cuda", "triton", "cpu") if b in runnable(op, device, real=True))
    assert [b for b, text in told.items() if text == "runs"] == [fastest]
    assert told["reference"] == "could run, but is not chosen"
    for backend in runnable(op, device):
        with pyfed.use_backend(backend):
            assert f"{op}: {backend}: runs" in public(op).explain(*args, **kwargs).splitlines()
    with pyfed.use_backend("cuda" if device == "cpu" else "cpu"):
        assert ": runs" not in public(op).explain(*args, **kwargs)


ONE_TENSOR = (
    *("random_words", "random_residues", "dequantize"),
    *("mask_pack", "mask_unpack", "mask_popcount", "mask_count", "mask_totals"),
)


@pytest.mark.gpu
@EVERY_OP
def test_tensors_on_two_devices_are_refused(op: str) -> None:
    args = list(CASES[op][-1].torch_args(op, "cpu"))
    tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
    if len(tensors) == 1:  # nothing to differ from
        assert op in ONE_TENSOR
        return
    for place in (tensors[0], tensors[-1]):
        mixed = [a.cuda() if i == place else a for i, a in enumerate(args)]
        with pytest.raises(ArgumentError, match=r"are on cpu, cuda:0; they must be on one device"):
            OPS[op].torch_op(*mixed)


@EVERY_OP
def test_the_torch_op_takes_the_key_as_a_tensor_only(op: str) -> None:
    """An int[] key would be written to the compiler's cache files."""
    schema = OPS[op].torch_op._schema
    keys = [str(argument.type) for argument in schema.arguments if argument.name == "key"]
    assert keys in ([], ["Tensor"], ["Optional[Tensor]"])
    case = next(c for c in CASES[op] if not keys or KEY in (*c.args, *c.kwargs.values()))
    assert bytes(KEY.reveal()) not in [a for a in case.torch_args(op, "cpu") if a is not None]
