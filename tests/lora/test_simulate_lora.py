"""Rounds in one process: the same outcome as between parties, lost clients, and bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lora.fedsa_rounds import (
    VARIANTS,
    equal_bits,
    mean_in_float64,
    models_of,
    play,
    state,
)
from lora.peft_models import bert, fleet, lora_config
from pyfed.errors import ArgumentError, DtypeError, ThresholdError
from pyfed.lora import FedSALoRA, simulate_lora

WEIGHTS = [3, 11, 2]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rule", ["fedsa", "fedit"])
def test_simulated_rounds_are_rounds_of_real_parties(variant: str, rule: str) -> None:
    models, others = models_of(variant), models_of(variant)
    simulated = simulate_lora(rule, models, WEIGHTS)
    played = play(FedSALoRA(rule), others, WEIGHTS)
    assert equal_bits(simulated.vector, played.vector)
    assert simulated.plan == played.plan
    for mine, other in zip(models, others, strict=True):
        found, wanted = state(mine), state(other)
        assert all(equal_bits(found[key], wanted[key]) for key in wanted)


def test_traffic_is_the_bytes_of_the_messages() -> None:
    models = fleet("bert", 3, lora_config(target_modules=["query", "value"]))
    values = 4 * 2 * 2 * 4 * 16  # bytes of A: two layers, two modules of (4, 16)
    fedsa = simulate_lora(FedSALoRA(heads="local"), models).traffic
    fedit = simulate_lora(FedSALoRA("fedit", heads="local"), models).traffic
    assert set(fedsa) == {("client", "update"), ("server", "share")}
    headers = {}
    for (role, phase), total in fedsa.items():
        headers[role] = total - 3 * values
        assert 0 < headers[role] < 3 * 192
        assert fedit[role, phase] == 3 * 2 * values + headers[role]
    brief = simulate_lora(FedSALoRA(heads="local", wire="bfloat16"), models).traffic
    assert brief["client", "update"] == 3 * values // 2 + headers["client"]


def test_lost_clients_are_out_of_the_mean_or_go_without_it() -> None:
    models = models_of("lora", 4)
    before = [state(model) for model in models]
    result = simulate_lora(
        "fedsa", models, [1, 2, 3, 4], {"update": {1}, "share": [3]}, config=None
    )
    assert (result.included, result.weight) == (3, 8)
    inside = [before[0], before[2], before[3]]
    for key, value in result.shared.items():
        wanted = mean_in_float64(inside, [1, 3, 4], key)
        assert torch.allclose(value.double(), wanted, atol=1e-6)
    for index, model in enumerate(models):
        after = state(model)
        for key, old in before[index].items():
            served = index in (0, 2) and key in result.shared
            assert equal_bits(after[key], result.shared[key] if served else old)
    one_client = len(FedSALoRA().client(0, models[0]).start()[0].to_bytes())
    assert abs(result.traffic["client", "update"] - 3 * one_client) <= 3


def test_all_lost_is_a_threshold_error_and_changes_nothing() -> None:
    models = models_of("lora")
    before = [state(model) for model in models]
    for arguments in (
        (None, {"update": [0, 1, 2]}),
        ([0, 0, 0], None),
        ([0, 0, 4], {"update": {2}}),
    ):
        with pytest.raises(ThresholdError):
            simulate_lora("fedsa", models, *arguments)
    for model, old in zip(models, before, strict=True):
        assert all(equal_bits(value, old[key]) for key, value in state(model).items())


def test_clients_that_share_memory_are_refused() -> None:
    """One module for all clients is how the released code lets every B pass to the next client."""
    models = models_of("lora", 2)
    with pytest.raises(ArgumentError, match=r"of adapters\[1\] is in the memory of .*\[0\]"):
        simulate_lora("fedsa", [models[0], models[0]])
    dicts = [state(model) for model in models]
    key = next(key for key in dicts[0] if "lora_B" in key)
    dicts[1][key] = dicts[0][key]
    with pytest.raises(ArgumentError, match="every client needs an adapter of its own"):
        simulate_lora("fedsa", dicts, config=models[0].peft_config["default"])


def test_clients_of_a_bank_are_served_in_place() -> None:
    from pyfed.lora.bank import ClientBank

    models = models_of("lora")
    bank = ClientBank.from_peft(models[0], clients=3)
    for index, model in enumerate(models):
        bank.load_state_dict(index, state(model))
    before = [state(model) for model in models]
    wanted = play(FedSALoRA(), models, WEIGHTS)
    result = simulate_lora("fedsa", bank, torch.tensor(WEIGHTS))
    assert equal_bits(result.vector, wanted.vector)
    for index in range(3):
        after = bank.state_dict(index)
        for key, old in before[index].items():
            assert equal_bits(after[key], wanted.shared.get(key, old))


def test_state_dicts_may_have_a_configuration_each() -> None:
    models = models_of("lora")
    config = models[0].peft_config["default"]
    dicts = [state(model) for model in models]
    result = simulate_lora("fedsa", dicts, config=[config, config.to_dict(), config])
    assert equal_bits(result.vector, simulate_lora("fedsa", models).vector)


OTHERS: dict[str, tuple[Any, str]] = {
    "rank": (lora_config(r=2), r"adapters\[1\] is not like adapters\[0\]: .* has shape \(2, 16\)"),
    "targets": (lora_config(target_modules=["query"]), "target modules or heads differ"),
    "scaling": (lora_config(lora_alpha=3), r"scaling 0.75; it must be 2.0"),
    "rsLoRA": (lora_config(use_rslora=True), r"scaling 4.0; it must be 2.0"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_adapters_that_differ_are_named_with_what_differs(what: str) -> None:
    config, match = OTHERS[what]
    with pytest.raises(ArgumentError, match=match):
        simulate_lora("fedsa", fleet("bert", configs=[lora_config(), config]))


def test_simulations_name_bad_arguments() -> None:
    models = models_of("lora", 2)
    with pytest.raises(DtypeError, match="rule is int"):
        simulate_lora(3, models)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="in clear"):
        simulate_lora("flora", models)
    with pytest.raises(DtypeError, match="adapters is BertForSequenceClassification"):
        simulate_lora("fedsa", bert())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="adapters is empty"):
        simulate_lora("fedsa", [])
    with pytest.raises(ArgumentError, match="1 weights are given; there are 2 adapters"):
        simulate_lora("fedsa", models, [1])
    with pytest.raises(DtypeError, match=r"weights\[1\] is float"):
        simulate_lora("fedsa", models, [1, 0.5])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match=r"weights\[0\] is -1"):
        simulate_lora("fedsa", models, [-1, 1])
    with pytest.raises(DtypeError, match="weights is int"):
        simulate_lora("fedsa", models, 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="drop names the phase 'upload'; phases are update"):
        simulate_lora("fedsa", models, drop={"upload": {0}})
    with pytest.raises(DtypeError, match="drop is set; it must map phases to clients"):
        simulate_lora("fedsa", models, drop={0})  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"drop\['update'\] is int"):
        simulate_lora("fedsa", models, drop={"update": 0})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="a client in drop is 2"):
        simulate_lora("fedsa", models, drop={"share": {2}})
    with pytest.raises(ArgumentError, match="client 1 in two phases"):
        simulate_lora("fedsa", models, drop={"share": {1}, "update": {1}})
    with pytest.raises(ArgumentError, match="2 configurations are given; there are 1 adapters"):
        simulate_lora("fedsa", [state(models[0])], config=[None, None])
