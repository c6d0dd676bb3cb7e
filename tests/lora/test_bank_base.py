"""Frozen linear layers of a base on a CPU give what PyTorch gives, and see what is merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora.bank_clients import adapted, bank_of, labelled
from lora.peft_models import bert, lora_config
from pyfed.lora.bank_base import frozen_linears

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="oneDNN is used with AVX-512 alone"
)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


@pytest.mark.parametrize("build", [nn.Linear, lambda i, o: Conv1D(o, i)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (5,), (0, 5), (2, 1, 1, 5)])
def test_outputs_and_gradients_are_pytorchs(build: Any, bias: bool, shape: Any) -> None:
    torch.manual_seed(11)
    layer = build(5, 9)
    if not bias and isinstance(layer, Conv1D):
        nn.init.zeros_(layer.bias)
    elif not bias:
        layer.bias = None
    ((module, forward),) = frozen_linears(nn.Sequential(frozen(layer)), set())
    assert module is layer
    inputs = [torch.randn(shape), torch.randn(shape).flip(0), torch.randn(*shape, 2)[..., 0]]
    for x in inputs:
        given = [x.clone().requires_grad_() if x.is_contiguous() else x for _ in range(2)]
        given = [one.detach().requires_grad_() for one in given]
        outs = [layer(given[0]), forward(given[1])]
        torch.testing.assert_close(outs[1], outs[0], rtol=1e-6, atol=1e-6)
        up = torch.randn_like(outs[0])
        slopes = [torch.autograd.grad(o, g, up)[0] for o, g in zip(outs, given, strict=True)]
        torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-6, atol=1e-6)


def test_only_plain_frozen_float32_layers_are_taken() -> None:
    class Own(nn.Linear):
        """A subclass may do anything."""

    replaced = frozen(nn.Linear(2, 2))
    vars(replaced)["forward"] = replaced.forward
    plain, head = frozen(nn.Linear(2, 2)), frozen(nn.Linear(2, 2))
    others = [nn.Linear(2, 2), frozen(nn.Linear(2, 2).double()), frozen(Own(2, 2)), replaced, head]
    found = frozen_linears(nn.ModuleList([plain, *others]), {id(head)})
    assert [module for module, _ in found] == [plain]
    with torch.backends.mkldnn.flags(enabled=False):
        assert frozen_linears(plain, set()) == []


def test_autocast_and_other_dtypes_go_the_plain_way() -> None:
    layer = frozen(nn.Linear(4, 4))
    ((_, forward),) = frozen_linears(layer, set())
    x = torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert forward(x).dtype == torch.bfloat16
    assert torch.equal(forward(input=x), layer(x))
    with pytest.raises(RuntimeError, match="dtype"):
        forward(x.double())


def test_changes_of_the_base_are_seen_at_once() -> None:
    bank = bank_of(adapted(bert(), lora_config()), 1)
    batch: Any = labelled((2,))[0]
    before = bank.predict(batch, 0)
    with torch.no_grad():
        bank.model.get_base_model().bert.pooler.dense.weight.zero_()
    assert not torch.equal(bank.predict(batch, 0), before)
