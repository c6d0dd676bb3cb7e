"""What a bank refuses, and that it says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import nn

from lora.bank_clients import adapted, bank_of, labelled, texts
from lora.peft_models import bert, llama, lora_config, vera_config
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import BankSGD, ClientBank


class Small(nn.Module):
    """Some layers in a row, and a head."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.first(x)))


def small(*layers: nn.Module, **more: Any) -> Any:
    return peft.get_peft_model(Small(*layers), peft.LoraConfig(target_modules=["first"], **more))


def twice_active() -> Any:
    model = small()
    model.add_adapter("other", peft.LoraConfig(target_modules=["first"]))
    model.base_model.set_adapter(["default", "other"])
    return model


def merged() -> Any:
    model = small()
    model.merge_adapter()
    return model


def disabled() -> Any:
    model = small()
    model.base_model.disable_adapter_layers()
    return model


def partly_frozen() -> Any:
    model = peft.get_peft_model(bert(), lora_config())
    for name, parameter in model.named_parameters():
        if "layer.0" in name:
            parameter.requires_grad_(False)
    return model


def tied() -> Any:
    base = Small(nn.Linear(4, 4))
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["first", "layers.0"]))
    inner = model.base_model.model
    inner.layers[0].lora_A.default.weight = inner.first.lora_A.default.weight
    return model


def tied_head() -> Any:
    model = peft.get_peft_model(
        bert(), lora_config(target_modules=["query"], modules_to_save=["classifier"])
    )
    inner = model.get_base_model()
    inner.bert.pooler.dense.extra = inner.classifier.modules_to_save.default.weight
    return model


def unfrozen() -> Any:
    return small(bias="all")


def prompts() -> Any:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return peft.get_peft_model(llama(), config)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: small(nn.BatchNorm1d(4)), "layers.0 is BatchNorm1d"),
        (
            lambda: small(nn.BatchNorm1d(4, track_running_stats=False)),
            "layers.0 is BatchNorm1d",
        ),
        (lambda: small(use_dora=True), "first uses DoraLinearVariant"),
        (lambda: small(lora_bias=True), "first has lora_bias"),
        (
            lambda: peft.get_peft_model(bert(), lora_config(target_modules=["word_embeddings"])),
            "word_embeddings is an adapted Embedding",
        ),
        (
            lambda: peft.get_peft_model(
                Small(nn.Conv1d(4, 4, 1)), peft.LoraConfig(target_modules=["layers.0"])
            ),
            "layers.0 is an adapted Conv1d",
        ),
        (
            lambda: peft.get_peft_model(
                bert(), lora_config(trainable_token_indices={"word_embeddings": [1, 2]})
            ),
            "TrainableTokensWrapper",
        ),
        (twice_active, r"active adapters are \['default', 'other'\]"),
        (merged, "merged adapters"),
        (disabled, "disabled"),
        (partly_frozen, "group 'a' are frozen"),
        (tied, "is tied"),
        (tied_head, "is tied"),
        (unfrozen, "bias is trainable"),
        (prompts, "type PROMPT_TUNING"),
        (lambda: small().to("meta"), "on meta"),
    ],
)
def test_models_that_a_bank_would_train_wrongly_are_refused(
    build: Callable[[], Any], said: str
) -> None:
    model = build()
    with pytest.raises(ArgumentError, match=said):
        ClientBank.from_peft(model, 2)


def test_arguments_are_checked() -> None:
    model = small()
    for settings, error, said in (
        ({"clients": 0}, ArgumentError, "clients is 0"),
        ({"clients": 2.0}, DtypeError, "clients is float"),
        ({"clients": 2, "tile": 0}, ArgumentError, "tile is 0"),
        ({"clients": 2, "key": b"1"}, DtypeError, "key is bytes"),
        ({"clients": 2, "checkpoint": 1}, DtypeError, "checkpoint is int"),
        ({"clients": 2, "loss_keys": "labels"}, DtypeError, "loss_keys is 'labels'"),
        ({"clients": 2, "adapter": "other"}, ArgumentError, r"adapter is 'other'.*\['default'\]"),
        ({"clients": 2, "checkpoint": True}, ArgumentError, "checkpoint is True, but no"),
    ):
        with pytest.raises(error, match=said):
            ClientBank.from_peft(model, **settings)
    with pytest.raises(DtypeError, match=r"model is Small.*PeftModel"):
        ClientBank.from_peft(Small(), 2)
    bank = ClientBank.from_peft(model, 2)
    for groups in ((), ("c",), ("head",)):
        with pytest.raises(ArgumentError, match="groups are"):
            bank.train_only(*groups)


def test_a_named_adapter_can_be_trained_beside_an_active_one() -> None:
    model = peft.get_peft_model(bert(), vera_config())
    model.add_adapter("second", vera_config(r=8))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    bank = ClientBank.from_peft(model, 2, adapter="second")
    assert bank.arena.trainable == {"a", "b", "head"}


