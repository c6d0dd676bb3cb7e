"""The contract of every op, checked on the inputs of ``cases.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import pyfed
from bad_values import NONE_IS_BAD, bad_calls
from bounds import BOUNDS
from case import GRADIENTS, KEY, moved, public, tensors_in
from cases import CASES
from contract import (
    answers,
    cases_of,
    check_cases,
    few_cases,
    fits,
    memory_of,
    outcome,
    same_bits,
    size_of,
    strided,
    transposed,
    written_by,
)
from pyfed.errors import ArgumentError, BackendError
from pyfed.op import BACKENDS, OPS
from pyfed.self_check import ROUNDED
from runs import DEVICES, LACKING, OP_RUNS, Run, runnable, simd_levels

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)
EVERY_OP = pytest.mark.parametrize("op", OPS)
EVERY_RUN = pytest.mark.parametrize(("op", "run"), OP_RUNS)


def test_every_op_has_cases() -> None:
    assert set(CASES) == set(OPS)
    assert all(CASES.values())


def test_every_op_is_public_or_a_gradient_and_little_else_is_public() -> None:
    classes = {name for name in pyfed.ops.__all__ if inspect.isclass(getattr(pyfed.ops, name))}
    assert classes == {"Indices", "Rectangles"}
    assert {name for name in OPS if name.endswith("_backward")} == set(GRADIENTS)
    plain = {"field_verify", "sketch_block", "sketch_seed"}  # functions that are no ops
    assert set(pyfed.ops.__all__) | set(GRADIENTS) == set(OPS) | classes | plain
    assert not set(pyfed.ops.__all__) & set(GRADIENTS)


def test_the_ops_that_need_bounds_are_those_that_round_in_an_order_of_their_own() -> None:
    assert set(BOUNDS) == ROUNDED


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
    for case in cases_of(op, run):
        args = case.torch_args(op, run.device)
        written = set(map(id, written_by(op, args)))
        tensors = tensors_in(args)
        before = [(t.clone(), t._version) for t in tensors]
        with run.active():
            results = tensors_in(OPS[op].torch_op(*args))
        for t, (old, version) in zip(tensors, before, strict=True):
            if id(t) in written:
                assert t._version > version, case.name
            else:
                assert same_bits(t, old), case.name
                assert t._version == version, case.name
        theirs, mine = (
            [t.untyped_storage().data_ptr() for t in group if t.numel()]
            for group in (tensors, results)
        )
        assert len(set(mine)) == len(mine), case.name
        assert set(mine).isdisjoint(theirs), case.name


@EVERY_RUN
def test_a_call_gives_the_same_again(op: str, run: Run) -> None:
    """Nothing is kept from one call to the next: no counter, no scratch that is not cleared."""
    case, wanted = next((c, w) for c, w in answers(op) if c.large != run.interpreted)
    with run.active():
        first = outcome(op, case.torch_args(op, run.device))
    assert all(map(fits, first, wanted)), case.name
    for _ in range(2):
        with run.active():
            got = outcome(op, case.torch_args(op, run.device))
        assert all(map(same_bits, got, first)), case.name


@pytest.mark.parametrize("simd", simd_levels())
@pytest.mark.parametrize("op", [op for op in OPS if op in BOUNDS])
def test_the_number_of_threads_changes_no_bit(op: str, simd: str) -> None:
    """Of sums that may be added in any order; all others equal the reference's bits."""
    for case in CASES[op]:
        found = []
        for threads in (1, 2):
            with Run("cpu", "cpu", simd, threads).active():
                found.append(outcome(op, case.torch_args(op, "cpu")))
        assert all(map(same_bits, *found)), case.name


def bad_calls_of(op: str, device: str) -> Iterator[tuple[list[Any], str]]:
    """Small calls with a bad value each."""
    for case, wanted in answers(op):
        if case.large or size_of(wanted) == 0:  # an empty result is made of no value
            continue
        args = case.torch_args(op, device)
        if all(t.numel() < 700 for t in tensors_in(args)):
            yield from bad_calls(op, args)


@EVERY_RUN
def test_values_outside_the_domain_are_refused_and_nothing_is_changed(op: str, run: Run) -> None:
    calls = list(bad_calls_of(op, run.device))
    assert bool(calls) == (op not in NONE_IS_BAD)
    if run.interpreted:
        calls = calls[:: max(1, len(calls) // 12)]
    for args, words in calls:
        tensors = tensors_in(args)
        written = set(map(id, written_by(op, args)))
        before = [(memory_of(t), t._version) for t in tensors]
        with pytest.raises(ArgumentError, match=words), run.active():
            OPS[op].torch_op(*args)
        for t, (memory, version) in zip(tensors, before, strict=True):
            if run.device == "cuda" and id(t) in written:
                continue  # a device does not wait for its own checks
            assert torch.equal(memory_of(t), memory)
            assert t._version == version
    case = few_cases(op)[0]
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
    def explain() -> str:
        args, kwargs = CASES[op][0].on(op, device)
        if op in GRADIENTS:
            return OPS[op].explain(*GRADIENTS[op](*args, **kwargs))
        return str(public(op).explain(*args, **kwargs))

    lines = explain().splitlines()
    told = dict(line.removeprefix(f"{op}: ").split(": ", 1) for line in lines)
    assert set(told) == set(BACKENDS)
    fastest = next(b for b in ("cuda", "triton", "cpu") if b in runnable(op, device, real=True))
    assert [b for b, text in told.items() if text == "runs"] == [fastest]
    assert told["reference"] == "could run, but is not chosen"
    for backend in runnable(op, device):
        with pyfed.use_backend(backend):
            assert f"{op}: {backend}: runs" in explain().splitlines()
    with pyfed.use_backend("cuda" if device == "cpu" else "cpu"):
        assert ": runs" not in explain()


ONE_TENSOR = (
    *("random_words", "random_residues", "dequantize"),
    *("mask_pack", "mask_unpack", "mask_popcount", "mask_count", "mask_totals"),
)


@pytest.mark.gpu
@EVERY_OP
def test_tensors_on_two_devices_are_refused(op: str) -> None:
    args = list(CASES[op][-1].torch_args(op, "cpu"))
    tensors = [i for i, a in enumerate(args) if tensors_in(a)]
    if len(tensors) == 1:  # nothing to differ from
        assert op in ONE_TENSOR
        return
    for place in (tensors[0], tensors[-1]):
        mixed = [moved(a, "cuda") if i == place else a for i, a in enumerate(args)]
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
