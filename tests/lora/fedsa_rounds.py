"""Rounds of federated LoRA played by hand, message by message, and what tests ask about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import peft
import pytest
import torch
from torch import nn

from lora.peft_models import fleet, lora_config, vera_config
from pyfed.errors import ProtocolError
from pyfed.lora import FedSALoRA, LoraMessage, LoraResult

VARIANTS: dict[str, Callable[[], Any]] = {
    "lora": lora_config,
    "rslora": lambda: lora_config(use_rslora=True),
    "patterns": lambda: lora_config(rank_pattern={"query": 2}, alpha_pattern={"value": 3}),
    "vera": vera_config,
}
A_SIDE, B_SIDE = ("lora_A", "vera_lambda_d"), ("lora_B", "vera_lambda_b")
SHARES = {"fedsa": A_SIDE, "fedit": A_SIDE + B_SIDE, "ffa": B_SIDE}


def models_of(variant: str, clients: int = 3) -> list[nn.Module]:
    return fleet("bert", clients, VARIANTS[variant]())


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what an adapter trains."""
    found = peft.get_peft_model_state_dict(model)
    return {k: v.clone() for k, v in found.items() if not k.startswith("base_model.vera_")}


def load(model: nn.Module, part: Mapping[str, torch.Tensor]) -> None:
    """Load part of an adapter by PEFT, which wants the heads and VeRA's projections beside it."""
    peft.set_peft_model_state_dict(model, {**peft.get_peft_model_state_dict(model), **part})


def is_any(key: str, marks: Sequence[str]) -> bool:
    return any(mark in key for mark in marks)


def equal_bits(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds[wanted.element_size()]
    return found.dtype == wanted.dtype and torch.equal(
        found.contiguous().view(kind), wanted.contiguous().view(kind)
    )


def mean_in_float64(
    states: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[int], key: str
) -> torch.Tensor:
    total = sum(weights)
    return sum(w * own[key].double() for w, own in zip(weights, states, strict=True)) / total


def play(
    rule: FedSALoRA,
    models: Sequence[Any],
    weights: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    round: int = 0,
    config: Any = None,
) -> LoraResult:
    """A round with parties of their own, through bytes; updates come in ``order``."""
    server = rule.server(models[0], len(models), config, round=round)
    clients = [rule.client(i, model, config, round) for i, model in enumerate(models)]
    for index in range(len(models)) if order is None else order:
        (update,) = clients[index].start(1 if weights is None else weights[index])
        server.handle(LoraMessage.from_bytes(update.to_bytes(), server.plan), index)
    for mean in server.close_phase():
        client = clients[mean.recipient]
        assert client.handle(LoraMessage.from_bytes(mean.to_bytes(), client.plan), -1) == []
        assert client.phase == "done"
        assert torch.equal(client.result.vector, server.result.vector)
    return server.result


def refused(call: Callable[..., Any], *args: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        call(*args)
    return caught.value


def with_nan(message: LoraMessage) -> LoraMessage:
    payload = message.payload[:-4] + b"\0\0\xc0\x7f"
    return dataclasses.replace(message, payload=payload)
