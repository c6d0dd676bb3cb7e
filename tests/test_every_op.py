"""The contract of every op, checked on the inputs of ``cases.py``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import pyfed
from cases import CASES, KEY, Case, public
from pyfed import Key
from pyfed.errors import ArgumentError, BackendError
from pyfed.op import BACKENDS, OPS
from runs import DEVICES, OP_RUNS, Run, runnable

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)
EVERY_OP = pytest.mark.parametrize("op", OPS)
EVERY_RUN = pytest.mark.parametrize(("op", "run"), OP_RUNS)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit, so that -0.0 differs from 0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.cpu().view(torch.int32), b.cpu().view(torch.int32))


def cases_of(op: str, run: Run, *, every: bool = False) -> list[Case]:
    """The cases that a run can take in reasonable time: few where Triton is interpreted."""
    if not run.interpreted:
        return list(CASES[op])
    small = [case for case in CASES[op] if not case.large]
    return small if every else small[:: max(1, len(small) // 6)]


def expected(op: str, case: Case) -> torch.Tensor:
    """What the reference gives, on the CPU."""
    with pyfed.use_backend("reference"):
        return OPS[op].torch_op(*case.torch_args(op, "cpu"))


@functools.cache
def answers(op: str) -> list[tuple[Case, torch.Tensor]]:
    """All cases of an op with the reference's results."""
    return [(case, expected(op, case)) for case in CASES[op]]


def check_cases(
    op: str,
    run: Run,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    *,
    every: bool = False,
) -> None:
    """Every case, with its tensors changed in layout only, gives the reference's bits."""
    usable = set(map(id, cases_of(op, run, every=every)))
    for case, wanted in answers(op):
        if id(case) not in usable:
            continue
        args = [
            change(a) if isinstance(a, torch.Tensor) else a for a in case.torch_args(op, run.device)
        ]
        with run.active():
            got = OPS[op].torch_op(*args)
        assert got.is_contiguous(), case.name
        assert got.device.type == run.device, case.name
        assert same_bits(got, wanted), case.name


def test_every_op_has_cases() -> None:
    assert set(CASES) == set(OPS)
    assert all(CASES.values())
    assert set(pyfed.ops.__all__) == set(OPS)


@EVERY_RUN
def test_every_backend_equals_the_reference(op: str, run: Run) -> None:
    check_cases(op, run, every=True)


def strided(t: torch.Tensor) -> torch.Tensor:
    """The same values at every second place of memory full of something else."""
    if t.dim() == 0:
        return t
    wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), -1)
    wide[..., ::2] = t
    return wide[..., ::2]


def transposed(t: torch.Tensor) -> torch.Tensor:
    """The same values, first dimension fastest, behind one element that is not theirs."""
    moved = t.transpose(0, -1) if t.dim() else t
    memory = t.new_full((t.numel() + 1,), -1)[1:].view(moved.shape)
    memory.copy_(moved)
    return memory.transpose(0, -1) if t.dim() else memory


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
    for case in cases_of(op, run):
        args = case.torch_args(op, run.device)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        before = [t.clone() for t in tensors]
        with run.active():
            got = OPS[op].torch_op(*args)
        for t, old in zip(tensors, before, strict=True):
            assert same_bits(t, old), case.name
            apart = got.untyped_storage().data_ptr() != t.untyped_storage().data_ptr()
            assert apart or got.numel() == 0, case.name


def checked_places(op: str, device: str) -> Iterator[tuple[list[Any], torch.Tensor]]:
    """Arguments of small cases, with each tensor whose elements the op must check."""
    names = [argument.name for argument in OPS[op].torch_op._schema.arguments]
    for case, wanted in answers(op):
        if case.large or wanted.numel() == 0:  # an empty result is made of no value
            continue
        args = case.torch_args(op, device)
        for place, name in enumerate(names):
            checked = isinstance(args[place], torch.Tensor) and name != "key"
            if checked and 0 < args[place].numel() < 700:
                changed = list(args)
                changed[place] = args[place].clone()
                yield changed, changed[place]


