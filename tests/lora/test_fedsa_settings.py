"""Wrong calls of federated LoRA, each told by its argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lora.fedsa_rounds import models_of
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import FedSALoRA

PLAIN = {"base_model.model.q.lora_A.weight": torch.ones(2, 3)}
WHOLE = PLAIN | {"base_model.model.q.lora_B.weight": torch.ones(3, 2)}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
INTEGER = WHOLE | {"base_model.model.head.steps": torch.ones(1, dtype=torch.int64)}
HEADS = CONFIG | {"modules_to_save": ["head"]}
CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: FedSALoRA("median"), ArgumentError, "rule is 'median'; it must be one of"),
    (lambda: FedSALoRA(3), DtypeError, "rule is int"),
    (lambda: FedSALoRA("flora"), ArgumentError, "in clear: it stacks every client's A and B"),
    (lambda: FedSALoRA("fedex"), ArgumentError, "in clear: its residual"),
    (lambda: FedSALoRA("flexlora"), ArgumentError, "in clear: it factorises"),
    (lambda: FedSALoRA("hetlora"), ArgumentError, "in clear: its weights are the norms"),
    (lambda: FedSALoRA("fedsvd"), ArgumentError, "mean of B and then .* take the mean with"),
    (lambda: FedSALoRA(heads="mine"), ArgumentError, "heads is 'mine'"),
    (lambda: FedSALoRA(wire="int8"), ArgumentError, "wire is 'int8'"),
    (lambda: FedSALoRA(wire=torch.float64), ArgumentError, "wire is 'float64'"),
    (lambda: FedSALoRA(wire=4), ArgumentError, "wire is 4"),
    (lambda: FedSALoRA().client(-1, WHOLE, CONFIG), ArgumentError, "index is -1"),
    (lambda: FedSALoRA().client(65_535, WHOLE, CONFIG), ArgumentError, "index is 65535"),
    (lambda: FedSALoRA().client(0, WHOLE, CONFIG, -1), ArgumentError, "round is -1"),
    (lambda: FedSALoRA().client(0, "folder"), DtypeError, "adapter is str; it must be a PEFT"),
    (lambda: FedSALoRA().client(0, torch.nn.Linear(2, 2)), DtypeError, "without a peft_config"),
    (lambda: FedSALoRA().client(0, WHOLE), ArgumentError, "config of client 0 is None"),
    (lambda: FedSALoRA().client(2, PLAIN, CONFIG), ArgumentError, "client 2 has no B at all"),
    (lambda: FedSALoRA().client(0, {}, CONFIG), ArgumentError, "client 0 holds no tensor"),
    (
        lambda: FedSALoRA().client(0, {f"module.{k}": v for k, v in WHOLE.items()}, CONFIG),
        ArgumentError,
        "with the prefix 'module.'",
    ),
    (lambda: FedSALoRA().client(0, WHOLE, CONFIG | {"r": 3}), ArgumentError, "has rank 2"),
    (
        lambda: FedSALoRA("fedit").client(0, INTEGER, HEADS),
        DtypeError,
        "dtype torch.int64, of which there is no mean",
    ),
    (lambda: FedSALoRA().server(WHOLE, 0, CONFIG), ArgumentError, "clients is 0"),
    (lambda: FedSALoRA().server(WHOLE, 65_536, CONFIG), ArgumentError, "clients is 65536"),
    (lambda: FedSALoRA().server(WHOLE, 1, CONFIG, device="x"), ArgumentError, "device is 'x'"),
    (
        lambda: FedSALoRA("fedit").server(FedSALoRA().plan(WHOLE, CONFIG), 1),
        ArgumentError,
        "plan is of other settings",
    ),
    (
        lambda: FedSALoRA("rolora").server(FedSALoRA("rolora").plan(WHOLE, CONFIG), 1, round=1),
        ArgumentError,
        "another kind of round",
    ),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_wrong_calls_are_named(number: int) -> None:
    call, error, match = CALLS[number]
    with pytest.raises(error, match=match):
        call()


def test_models_know_their_adapters_and_have_their_own_configuration() -> None:
    (model,) = models_of("lora", 1)
    with pytest.raises(ArgumentError, match=r"no adapter 'x'; it must be one of \['default'\]"):
        FedSALoRA().client(0, model, name="x")
    with pytest.raises(ArgumentError, match="config is given beside a model"):
        FedSALoRA().client(0, model, CONFIG)


@pytest.mark.parametrize("weight", [-1, 2**37, True, 1.0, None])
def test_weights_are_sample_counts(weight: Any) -> None:
    client = FedSALoRA().client(0, dict(WHOLE), CONFIG)
    with pytest.raises((ArgumentError, DtypeError), match="weight is"):
        client.start(weight)
    assert client.start(2**37 - 1)


def test_an_adapter_that_was_replaced_in_the_middle_of_a_round_is_noticed() -> None:
    own = dict(WHOLE)
    client = FedSALoRA().client(0, own, CONFIG)
    own["base_model.model.q.lora_B.weight"] = torch.ones(4, 2)
    with pytest.raises(ArgumentError, match=r"changed since .* has shape \(4, 2\)"):
        client.start()
