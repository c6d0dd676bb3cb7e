"""Rules that average tensors, against sums in float64; VeRA, DoRA and heads among them."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch

from lora.peft_models import (
    BASES,
    bert,
    config_of,
    deltas,
    fleet,
    load,
    lora_config,
    mean_delta,
    relative,
    states,
    vera_config,
    wrapped,
)
from pyfed.errors import ArgumentError
from pyfed.lora import aggregate

WEIGHTS = [1, 2, 5]
State = dict[str, torch.Tensor]


def mean(given: list[State], key: str) -> torch.Tensor:
    terms = (
        w / sum(WEIGHTS) * state[key].double() for w, state in zip(WEIGHTS, given, strict=True)
    )
    return torch.stack(list(terms)).sum(0)


def assert_means(given: list[State], shared: State, wanted: set[str]) -> None:
    assert set(shared) == wanted
    for key, value in shared.items():
        assert value.dtype == given[0][key].dtype
        tolerance = 1e-15 if value.dtype == torch.float64 else 3e-7
        assert float((value.double() - mean(given, key)).abs().max()) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", BASES)
def test_fedit_averages_everything_that_is_trained(family: str, dtype: torch.dtype) -> None:
    given = states(fleet(family, 3, dtype=dtype))
    assert_means(given, aggregate(given, WEIGHTS).shared, set(given[0]))


def test_fedsa_shares_a_and_leaves_every_b_with_its_client() -> None:
    models = fleet()
    given = states(models)
    out = aggregate(given, WEIGHTS, "fedsa", heads="local")
    assert_means(given, out.shared, {key for key in given[0] if "lora_A" in key})
    for model, before in zip(models, given, strict=True):
        load(model, out.shared)
        after = peft.get_peft_model_state_dict(model)
        for key, value in before.items():
            assert torch.equal(after[key], out.shared.get(key, value))


def test_fedsa_needs_nothing_but_what_clients_send() -> None:
    given = states(fleet())
    sent = [{k: v for k, v in state.items() if "lora_A" in k} for state in given]
    whole = aggregate(given, WEIGHTS, "fedsa", heads="local").shared
    assert all(torch.equal(aggregate(sent, WEIGHTS, "fedsa").shared[k], whole[k]) for k in whole)


@pytest.mark.parametrize(("rule", "half"), [("fedsa", "lambda_d"), ("ffa", "lambda_b")])
def test_of_vera_one_vector_is_shared_and_no_projection(rule: str, half: str) -> None:
    models = fleet(configs=[vera_config()] * 3)
    given = states(models)
    if rule == "ffa":
        given = [s | {k: v for k, v in given[0].items() if "lambda_d" in k} for s in given]
    out = aggregate(given, WEIGHTS, rule, config_of(models[0]), heads="local")
    assert_means(given, out.shared, {key for key in given[0] if half in key})
    sizes = {value.shape for key, value in out.shared.items()}
    assert sizes == ({(8,)} if rule == "fedsa" else {(16,)})
    load(models[0], out.shared)
    both = aggregate([copy.deepcopy(s) for s in given], WEIGHTS, "fedit").shared
    assert not any("vera_A" in key or "vera_B" in key for key in both)


def test_vera_of_other_projections_is_refused() -> None:
    one, other = (wrapped(bert(1), vera_config(projection_prng_key=key)) for key in (1, 2))
    configs = [config_of(one), config_of(other)]
    with pytest.raises(ArgumentError, match="projection_prng_key is 2 for adapters\\[1\\] and 1"):
        aggregate(states([one, other]), rule="fedsa", configs=configs)
    given = states([one, other])
    with pytest.raises(ArgumentError, match=r"'base_model.vera_A'\] is frozen and differs"):
        aggregate(given, rule="fedsa")


@pytest.mark.parametrize(("rule", "number"), [("ffa", 0), ("rolora", 0), ("rolora", 1)])
def test_a_frozen_half_that_differs_is_named(rule: str, number: int) -> None:
    given = states(fleet())
    half = "lora_B" if (rule, number) == ("rolora", 1) else "lora_A"
    with pytest.raises(ArgumentError, match=f"adapters\\[1\\].*{half}.*is frozen under '{rule}'"):
        aggregate(given, rule=rule, round=number)


@pytest.mark.parametrize("extra", [{"use_dora": True}, {"lora_bias": True}, {"bias": "all"}])
def test_fedit_averages_dora_and_biases_too(extra: dict[str, Any]) -> None:
    models = fleet(configs=[lora_config(**extra)] * 3)
    given = states(models)
    out = aggregate(given, WEIGHTS, "fedit", config_of(models[0]))
    trained = {key for key in given[0] if "original_module" not in key}
    assert_means(given, out.shared, trained)
    if "bias" not in extra:  # PEFT does not load all that it saves with it
        load(models[0], out.shared)


def test_means_of_convolutions_are_taken() -> None:
    base = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    config = peft.LoraConfig(r=2, target_modules=["0", "2"])
    given = states([wrapped(base, config, seed) for seed in range(3)])
    assert_means(given, aggregate(given, WEIGHTS, "fedit", config).shared, set(given[0]))


@pytest.mark.parametrize("equal", ["lora_A", "lora_B"])
def test_fedit_is_exact_where_all_a_or_all_b_are_equal(equal: str) -> None:
    models = fleet()
    like = {key: value for key, value in states(models)[0].items() if equal in key}
    for model in models:
        load(model, like)
    wanted = mean_delta(models, WEIGHTS)
    load(models[0], aggregate(states(models), WEIGHTS).shared)
    found = deltas(models[0])
    assert all(relative(found[name], wanted[name]) < 1e-6 for name in wanted)


def test_heads_stay_where_they_are_local() -> None:
    given = states(fleet())
    heads = {key for key in given[0] if "classifier" in key}
    for rule in ("fedit", "fedsa", "flora", "fedex", "flexlora", "hetlora"):
        config = lora_config()
        assert heads <= aggregate(given, WEIGHTS, rule, config).shared.keys()
        assert not heads & aggregate(given, WEIGHTS, rule, config, heads="local").shared.keys()


def test_whole_numbers_in_a_head_must_agree() -> None:
    given = states(fleet(clients=2))
    key = "base_model.model.classifier.steps"
    same = [state | {key: torch.tensor(3)} for state in given]
    assert int(aggregate(same).shared[key]) == 3
    unlike = [state | {key: torch.tensor(place)} for place, state in enumerate(given)]
    with pytest.raises(ArgumentError, match=r"adapters\[1\].*steps.* is of whole numbers"):
        aggregate(unlike)
    assert key not in aggregate(unlike, heads="local").shared
