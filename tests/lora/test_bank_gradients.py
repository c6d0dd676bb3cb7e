"""Gradients of a bank are those of PEFT, client by client."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from lora.bank_clients import Alone, adapted, bank_of, labelled, texts, tiny, worst_gradient
from lora.peft_models import bert, gpt2, llama, lora_config, vera_config
from pyfed.lora import BankSGD, ClientBank

EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(11)


def compare(model: Any, batches: list[Any], expected: list[Any] | None = None, **more: Any) -> Any:
    """The bank, whose gradients were equal to those of PEFT's clients."""
    bank = bank_of(model, len(batches), **more)
    alone = [Alone(bank, model, client) for client in range(len(batches))]
    losses = bank.losses(batches)
    losses.nansum().backward()
    dtype = bank.arena.data.dtype
    padded = expected or batches
    assert worst_gradient(bank, alone, padded) < EXACT[dtype]
    for client, batch in enumerate(padded):
        if batch is None:
            assert losses[client].isnan()
            assert not bank.arena.grad[client].any()
        else:
            difference = (losses[client] - alone[client].loss(batch)).abs()
            assert difference < EXACT[dtype] * losses[client].detach()
    return bank


@pytest.mark.parametrize("dropout", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [(2, 2, 2), (3, 0, 1)])
def test_gradients_are_those_of_peft(
    dropout: float, dtype: torch.dtype, counts: tuple[int, ...]
) -> None:
    model = adapted(bert(), lora_config(lora_dropout=dropout)).to(dtype)
    compare(model, labelled(counts))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("counts", [(2, 2, 2), (3, 0, 1)])
def test_gradients_of_vera_are_those_of_peft(dropout: float, counts: tuple[int, ...]) -> None:
    for dtype in EXACT:
        compare(adapted(bert(), vera_config(vera_dropout=dropout)).to(dtype), labelled(counts))


@pytest.mark.parametrize("build", [gpt2, llama])
def test_gradients_of_causal_models_are_those_of_peft(build: Any) -> None:
    family = build.__name__
    model = adapted(build(), lora_config(family, task_type="CAUSAL_LM", lora_dropout=0.1))
    compare(model, texts((2, 1, 2), (7, 7, 7)))


def test_scalings_by_rank_pattern_and_rslora_are_those_of_peft() -> None:
    config = lora_config(use_rslora=True, rank_pattern={"query": 2}, alpha_pattern={"value": 3})
    bank = compare(adapted(bert(), config), labelled((2, 3)))
    ranks = {slot.shape[0] for slot in bank.arena.slots.values() if slot.group == "a"}
    assert ranks == {2, 4}


def test_a_head_of_many_layers_is_each_clients_own() -> None:
    model = tiny("RobertaForSequenceClassification", num_labels=3, pad_token_id=1)
    config = lora_config(target_modules=["query"], modules_to_save=["classifier"])
    for counts in ((2, 2), (3, 1), (0, 2)):
        bank = compare(adapted(model, config), labelled(counts))
        assert sum(slot.group == "head" for slot in bank.arena.slots.values()) == 4


def test_a_trained_embedding_is_each_clients_own() -> None:
    model = adapted(bert(), lora_config(modules_to_save=["word_embeddings", "classifier"]))
    compare(model, labelled((2, 2, 1)))


def test_token_labels_are_averaged_over_each_clients_own_tokens() -> None:
    model = adapted(
        tiny("BertForTokenClassification", num_labels=50),
        lora_config(task_type="TOKEN_CLS"),
    )
    compare(model, texts((2, 1, 3), (5, 5, 5)))


@pytest.mark.parametrize("build", [bert, llama])
def test_texts_of_unequal_length_train_as_each_alone(build: Any) -> None:
    task = {"llama": "CAUSAL_LM"}.get(build.__name__, "SEQ_CLS")
    model = adapted(build(), lora_config(build.__name__, task_type=task))
    if task == "CAUSAL_LM":
        batches = texts((2, 1, 2), (4, 9, 6))
    else:
        batches = [labelled((2,), length)[0] for length in (4, 9, 6)]
    compare(model, batches)


def test_dropout_of_texts_of_unequal_length_is_that_of_the_filled_up_texts() -> None:
    model = adapted(llama(), lora_config("llama", task_type="CAUSAL_LM", lora_dropout=0.3))
    batches: list[Any] = texts((2, 1, 2), (4, 9, 6))
    filled = []
    for batch in batches:
        short = 9 - batch["input_ids"].shape[1]
        pad = torch.nn.functional.pad
        mask = pad(torch.ones_like(batch["input_ids"]), (0, short))
        filled.append(
            {
                "input_ids": pad(batch["input_ids"], (0, short)),
                "labels": pad(batch["labels"], (0, short), value=-100),
                "attention_mask": mask,
            }
        )
    for tile in (None, 1):
        compare(model, batches, filled, tile=tile)


