"""The gradient of adapters: gradcheck, PEFT's layers one after the other, the compiler."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from case import KEY
from contract import same_bits
from lora_layer import COUNTS, INS, OUTS, RANK, layer, of_client, trained
from pyfed.ops import lora_linear
from runs import Run, runs_of

LORA_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("lora_linear"))


@pytest.mark.parametrize(("op", "run"), runs_of("lora_linear", oracle=True))
def test_each_client_is_a_layer_of_peft(op: str, run: Run) -> None:
    """Output and gradients of N layers, one after the other, with PEFT's own arithmetic."""
    import peft

    base = nn.Sequential(nn.Linear(INS, OUTS))
    config = peft.LoraConfig(r=RANK, lora_alpha=9, target_modules=["0"], use_rslora=True)
    model = peft.get_peft_model(base, config)
    adapted = model.base_model.model[0]
    down, up = adapted.lora_A.default.weight, adapted.lora_B.default.weight
    given = layer(torch.float32)
    given |= {"dropout": 0.0, "key": None, "scale": adapted.scaling["default"]}
    grad = torch.randn(sum(COUNTS), OUTS)
    plain = adapted.base_layer(given["x"]).detach()
    with run.active():
        found = trained({**given, "base_out": plain}, grad)
    for number in (0, 2, 3):
        mine = given["client"] == number
        down.data.copy_(given["a"][number])
        up.data.copy_(given["b"][number])
        x = given["x"][mine].clone().requires_grad_()
        out = adapted(x)
        own = of_client(found, number)
        torch.testing.assert_close(own["out"], out.detach(), rtol=1e-5, atol=1e-5)
        dx, da, db = torch.autograd.grad(out, (x, down, up), grad[mine])
        through_base = grad[mine] @ adapted.base_layer.weight.detach()
        torch.testing.assert_close(own["dx"] + through_base, dx, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own["da"], da, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own["db"], db, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.05, 0.3])
def test_gradcheck_in_float64(dropout: float) -> None:
    given = layer(torch.float64)
    given |= {"dropout": dropout, "key": KEY if dropout else None}
    leaves = [given[n].requires_grad_() for n in ("x", "base_out", "a", "b")]
    rest = {n: given[n] for n in ("scale", "client", "dropout", "key", "stream")}

    def run(*leaves: torch.Tensor) -> torch.Tensor:
        return lora_linear(*leaves, **rest)

    assert torch.autograd.gradcheck(run, leaves, nondet_tol=0.0, fast_mode=True)


@LORA_RUNS
def test_gradients_that_nobody_asks_for_change_nothing(op: str, run: Run) -> None:
    """A frozen input, or B alone: what is asked for has the bits that it has among all."""
    given = layer(torch.float32, run.device)
    grad = torch.randn(sum(COUNTS), OUTS, device=run.device)
    with run.active():
        every = trained(given, grad)
        for name, right in (("x", "dx"), ("base_out", "dbase"), ("a", "da"), ("b", "db")):
            leaf = given[name].clone().requires_grad_()
            lora_linear(**{**given, name: leaf}).backward(grad)
            assert same_bits(leaf.grad, every[right]), name  # type: ignore[arg-type]
        assert not lora_linear(**given).requires_grad


def test_the_gradient_is_not_differentiable_and_says_so() -> None:
    given = layer(torch.float32)
    x = given["x"].requires_grad_()
    (grad,) = torch.autograd.grad(lora_linear(**given).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="lora_linear: its gradient is not differentiable"):
        grad.sum().backward()


def test_training_steps_compile_with_their_gradient() -> None:
    """Forward and backward in one graph, on the kernels that the device has."""
    given = layer(torch.float32)
    rest = {n: given[n] for n in ("scale", "client", "dropout", "key", "stream")}

    def loss(*leaves: torch.Tensor) -> torch.Tensor:
        return lora_linear(*leaves, **rest).square().sum()

    leaves = [given[n].requires_grad_() for n in ("x", "base_out", "a", "b")]
    plain = torch.autograd.grad(loss(*leaves), leaves)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for one, other in zip(torch.autograd.grad(compiled(*leaves), leaves), plain, strict=True):
        assert same_bits(one, other)
