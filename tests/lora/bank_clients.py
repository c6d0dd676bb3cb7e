"""Banks of tiny models, batches for them, and the same clients trained by PEFT one by one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import peft
import torch
import transformers
from torch import nn

from lora.peft_models import LABELS, WORDS, wrapped
from pyfed import Key
from pyfed.lora import ClientBank

KEY = Key(bytes(range(32)))
Batch = dict[str, torch.Tensor]


def adapted(base: nn.Module, config: Any) -> Any:
    """A PEFT model whose adapter and heads are random, and small as trained ones are."""
    return wrapped(base, config, scale=0.1)


def randomised(bank: ClientBank, scale: float = 0.05, seed: int = 3) -> ClientBank:
    """The bank with adapters and heads that differ from client to client."""
    generator = torch.Generator().manual_seed(seed)
    for slot in bank.arena.slots.values():
        view = bank.arena.view(bank.arena.data, slot.key)
        drawn = torch.randn(view.shape, generator=generator, dtype=torch.float64)
        view.add_(drawn.to(view.dtype), alpha=scale)
    return bank


def bank_of(model: nn.Module, clients: int = 3, **more: Any) -> ClientBank:
    return randomised(ClientBank.from_peft(model, clients, **({"key": KEY} | more)))


def labelled(counts: Sequence[int], length: int = 6, seed: int = 5) -> list[Batch | None]:
    """For each client so many classified samples; None for 0."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_ids": torch.randint(2, WORDS, (count, length), generator=generator),
            "labels": torch.randint(0, LABELS, (count,), generator=generator),
        }
        if count
        else None
        for count in counts
    ]


def texts(counts: Sequence[int], lengths: Sequence[int], seed: int = 6) -> list[Batch | None]:
    """For each client so many texts of its own length, each token a label; the first two not."""
    generator = torch.Generator().manual_seed(seed)
    batches: list[Batch | None] = []
    for count, length in zip(counts, lengths, strict=True):
        ids = torch.randint(2, WORDS, (count, length), generator=generator)
        labels = ids.clone()
        labels[:1, :2] = -100
        batches.append({"input_ids": ids, "labels": labels} if count else None)
    return batches


class Alone:
    """One client of a bank, trained by PEFT without the bank.

    Args:
        bank: whose client it is; the client starts from what the bank has now.
        model: the PEFT model; it is copied.
        client: its number.
    """

    def __init__(self, bank: ClientBank, model: nn.Module, client: int) -> None:
        self.model: Any = copy.deepcopy(model).eval()
        self.adapter = self.model.active_adapter
        state = {key: value.clone() for key, value in bank.state_dict(client).items()}
        peft.set_peft_model_state_dict(self.model, state, adapter_name=self.adapter)
        dropouts, self.clock = bank.counter_dropouts(client)
        for path, dropout in dropouts.items():
            layer = self.model.get_submodule(path)
            drops = layer.lora_dropout if hasattr(layer, "lora_dropout") else layer.vera_dropout
            drops[self.adapter] = dropout.train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, batch: Batch) -> torch.Tensor:
        """Of PEFT and transformers themselves."""
        return self.model(**batch).loss

    def gradients(self, batch: Batch) -> dict[str, torch.Tensor]:
        """By the names that PEFT saves parameters by."""
        self.model.zero_grad()
        self.loss(batch).backward()
        return {
            saved(name, self.adapter): parameter.grad
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }

    def state(self) -> dict[str, torch.Tensor]:
        return peft.get_peft_model_state_dict(self.model, adapter_name=self.adapter)


def saved(name: str, adapter: str) -> str:
    """The name in a file of a parameter of a live model."""
    return name.replace(".modules_to_save", "").replace(f".{adapter}", "")


def worst_gradient(bank: ClientBank, alone: Sequence[Alone], batches: Sequence[Any]) -> float:
    """The largest relative error of a client's whole gradient, in the 2-norm."""
    worst = []
    for client, (one, batch) in enumerate(zip(alone, batches, strict=True)):
        if batch is None:
            continue
        expected = one.gradients(batch)
        found = {key: bank.arena.view(bank.arena.grad, key)[client] for key in expected}
        wrong = torch.stack([(found[key] - expected[key]).norm() for key in expected]).norm()
        worst.append(float(wrong / torch.stack([g.norm() for g in expected.values()]).norm()))
    return max(worst)


def tiny(kind: str, **more: Any) -> nn.Module:
    """A transformer of two blocks, by the name of its class in transformers."""
    sizes: dict[str, Any] = {
        "vocab_size": WORDS,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    family = kind.split("For")[0]
    config = getattr(transformers, f"{family}Config")(**(sizes | more))
    return getattr(transformers, kind)(config)