@pytest.mark.parametrize("more", [{"tile": 1}, {"tile": 2}, {"checkpoint": True}])
@pytest.mark.parametrize("build", [bert, gpt2, llama])
def test_tiles_and_checkpoints_change_no_gradient(build: Any, more: dict[str, Any]) -> None:
    task = "SEQ_CLS" if build is bert else "CAUSAL_LM"
    config = lora_config(build.__name__, task_type=task, lora_dropout=0.2)
    model = adapted(build(), config).double()
    batches = labelled((2, 0, 1)) if build is bert else texts((2, 0, 1), (5, 5, 5))
    found = []
    for settings in ({}, more):
        bank = bank_of(model, 3, **settings)
        optimizer = BankSGD(bank, lr=0.1)
        losses = [bank.step(batches, optimizer) for _ in range(2)]
        found.append((bank.arena.data.clone(), torch.stack(losses).nan_to_num()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-13)


def test_a_checkpoint_runs_blocks_again_and_keeps_less() -> None:
    model = adapted(bert(), lora_config(lora_dropout=0.2))
    calls = []
    block = model.get_base_model().bert.encoder.layer[0].intermediate
    block.register_forward_hook(lambda *_: calls.append(1))
    for checkpoint in (False, True):
        calls.clear()
        bank = bank_of(model, 2, checkpoint=checkpoint)
        bank.losses(labelled((1, 1))).sum().backward()
        assert len(calls) == 1 + checkpoint


def test_a_clients_data_touch_no_bit_of_another_clients_gradient() -> None:
    model = adapted(bert(), lora_config(lora_dropout=0.1))
    rows = []
    for seed in (1, 2):
        bank = bank_of(model, 3)
        batches = labelled((2, 2, 2))
        batches[1] = labelled((2,), seed=seed)[0]
        bank.losses(batches).sum().backward()
        rows.append(bank.arena.grad.clone())
    assert torch.equal(rows[0][0], rows[1][0])
    assert torch.equal(rows[0][2], rows[1][2])
    assert not torch.equal(rows[0][1], rows[1][1])


def test_a_loss_of_ones_own_is_averaged_by_its_weights() -> None:
    def loss(outputs: Any, batch: Any) -> Any:
        each = outputs.logits.square().sum(1)
        return each, batch["weight"]

    model = adapted(bert(), lora_config())
    batches: list[Any] = labelled((3, 2))
    weights = [torch.tensor([1.0, 0.0, 3.0]), torch.tensor([2.0, 2.0])]
    for batch, weight in zip(batches, weights, strict=True):
        del batch["labels"]
        batch["weight"] = weight

    bank = bank_of(model, 2, loss=loss, loss_keys=["weight"])
    found = bank.losses(batches)
    for client, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        logits = bank.predict({"input_ids": batch["input_ids"]}, client)
        expected = (logits.square().sum(1) * weight).sum() / weight.sum()
        torch.testing.assert_close(found[client].detach(), expected)


def test_half_precision_bases_train_float32_adapters() -> None:
    model = peft.get_peft_model(bert().to(torch.bfloat16), lora_config())
    bank = bank_of(model, 2)
    assert bank.arena.data.dtype == torch.float32
    alone = [Alone(bank, model, client) for client in range(2)]
    batches = labelled((2, 2))
    bank.losses(batches).sum().backward()
    # bfloat16 keeps 8 bits: activations and gradients of the base are rounded at every layer.
    assert worst_gradient(bank, alone, batches) < 0.1


def test_frozen_groups_get_no_gradient() -> None:
    model = adapted(bert(), lora_config())
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    bank = compare(model, labelled((2, 1)))
    first, last = bank.arena.spans["a"]
    assert not bank.arena.grad[:, first:last].any()
    bank.train_only("a", "head")
    bank.losses(labelled((2, 1))).sum().backward()
    assert bank.arena.grad[:, first:last].any()
    first, last = bank.arena.spans["b"]
    assert not bank.arena.grad[:, first:last].any()


def test_an_adapter_without_heads_and_a_single_client_train() -> None:
    model = adapted(llama(), lora_config("llama"))
    compare(model, texts((2,), (5,)))
    assert ClientBank.from_peft(model, 1).clients == 1
