"""Steps of a bank are those of PEFT with torch's optimisers, client by client."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lora.bank_clients import KEY, Alone, adapted, bank_of, labelled, texts
from lora.peft_models import bert, gpt2, lora_config, vera_config
from pyfed import Key
from pyfed.errors import ArgumentError
from pyfed.lora import BankAdamW, BankSGD, ClientBank

STEPS = 20
COUNTS = [(2, 2, 2), (3, 0, 1), (1, 2, 0), (0, 2, 2)]
RATES = torch.tensor([1e-2, 3e-3, 5e-3])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(11)


def schedule() -> list[list[Any]]:
    return [labelled(COUNTS[step % len(COUNTS)], seed=step) for step in range(STEPS)]


def train_alone(one: Alone, batches: list[Any], optimizer: Any, max_norm: float) -> None:
    for batch in batches:
        if batch is None:
            continue
        optimizer.zero_grad()
        one.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(one.parameters, max_norm)
        optimizer.step()
        one.clock.step += 1


def expect_equal(bank: ClientBank, alone: list[Alone], tolerance: float) -> None:
    for client, one in enumerate(alone):
        state = bank.state_dict(client)
        for key, expected in one.state().items():
            assert (state[key] - expected).abs().max() < tolerance, (client, key)


@pytest.mark.parametrize(
    ("build", "config"),
    [(bert, lora_config(lora_dropout=0.1)), (bert, vera_config(vera_dropout=0.1))],
    ids=["lora", "vera"],
)
def test_twenty_steps_of_adamw_are_torchs(build: Any, config: Any) -> None:
    model = adapted(build(), config)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        bank = bank_of(copy.deepcopy(model).to(dtype), 3)
        alone = [Alone(bank, bank.model, client) for client in range(3)]
        before = bank.arena.data.clone()
        optimizer = BankAdamW(bank, lr=RATES.to(dtype), weight_decay=0.1, max_norm=0.05)
        batches = schedule()
        for step in batches:
            bank.step(step, optimizer)
        for client, one in enumerate(alone):
            own = torch.optim.AdamW(
                one.parameters, lr=float(RATES.to(dtype)[client]), weight_decay=0.1
            )
            train_alone(one, [step[client] for step in batches], own, 0.05)
        expect_equal(bank, alone, tolerance)
        assert (bank.arena.data - before).abs().max() > 1e-2
        assert bank.steps.tolist() == [one.clock.step for one in alone]


@pytest.mark.parametrize("nesterov", [False, True])
def test_twenty_steps_of_sgd_are_torchs(nesterov: bool) -> None:
    model = adapted(bert(), lora_config(lora_dropout=0.1))
    bank = bank_of(model, 3)
    alone = [Alone(bank, model, client) for client in range(3)]
    settings: Any = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    optimizer = BankSGD(bank, lr=RATES, max_norm=1.0, **settings)
    batches = schedule()
    for step in batches:
        bank.step(step, optimizer)
    for client, one in enumerate(alone):
        own = torch.optim.SGD(one.parameters, lr=float(RATES[client]), **settings)
        train_alone(one, [step[client] for step in batches], own, 1.0)
    expect_equal(bank, alone, 1e-5)


def test_absent_clients_keep_every_bit() -> None:
    bank = bank_of(adapted(bert(), lora_config(lora_dropout=0.1)), 3)
    optimizer = BankAdamW(bank, lr=1e-2, max_norm=1.0)
    bank.step(labelled((1, 1, 1)), optimizer)
    memories = [bank.arena.data, *optimizer.state.values()]
    before = [memory.clone() for memory in memories]
    steps = bank.steps.clone()
    absent: list[Any] = labelled((1, 1, 0), seed=9)
    empty = {name: value[:0] for name, value in absent[0].items()}
    for batches in ([absent[0], None, None], [absent[0], empty, empty]):
        losses = bank.step(batches, optimizer)
        assert losses.isnan().tolist() == [False, True, True]
        for memory, old in zip(memories, before, strict=True):
            assert torch.equal(memory[1:], old[1:])
            assert not torch.equal(memory[0], old[0])
        assert torch.equal(bank.steps[1:], steps[1:])
    assert all(taken.tolist() == [3, 1, 1] for taken in optimizer.steps.values())


def test_frozen_groups_step_as_torch_does_without_their_gradients() -> None:
    """RoLoRA's way: A and B in turn, under one optimiser that lives on."""
    model = adapted(bert(), lora_config())
    bank = bank_of(model, 2)
    alone = [Alone(bank, model, client) for client in range(2)]
    optimizer = BankAdamW(bank, lr=1e-2, weight_decay=0.1, max_norm=0.1)
    own = [torch.optim.AdamW(one.parameters, lr=1e-2, weight_decay=0.1) for one in alone]
    for turn, group in enumerate(("a", "b", "a", "b", "b")):
        bank.train_only(group, "head")
        for one in alone:
            for name, parameter in one.model.named_parameters():
                if "lora_" in name:
                    parameter.requires_grad_(f"lora_{group.upper()}" in name)
                    parameter.grad = None
        batches: list[Any] = labelled((2, 1), seed=turn)
        before = {name: memory.clone() for name, memory in optimizer.state.items()}
        bank.step(batches, optimizer)
        for client, one in enumerate(alone):
            train_alone(one, [batches[client]], own[client], 0.1)
        other = bank.arena.spans["b" if group == "a" else "a"]
        for name, memory in optimizer.state.items():
            assert torch.equal(memory[:, slice(*other)], before[name][:, slice(*other)])
    expect_equal(bank, alone, 1e-5)
    taken = {group: steps.tolist() for group, steps in optimizer.steps.items()}
    assert taken == {"a": [2, 2], "b": [3, 3], "head": [5, 5]}


