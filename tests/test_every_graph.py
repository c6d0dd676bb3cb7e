"""The contract of every op with autograd and the compiler, on a few of the inputs of ``cases.py``.

That of values is in ``test_every_op.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import pyfed
from case import KEY, public
from contract import answers, expected, few_cases, outcome, same_bits, transposed
from pyfed import Key
from pyfed.errors import ArgumentError
from pyfed.op import OPS
from runs import DEVICES, runnable

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)
EVERY_OP = pytest.mark.parametrize("op", OPS)
# What a message tells the caller to do; mask_select looks at the values alone, its result is bool.
ADVICE = {"quantize": "detach", "masked_mean": "detach", "mask_prune_": "no_grad"}
WITHOUT_ADVICE = ("mask_select",)


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
            assert (fake.shape, fake.dtype) == (wanted[0].shape, wanted[0].dtype), case.name
            for backend in runnable(op, device):
                if backend == "triton" and device == "cpu":
                    continue  # its outputs are allocated as on CUDA, and check_cases looks at them
                with pyfed.use_backend(backend):
                    real = OPS[op].torch_op(*inputs)
                assert (fake.stride(), fake.device.type) == (real.stride(), device), case.name


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
        wanted = expected(op, case)
        assert same_bits(compiled(*args, **kwargs), wanted[0]), case.name
        for place, after in zip(OPS[op].written, wanted[1:], strict=True):
            assert same_bits(args[place], after), case.name
    pyfed.check()


def float_tensors(values: Any) -> list[torch.Tensor]:
    """The tensors of floats among arguments, and in lists among them."""
    if isinstance(values, torch.Tensor):
        return [values] if values.is_floating_point() else []
    if isinstance(values, list | tuple):
        return [t for value in values for t in float_tensors(value)]
    return []


@ON_DEVICES
@EVERY_OP
def test_inputs_that_require_grad_never_give_a_wrong_gradient(op: str, device: str) -> None:
    """They are refused, or the result is bool; ops that take integers alone have none."""
    seen = False
    for case, wanted in answers(op):
        if case.large:
            continue
        args, kwargs = case.on(op, device)
        first, others = float_tensors(list(args))[:1], float_tensors(list(kwargs.values()))
        for t in (*first, *others):
            t.requires_grad_()
        if first and op in ADVICE:
            with pytest.raises(ArgumentError, match=rf"requires? grad.*{ADVICE[op]}"):
                public(op)(*args, **kwargs)
            with torch.no_grad():
                got = public(op)(*args, **kwargs)
        else:
            got = public(op)(*args, **kwargs)
        assert same_bits(got, wanted[0]), case.name
        assert not got.requires_grad, case.name
        for t, after in zip(first if OPS[op].written else [], wanted[1:], strict=True):
            assert same_bits(t.detach(), after), case.name
        seen = seen or bool(first or others)
    assert seen == (op in (*ADVICE, *WITHOUT_ADVICE))


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].written])
def test_autograd_notices_an_argument_that_is_written(op: str) -> None:
    """A product that needs the weight as it was refuses to go backward once it is overwritten."""
    for case in few_cases(op):
        args = case.torch_args(op, "cpu")
        for place in OPS[op].written:
            weight = args[place]
            x = torch.ones_like(weight, requires_grad=True)
            product = (weight * x).sum()
            outcome(op, args)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].written])
def test_ops_that_write_serve_in_inference_mode(op: str) -> None:
    for case in few_cases(op):
        with torch.inference_mode():
            got = outcome(op, case.torch_args(op, "cpu"))
        assert all(map(same_bits, got, expected(op, case)))
