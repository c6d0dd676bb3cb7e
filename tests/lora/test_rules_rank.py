"""Rules that give clients adapters of their own rank, against dense matrices."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch

from lora.peft_models import (
    BASES,
    adapted,
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
from pyfed.errors import ArgumentError
from pyfed.lora import aggregate, hetlora_prune

WEIGHTS = [1, 2, 5]


def mixed() -> list[Any]:
    return [
        lora_config(r=2, lora_alpha=3),
        lora_config(r=4, lora_alpha=16, use_rslora=True),
        lora_config(r=6, lora_alpha=5, rank_pattern={"value": 3}, alpha_pattern={"1.*query": 9}),
    ]


def truncated(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", BASES)
def test_flexlora_is_the_dense_truncation(family: str, rslora: bool, dtype: torch.dtype) -> None:
    models = fleet(family, 3, lora_config(family, use_rslora=rslora), dtype)
    wanted = mean_delta(models, WEIGHTS)
    out = aggregate(states(models), WEIGHTS, "flexlora", config_of(models[0]))
    assert out.per_client is None and not out.residual
    load(models[0], out.shared)
    found = deltas(models[0])
    for name, matrix in wanted.items():
        best = truncated(matrix, 4)
        assert relative(best, matrix) > 0.1  # the truncation takes something away
        assert relative(found[name], best) < (1e-6 if dtype == torch.float32 else 1e-12)


def test_flexlora_of_full_rank_is_exact() -> None:
    models = fleet()
    wanted = mean_delta(models, WEIGHTS)
    out = aggregate(states(models), WEIGHTS, "flexlora", config_of(models[0]), rank=12)
    assert out.config is not None and out.config["r"] == out.config["lora_alpha"] == 12
    fields = config_of(models[0]).to_dict() | out.config
    wide = wrapped(models[0].unload(), peft.LoraConfig(**fields))
    load(wide, out.shared)
    found = deltas(wide)
    assert all(relative(found[name], wanted[name]) < 1e-6 for name in wanted)


def test_flexlora_gives_every_client_its_own_rank_and_scaling() -> None:
    models = fleet(configs=mixed())
    given = states(models)
    wanted = mean_delta(models, WEIGHTS)
    out = aggregate(given, WEIGHTS, "flexlora", [config_of(model) for model in models])
    assert out.per_client is not None and out.config is None
    assert out.configs is not None and [c["r"] for c in out.configs] == [2, 4, 6]
    assert set(out.shared) == {f"base_model.model.classifier.{n}" for n in ("weight", "bias")}
    for model, before, own in zip(models, given, out.per_client, strict=True):
        assert {k: v.shape for k, v in own.items()} == {
            k: v.shape for k, v in before.items() if "lora" in k
        }
        load(model, out.shared | own)
        for name, found in deltas(model).items():
            rank = adapted(model)[name].r["default"]
            assert relative(found, truncated(wanted[name], rank)) < 1e-6, name


def test_a_client_of_weight_zero_receives_and_does_not_count() -> None:
    models = fleet(configs=mixed())
    own = [config_of(model) for model in models]
    out = aggregate(states(models), [0, 2, 5], "flexlora", own)
    less = aggregate(states(models)[1:], [2, 5], "flexlora", own[1:])
    assert out.per_client is not None and less.per_client is not None
    for one, other in zip(out.per_client[1:], less.per_client, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    wanted = mean_delta(models[1:], [2, 5])
    load(models[0], out.per_client[0])
    for name, found in deltas(models[0]).items():
        assert relative(found, truncated(wanted[name], 2)) < 1e-6


def hetlora_oracle(
    models: list[Any], weights: list[int]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Padded means in float64, with norms of the dense products; s is in B."""
    oracle = {}
    changes = [deltas(model) for model in models]
    for name, layer in adapted(models[0]).items():
        layers = [adapted(model)[name] for model in models]
        norms = [w * float(c[name].norm()) for w, c in zip(weights, changes, strict=True)]
        rank = max(own.r["default"] for own in layers)
        a = torch.zeros(rank, layer.in_features).double()
        b = torch.zeros(layer.out_features, rank).double()
        for norm, own in zip(norms, layers, strict=True):
            r, s = own.r["default"], own.scaling["default"]
            a[:r] += norm / sum(norms) * own.lora_A["default"].weight.detach().double()
            b[:, :r] += norm / sum(norms) * s * own.lora_B["default"].weight.detach().double()
        oracle[name] = a, b
    return oracle