@EVERY_RUN
def test_values_outside_the_domain_are_refused(op: str, run: Run) -> None:
    places = list(checked_places(op, run.device))
    if run.interpreted:
        places = places[:: max(1, len(places) // 5)]
    for args, tensor in places:
        floats = tensor.dtype == torch.float32
        modulus = next(a for a in args if isinstance(a, int) and a > 2**30)
        bad = (float("nan"), float("inf"), -float("inf")) if floats else (modulus, -1, -(2**31))
        flat = tensor.view(-1)
        for number, value in enumerate(bad):
            place = (0, flat.numel() // 2, flat.numel() - 1)[number]
            kept = flat[place].clone()
            flat[place] = value
            words = "NaN or infinite" if floats else r"outside \[0, "
            with pytest.raises(ArgumentError, match=words), run.active():
                OPS[op].torch_op(*args)
            flat[place] = kept
        with run.active():  # the fault is not remembered
            OPS[op].torch_op(*args)


@ON_DEVICES
@EVERY_OP
def test_fake_gives_the_real_shape_dtype_stride_and_device(op: str, device: str) -> None:
    for case, wanted in answers(op):
        if case.large:
            continue
        args = case.torch_args(op, device)
        changed = [transposed(a) if isinstance(a, torch.Tensor) else a for a in args]
        for inputs in (args, changed):
            with FakeTensorMode() as mode:
                fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in inputs]
                fake = OPS[op].torch_op(*fakes)
            assert (fake.shape, fake.dtype) == (wanted.shape, wanted.dtype), case.name
            for backend in runnable(op, device):
                if backend == "triton" and device == "cpu":
                    continue  # its outputs are allocated as on CUDA, and check_cases looks at them
                with pyfed.use_backend(backend):
                    real = OPS[op].torch_op(*inputs)
                assert (fake.stride(), fake.device.type) == (real.stride(), device), case.name


def few_cases(op: str) -> list[Case]:
    """Two small cases that differ in kind: the first with work, and the last."""
    small = [c for c, wanted in answers(op) if not c.large and wanted.numel() > 1]
    return [small[0], small[-1]]


@ON_DEVICES
@EVERY_OP
def test_opcheck_finds_nothing(op: str, device: str) -> None:
    for case in few_cases(op):
        torch.library.opcheck(OPS[op].torch_op, case.torch_args(op, device))


@ON_DEVICES
@EVERY_OP
def test_compiles_as_one_graph_through_the_public_function(op: str, device: str) -> None:
    """Keys and fields are arguments of the compiled function; the key is as good as new."""

    def calls(*args: Any, **kwargs: Any) -> torch.Tensor:
        return public(op)(*args, **kwargs).clone()

    for case in few_cases(op):
        torch._dynamo.reset()
        compiled = torch.compile(calls, fullgraph=True, backend="aot_eager")
        args, kwargs = case.on(op, device)
        args = tuple(Key(a.reveal()) if isinstance(a, Key) else a for a in args)
        if kwargs.get("key"):
            kwargs["key"] = Key(KEY.reveal())
        assert same_bits(compiled(*args, **kwargs), expected(op, case)), case.name
    pyfed.check()


@ON_DEVICES
@EVERY_OP
def test_inputs_that_require_grad_never_give_a_wrong_gradient(op: str, device: str) -> None:
    """Rounding refuses them; all other ops take integers, which cannot require grad."""
    for case in few_cases(op):
        args, kwargs = case.on(op, device)
        floats = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        assert bool(floats) == (op == "quantize")
        if floats:
            floats[0].requires_grad_()
            with pytest.raises(ArgumentError, match=r"require grad.*detach"):
                public(op)(*args, **kwargs)
            with torch.no_grad():
                got = public(op)(*args, **kwargs)
            floats[0].requires_grad_(False)
        else:
            got = public(op)(*args, **kwargs)
        assert same_bits(got, expected(op, case))
        assert not got.requires_grad


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
    fastest = "cuda" if device == "cuda" else "cpu"
    assert [b for b, text in told.items() if text == "runs"] == [fastest]
    assert told["reference"] == "could run, but is not chosen"
    for backend in runnable(op, device):
        with pyfed.use_backend(backend):
            assert f"{op}: {backend}: runs" in public(op).explain(*args, **kwargs).splitlines()
    with pyfed.use_backend("cuda" if device == "cpu" else "cpu"):
        assert ": runs" not in public(op).explain(*args, **kwargs)


@pytest.mark.gpu
@EVERY_OP
def test_tensors_on_two_devices_are_refused(op: str) -> None:
    args = list(CASES[op][-1].torch_args(op, "cpu"))
    tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
    if len(tensors) == 1:  # nothing to differ from
        assert op in ("random_words", "random_residues", "dequantize")
        return
    args[tensors[-1]] = args[tensors[-1]].to("cuda")
    with pytest.raises(ArgumentError, match=r"are on cpu, cuda:0; they must be on one device"):
        OPS[op].torch_op(*args)


@EVERY_OP
def test_the_torch_op_takes_the_key_as_a_tensor_only(op: str) -> None:
    """An int[] key would be written to the compiler's cache files."""
    schema = OPS[op].torch_op._schema
    keys = [str(argument.type) for argument in schema.arguments if argument.name == "key"]
    assert keys in ([], ["Tensor"], ["Optional[Tensor]"])
    case = next(c for c in CASES[op] if KEY in (*c.args, *c.kwargs.values()) or not keys)
    assert bytes(KEY.reveal()) not in [a for a in case.torch_args(op, "cpu") if a is not None]
