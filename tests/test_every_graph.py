"""The contract of every op with autograd and the compiler, on a few of the inputs of ``cases.py``.

That of values is in ``test_every_op.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import pyfed
from bounds import BOUNDS
from case import GRADIENTS, KEY, prepared, public, tensors_in, with_tensors
from contract import (
    answers,
    cases_of,
    expected,
    few_cases,
    fits,
    outcome,
    same_bits,
    transposed,
    written_by,
)
from pyfed import Key
from pyfed.errors import ArgumentError
from pyfed.op import OPS
from runs import DEVICES, Run, runnable, runs_of

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)
EVERY_OP = pytest.mark.parametrize("op", OPS)
# What a message tells the caller to do; mask_select looks at the values alone, its result is bool.
ADVICE = {
    **dict.fromkeys(
        ("quantize", "quantize_encode", "quantize_mask", "masked_mean", "weighted_mean"), "detach"
    ),
    **{op: "no_grad" for op in OPS if OPS[op].written and op != "add_masks_"},
}
WITHOUT_ADVICE = ("mask_select",)
DIFFERENTIABLE = ("counter_dropout", "lora_linear", "sketch")


@ON_DEVICES
@EVERY_OP
def test_fake_gives_the_real_shape_dtype_stride_and_device(op: str, device: str) -> None:
    for case, wanted in answers(op):
        if case.large:
            continue
        args = case.torch_args(op, device)
        for inputs in (args, [with_tensors(a, transposed) for a in args]):
            with FakeTensorMode() as mode:
                fakes = tensors_in(
                    OPS[op].torch_op(*(with_tensors(a, mode.from_tensor) for a in inputs))
                )
            shapes = [(one.shape, one.dtype) for one in fakes]
            rights = [getattr(right, "low", right) for right in wanted[: len(fakes)]]
            assert shapes == [(one.shape, one.dtype) for one in rights], case.name
            for backend in runnable(op, device):
                if backend == "triton" and device == "cpu":
                    continue  # its outputs are allocated as on CUDA, and check_cases looks at them
                with pyfed.use_backend(backend):
                    reals = tensors_in(OPS[op].torch_op(*inputs))
                for fake, real in zip(fakes, reals, strict=True):
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

    def calls(*args: Any, **kwargs: Any) -> list[torch.Tensor]:
        if op in GRADIENTS:
            return [t.clone() for t in OPS[op].torch_op(*prepared(op, *args, **kwargs))]
        result = public(op)(*args, **kwargs)
        return [t.clone() for t in (result if isinstance(result, list) else [result])]

    for case in few_cases(op):
        torch._dynamo.reset()
        compiled = torch.compile(calls, fullgraph=True, backend="aot_eager")
        args, kwargs = case.on(op, device)
        args = tuple(Key(a.reveal()) if isinstance(a, Key) else a for a in args)
        if kwargs.get("key"):
            kwargs["key"] = Key(KEY.reveal())
        wanted = expected(op, case)
        for one, right in zip(compiled(*args, **kwargs), wanted, strict=False):
            assert fits(one, right), case.name
        written = written_by(op, args)
        for one, right in zip(written, wanted[len(wanted) - len(written) :], strict=True):
            assert fits(one, right), case.name
    pyfed.check()


def float_tensors(values: Any) -> list[torch.Tensor]:
    """The tensors of floats among arguments, and in lists among them."""
    if isinstance(values, torch.Tensor):
        return [values] if values.is_floating_point() else []
    if isinstance(values, list | tuple):
        return [t for value in values for t in float_tensors(value)]
    return []


@ON_DEVICES
@pytest.mark.parametrize("op", [op for op in OPS if op not in (*DIFFERENTIABLE, *GRADIENTS)])
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
        for one, right in zip(tensors_in(got), wanted, strict=False):
            assert fits(one.detach(), right), case.name
            assert not one.requires_grad or one is args[0], case.name
        written = written_by(op, args)[: len(first)]
        for t, after in zip(written, wanted[len(wanted) - len(OPS[op].written) :], strict=False):
            assert fits(t.detach(), after), case.name
        seen = seen or bool(first or others)
    assert seen == (op in (*ADVICE, *WITHOUT_ADVICE))


@pytest.mark.parametrize(("op", "run"), [p for op in DIFFERENTIABLE for p in runs_of(op)])
def test_the_gradient_of_a_differentiable_op_is_right(op: str, run: Run) -> None:
    """That of dropout is dropout of the gradient, that of a sketch the transposed one.

    That of adapters is checked by their oracle.
    """
    for case in cases_of(op, run):
        args, kwargs = case.on(op, run.device)
        inputs = float_tensors(list(args))[: 4 if op == "lora_linear" else 1]
        for t in inputs:
            t.requires_grad_()
        with run.active():
            results = tensors_in(OPS[op].torch_op(*prepared(op, *args, **kwargs)))
            grad = torch.randn(results[0].shape).to(results[0])
            results[0].backward(grad)
        plain, kwargs = case.on(op, "cpu")
        if op == "counter_dropout":
            with pyfed.use_backend("reference"):
                wanted = outcome(op, prepared(op, grad.cpu(), *plain[1:], **kwargs))
        elif op == "sketch":
            there = {**kwargs, "noise_std": 0.0, "transpose": not kwargs.get("transpose", False)}
            wanted = BOUNDS[op](grad.cpu(), plain[0].shape[-2], *plain[2:], **there)
        else:
            kept = grad.cpu(), results[1].detach().cpu()
            wanted = BOUNDS[f"{op}_backward"](*kept, *plain, **kwargs)
            assert not results[1].requires_grad, case.name
            assert same_bits(args[1].grad, grad), case.name
            inputs = [args[0], *args[2:4]]
        for t, right in zip(inputs, wanted, strict=True):
            assert fits(t.grad, right), case.name


@ON_DEVICES
@pytest.mark.parametrize("op", (*DIFFERENTIABLE, *GRADIENTS))
def test_a_derivative_of_forward_mode_is_refused(op: str, device: str) -> None:
    """For each argument that has a gradient; those without a tangent serve inside all the same."""
    for case in few_cases(op):
        args = case.torch_args(op, device)
        places = [i for i, a in enumerate(args) if float_tensors(a)]
        for place in places if op in GRADIENTS else places[: 4 if op == "lora_linear" else 1]:
            x = args[place].detach()

            def call(one: torch.Tensor) -> Any:
                return OPS[op].torch_op(*args[:place], one, *args[place + 1 :])  # noqa: B023

            plain = tensors_in(call(x))
            with pytest.raises(ArgumentError, match=f"^{op}: .* forward-mode derivative"):
                torch.func.jvp(call, (x,), (torch.ones_like(x),))
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(x, torch.ones_like(x))
                with pytest.raises(ArgumentError, match=f"^{op}: .* forward-mode derivative"):
                    call(dual)
                assert all(map(same_bits, tensors_in(call(x)), plain))


@pytest.mark.parametrize("op", GRADIENTS)
def test_a_gradient_of_a_gradient_is_refused(op: str) -> None:
    args = few_cases(op)[0].torch_args(op, "cpu")
    for t in float_tensors(list(args)):
        t.requires_grad_()
        results = tensors_in(OPS[op].torch_op(*args))
        with pytest.raises(RuntimeError, match="its gradient is not differentiable"):
            results[0].sum().backward()
        t.requires_grad_(False)


@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].written])
def test_autograd_notices_an_argument_that_is_written(op: str) -> None:
    """A product that needs the weight as it was refuses to go backward once it is overwritten."""
    for case in few_cases(op):
        args = case.torch_args(op, "cpu")
        for weight in written_by(op, args):
            if not weight.is_floating_point():
                before = weight._version
                outcome(op, args)
                assert weight._version > before
                continue
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
        assert all(map(fits, got, expected(op, case)))
