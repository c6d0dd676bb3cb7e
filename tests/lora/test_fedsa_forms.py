"""Heads, dtypes and wires of federated LoRA, and how many bytes they take."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from lora.fedsa_rounds import (
    A_SIDE,
    equal_bits,
    is_any,
    load,
    mean_in_float64,
    models_of,
    play,
    state,
)
from lora.peft_models import bert, fleet, lora_config
from pyfed.errors import ArgumentError
from pyfed.lora import FedSALoRA, LoraMessage, LoraShared, aggregate


@pytest.mark.parametrize("rule", ["fedsa", "fedit"])
def test_heads_travel_or_stay(rule: str) -> None:
    for heads, travel in (("shared", True), ("local", False)):
        models = models_of("lora", 2)
        before = [state(model) for model in models]
        result = play(FedSALoRA(rule, heads=heads), models)
        keys = [key for key in before[0] if "classifier" in key]
        assert keys and all((key in result.shared) == travel for key in keys)
        for key in keys:
            if travel:
                wanted = mean_in_float64(before, [1, 1], key)
                assert torch.allclose(state(models[0])[key].double(), wanted, atol=1e-6)
            else:
                assert equal_bits(state(models[0])[key], before[0][key])


def test_local_heads_may_differ_in_their_labels() -> None:
    models = models_of("lora", 2)
    config = models[0].peft_config["default"]
    dicts = [state(model) for model in models]
    key = "base_model.model.classifier.weight"
    dicts[1] |= {key: torch.ones(7, 16), key.replace("weight", "bias"): torch.ones(7)}
    play(FedSALoRA(heads="local"), dicts, config=config)
    shared = FedSALoRA(heads="shared")
    odd = shared.plan(dicts[0], config).difference(shared.plan(dicts[1], config))
    assert odd == "base_model.model.classifier.bias has shape (7,); it must be (3,)"


def test_doras_magnitudes_are_averaged_by_fedit_and_refused_by_other_rules() -> None:
    models = fleet("bert", 2, lora_config(use_dora=True))
    before = [state(model) for model in models]
    result = play(FedSALoRA("fedit"), models)
    keys = [key for key in before[0] if "magnitude" in key]
    assert keys and set(result.shared) == set(before[0])
    for key in keys:
        wanted = mean_in_float64(before, [1, 1], key)
        assert torch.allclose(state(models[1])[key].double(), wanted, atol=1e-6)
    for rule in ("fedsa", "ffa", "rolora"):
        with pytest.raises(ArgumentError, match=r"for DoRA and lora_bias rule .* is not defined"):
            FedSALoRA(rule).client(0, models[0])


def test_rounds_share_what_aggregate_gives() -> None:
    """The rules are defined once: the protocol's means are those of the function."""
    for rule in ("fedsa", "fedit", "ffa", "rolora"):
        for round in (0, 1):
            models = models_of("lora")
            frozen = set("AB") - {half.upper() for half in FedSALoRA(rule).share(round)}
            if rule in ("ffa", "rolora"):
                first = state(models[0])
                own = {k: v for k, v in first.items() if any(f"lora_{h}" in k for h in frozen)}
                for model in models[1:]:
                    load(model, own)
            states, config = [state(model) for model in models], models[0].peft_config["default"]
            wanted = aggregate(states, [3, 11, 2], rule, config, round=round).shared
            found = play(FedSALoRA(rule), models, [3, 11, 2], round=round).shared
            assert set(found) == set(wanted)
            assert all(equal_bits(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_narrow_wires_round_each_update_and_the_mean_to_nearest(wire: str) -> None:
    dtype = getattr(torch, wire)
    models = models_of("lora", 4)
    before = [state(model) for model in models]
    result = play(FedSALoRA(wire=dtype), models)
    for key, value in result.shared.items():
        assert value.dtype == dtype
        sent = [own[key].to(dtype).double() for own in before]
        exact = sum(sent) / 4  # four of 11 bits: exact in float32, and so rounded once
        assert torch.equal(value, exact.to(dtype))
        assert torch.equal(state(models[0])[key], value.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_adapters_of_other_dtypes_keep_them(dtype: torch.dtype) -> None:
    models = fleet("bert", 2, lora_config(), dtype=dtype)
    before = [state(model) for model in models]
    assert all(value.dtype == dtype for value in before[0].values())
    play(FedSALoRA(heads="local"), models)
    for key, value in state(models[1]).items():
        if is_any(key, A_SIDE):
            sent = [own[key].float() for own in before]
            assert equal_bits(value, ((sent[0] + sent[1]) / 2).to(dtype))
        else:
            assert equal_bits(value, before[1][key])


def sizes(rule: FedSALoRA, model: Any) -> tuple[int, int]:
    """Bytes of an update and of the values in it."""
    (update,) = rule.client(0, model).start()
    return len(update.to_bytes()), len(update.payload)


def test_fedsa_vera_sends_r_floats_a_module() -> None:
    headers = set()
    for rank in (4, 8, 256):
        config = peft.VeraConfig(r=rank, target_modules=["query", "value"], task_type="SEQ_CLS")
        for layers in (1, 2):
            model = peft.get_peft_model(bert(layers), config)
            total, values = sizes(FedSALoRA(heads="local"), model)
            assert values == 4 * rank * 2 * layers
            headers.add(total - values)
    assert max(headers) <= 192 and max(headers) - min(headers) <= 3  # its length is a number, too


def test_fedsa_sends_half_of_what_fedit_sends_where_modules_are_square() -> None:
    model = fleet("bert", 1, lora_config(target_modules=["query", "value"]))[0]
    fedsa, fedit = (FedSALoRA(rule, heads="local") for rule in ("fedsa", "fedit"))
    total, values = sizes(fedsa, model)
    total_both, values_both = sizes(fedit, model)
    assert 2 * values == values_both == 4 * 2 * 4 * (16 + 16) * 2
    assert total - values == total_both - values_both
    assert sizes(FedSALoRA(heads="local", wire="bfloat16"), model)[1] == values // 2


def test_a_server_needs_a_plan_alone() -> None:
    models = models_of("lora", 2)
    rule = FedSALoRA()
    server = rule.server(rule.plan(models[0]), 2)
    for index, model in enumerate(models):
        server.handle(rule.client(index, model).start()[0], index)
    (first, _) = server.close_phase()
    assert isinstance(first, LoraShared)
    assert LoraMessage.from_bytes(first.to_bytes(), server.plan) == first


def test_a_server_may_take_its_plan_from_a_saved_adapter(tmp_path: Any) -> None:
    model = models_of("lora", 1)[0]
    model.save_pretrained(tmp_path)
    assert FedSALoRA().server(tmp_path, 1).plan == FedSALoRA().plan(model)


@pytest.mark.gpu
@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_models_and_servers_on_cuda_give_the_bits_of_the_cpu(wire: str) -> None:
    rule = FedSALoRA("fedit", wire=wire)
    wanted = play(rule, models_of("lora"), [3, 11, 2])
    models = [model.cuda() for model in models_of("lora")]
    server = rule.server(models[0], 3, device="cuda")
    clients = [rule.client(i, model) for i, model in enumerate(models)]
    for index, weight in enumerate([3, 11, 2]):
        server.handle(clients[index].start(weight)[0], index)
    for mean in server.close_phase():
        clients[mean.recipient].handle(mean, -1)
    assert server.result.vector.is_cuda
    assert equal_bits(server.result.vector.cpu(), wanted.vector)
    after = state(models[1])
    assert all(torch.equal(after[k].cpu(), v.float()) for k, v in wanted.shared.items())
