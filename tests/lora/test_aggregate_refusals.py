"""What cannot be combined is refused, by client and key, before anything is computed."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch

from lora.peft_models import bert, config_of, fleet, lora_config, states, vera_config, wrapped
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import aggregate
from pyfed.lora.rules import RULES

State = dict[str, torch.Tensor]
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"
A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
PRODUCTS = ["flora", "fedex", "flexlora", "hetlora"]


@functools.cache
def _given() -> list[State]:
    return states(fleet())


def given() -> list[State]:
    return [dict(state) for state in _given()]


def without(key: str) -> Callable[[State], Any]:
    return lambda state: state.pop(key)


def put(key: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], Any]:
    return lambda state: state.update({key: make(state[key])})


def poisoned(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return make


CLASSIFIER = "base_model.model.classifier.weight"
SPOILT: dict[str, tuple[Callable[[State], Any], str, type[Exception]]] = {
    "no B": (without(B), rf"adapters\[1\] has no B beside '{A}'", ArgumentError),
    "no A": (without(A), rf"adapters\[1\] has no A beside '{B}'", ArgumentError),
    "doubled": (
        lambda s: s.update({f"{QUERY}.lora_A.default.weight": s[A]}),
        r"adapters\[1\] holds .* which name one tensor",
        ArgumentError,
    ),
    "unknown": (
        lambda s: s.update({f"{QUERY}.lora_E": s[A]}),
        rf"adapters\[1\] holds the unknown key '{QUERY}.lora_E'",
        ArgumentError,
    ),
    "prefix": (
        lambda s: s.update({f"model.{A}": s.pop(A)}),
        r"adapters\[1\] holds 'model\..*with the prefix 'model\.'",
        ArgumentError,
    ),
    "other targets": (
        lambda s: [s.pop(A), s.pop(B)],
        r"adapters\[0\] has an adapter of .*query' and adapters\[1\] has none",
        ArgumentError,
    ),
    "other shape": (
        put(A, lambda t: t[:, :8]),
        r"adapters\[1\].*attention.self.query.*\(4, 8\)",
        ArgumentError,
    ),
    "ranks unlike": (
        put(A, lambda t: t[:3]),
        rf"adapters\[1\]\['{A}'\] has shape \(3, 16\) and its B \(16, 4\)",
        ArgumentError,
    ),
    "other dtypes": (
        lambda s: s.update({A: s[A].double(), B: s[B].double()}),
        rf"adapters\[1\]\['{A}'\] has dtype torch.float64 and that of adapters\[0\]",
        DtypeError,
    ),
    "dtypes unlike": (
        put(A, torch.Tensor.half),
        rf"adapters\[1\]\['{A}'\].* and its B torch.float32",
        DtypeError,
    ),
    "whole numbers": (put(A, torch.Tensor.int), r"dtype torch.int32", DtypeError),
    "NaN": (
        put(B, poisoned(torch.nan)),
        rf"adapters\[1\]\['{B}'\] has 1 of 64 elements that are NaN or infinite",
        ArgumentError,
    ),
    "infinity": (put(A, poisoned(-torch.inf)), rf"adapters\[1\]\['{A}'\]", ArgumentError),
    "shards": (
        put(A, lambda t: t.flatten()[:0]),
        rf"adapters\[1\]\['{A}'\] .* before its shards were gathered",
        ArgumentError,
    ),
    "no tensors": (lambda s: s.clear(), r"adapters\[1\] holds no tensor", ArgumentError),
    "no LoRA": (
        lambda s: [s.pop(key) for key in list(s) if "lora" in key],
        r"adapters\[1\] holds no tensor of a LoRA",
        ArgumentError,
    ),
    "no head": (without(CLASSIFIER), rf"adapters\[1\] has no '{CLASSIFIER}'", ArgumentError),
    "another head": (
        lambda s: s.update({"base_model.model.score.weight": torch.ones(1)}),
        r"adapters\[0\] has no 'base_model.model.score.weight'; adapters\[1\] has it",
        ArgumentError,
    ),
    "NaN in a head": (
        put(CLASSIFIER, poisoned(torch.nan)),
        rf"adapters\[1\]\['{CLASSIFIER}'\]",
        ArgumentError,
    ),
    "no tensor": (lambda s: s.update({A: [1.0]}), r"adapters\[1\]\[.* is list", DtypeError),  # type: ignore[dict-item]
    "sparse": (put(A, torch.Tensor.to_sparse), r"sparse or not loaded", ArgumentError),
    "meta": (put(A, lambda t: t.to("meta")), r"sparse or not loaded", ArgumentError),
}


@pytest.mark.parametrize("rule", ["fedit", "fedsa", "flora", "flexlora"])
@pytest.mark.parametrize("weight", [1, 0])
@pytest.mark.parametrize("spoil", SPOILT)
def test_a_bad_adapter_is_named_whatever_its_weight(spoil: str, weight: int, rule: str) -> None:
    change, says, error = SPOILT[spoil]
    adapters = given()
    change(adapters[1])
    config = None if spoil == "another head" else lora_config()
    scaling = 2.0 if config is None else None
    with pytest.raises(error, match=says) as caught:
        aggregate(adapters, [1, weight, 5], rule, config, scaling=scaling)
    assert str(caught.value).startswith("aggregate: ")


def test_a_half_that_does_not_travel_need_not_be_there_but_must_be_whole() -> None:
    adapters = given()
    adapters[1] = {key: value for key, value in adapters[1].items() if "lora_B" not in key}
    assert aggregate(adapters, rule="fedsa").shared
    with pytest.raises(ArgumentError, match=r"adapters\[1\] has no B of its pairs; 'fedit'"):
        aggregate(adapters)
    with pytest.raises(ArgumentError, match=r"adapters\[1\] has no B of its pairs; 'flora'"):
        aggregate(adapters, rule="flora", configs=lora_config())


@pytest.mark.parametrize("rule", RULES)
def test_unlike_ranks_are_refused_where_the_rule_needs_one(rule: str) -> None:
    configs = [lora_config(), lora_config(r=2, lora_alpha=4)]
    models = fleet(configs=configs)
    adapters, own = states(models), [config_of(model) for model in models]
    if RULES[rule].mixed:
        assert aggregate(adapters, rule=rule, configs=own).rule == rule
        return
    with pytest.raises(ArgumentError, match=r"adapters\[1\].*\(.*\).*needs one rank and base"):
        aggregate(adapters, rule=rule, configs=own, previous=adapters[0])


@pytest.mark.parametrize("other", [{"lora_alpha": 4}, {"use_rslora": True}])
@pytest.mark.parametrize("rule", RULES)
def test_unlike_scalings_are_refused_where_the_rule_needs_one(
    rule: str, other: dict[str, Any]
) -> None:
    models = fleet(configs=[lora_config(), lora_config(**other)])
    adapters, own = states(models), [config_of(model) for model in models]
    if RULES[rule].mixed:
        assert aggregate(adapters, rule=rule, configs=own).rule == rule
        return
    with pytest.raises(ArgumentError, match=r"the scaling of .*query.* for adapters\[1\]"):
        aggregate(adapters, rule=rule, configs=own, previous=adapters[0])


@pytest.mark.parametrize("extra", [{"use_dora": True}, {"lora_bias": True}])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "fedit"])
def test_dora_and_bias_are_refused_where_no_rule_is_defined(
    rule: str, extra: dict[str, bool]
) -> None:
    models = fleet(configs=[lora_config(**extra)] * 2)
    with pytest.raises(ArgumentError, match=r"adapters\[0\] has .*; for DoRA and lora_bias rule"):
        aggregate(states(models), rule=rule, configs=config_of(models[0]))


@pytest.mark.parametrize("rule", [*PRODUCTS, "fedsvd"])
def test_products_of_vera_and_of_convolutions_are_refused(rule: str) -> None:
    models = fleet(configs=[vera_config()] * 2)
    with pytest.raises(ArgumentError, match=rf"is of VeRA; '{rule}' is defined for LoRA"):
        aggregate(states(models), rule=rule, configs=config_of(models[0]))
    base = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    config = peft.LoraConfig(r=2, target_modules=["0"])
    adapters = states([wrapped(base, config, seed) for seed in range(2)])
    with pytest.raises(ArgumentError, match=r"is of a convolution"):
        aggregate(adapters, rule=rule, configs=config)


@pytest.mark.parametrize("rule", PRODUCTS)
def test_products_need_a_scaling_that_is_not_zero(rule: str) -> None:
    with pytest.raises(ArgumentError, match=r"query' of adapters\[0\] is unknown; .* configs or"):
        aggregate(given(), rule=rule)
    with pytest.raises(ArgumentError, match=r"of adapters\[0\] is 0"):
        aggregate(given(), rule=rule, scaling=0.0)


def test_adapters_of_other_bases_are_refused() -> None:
    configs: list[Any] = [lora_config().to_dict() | {"base_model_name_or_path": n} for n in "ab"]
    with pytest.raises(ArgumentError, match="base_model_name_or_path is 'b' for adapters"):
        aggregate(given()[:2], configs=configs)
    configs[1]["base_model_name_or_path"] = None  # unknown is not another
    aggregate(given()[:2], configs=configs)


def test_adapters_of_linear_and_of_embedding_form_are_not_paired() -> None:
    one = given()[0]
    other = {
        re.sub(r"lora_([AB])\.weight", r"lora_embedding_\1", key): value
        for key, value in one.items()
    }
    with pytest.raises(ArgumentError, match="must be of one kind"):
        aggregate([one, other])


def test_clients_that_share_memory_are_refused() -> None:
    model = fleet(clients=1)[0]
    live = [peft.get_peft_model_state_dict(model) for _ in range(3)]
    state = given()[0]
    viewed = {key: value.view_as(value) for key, value in state.items()}
    for adapters in (live, [state, state], [state, viewed]):
        for rule in ("fedit", "fedsa", "ffa", "fedex", "flora", "hetlora"):
            says = r"of adapters\[1\] is in the memory of .*\[0\]; every client needs an adapter"
            with pytest.raises(ArgumentError, match=says):
                aggregate(adapters, rule=rule, configs=lora_config())


def test_one_frozen_tensor_may_serve_all_clients_and_rows_of_one_tensor_are_apart() -> None:
    frozen = {key: value for key, value in given()[0].items() if "lora_A" in key}
    assert aggregate([state | frozen for state in given()], rule="ffa").shared
    rows = {key: torch.stack([state[key] for state in given()]) for key in given()[0]}
    views = [{key: value[client] for key, value in rows.items()} for client in range(3)]
    found, wanted = aggregate(views).shared, aggregate(given()).shared
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_lora_and_vera_are_not_combined() -> None:
    lora, vera = states([wrapped(bert(1), lora_config()), wrapped(bert(1), vera_config())])
    vera = {key: value for key, value in vera.items() if "vera_" in key and "self" in key}
    with pytest.raises(ArgumentError, match=r"has tensors of LoRA and of VeRA"):
        aggregate([{**{k: v for k, v in lora.items() if "dense" in k}, **vera}])
