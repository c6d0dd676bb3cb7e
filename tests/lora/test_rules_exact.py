"""FLoRA, FedEx-LoRA, FFA, RoLoRA and FedSVD lose nothing, measured by PEFT's own products."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from torch import nn

from lora.peft_models import (
    BASES,
    adapted,
    base_weights,
    config_of,
    deltas,
    fleet,
    load,
    lora_config,
    mean_delta,
    relative,
    states,
    wrapped,
)
from pyfed.lora import AggregateResult, aggregate, merge_residual_, residual_adapter

WEIGHTS = [1, 2, 5]
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}


def after_round(model: nn.Module, out: AggregateResult) -> dict[str, torch.Tensor]:
    """How much each adapted weight, base and adapter together, has moved from the bare base."""
    model = copy.deepcopy(model)
    before = base_weights(model)
    if out.reset:
        for layer in adapted(model).values():
            for b in (*layer.lora_B.values(), *layer.lora_embedding_B.values()):
                (b.weight if isinstance(b, nn.Linear) else b).data.zero_()
    load(model, out.shared)
    merge_residual_(model, out.residual)
    after, own = base_weights(model), deltas(model)
    return {name: after[name] - before[name] + own[name] for name in own}


def assert_exact(models: list[nn.Module], out: AggregateResult, weights: list[Any]) -> None:
    dtype = next(models[0].parameters()).dtype
    wanted = mean_delta(models, weights)
    found = after_round(models[0], out)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert relative(found[name], wanted[name]) < EXACT[dtype], name


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", BASES)  # square and rectangular Linear, and Conv1D
@pytest.mark.parametrize("rule", ["flora", "fedex"])
def test_the_sum_of_products_is_exact(
    rule: str, family: str, rslora: bool, dtype: torch.dtype
) -> None:
    models = fleet(family, 3, lora_config(family, use_rslora=rslora), dtype)
    out = aggregate(states(models), WEIGHTS, rule, config_of(models[0]))
    assert_exact(models, out, WEIGHTS)


def test_means_alone_are_far_from_the_sum_of_products() -> None:
    models = fleet()
    out = aggregate(states(models), WEIGHTS, "fedit", config_of(models[0]))
    wanted, found = mean_delta(models, WEIGHTS), after_round(models[0], out)
    assert min(relative(found[name], wanted[name]) for name in wanted) > 0.3


def test_stacking_takes_mixed_ranks_and_scalings() -> None:
    configs = [
        lora_config(r=2, lora_alpha=3),
        lora_config(r=4, lora_alpha=16, use_rslora=True),
        lora_config(r=6, lora_alpha=5, rank_pattern={"value": 3}, alpha_pattern={"1.*query": 9}),
    ]
    models = fleet(configs=configs)
    own = [config_of(model) for model in models]
    out = aggregate(states(models), WEIGHTS, "flora", own)
    assert out.reset and out.residual["bert.encoder.layer.0.attention.self.query"].rank == 12
    assert out.residual["bert.encoder.layer.1.attention.self.value"].rank == 9
    for model in models:
        assert_exact([model, *(m for m in models if m is not model)], out, _turned(models, model))


def _turned(models: list[nn.Module], first: nn.Module) -> list[int]:
    order = [first, *(m for m in models if m is not first)]
    return [WEIGHTS[models.index(model)] for model in order]


@pytest.mark.parametrize("rule", ["flora", "fedex"])
def test_embeddings_are_changed_in_their_own_form(rule: str) -> None:
    models = fleet(configs=[lora_config(target_modules=["word_embeddings", "query"])] * 3)
    out = aggregate(states(models), WEIGHTS, rule, config_of(models[0]))
    assert out.residual["bert.embeddings.word_embeddings"].kind == "embedding"
    assert_exact(models, out, WEIGHTS)


@pytest.mark.parametrize("rule", ["flora", "fedex"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_adapters_lose_nothing_on_a_float32_base(rule: str, dtype: torch.dtype) -> None:
    models = fleet()
    for model in models:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype).float()
    given = [{key: value.to(dtype) for key, value in state.items()} for state in states(models)]
    out = aggregate(given, WEIGHTS, rule, config_of(models[0]))
    assert all(change.a.dtype == torch.float32 for change in out.residual.values())
    assert_exact(models, out, WEIGHTS)  # though the shared means are rounded to 16 bits


def test_the_centred_residual_is_the_difference_it_stands_for() -> None:
    models = fleet(dtype=torch.float64)
    given = states(models)
    out = aggregate(given, WEIGHTS, "fedex", config_of(models[0]))
    shares = torch.tensor(WEIGHTS).double() / sum(WEIGHTS)
    for module, change in out.residual.items():
        key = f"base_model.model.{module}.lora_%s.weight"
        a = torch.stack([state[key % "A"] for state in given])
        b = torch.stack([state[key % "B"] for state in given])
        mean_a, mean_b = (torch.einsum("c,cxy->xy", shares, t) for t in (a, b))
        wanted = 2 * (torch.einsum("c,cor,cri->oi", shares, b, a) - mean_b @ mean_a)
        assert relative(change.dense(), wanted) < 1e-12
        assert float(change.norm()) == pytest.approx(float(wanted.norm()), rel=1e-12)


@pytest.mark.parametrize(("rule", "number"), [("ffa", 0), ("rolora", 1), ("rolora", 0)])
def test_a_frozen_half_makes_the_mean_exact(rule: str, number: int) -> None:
    models = fleet(dtype=torch.float64)
    frozen = "lora_A" if rule == "ffa" or number == 0 else "lora_B"
    for model in models[1:]:
        for layer, like in zip(adapted(model).values(), adapted(models[0]).values(), strict=True):
            getattr(layer, frozen)["default"].weight.data = getattr(like, frozen)[
                "default"
            ].weight.data.clone()
    out = aggregate(states(models), WEIGHTS, rule, config_of(models[0]), round=number)
    assert not any(frozen in key for key in out.shared)
    assert_exact(models, out, WEIGHTS)


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("whole", [False, True])
def test_fedsvd_keeps_the_product_and_makes_rows_orthonormal(family: str, whole: bool) -> None:
    models = fleet(family, dtype=torch.float64)
    given = states(models)
    previous = {key: value for key, value in given[0].items() if "lora_A" in key}
    given = [state | previous for state in given]
    for model in models:
        load(model, previous)
    if not whole:  # what clients send under this rule
        given = [{k: v for k, v in state.items() if "lora_A" not in k} for state in given]
    out = aggregate(given, WEIGHTS, "fedsvd", config_of(models[0]), previous=previous)
    assert_exact(models, out, WEIGHTS)
    for key, a in out.shared.items():
        if "lora_A" in key:
            assert torch.allclose(a @ a.T, torch.eye(4).double(), atol=1e-12)


def test_fedsvd_gives_orthonormal_rows_before_anything_is_learnt() -> None:
    models = fleet(clients=2)
    previous = {k: v for k, v in states(models)[0].items() if "lora_A" in k}
    given = [
        {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in state.items()} | previous
        for state in states(models)
    ]
    out = aggregate(given, rule="fedsvd", previous=previous)
    for key, value in out.shared.items():
        if "lora_B" in key:
            assert not value.any()
        elif "lora_A" in key:
            assert torch.allclose(value @ value.T, torch.eye(4), atol=1e-6)


@pytest.mark.parametrize(("outs", "ins"), [(3, 20), (20, 3), (2, 2), (8, 8)])
def test_fedsvd_of_a_rank_above_the_layer_keeps_the_product(outs: int, ins: int) -> None:
    name = "base_model.model.layer.lora_%s.weight"
    previous = {name % "A": torch.randn(8, ins, dtype=torch.float64)}
    b = [torch.randn(outs, 8, dtype=torch.float64) for _ in range(2)]
    out = aggregate([{name % "B": own} for own in b], rule="fedsvd", previous=previous).shared
    a, wanted = out[name % "A"], (b[0] + b[1]) / 2 @ previous[name % "A"]
    assert a.shape == (8, ins) and relative(out[name % "B"] @ a, wanted) < 1e-12
    rows = min(8, ins)  # as many as can be orthonormal
    assert torch.allclose(a[:rows] @ a[:rows].T, torch.eye(rows).double(), atol=1e-12)
    assert not a[rows:].any()


def test_the_stack_is_an_ordinary_adapter() -> None:
    configs = [lora_config(r=2, rank_pattern={"value": 5}), lora_config(r=4, lora_alpha=1)]
    models = fleet(configs=configs)
    out = aggregate(states(models), [3, 1], "flora", configs, heads="local")
    state, fields = residual_adapter(out.residual)
    stacked = wrapped(models[0].unload(), peft.LoraConfig(**fields), seed=3)
    assert set(peft.get_peft_model_state_dict(stacked)) == set(state)
    load(stacked, state)
    models = fleet(configs=configs)
    wanted, found = mean_delta(models, [3, 1]), deltas(stacked)
    assert all(relative(found[name], wanted[name]) < 1e-6 for name in wanted)
