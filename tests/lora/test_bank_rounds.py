"""What users meet when they train a bank round by round: mistakes are named, models can be kept."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from lora.bank_clients import adapted, bank_of, labelled, randomised, texts
from lora.peft_models import LABELS, WORDS, bert, gpt2, lora_config
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import BankAdamW, ClientBank


@pytest.fixture
def bank() -> ClientBank:
    torch.manual_seed(11)
    return bank_of(adapted(bert(), lora_config()), 3)


def test_a_residual_that_is_not_merged_is_in_the_result(bank: ClientBank) -> None:
    weights = {name: value.clone() for name, value in bank.model.state_dict().items()}
    found = bank.aggregate("fedex", merge=False)
    assert found.residual
    assert not bank.base_changed
    for name, value in bank.model.state_dict().items():
        assert torch.equal(value, weights[name])
    with pytest.raises(DtypeError, match="merge is int"):
        bank.aggregate("fedex", merge=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["fedex", "flora"])
def test_a_client_saved_after_a_merge_goes_on_the_merged_base_alone(
    bank: ClientBank, rule: str, tmp_path: Path
) -> None:
    original = copy.deepcopy(bank.model).unload()
    randomised(bank, scale=0.5)
    bank.aggregate(rule, merge=True)
    assert bank.base_changed
    with pytest.warns(UserWarning, match="base_changed is True"):
        bank.save_pretrained(tmp_path / "client", 1)
    copy.deepcopy(bank.model).unload().save_pretrained(tmp_path / "base")
    bank.base_changed = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        bank.save_pretrained(tmp_path / "client", 1)
    kind = transformers.BertForSequenceClassification
    ids = texts((3,), (6,))[0]["input_ids"]  # type: ignore[index]
    expected = bank.predict({"input_ids": ids}, 1)
    found = []
    for base in (kind.from_pretrained(tmp_path / "base"), original):
        model = peft.PeftModel.from_pretrained(base, tmp_path / "client").eval()
        with torch.no_grad():
            found.append(model(input_ids=ids).logits)
    torch.testing.assert_close(found[0], expected)
    assert not torch.allclose(found[1], expected, rtol=1e-3, atol=1e-3)


def test_what_the_server_gave_may_be_the_previous_of_the_next_round(bank: ClientBank) -> None:
    first = bank.aggregate("fedit")
    bank.step(labelled((2, 2, 2)), BankAdamW(bank, lr=1e-2))
    bank.aggregate("fedit", previous=first.shared)


@pytest.mark.parametrize("missing", ["folder", "adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_is_not_there_is_told_without_a_hub(
    bank: ClientBank, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("a hub was asked")

    monkeypatch.setattr(peft.PeftConfig, "from_pretrained", asked)
    folder = tmp_path / "nowhere"
    if missing != "folder":
        bank.save_pretrained(folder, 0)
        (folder / missing).unlink()
    with pytest.raises(ArgumentError, match=r"folder is '.*nowhere'; it must be a folder with"):
        bank.load_pretrained(folder, client=0)


def test_optimisers_of_torch_are_told_which_to_take(bank: ClientBank) -> None:
    optimizer: Any = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    said = r"is torch.optim.adamw.AdamW; it must be a BankAdamW or BankSGD"
    with pytest.raises(DtypeError, match=f"step: optimizer {said}"):
        bank.step(labelled((1, 1, 1)), optimizer)
    with pytest.raises(DtypeError, match=f"reset {said}"):
        bank.aggregate("fedit", reset=optimizer)


@pytest.mark.parametrize("tile", [1, 2, 3])
@pytest.mark.parametrize("label", [LABELS, -1])
def test_a_label_of_no_class_names_its_client(tile: int, label: int) -> None:
    bank = bank_of(adapted(bert(), lora_config()), 3, tile=tile)
    batches: Any = labelled((2, 0, 3))
    batches[2]["labels"][1] = label
    before = bank.arena.data.clone()
    said = f"a label of client 2 is {label}; it must be -100, or 0 to {LABELS - 1}"
    with pytest.raises(ArgumentError, match=said):
        bank.step(batches, BankAdamW(bank))
    with pytest.raises(ArgumentError, match=said):
        bank.losses(batches, training=False)
    assert torch.equal(bank.arena.data, before)
    assert not bank.steps.any()


def test_of_causal_models_labels_count_where_they_are_predicted() -> None:
    model = adapted(gpt2(), lora_config("gpt2", task_type="CAUSAL_LM"))
    bank = bank_of(model, 2)
    batches: Any = texts((2, 2), (5, 4))
    expected = bank.losses(batches, training=False)
    batches[1]["labels"][:, 0] = WORDS  # of the first token, which nothing predicts
    assert torch.equal(bank.losses(batches, training=False), expected)
    batches[1]["labels"][1, 3] = WORDS
    with pytest.raises(ArgumentError, match=f"a label of client 1 is {WORDS}"):
        bank.losses(batches)