def test_gradients_of_several_passes_add_up_before_a_step() -> None:
    model = adapted(gpt2(), lora_config("gpt2", task_type="CAUSAL_LM"))
    batches: list[Any] = texts((4, 4), (5, 5))
    for batch in batches:
        batch["labels"] = batch["input_ids"]
    rows = []
    # The means of two halves add up to twice the mean of the whole.
    for rate, parts in ((1e-2, [slice(0, 4)]), (5e-3, [slice(0, 2), slice(2, 4)])):
        bank = bank_of(model, 2)
        optimizer = BankSGD(bank, lr=rate)
        for part in parts:
            some = [{name: value[part] for name, value in batch.items()} for batch in batches]
            bank.losses(some).nansum().backward()
        assert bank.taking_part.tolist() == [True, True]
        optimizer.step()
        bank.zero_grad()
        assert not bank.taking_part.any()
        rows.append(bank.arena.data.clone())
    torch.testing.assert_close(*rows)


def test_a_loss_that_is_not_finite_names_its_client_and_changes_nothing() -> None:
    bank = bank_of(adapted(bert(), lora_config(lora_dropout=0.1)), 3)
    optimizer = BankAdamW(bank, lr=1e-2, max_norm=1.0)
    bank.step(labelled((1, 1, 1)), optimizer)
    memories = [bank.arena.data, *optimizer.state.values(), bank.steps, *optimizer.steps.values()]
    before = [memory.clone() for memory in memories]
    batches: list[Any] = labelled((1, 2, 1))
    batches[1]["labels"][:] = -100
    with pytest.raises(ArgumentError, match=r"step: the loss of client 1 is nan.*-100"):
        bank.step(batches, optimizer)
    with torch.no_grad():
        bank.arena.data[2] = 1e30
    before[0] = bank.arena.data.clone()
    with pytest.raises(ArgumentError, match="client 2"):
        bank.step(labelled((1, 1, 1)), optimizer)
    for memory, old in zip(memories, before, strict=True):
        assert torch.equal(memory, old)
    assert not bank.arena.grad.any()


def test_a_gradient_that_is_not_finite_names_its_client() -> None:
    def loss(outputs: Any, batch: Any) -> Any:
        each, bad = outputs.logits.square().sum(1), batch["labels"] == 7
        root = torch.where(bad, each - each.detach(), 1.0).sqrt()  # of 0: no finite slope
        return torch.where(bad, root, each)

    bank = bank_of(adapted(bert(), lora_config()), 2, loss=loss)
    optimizer = BankSGD(bank, lr=1e-2)
    before = bank.arena.data.clone()
    batches: list[Any] = labelled((1, 1))
    batches[1]["labels"][:] = 7
    with pytest.raises(ArgumentError, match="the gradient of client 1 is not finite"):
        bank.step(batches, optimizer)
    assert torch.equal(bank.arena.data, before)


def test_the_model_is_as_it_was_between_calls() -> None:
    base = bert(dropout=0.1).train()
    model: Any = adapted(base, lora_config(lora_dropout=0.5)).train()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    bank = bank_of(model, 2, checkpoint=True)
    optimizer = BankAdamW(bank, lr=1e-2)
    batches: list[Any] = labelled((2, 2))
    bank.step(batches, optimizer)
    assert model.state_dict().keys() == kept.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name])
    assert modes == [module.training for module in model.modules()]
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(IndexError):
        bank.step([{**batch, "input_ids": batch["input_ids"] + 99} for batch in batches], optimizer)
    assert not any("forward" in vars(module) for module in model.modules())
    assert modes == [module.training for module in model.modules()]


def test_dropout_of_the_base_is_on_only_when_asked_for() -> None:
    model = adapted(bert(dropout=0.5), lora_config())
    batches = labelled((2, 2))
    quiet, loud = (bank_of(model, 2, base_dropout=on) for on in (False, True))
    with torch.no_grad():
        assert torch.equal(quiet.losses(batches), quiet.losses(batches))
        assert not torch.equal(loud.losses(batches), loud.losses(batches))
        assert torch.equal(loud.losses(batches, training=False), quiet.losses(batches))


def test_dropout_depends_on_key_client_and_step_alone() -> None:
    model = adapted(bert(), lora_config(lora_dropout=0.5))
    same: Any = labelled((2,))[0]
    bank = ClientBank.from_peft(model, 2, key=KEY)
    with torch.no_grad():
        first, second = bank.losses([same, same]), bank.losses([same, same])
        again = ClientBank.from_peft(model, 2, key=KEY).losses([None, same])
        other = ClientBank.from_peft(model, 2, key=Key(bytes(32))).losses([same, same])
    assert len({*first.tolist(), *second.tolist(), *other.tolist()}) == 6
    assert again[1] == first[1]
    assert bank.steps.tolist() == [2, 2]


def test_predictions_are_those_of_peft_without_the_padding() -> None:
    model = adapted(gpt2(), lora_config("gpt2", task_type="CAUSAL_LM", lora_dropout=0.5))
    batches: list[Any] = texts((2, 0, 3), (4, 4, 7))
    for tile in (None, 1):
        bank = bank_of(model, 3, tile=tile)
        found = bank.predict(batches)
        assert found[1] is None
        for client in (0, 2):
            alone = Alone(bank, model, client).model.eval()
            with torch.no_grad():
                expected = alone(input_ids=batches[client]["input_ids"]).logits
            torch.testing.assert_close(found[client], expected)
            torch.testing.assert_close(bank.predict(batches[client], client), expected)
        assert bank.steps.tolist() == [0, 0, 0]
        last = bank.predict(batches[2], 2, output=lambda outputs: outputs.logits[:, -1])
        torch.testing.assert_close(last, found[2][:, -1])