def without(batches: list[Any], name: str) -> list[Any]:
    return [{key: value for key, value in batch.items() if key != name} for batch in batches]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda b: b[:2], ArgumentError, "there are 2 batches; it must be 3"),
        (lambda b: dict(enumerate(b)), DtypeError, "batches is dict"),
        (lambda b: [b[0], b[1], 5], DtypeError, r"batches\[2\] is int"),
        (lambda b: [None, None, None], ArgumentError, "no batch holds a sample"),
        (lambda b: [b[0], b[1], {}], ArgumentError, r"batches\[2\] has shapes"),
        (
            lambda b: [b[0], {**b[1], "labels": [1, 2]}, b[2]],
            DtypeError,
            r"batches\[1\]\['labels'\] is list",
        ),
        (
            lambda b: [b[0], {**b[1], "labels": b[1]["labels"][:1]}, b[2]],
            ArgumentError,
            r"batches\[1\] has shapes",
        ),
        (
            lambda b: [b[0], without(b, "labels")[1], b[2]],
            ArgumentError,
            r"batches\[1\] has \['input_ids'\]",
        ),
        (
            lambda b: [b[0], {**b[1], "labels": b[1]["labels"].float()}, b[2]],
            DtypeError,
            "dtype torch.float32; it must be torch.int64",
        ),
        (
            lambda b: [
                {**x, "pixels": torch.zeros(2, 3, size)}
                for x, size in zip(b, (4, 5, 4), strict=True)
            ],
            ArgumentError,
            r"batches\[1\]\['pixels'\]",
        ),
        (
            lambda b: [{**x, "input_ids": x["input_ids"].to("meta")} for x in b],
            ArgumentError,
            "meta",
        ),
        (lambda b: without(b, "labels"), ArgumentError, "no labels"),
        (
            lambda b: [{**x, "labels": x["labels"].float()} for x in b],
            ArgumentError,
            "cross entropy needs integers",
        ),
    ],
)
def test_batches_that_do_not_fit_change_nothing(change: Any, error: Any, said: str) -> None:
    bank = bank_of(adapted(bert(), lora_config(lora_dropout=0.1)), 3)
    optimizer = BankSGD(bank, lr=1.0)
    before = bank.arena.data.clone()
    with pytest.raises(error, match=said):
        bank.step(change(labelled((2, 2, 2))), optimizer)
    assert torch.equal(bank.arena.data, before)
    assert not bank.steps.any()


def test_an_optimiser_of_another_bank_is_refused() -> None:
    model = adapted(bert(), lora_config())
    bank, other = bank_of(model, 2), bank_of(model, 2)
    with pytest.raises(ArgumentError, match="belongs to another bank"):
        bank.step(labelled((1, 1)), BankSGD(other, lr=1.0))


def test_losses_that_mix_clients_are_refused() -> None:
    model = adapted(bert(), lora_config())
    for loss, error, said in (
        (lambda o, b: o.logits.mean(), ArgumentError, "must not be averaged over clients"),
        (lambda o, b: 1.0, DtypeError, "gives float for losses"),
        (lambda o, b: (o.logits, b["labels"][:1]), ArgumentError, "weights of shape"),
        (lambda o, b: (o.logits, b["labels"]), ArgumentError, "they must be the same"),
    ):
        with pytest.raises(error, match=said):
            bank_of(model, 2, loss=loss).losses(labelled((2, 1)))


class Turned(nn.Module):
    """A layer that is given tokens first, as some attention modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x.transpose(0, 1)).transpose(0, 1).mean(1)


def test_a_layer_whose_first_dimension_is_not_the_samples_is_named() -> None:
    model = peft.get_peft_model(Turned(), peft.LoraConfig(target_modules=["first"]))
    bank = ClientBank.from_peft(model, 2)
    batches = [{"x": torch.ones(2, 5, 4), "labels": torch.zeros(2, dtype=torch.int64)}] * 2
    with pytest.raises(ArgumentError, match=r"first is given shape \(5, 4, 4\).*the 4 samples"):
        bank.losses(batches)


class Int8Linear(nn.Module):
    """A base layer whose weight is int8: it gives its output, which is all that a bank asks for."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = float(linear.weight.detach().abs().max()) / 127
        codes = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.float() * self.scale, self.bias)


def test_a_quantised_base_trains() -> None:
    from lora.test_bank_gradients import compare

    base: Any = bert()
    for layer in base.bert.encoder.layer:
        layer.attention.self.query = Int8Linear(layer.attention.self.query)
    config = lora_config(target_modules=["query"])
    config._register_custom_module({Int8Linear: peft.tuners.lora.layer.Linear})
    model = peft.get_peft_model(base, config)
    compare(model, labelled((2, 1)))


def test_predictions_need_logits_or_a_function() -> None:
    model = peft.get_peft_model(bert().bert, lora_config(modules_to_save=None, task_type=None))
    bank = ClientBank.from_peft(model, 2)
    batch: Any = {"input_ids": texts((2,), (5,))[0]["input_ids"]}
    with pytest.raises(ArgumentError, match="has no logits"):
        bank.predict(batch, 0)
    assert bank.predict(batch, 0, lambda out: out.last_hidden_state).shape == (2, 5, 16)
