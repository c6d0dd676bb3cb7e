"""Merging adapters: PEFT's own merge, one rounding for any number of clients, and Conv1D."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from contract import fits, memory_of, same_bits, with_content
from lora_cases import DTYPES
from lora_oracles import lora_merge_ as bounds
from lora_oracles import wide
from pyfed import use_backend
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import lora_merge_
from runs import Run, runs_of

MERGE_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("lora_merge_"))


def factors(
    outs: int, ins: int, rank: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(rank, ins, dtype=dtype), torch.randn(outs, rank, dtype=dtype)
    return a.to(device), b.to(device)


def layer_of(kind: str, ins: int, outs: int) -> nn.Module:
    if kind == "Linear":
        return nn.Linear(ins, outs)
    from transformers.pytorch_utils import Conv1D

    return Conv1D(outs, ins)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("ins", "outs"), [(24, 24), (24, 40)])
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
@pytest.mark.parametrize(("op", "run"), runs_of("lora_merge_", oracle=True))
def test_it_is_pefts_merge(op: str, run: Run, kind: str, ins: int, outs: int, rslora: bool) -> None:
    """Of square weights too, where a transpose would go unnoticed."""
    import peft

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer_of(kind, ins, outs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layer(x)
            return result

    config = peft.LoraConfig(
        r=4,
        lora_alpha=7,
        target_modules=["layer"],
        use_rslora=rslora,
        fan_in_fan_out=kind != "Linear",
    )
    model = peft.get_peft_model(Model(), config)
    adapted = model.base_model.model.layer
    a, b = adapted.lora_A.default.weight, adapted.lora_B.default.weight
    with torch.no_grad():
        b.normal_()
    weight = adapted.base_layer.weight.detach().clone()
    with run.active(), torch.no_grad():
        lora_merge_(weight, a, b, adapted.scaling["default"], kind == "Conv1D")
    right = bounds(adapted.base_layer.weight, a, b, adapted.scaling["default"], kind == "Conv1D")
    adapted.merge()
    assert fits(weight, right[0])
    torch.testing.assert_close(weight, adapted.base_layer.weight.data, rtol=2e-6, atol=2e-6)
    x = torch.randn(3, ins)
    again = x @ (weight.T if kind == "Linear" else weight) + adapted.base_layer.bias
    torch.testing.assert_close(again, model(x), rtol=1e-5, atol=1e-5)


@MERGE_RUNS
def test_stacked_clients_are_added_in_one_rounding(op: str, run: Run) -> None:
    """To the nearest number of the dtype; one client after the other drifts away."""
    clients, rank, outs, ins = 5, 3, 14, 18
    for dtype in DTYPES[1:]:
        pairs = [factors(outs, ins, rank, run.device) for _ in range(clients)]
        weights = torch.linspace(0.1, 0.3, clients)
        base = (4 * torch.randn(outs, ins)).to(dtype).to(run.device)
        exact = wide(base.cpu()) + sum(
            w * wide((b @ a).cpu())
            for w, (a, b) in zip(weights.double().numpy(), pairs, strict=True)
        )
        together, one_by_one = base.clone(), base.clone()
        stacked = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)
        with run.active():
            lora_merge_(together, *stacked, weights.repeat_interleave(rank).to(run.device))
            for w, (a, b) in zip(weights.tolist(), pairs, strict=True):
                lora_merge_(one_by_one, a, b, w)
        off = [
            float((t.cpu().double() - torch.from_numpy(exact)).abs().max())
            for t in (together, one_by_one)
        ]
        nearest = torch.from_numpy(exact).to(torch.float32).to(dtype)
        assert float((together.cpu() == nearest).double().mean()) > 0.99
        assert off[0] < 0.7 * off[1]


@MERGE_RUNS
def test_the_order_of_the_clients_matters_by_rounding_alone(op: str, run: Run) -> None:
    a, b = factors(9, 17, 12, run.device)
    base, scale = torch.randn(9, 17, device=run.device), torch.rand(12, device=run.device)
    right = bounds(base.cpu(), a.cpu(), b.cpu(), scale.cpu())[0]
    for order in (torch.arange(12), torch.arange(11, -1, -1), torch.randperm(12)):
        order = order.to(run.device)
        merged = base.clone()
        with run.active():
            lora_merge_(merged, a[order], b[:, order], scale[order])
        assert fits(merged, right)


@MERGE_RUNS
def test_clients_of_weight_zero_change_no_bit(op: str, run: Run) -> None:
    a, b = factors(8, 21, 6, run.device)
    scale = torch.tensor([1.0, 0.5, 0, 0, -2.0, 0], device=run.device)
    base = torch.randn(8, 21, device=run.device)
    base[0, 0] = -0.0
    used = scale != 0
    with run.active():
        some = lora_merge_(base.clone(), a, b, scale)
        few = lora_merge_(base.clone(), a[used], b[:, used], scale[used])
        none = lora_merge_(base.clone(), a, b, 0.0)
    assert fits(some, bounds(base.cpu(), a.cpu(), b.cpu(), scale.cpu())[0])
    torch.testing.assert_close(some, few, rtol=1e-5, atol=1e-5)
    assert torch.equal(none, base)


@MERGE_RUNS
def test_a_transposed_weight_gets_the_transposed_bits(op: str, run: Run) -> None:
    """Of a square weight the factors alone do not tell which it is."""
    for outs, ins in ((7, 12), (16, 16)):
        a, b = factors(outs, ins, 5, run.device)
        base = torch.randn(outs, ins, device=run.device)
        flipped = base.T.contiguous()
        with run.active():
            lora_merge_(base, a, b, 0.3)
            assert lora_merge_(flipped, a, b, 0.3, transposed=True) is flipped
        torch.testing.assert_close(flipped.T, base, rtol=1e-6, atol=1e-6)


@MERGE_RUNS
def test_a_part_of_a_larger_weight_is_merged_in_place(op: str, run: Run) -> None:
    """As of a fused projection; what is around it stays."""
    for view in (
        lambda whole: whole[4:10, 3:16],
        lambda whole: whole[:, ::2][2:8, :13],
        lambda whole: whole.T[3:9, 5:18],
    ):
        for dtype in DTYPES:
            whole = torch.randn(30, 32, device=run.device).to(dtype)
            part = view(whole)
            before, memory = part.clone(), memory_of(part)
            a, b = factors(6, 13, 4, run.device)
            with run.active():
                assert lora_merge_(part, a, b, 0.25) is part
            assert fits(part, bounds(before.cpu(), a.cpu(), b.cpu(), 0.25)[0])
            assert torch.equal(memory_of(part), with_content(memory, part))


def test_float64_weights_are_merged_in_float64() -> None:
    a, b = factors(6, 9, 3, "cpu", torch.float64)
    base = torch.randn(6, 9, dtype=torch.float64)
    wanted = base + (b * 0.1) @ a
    got = lora_merge_(base.clone(), a, b, 0.1)
    torch.testing.assert_close(got, wanted, rtol=1e-15, atol=1e-15)
    mixed = lora_merge_(base.clone(), a.float(), b, 0.1)
    torch.testing.assert_close(mixed, base + (b * 0.1) @ a.float().double(), rtol=1e-15, atol=1e-15)
    with use_backend("reference"):
        assert same_bits(lora_merge_(base.clone(), a, b, 0.1), got)


def test_a_parameter_is_merged_without_a_graph() -> None:
    layer = nn.Linear(9, 6)
    a, b = factors(6, 9, 3, "cpu")
    wanted = lora_merge_(layer.weight.detach().clone(), a, b)
    with torch.no_grad():
        lora_merge_(layer.weight, a, b)
    assert same_bits(layer.weight.detach(), wanted)
    assert layer.weight.requires_grad and layer.weight.grad_fn is None


BASE, A, B = torch.randn(4, 3), torch.ones(2, 3), torch.ones(4, 2)
WHOLE = {"base": BASE, "a": A, "b": B}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"base": [1.0]}, DtypeError, "base is list; it must be a torch.Tensor"),
        ({"base": BASE.to(torch.int8)}, DtypeError, "base has dtype torch.int8; it must be torch."),
        ({"base": BASE[0]}, ArgumentError, r"base has 1 dimensions, shape \(3,\); it must have 2"),
        ({"a": 3}, DtypeError, "a is int; it must be a torch.Tensor"),
        ({"a": A.half()}, DtypeError, "a has dtype torch.float16; it must be torch.float32"),
        ({"b": B.double()}, DtypeError, "b has dtype torch.float64; it must be torch.float32"),
        (
            {"base": BASE.bfloat16(), "a": A.half()},
            DtypeError,
            "a has dtype torch.float16; it must be torch.bfloat16 or torch.float32",
        ),
        ({"b": B[0]}, ArgumentError, "b has 1 dimensions"),
        (
            {"a": A[:1]},
            ArgumentError,
            r"a has shape \(1, 3\) and b \(4, 2\); for base \(4, 3\) they",
        ),
        ({"a": A.T, "b": B.T}, ArgumentError, r"they must be \(R, 3\) and \(4, R\)"),
        (
            {"transposed": True},
            ArgumentError,
            r"for base \(4, 3\) transposed they must be \(R, 4\) and \(3, R\)",
        ),
        ({"transposed": 1}, DtypeError, "transposed is int; it must be a bool"),
        ({"scale": "1"}, DtypeError, "scale is str; it must be a float or a tensor"),
        ({"scale": True}, DtypeError, "scale is bool; it must be a float or a tensor"),
        ({"scale": torch.ones(3)}, ArgumentError, "scale has 3 elements; there are 2 ranks"),
        ({"scale": torch.ones(2, 1)}, ArgumentError, "scale has 2 dimensions"),
        ({"scale": torch.ones(2).int()}, DtypeError, "scale has dtype torch.int32; it must be"),
        ({"scale": math.nan}, ArgumentError, r"in scale 2 of 2 elements are NaN or infinite"),
        ({"scale": math.inf}, ArgumentError, r"in scale .* the first is inf at index \(0,\)"),
        ({"a": A * math.inf}, ArgumentError, r"in a 6 of 6 .* the first is inf at index \(0, 0\)"),
        ({"b": B * math.nan}, ArgumentError, r"in b 8 of 8 .* the first is nan at index \(0, 0\)"),
        (
            {"base": BASE.clone().requires_grad_()},
            ArgumentError,
            "base requires grad; call it under",
        ),
        ({"a": A.clone().requires_grad_()}, ArgumentError, "a requires grad, .*detach it"),
        ({"b": B.clone().requires_grad_()}, ArgumentError, "b requires grad, .*detach it"),
        (
            {"scale": torch.ones(2).requires_grad_()},
            ArgumentError,
            "scale requires grad, .*detach it",
        ),
        (
            {"base": BASE[:1].expand(4, 3)},
            ArgumentError,
            "base shows one number in memory at many places; give a copy of it",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name_and_nothing_is_changed(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {**WHOLE, **change}
    tensors = [t for t in given.values() if isinstance(t, torch.Tensor)]
    before = [(memory_of(t.detach()), t._version) for t in tensors]
    with pytest.raises(error, match=f"^lora_merge_: .*{words}"):
        lora_merge_(**given)
    for t, (memory, version) in zip(tensors, before, strict=True):
        assert torch.equal(memory_of(t.detach()), memory)
        assert t._version == version