@pytest.mark.parametrize("family", BASES)
def test_hetlora_weighs_by_the_norms_of_products(family: str) -> None:
    models = fleet(family, 3)
    oracle = hetlora_oracle(models, WEIGHTS)
    out = aggregate(states(models), WEIGHTS, "hetlora", config_of(models[0]))
    for name, (a, b) in oracle.items():
        key = f"base_model.model.{name}.lora_%s.weight"
        assert relative(out.shared[key % "A"], a) < 1e-6
        assert relative(2 * out.shared[key % "B"], b) < 1e-6


def test_hetlora_pads_and_cuts_mixed_ranks() -> None:
    models = fleet(configs=mixed())
    oracle = hetlora_oracle(models, WEIGHTS)
    own = [config_of(model) for model in models]
    out = aggregate(states(models), WEIGHTS, "hetlora", own)
    assert out.per_client is not None
    for model, state in zip(models, out.per_client, strict=True):
        for name, layer in adapted(model).items():
            a, b = oracle[name]
            key, rank = f"base_model.model.{name}.lora_%s.weight", layer.r["default"]
            assert relative(state[key % "A"], a[:rank]) < 1e-6
            assert relative(layer.scaling["default"] * state[key % "B"], b[:, :rank]) < 1e-6


def test_hetlora_weighs_by_the_given_weights_where_nothing_is_learnt_yet() -> None:
    models = fleet()
    given = [
        {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in state.items()}
        for state in states(models)
    ]
    out = aggregate(given, WEIGHTS, "hetlora", config_of(models[0]))
    plain = aggregate(given, WEIGHTS, "fedit").shared
    for key, value in out.shared.items():
        assert torch.allclose(value, plain[key], rtol=1e-6, atol=1e-7)


def test_a_rank_above_what_there_is_is_filled_with_zeros() -> None:
    models = fleet(clients=2)
    out = aggregate(states(models), None, "flexlora", config_of(models[0]), rank=20)
    wanted = mean_delta(models, [1, 1])
    for name, matrix in wanted.items():
        key = f"base_model.model.{name}.lora_%s.weight"
        a, b = out.shared[key % "A"], out.shared[key % "B"]
        assert a.shape[0] == b.shape[1] == 20 and not a[16:].any() and not b[:, 16:].any()
        assert relative(b @ a, matrix) < 1e-6


def test_ranks_are_pruned_only_where_training_made_them_small() -> None:
    (model,) = fleet(configs=[lora_config(r=8, lora_alpha=4)])
    (state,) = states([model])
    config = config_of(model)
    smaller = copy.deepcopy(state)
    for key, value in smaller.items():
        if "lora_A" in key:
            value[6:] *= 0.1
    kept, fields = hetlora_prune(state, config, smaller, gamma=0.75)
    assert fields["r"] == 8 and all(torch.equal(kept[key], state[key]) for key in state)
    pruned, fields = hetlora_prune(smaller, config, state, gamma=0.75)
    assert fields["r"] == 6 and fields["lora_alpha"] / fields["r"] == pytest.approx(0.5)
    for key, value in pruned.items():
        whole = smaller[key]
        if "lora_B" in key:
            whole = whole[:, :6]
        assert torch.equal(value, whole[:6] if "lora_A" in key else whole)
    out = aggregate([pruned, state], None, "hetlora", [config.to_dict() | fields, config])
    assert out.per_client is not None


def test_pruning_keeps_the_scaling_of_rslora() -> None:
    (model,) = fleet(configs=[lora_config(r=8, lora_alpha=4, use_rslora=True)])
    (state,) = states([model])
    bigger = {key: 2 * value for key, value in state.items()}
    _, fields = hetlora_prune(state, config_of(model), bigger, gamma=0.5)
    assert fields["lora_alpha"] / fields["r"] ** 0.5 == pytest.approx(4 / 8**0.5)


@pytest.mark.parametrize("gamma", [0, 1.5, float("nan")])
def test_pruning_refuses_such_a_gamma(gamma: float) -> None:
    with pytest.raises(ArgumentError, match="gamma is"):
        hetlora_prune({}, {"r": 4, "lora_alpha": 4}, {}, gamma)


def test_pruning_refuses_patterns_and_other_targets() -> None:
    (model,) = fleet(clients=1)
    (state,) = states([model])
    config = config_of(model).to_dict()
    with pytest.raises(ArgumentError, match="config has rank_pattern"):
        hetlora_prune(state, config | {"rank_pattern": {"query": 2}}, state)
    other = {key: value for key, value in state.items() if "query" not in key}
    with pytest.raises(ArgumentError, match="before has other target modules"):
        hetlora_prune(state, config, other)
