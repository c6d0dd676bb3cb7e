"""What holds for every rule: order, duplicates, absent clients, files, PEFT's own loading."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.peft_models import (
    adapted,
    bert,
    config_of,
    fleet,
    llama,
    load,
    lora_config,
    states,
    vera_config,
    wrapped,
)
from pyfed.lora import AggregateResult, LowRank, aggregate
from pyfed.lora.rules import RULES

State = dict[str, torch.Tensor]
WEIGHTS = [1, 2, 5]


def alike(rule: str, clients: int = 3, number: int = 0) -> tuple[list[State], dict[str, Any]]:
    """Adapters that a rule takes, and the arguments that it needs."""
    models = fleet(clients=clients)
    given = states(models)
    frozen = {"ffa": "lora_A", "rolora": "lora_A", "fedsvd": "lora_A"}.get(rule)
    if frozen is not None:
        like = {key: value for key, value in given[0].items() if frozen in key}
        given = [state | like for state in given]
    more = {"previous": given[0]} if rule == "fedsvd" else {}
    return given, {"rule": rule, "configs": config_of(models[0]), **more}


def wholes(out: AggregateResult) -> dict[str, torch.Tensor]:
    """Everything that clients take over, products instead of factors."""
    found = dict(out.shared)
    for key in [key for key in found if "lora_A" in key]:
        b = found.pop(key.replace("lora_A", "lora_B"), None)
        if b is not None:
            found[key] = b.double() @ found[key].double()
    return found | {name: own.dense() for name, own in out.residual.items()}


def assert_same(one: AggregateResult, other: AggregateResult, tolerance: float = 1e-6) -> None:
    first, second = wholes(one), wholes(other)
    assert first.keys() == second.keys() and one.reset == other.reset
    for key, value in first.items():
        distance = float((value.double() - second[key].double()).norm())
        assert distance <= tolerance * float(value.double().norm()), key


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_clients_does_not_matter(rule: str) -> None:
    given, more = alike(rule)
    turned = [given[2], given[0], given[1]]
    assert_same(aggregate(given, WEIGHTS, **more), aggregate(turned, [5, 1, 2], **more), 1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_client_twice_is_a_client_of_double_weight(rule: str) -> None:
    given, more = alike(rule)
    twice = aggregate([*given, copy.deepcopy(given[1])], [1, 2, 5, 2], **more)
    assert_same(aggregate(given, [1, 4, 5], **more), twice, 1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_client_of_weight_zero_is_as_if_absent(rule: str) -> None:
    given, more = alike(rule)
    with_it = aggregate(given, [1, 0, 5], **more)
    without = aggregate([given[0], given[2]], [1, 5], **more)
    assert_same(with_it, without, 0)
    assert with_it.weights == (1 / 6, 0, 5 / 6)


@pytest.mark.parametrize("rule", RULES)
def test_of_one_client_nothing_changes(rule: str) -> None:
    given, more = alike(rule, 1)
    out = aggregate(given, [3], **more)
    expected = wholes(AggregateResult(rule, {k: given[0][k] for k in out.shared}))
    if rule == "flora":
        for name in out.residual:
            key = f"base_model.model.{name}.lora_%s.weight"
            expected[name] = 2 * given[0][key % "B"] @ given[0][key % "A"]
    else:
        assert not out.residual
    found = wholes(out)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert torch.allclose(value.double(), expected[key].double(), atol=1e-6), key


@pytest.mark.parametrize("rule", RULES)
def test_results_share_no_memory_with_inputs_and_inputs_stay(rule: str) -> None:
    given, more = alike(rule)
    copies = copy.deepcopy(given)
    for clients in (given, given[:1]):
        out = aggregate(clients, **more)
        addresses = {value.untyped_storage().data_ptr() for s in given for value in s.values()}
        made = [*out.shared.values(), *(own for r in out.residual.values() for own in (r.a, r.b))]
        assert not addresses & {value.untyped_storage().data_ptr() for value in made}
    for state, before in zip(given, copies, strict=True):
        assert all(torch.equal(value, before[key]) for key, value in state.items())


@pytest.mark.parametrize(
    "weights", [[1, 2, 5], [0.125, 0.25, 0.625], (2.0, 4, 10), torch.tensor([1, 2, 5])]
)
def test_weights_may_be_counts_or_fractions(weights: Any) -> None:
    given, more = alike("fedit")
    wanted = aggregate(given, WEIGHTS, **more).shared
    found = aggregate(given, weights, **more).shared
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    if not isinstance(weights, torch.Tensor) and sum(weights) == 1:
        aggregate(given, weights, normalized=True, **more)


@pytest.mark.parametrize("rule", RULES)
def test_folders_and_files_give_what_state_dicts_do(rule: str, tmp_path: Path) -> None:
    models = fleet()
    given, more = alike(rule)
    folders = []
    for number, (model, state) in enumerate(zip(models, given, strict=True)):
        load(model, state)
        model.save_pretrained(tmp_path / str(number))
        folders.append(tmp_path / str(number))
    wanted = aggregate(given, WEIGHTS, **more)
    settings = {key: value for key, value in more.items() if key != "configs"}
    assert_same(aggregate(folders, WEIGHTS, **settings), wanted, 0)
    files = [str(folder / "adapter_model.safetensors") for folder in folders]
    assert_same(aggregate(files, WEIGHTS, **more), wanted, 0)
    save_file(wanted.shared, tmp_path / "shared.safetensors")
    again = load_file(tmp_path / "shared.safetensors")
    assert all(torch.equal(again[key], value) for key, value in wanted.shared.items())


@pytest.mark.parametrize("rule", RULES)
def test_peft_loads_what_is_shared(rule: str) -> None:
    given, more = alike(rule)
    out = aggregate(given, WEIGHTS, **more)
    model = fleet(clients=1)[0]
    load(model, out.shared)
    after = peft.get_peft_model_state_dict(model)
    assert all(torch.equal(after[key], value) for key, value in out.shared.items())
    if out.config is not None:
        assert (out.config["r"], out.config["lora_alpha"]) == (4, 8)


def test_scales_are_those_of_peft_layers() -> None:
    """Patterns, their order, and rsLoRA: read back from stacks of one client."""
    configs = [
        lora_config(rank_pattern={"query": 2}, alpha_pattern={"layer.1.*": 3, "value": 5}),
        lora_config(alpha_pattern={"value": 5, "layer.1.*": 3}, use_rslora=True),
        lora_config(rank_pattern={"^bert.encoder.layer.0.attention.self.query": 7}),
        lora_config(rank_pattern={"y": 7}, alpha_pattern={"self.query": 1.5}),
        lora_config(rank_pattern={r".*\.(query|value)": 3}, lora_alpha=0.3),
    ]
    for config in configs:
        model = wrapped(bert(2), config)
        out = aggregate(states([model]), rule="flora", configs=config_of(model))
        for name, layer in adapted(model).items():
            scale, rank = layer.scaling["default"], layer.r["default"]
            assert out.residual[name].rank == rank
            found = out.residual[name].scale
            assert torch.equal(found, torch.full_like(found, scale))


def test_scaling_takes_the_place_of_configurations() -> None:
    given, more = alike("flora")
    names = adapted(fleet(clients=1)[0])
    wanted = aggregate(given, WEIGHTS, **more)
    for scaling in (2.0, dict.fromkeys(names, 2.0), [2, 2.0, dict.fromkeys(names, 2)]):
        assert_same(aggregate(given, WEIGHTS, "flora", scaling=scaling), wanted, 0)
    other = more["configs"].to_dict() | {"lora_alpha": 1.6}
    mixed = aggregate(given, WEIGHTS, "flora", [more["configs"], more["configs"], other])
    assert_same(aggregate(given, WEIGHTS, "flora", scaling=[2, 2, 0.4]), mixed, 1e-7)


def test_configurations_may_be_dicts_objects_or_one_for_each() -> None:
    given, more = alike("fedex")
    config = more["configs"]
    wanted = aggregate(given, WEIGHTS, **more)
    for configs in (config.to_dict(), [config, config.to_dict(), config]):
        assert_same(aggregate(given, WEIGHTS, "fedex", configs), wanted, 0)


def test_vera_folders_are_read(tmp_path: Path) -> None:
    models = fleet(configs=[vera_config()] * 2)
    folders = [tmp_path / str(number) for number in range(2)]
    for model, folder in zip(models, folders, strict=True):
        model.save_pretrained(folder)
    out = aggregate(folders, rule="fedsa", heads="local")
    assert [value.shape for value in out.shared.values()] == [(8,)] * 4
    assert out.config is not None and out.config["peft_type"] == "VERA"


def test_a_saved_embedding_is_not_averaged(tmp_path: Path) -> None:
    model = wrapped(llama(1), lora_config("llama", target_modules=["embed_tokens"]))
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        model.save_pretrained(tmp_path)
    out = aggregate([tmp_path, tmp_path], rule="fedex")
    assert not any("base_layer" in key for key in out.shared)
    assert isinstance(next(iter(out.residual.values())), LowRank)


def test_half_precision_results_keep_their_dtype() -> None:
    for rule in RULES:
        given, more = alike(rule)
        given = [{key: value.bfloat16() for key, value in state.items()} for state in given]
        if "previous" in more:
            more["previous"] = given[0]
        out = aggregate(given, WEIGHTS, **more)
        assert all(value.dtype == torch.bfloat16 for value in out.shared.values()), rule
