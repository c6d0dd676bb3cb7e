"""A round of federated LoRA: what is shared is the mean, and all else stays, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from lora.fedsa_rounds import (
    A_SIDE,
    B_SIDE,
    SHARES,
    VARIANTS,
    equal_bits,
    is_any,
    load,
    mean_in_float64,
    models_of,
    play,
    state,
)
from lora.peft_models import adapted, fleet, lora_config
from pyfed.errors import ArgumentError
from pyfed.lora import FedSALoRA

EVERY_VARIANT = pytest.mark.parametrize("variant", VARIANTS)
WEIGHTS = [3, 11, 2]


@EVERY_VARIANT
@pytest.mark.parametrize("rule", SHARES)
def test_what_a_rule_shares_is_the_mean_and_the_rest_stays_bit_for_bit(
    variant: str, rule: str
) -> None:
    models = models_of(variant)
    if rule == "ffa":  # one frozen A for all
        for model in models[1:]:
            own = {k: v for k, v in state(models[0]).items() if is_any(k, A_SIDE)}
            load(model, own)
    before = [state(model) for model in models]
    result = play(FedSALoRA(rule, heads="local"), models, WEIGHTS)
    shared = {key for key in before[0] if is_any(key, SHARES[rule])}
    assert set(result.shared) == shared and shared
    assert (result.included, result.weight) == (3, 16)
    for model, old in zip(models, before, strict=True):
        for key, value in state(model).items():
            if key not in shared:
                assert equal_bits(value, old[key])
                continue
            wanted = mean_in_float64(before, WEIGHTS, key)
            bound = sum(w * own[key].double().abs() for w, own in zip(WEIGHTS, before, strict=True))
            assert bool(((value.double() - wanted).abs() <= 3e-7 * bound / 16).all())
            assert not torch.equal(value, old[key])


@EVERY_VARIANT
def test_each_client_keeps_its_own_b_through_many_rounds(variant: str) -> None:
    models = models_of(variant)
    for round in range(3):
        for client, model in enumerate(models):  # what training does to every B
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if is_any(name, B_SIDE) and parameter.requires_grad:
                        parameter.add_(0.01 * (client + 1))
        before = [state(model) for model in models]
        play(FedSALoRA(), models, WEIGHTS, round=round)
        for model, old in zip(models, before, strict=True):
            after = state(model)
            assert all(equal_bits(after[k], old[k]) for k in old if is_any(k, B_SIDE))
            assert all(torch.equal(after[k], state(models[0])[k]) for k in old if is_any(k, A_SIDE))


def test_a_module_that_clients_share_passes_one_clients_b_to_the_next() -> None:
    """What the released code does: its clients load A into one common module, which keeps B."""
    own = models_of("lora", 2)
    trained = [state(model) for model in own]
    common = copy.deepcopy(own[0])
    seen = []
    for client in range(2):
        seen.append({k: v for k, v in state(common).items() if is_any(k, B_SIDE)})
        load(common, trained[client])  # local training on this module
    keys = list(seen[1])
    assert all(torch.equal(seen[1][key], trained[0][key]) for key in keys)  # the leak
    play(FedSALoRA(), own)
    for model, wanted in zip(own, trained, strict=True):
        assert all(torch.equal(state(model)[key], wanted[key]) for key in keys)


def test_the_change_of_a_clients_weight_is_its_own_b_times_the_shared_a() -> None:
    models = fleet("bert", 3, lora_config(use_rslora=True))
    before = [state(model) for model in models]
    play(FedSALoRA(), models, WEIGHTS)
    for model, old in zip(models, before, strict=True):
        for path, layer in adapted(model).items():
            key = f"base_model.model.{path}.lora_{{}}.weight"
            mean = mean_in_float64(before, WEIGHTS, key.format("A"))
            wanted = 8 / 4**0.5 * old[key.format("B")].double() @ mean
            found = layer.get_delta_weight("default").detach().double()
            assert float((found - wanted).norm() / wanted.norm()) < 1e-6


@EVERY_VARIANT
def test_loading_is_what_stock_peft_makes_of_the_shared_state(variant: str) -> None:
    models = models_of(variant)
    stock = copy.deepcopy(models[1])
    result = play(FedSALoRA(), models)
    load(stock, result.shared)
    found, wanted = state(models[1]), state(stock)
    assert all(equal_bits(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("live", [False, True])
def test_plain_state_dicts_are_written_in_place(live: bool) -> None:
    models = models_of("rslora")
    config = models[0].peft_config["default"]
    if live:
        dicts = [dict(model.named_parameters()) for model in models]
        dicts = [{k: v for k, v in d.items() if v.requires_grad} for d in dicts]
    else:
        dicts = [state(model) for model in models]
    held = [dict(own) for own in dicts]
    result = play(FedSALoRA(), dicts, WEIGHTS, config=config)
    assert {k: v.tolist() for k, v in result.shared.items()} == {
        k: v.tolist() for k, v in play(FedSALoRA(), models_of("rslora"), WEIGHTS).shared.items()
    }
    for own, old in zip(dicts, held, strict=True):
        assert all(own[key] is old[key] for key in old)
        for key, value in own.items():
            if is_any(key, A_SIDE):
                assert torch.equal(value, result.shared[key.replace(".default", "")])


def test_a_dict_of_the_configuration_does_as_well() -> None:
    models = models_of("lora")
    fields = models[0].peft_config["default"].to_dict()
    of_config = FedSALoRA().plan(state(models[0]), models[0].peft_config["default"])
    assert FedSALoRA().plan(state(models[0]), fields) == of_config
    assert FedSALoRA().plan(models[0]) == of_config


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 2, 0]])
def test_the_order_of_arrival_changes_no_bit(order: list[int]) -> None:
    wanted = play(FedSALoRA("fedit"), models_of("lora"), WEIGHTS)
    found = play(FedSALoRA("fedit"), models_of("lora"), WEIGHTS, order)
    assert equal_bits(found.vector, wanted.vector)


def test_a_client_of_weight_zero_is_served_and_changes_nothing() -> None:
    models, others = models_of("lora"), models_of("lora")
    result = play(FedSALoRA(), models, [5, 0, 7])
    alone = play(FedSALoRA(), [others[0], others[2]], [5, 7])
    assert equal_bits(result.vector, alone.vector)
    assert (result.included, result.weight) == (3, 12)
    assert torch.equal(
        state(models[1])[next(iter(result.shared))], next(iter(result.shared.values()))
    )


@pytest.mark.parametrize("rule", [*SHARES, "rolora"])
def test_one_client_gets_its_own_values_back(rule: str) -> None:
    (model,) = models_of("lora", 1)
    before = state(model)
    for round in range(2):
        play(FedSALoRA(rule), [model], [17], round=round)
        assert all(equal_bits(value, before[key]) for key, value in state(model).items())


def test_rolora_averages_one_half_in_one_round_and_the_other_in_the_next() -> None:
    models = models_of("lora", 2)
    for key in A_SIDE + B_SIDE:  # equal to begin with
        own = {k: v for k, v in state(models[0]).items() if key in k}
        load(models[1], own)
    halves = []
    for round in range(4):
        (first, second) = (state(model) for model in models)
        plan = FedSALoRA("rolora", heads="local").plan(models[0], round=round)
        halves.append(plan.share)
        with torch.no_grad():  # train the half that is shared
            for name, parameter in models[1].named_parameters():
                if f"lora_{plan.share[0].upper()}" in name:
                    parameter.add_(1)
        play(FedSALoRA("rolora", heads="local"), models, round=round)
        first_after, second_after = (state(model) for model in models)
        for key in first:
            if f"lora_{plan.share[0].upper()}" in key:
                half = (first[key].double() + second[key].double() + 1) / 2
                assert torch.allclose(second_after[key].double(), half, atol=1e-6)
                assert torch.equal(first_after[key], second_after[key])
            else:
                assert equal_bits(first_after[key], first[key])
                assert equal_bits(second_after[key], second[key])
    assert sorted(halves[:2]) == [("a",), ("b",)] and halves[:2] == halves[2:]


def test_a_client_that_was_away_takes_the_mean_and_one_that_stays_away_holds_nobody_up() -> None:
    models = models_of("lora")
    rule = FedSALoRA()
    server = rule.server(models[0], 3)
    clients = [rule.client(i, model) for i, model in enumerate(models)]
    for index in (0, 2):
        server.handle(clients[index].start(index + 1)[0], index)
    assert server.waiting == {1} and server.included == frozenset()
    assert isinstance(server.waiting, frozenset)
    before = state(models[1])
    messages = server.close_phase()
    assert [message.recipient for message in messages] == [0, 1, 2]
    assert (server.included, server.waiting) == ({0, 2}, frozenset())
    clients[1].handle(messages[1], -1)
    after = state(models[1])
    for key in before:
        wanted = server.result.shared.get(key, before[key])
        assert torch.equal(after[key], wanted)


def test_a_result_is_loaded_into_other_adapters_too() -> None:
    models = models_of("lora")
    result = play(FedSALoRA(), models[:2])
    before = state(models[2])
    result.load_(models[2])
    as_dict = dict(before)
    result.load_(as_dict, models[2].peft_config["default"])
    for key, value in state(models[2]).items():
        assert torch.equal(value, as_dict[key])
        if not is_any(key, A_SIDE):
            assert equal_bits(value, before[key])
    other = fleet("bert", 1, lora_config(r=2))[0]
    with pytest.raises(ArgumentError, match=r"lora_A.weight of the adapter has shape \(2, 16\)"):
        result.load_(other)
    narrow = fleet("bert", 1, lora_config(target_modules=["query"]))[0]
    with pytest.raises(ArgumentError, match=r"the adapter lacks .*value.lora_A.weight"):
        result.load_(narrow)


def test_a_model_may_be_moved_between_the_steps_of_a_round() -> None:
    models = models_of("lora", 2)
    rule = FedSALoRA()
    server = rule.server(models[0], 2)
    clients = [rule.client(i, model) for i, model in enumerate(models)]
    for model in models:  # other memory for every parameter, as .to(device) makes
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    for index, client in enumerate(clients):
        server.handle(client.start()[0], index)
    for parameter in models[0].parameters():
        parameter.data = parameter.data.clone()
    clients[0].handle(server.close_phase()[0], -1)
    after = state(models[0])
    assert all(torch.equal(after[key], value) for key, value in server.result.shared.items())
