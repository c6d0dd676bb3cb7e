"""Settings and state of a bank's optimisers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lora.bank_clients import adapted, bank_of, labelled
from lora.peft_models import bert, lora_config
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import BankAdamW, BankSGD, ClientBank


@pytest.fixture
def bank() -> ClientBank:
    torch.manual_seed(11)
    return bank_of(adapted(bert(), lora_config()), 3)


def optimizers(bank: ClientBank) -> list[Any]:
    return [
        BankAdamW(bank, lr=torch.tensor([1e-2, 1e-3, 0.0]), max_norm=0.1),
        BankSGD(bank, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
        BankSGD(bank, lr=1e-2),
    ]


def run(bank: ClientBank, optimizer: Any, seeds: Any) -> torch.Tensor:
    for seed in seeds:
        bank.step(labelled((2, 1, 2), seed=seed), optimizer)
    return bank.arena.data.clone()


@pytest.mark.parametrize("number", range(3))
def test_training_goes_on_from_saved_states_as_if_never_stopped(
    bank: ClientBank, number: int
) -> None:
    optimizer = optimizers(bank)[number]
    run(bank, optimizer, (1, 2))
    saved = copy.deepcopy((bank.state_dict(), optimizer.state_dict()))
    expected = run(bank, optimizer, (3, 4))

    resumed = ClientBank.from_peft(bank.model, 3)
    resumed.load_state_dict(None, saved[0])
    other = optimizers(resumed)[number]
    other.lr, other.max_norm = 7.0, None
    other.load_state_dict(saved[1])
    assert torch.equal(run(resumed, other, (3, 4)), expected)


def test_a_rate_of_zero_stays_and_rates_may_change_between_steps(bank: ClientBank) -> None:
    optimizer = BankAdamW(bank, lr=torch.tensor([1e-2, 0.0, 1e-2]), weight_decay=0.0)
    before = bank.arena.data.clone()
    after = run(bank, optimizer, (1,))
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])
    optimizer.lr = torch.tensor([0.0, 1e-2, 0.0])
    last = run(bank, optimizer, (2,))
    assert torch.equal(last[0], after[0])
    assert not torch.equal(last[1], after[1])


def test_a_list_of_rates_is_a_tensor_of_them(bank: ClientBank) -> None:
    start = {key: value.clone() for key, value in bank.state_dict().items()}
    rates = torch.tensor([1e-2, 0.0, 1e-3], dtype=torch.float64)
    expected = run(bank, BankAdamW(bank, lr=rates), (1, 2))
    bank.load_state_dict(None, start)
    optimizer = BankAdamW(bank, lr=[1e-2, 0, 1e-3], max_norm=(1e9, 1e9, 1e9))
    assert torch.equal(run(bank, optimizer, (1, 2)), expected)


def test_norms_before_clipping_are_each_clients_own(bank: ClientBank) -> None:
    optimizer = BankSGD(bank, lr=1.0, max_norm=1e-3)
    bank.losses(labelled((2, 1, 0))).nansum().backward()
    grad, before = bank.arena.grad.clone(), bank.arena.data.clone()
    norms = optimizer.step()
    assert norms is not None
    torch.testing.assert_close(norms, grad.norm(dim=1))
    moved = (before - bank.arena.data).norm(dim=1)
    torch.testing.assert_close(moved, torch.tensor([1e-3, 1e-3, 0.0]), rtol=1e-2, atol=0)


def test_a_reset_forgets_the_chosen_clients_alone(bank: ClientBank) -> None:
    optimizer = BankAdamW(bank, lr=1e-2)
    run(bank, optimizer, (1, 2))
    before = {name: memory.clone() for name, memory in optimizer.state.items()}
    optimizer.reset([1])
    for name, memory in optimizer.state.items():
        assert not memory[1].any()
        assert torch.equal(memory[::2], before[name][::2])
    assert all(steps.tolist() == [2, 0, 2] for steps in optimizer.steps.values())
    optimizer.reset()
    assert all(not steps.any() for steps in optimizer.steps.values())
    with pytest.raises(ArgumentError, match="client is 3"):
        optimizer.reset([3])


@pytest.mark.parametrize(
    ("kind", "settings", "error", "said"),
    [
        (BankAdamW, {"lr": -1.0}, ArgumentError, "lr is -1.0"),
        (BankAdamW, {"lr": "1"}, DtypeError, "lr is str"),
        (BankAdamW, {"lr": torch.ones(2)}, ArgumentError, "lr has 2 elements"),
        (BankAdamW, {"lr": [0.1, 0.1]}, ArgumentError, "lr has 2 elements"),
        (BankAdamW, {"lr": [0.1, "1", 0.1]}, DtypeError, r"BankAdamW: lr\[1\] is str"),
        (BankAdamW, {"betas": (0.9, 1.0)}, ArgumentError, r"betas\[1\] is 1.0"),
        (BankAdamW, {"max_norm": 0.0}, ArgumentError, "max_norm is 0.0"),
        (BankAdamW, {"weight_decay": -1.0}, ArgumentError, "weight_decay is -1.0"),
        (BankSGD, {"momentum": 2.0}, ArgumentError, "momentum is 2.0"),
        (BankSGD, {"nesterov": True}, ArgumentError, "nesterov"),
    ],
)
def test_settings_are_checked_at_once(
    bank: ClientBank, kind: Any, settings: Any, error: Any, said: str
) -> None:
    before = bank.arena.data.clone()
    with pytest.raises(error, match=said):
        kind(bank, **settings)
    assert torch.equal(bank.arena.data, before)


def test_an_optimiser_needs_a_bank(bank: ClientBank) -> None:
    with pytest.raises(DtypeError, match="bank is BertForSequenceClassification"):
        BankAdamW(bank.model.get_base_model())  # type: ignore[arg-type]


def test_states_of_others_change_nothing(bank: ClientBank) -> None:
    optimizer = BankAdamW(bank, lr=1e-2)
    run(bank, optimizer, (1,))
    before = copy.deepcopy(optimizer.state_dict())
    good = copy.deepcopy(before)
    small = BankAdamW(bank_of(bank.model, 2)).state_dict()
    frozen = {**good, "steps": {"a": good["steps"]["a"]}}
    for state, said in (
        (BankSGD(bank, momentum=0.9).state_dict(), "state is of 'BankSGD'"),
        (small, r"exp_avg has shape \(2,"),
        (frozen, "steps has"),
        ({**good, "settings": {}}, "settings are"),
        ({}, "state is of None"),
    ):
        with pytest.raises(ArgumentError, match=said):
            optimizer.load_state_dict(state)
    for name, memory in optimizer.state.items():
        assert torch.equal(memory, before["state"][name])
