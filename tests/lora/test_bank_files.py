"""Clients of a bank as state dicts, as PEFT's folders, and after a round of aggregation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from lora.bank_clients import Alone, adapted, bank_of, labelled, texts
from lora.peft_models import bert, gpt2, llama, lora_config, vera_config
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import BankAdamW, ClientBank, FedAvgM, aggregate

A = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
B = A.replace("lora_A", "lora_B")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(11)


def trained(model: Any, clients: int = 3, **more: Any) -> tuple[ClientBank, BankAdamW]:
    """A bank after two steps, and its optimiser."""
    bank = bank_of(model, clients, **more)
    optimizer = BankAdamW(bank, lr=1e-2)
    causal = model.peft_config["default"].task_type == "CAUSAL_LM"
    for seed in (1, 2):
        some = texts([2] * clients, [5] * clients, seed) if causal else labelled([2] * clients)
        bank.step(some, optimizer)
    return bank, optimizer


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (bert, lora_config(use_rslora=True, rank_pattern={"query": 2})),
        (bert, vera_config()),
        (gpt2, lora_config("gpt2", task_type="CAUSAL_LM")),
        (llama, lora_config("llama", task_type="CAUSAL_LM")),
    ],
    ids=["rslora", "vera", "gpt2", "llama"],
)
def test_a_saved_client_is_an_ordinary_adapter(build: Any, config: Any, tmp_path: Path) -> None:
    base = build()
    bank, _ = trained(adapted(base, config))
    batch: Any = texts((3,), (6,))[0]
    for client in (0, 2):
        bank.save_pretrained(tmp_path / str(client), client)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / str(client)).eval()
        with torch.no_grad():
            expected = loaded(input_ids=batch["input_ids"]).logits
        torch.testing.assert_close(bank.predict(batch, client), expected)
    other = bank_of(bank.model, 3)
    other.load_pretrained(tmp_path / "0", 2)
    assert torch.equal(other.arena.data[2], bank.arena.data[0])
    resumed = ClientBank.from_peft(loaded, 2)  # all of it frozen, as PEFT loads it: all trains
    assert resumed.arena.trainable == frozenset(bank.arena.spans)
    assert torch.equal(resumed.arena.data[1], bank.arena.data[2])


def test_folders_of_peft_itself_can_be_loaded_and_their_misfits_are_told(tmp_path: Path) -> None:
    model = adapted(bert(), lora_config())
    model.save_pretrained(tmp_path / "same")
    bank = bank_of(model, 2)
    bank.load_pretrained(tmp_path / "same", 1)
    for key, value in peft.get_peft_model_state_dict(model).items():
        assert torch.equal(bank.state_dict(1)[key], value)
    for name, config in (
        ("r", lora_config(r=2)),
        ("lora_alpha", lora_config(lora_alpha=9)),
        ("use_rslora", lora_config(use_rslora=True)),
        ("peft_type", vera_config()),
    ):
        adapted(bert(), config).save_pretrained(tmp_path / name)
        before = bank.arena.data.clone()
        with pytest.raises(ArgumentError, match=f"{name} of client 0 is"):
            bank.load_pretrained(tmp_path / name, 0)
        assert torch.equal(bank.arena.data, before)


def test_state_dicts_of_one_and_of_all_clients_go_round() -> None:
    bank, _ = trained(adapted(bert(), lora_config(lora_dropout=0.1)))
    other = bank_of(bank.model, 3, key=bank.key)
    other.load_state_dict(None, bank.state_dict())
    assert torch.equal(other.arena.data, bank.arena.data)
    assert other.steps.tolist() == bank.steps.tolist() == [2, 2, 2]
    with torch.no_grad():
        assert torch.equal(bank.losses(labelled((1, 1, 1))), other.losses(labelled((1, 1, 1))))
    other.load_state_dict(0, bank.state_dict(2))
    assert torch.equal(other.arena.data[0], bank.arena.data[2])
    other.load_state_dict(1, {A: bank.state_dict(0)[A]}, partial=True)
    assert torch.equal(other.state_dict(1)[A], bank.state_dict(0)[A])
    assert torch.equal(other.state_dict(1)[B], bank.state_dict(1)[B])
    bank.state_dict(1)[A].zero_()
    assert not bank.state_dict()[A][1].any()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda s: s.pop(B), ArgumentError, "lora_B.weight is missing"),
        (lambda s: s.update({"module." + A: s[A]}), ArgumentError, "module.base_model.*unknown"),
        (lambda s: s.update({A: s[A].T}), ArgumentError, r"shape \(16, 4\); it must be \(4, 16\)"),
        (lambda s: s.update({A: s[A] * torch.nan}), ArgumentError, "NaN"),
        (lambda s: s.update({A: s[A].int()}), DtypeError, "torch.int32"),
        (lambda s: s.update({A: [1.0]}), DtypeError, "list"),
    ],
)
def test_states_that_do_not_fit_change_nothing(change: Any, error: Any, said: str) -> None:
    bank = bank_of(adapted(bert(), lora_config()), 2)
    before = bank.arena.data.clone()
    state = {key: value.clone() + 1 for key, value in bank.state_dict(0).items()}
    change(state)
    with pytest.raises(error, match=f"client 1.*{said}"):
        bank.load_state_dict(1, state)
    assert torch.equal(bank.arena.data, before)
    for client in (-1, 2, True):
        with pytest.raises((ArgumentError, DtypeError), match="client is"):
            bank.load_state_dict(client, state)


def test_foreign_projections_of_vera_are_refused() -> None:
    bank = bank_of(adapted(bert(), vera_config()), 2)
    state = dict(bank.state_dict(0))
    assert {"base_model.vera_A", "base_model.vera_B"} < state.keys()
    state["base_model.vera_A"] = state["base_model.vera_A"] + 1
    with pytest.raises(ArgumentError, match=r"vera_A is not the bank's"):
        bank.load_state_dict(1, state)


def test_all_states_need_their_steps() -> None:
    bank = bank_of(adapted(bert(), lora_config()), 2)
    state = bank.state_dict()
    del state["steps"]
    with pytest.raises(ArgumentError, match="steps must be int64"):
        bank.load_state_dict(None, state)


def test_fedsa_shares_a_and_leaves_every_client_its_own_b() -> None:
    bank, optimizer = trained(adapted(bert(), lora_config(lora_dropout=0.1)))
    weights = [1, 2, 5]
    before = bank.arena.data.clone()
    moments = {name: memory.clone() for name, memory in optimizer.state.items()}
    bank.aggregate("fedsa", weights, heads="local")
    kept = bank.arena.spans["b"]
    assert torch.equal(bank.arena.data[:, slice(*kept)], before[:, slice(*kept)])
    heads = bank.arena.spans["head"]
    assert torch.equal(bank.arena.data[:, slice(*heads)], before[:, slice(*heads)])
    first, last = bank.arena.spans["a"]
    wanted = torch.tensor(weights, dtype=torch.float64) / 8
    mean = (before[:, first:last].double() * wanted[:, None]).sum(0)
    for client in range(3):
        torch.testing.assert_close(bank.arena.data[client, first:last].double(), mean)
    assert len(bank.arena.data[:, slice(*kept)].unique(dim=0)) == 3
    for name, memory in optimizer.state.items():
        assert torch.equal(memory, moments[name])
    bank.aggregate("fedsa", reset=optimizer)
    assert not any(memory.any() for memory in optimizer.state.values())
    assert not any(steps.any() for steps in optimizer.steps.values())


@pytest.mark.parametrize("rule", ["fedsa", "fedit", "flexlora", "hetlora", "fedex"])
def test_rules_in_place_give_what_they_give_to_state_dicts(rule: str) -> None:
    bank, _ = trained(adapted(bert(), lora_config()))
    before = [copy.deepcopy(bank.state_dict(client)) for client in range(3)]
    expected = aggregate(before, [1, 2, 5], rule, bank.config)
    found = bank.aggregate(rule, [1, 2, 5], merge=False if rule == "fedex" else None)
    assert found.residual.keys() == expected.residual.keys()
    for client in range(3):
        own = expected.per_client[client] if expected.per_client else {}
        wanted = {**before[client], **expected.shared, **own}
        for key, value in bank.state_dict(client).items():
            assert torch.equal(value, wanted[key].to(value.dtype)), key


@pytest.mark.parametrize(
    ("rule", "number", "group"), [("ffa", 0, "b"), ("rolora", 0, "b"), ("rolora", 1, "a")]
)
def test_rules_with_a_frozen_half_follow_banks_that_freeze_it(
    rule: str, number: int, group: str
) -> None:
    bank = ClientBank.from_peft(adapted(bert(), lora_config()), 3)
    bank.train_only(group, "head")
    optimizer = BankAdamW(bank, lr=1e-2)
    bank.step(labelled((2, 2, 2)), optimizer)
    span = slice(*bank.arena.spans[group])
    mean = bank.arena.data[:, span].mean(0)
    bank.aggregate(rule, round=number)
    assert len(bank.arena.data.unique(dim=0)) == 1
    torch.testing.assert_close(bank.arena.data[0, span], mean)


def test_vera_shares_lambda_d_alone() -> None:
    bank, _ = trained(adapted(bert(), vera_config()))
    before = bank.arena.data.clone()
    found = bank.aggregate("fedsa", heads="local")
    assert all(key.endswith("vera_lambda_d") for key in found.shared)
    b = bank.arena.spans["b"]
    assert torch.equal(bank.arena.data[:, slice(*b)], before[:, slice(*b)])
    a = bank.arena.spans["a"]
    assert len(bank.arena.data[:, slice(*a)].unique(dim=0)) == 1


@pytest.mark.parametrize("rule", ["fedex", "flora"])
@pytest.mark.parametrize(("build", "family"), [(bert, "bert"), (gpt2, "gpt2")])
def test_a_merged_residual_gives_the_sum_of_products(rule: str, build: Any, family: str) -> None:
    task = "SEQ_CLS" if build is bert else "CAUSAL_LM"
    bank, _ = trained(adapted(build(), lora_config(family, task_type=task)).double())
    clients = [Alone(bank, bank.model, client) for client in range(3)]
    path = next(iter(bank.counter_dropouts(0)[0]))
    layers = [one.model.get_submodule(path) for one in clients]
    weight = layers[0].get_base_layer().weight.clone()
    share = [1 / 8, 2 / 8, 5 / 8]
    expected = weight + sum(
        s * layer.get_delta_weight("default") for s, layer in zip(share, layers, strict=True)
    )
    base = bank.model.get_submodule(path).get_base_layer().weight
    bank.aggregate(rule, [1, 2, 5], merge=True)
    after = Alone(bank, bank.model, 1).model.get_submodule(path)
    assert after.get_base_layer().weight.data_ptr() != base.data_ptr()
    found = base + after.get_delta_weight("default")
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert (base - weight).abs().max() > 1e-6


def test_rules_that_a_bank_cannot_hold_change_nothing() -> None:
    bank, _ = trained(adapted(bert(), lora_config()))
    before = bank.arena.data.clone()
    weights = {name: value.clone() for name, value in bank.model.state_dict().items()}
    for rule, settings, said in (
        ("flora", {}, "merge is None"),
        ("flora", {"merge": False}, "merge is False"),
        ("fedex", {}, "merge is None.*leaves a residual"),
        ("fedit", {"merge": True}, "leaves no residual"),
        ("flexlora", {"rank": 2}, "the bank has"),
        ("ffa", {}, "frozen under"),
        ("nothing", {}, "rule"),
        ("fedit", {"weights": [0, 0, 0]}, "weights sum to 0"),
        ("fedit", {"reset": BankAdamW(bank_of(bank.model, 2))}, "reset belongs to another bank"),
        ("fedit", {"previous": bank.state_dict(0), "server": FedAvgM()}, "is a view of the bank"),
    ):
        with pytest.raises(ArgumentError, match=said):
            bank.aggregate(rule, **settings)
        assert torch.equal(bank.arena.data, before)
    for name, value in bank.model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_servers_optimiser_moves_the_mean() -> None:
    bank, _ = trained(adapted(bert(), lora_config()))
    previous = {key: value.clone() for key, value in bank.state_dict(0).items()}
    plain = bank.arena.data.clone()
    bank.aggregate("fedit", previous=previous, server=FedAvgM(lr=0.5))
    expected = torch.stack([bank.state_dict(client)[A] for client in range(3)])
    assert len(expected.unique(dim=0)) == 1
    mean = bank.arena.view(plain, A).mean(0)
    torch.testing.assert_close(expected[0], previous[A] + 0.5 * (mean - previous[A]))
