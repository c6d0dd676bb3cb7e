"""The upper layers of MiniLM under adapters, fed with what the frozen layers below them give."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import peft
import torch
from fedprllm_models import SPECS, load, weights_path
from fedsa_lora_text import LABELS, Passage
from torch import nn

TARGETS = ["query", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
CONFIGS: dict[str, peft.PeftConfig] = {
    "LoRA": peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05),
    "rsLoRA": peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, use_rslora=True),
    "VeRA": peft.VeraConfig(r=256, vera_dropout=0.05, projection_prng_key=0),
}


class Top(nn.Module):
    """The upper layers of a BERT and a classification head on the first token, [CLS].

    Of the last layer only [CLS] is computed, since nothing else of it is used. It still attends to
    all tokens.

    Args:
        layers: Of the encoder; they are copied.
        config: Of the whole model.
        labels: How many classes.
    """

    def __init__(self, layers: nn.ModuleList, config: object, labels: int) -> None:
        super().__init__()
        self.config = config
        self.layers = deepcopy(layers)
        self.classifier = nn.Linear(config.hidden_size, labels)

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (samples, labels).

        Args:
            inputs_embeds: What the layer below gave, (samples, tokens, hidden).
            attention_mask: Which tokens there are, bool (samples, tokens).
        """
        hidden = inputs_embeds
        for layer in self.layers:
            asking = hidden[:, :1] if layer is self.layers[-1] else hidden
            own = layer.attention.self
            query, key, value = own.query(asking), own.key(hidden), own.value(hidden)
            heads = (
                x.unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)
                for x in (query, key, value)
            )  # (samples, heads, tokens, size)
            found = nn.functional.scaled_dot_product_attention(
                *heads, attn_mask=attention_mask[:, None, None, :]
            )
            context = layer.attention.output(found.transpose(1, 2).flatten(2), asking)
            hidden = layer.output(layer.intermediate(context), context)
        return self.classifier(hidden[:, 0])


@dataclass(frozen=True)
class Samples:
    """All samples, as the upper layers get them.

    Attributes:
        hidden: What the lower layers give, float32 (samples, tokens, hidden).
        mask: Which tokens there are, bool (samples, tokens).
        labels: int64 (samples,).
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def batch(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Some of them, as a model is called with them."""
        return {
            "inputs_embeds": self.hidden[numbers],
            "attention_mask": self.mask[numbers],
            "labels": self.labels[numbers],
        }


def prepare(
    passages: Sequence[Passage], layers: int, tokens: int, batch: int = 64
) -> tuple[Samples, Top]:
    """Run the lower layers once on everything.

    They are frozen and have no adapters, so what they give is the same in every step; training on
    it is training the whole model with ``layers_to_transform`` set to the upper layers.

    Args:
        passages: The texts.
        layers: How many upper layers have adapters.
        tokens: Longer texts are cut.
        batch: Texts at once.

    Returns:
        The samples, and the upper layers without adapters.
    """
    model, tokenizer = load(SPECS["minilm"])
    top = Top(model.encoder.layer[-layers:], model.config, len(LABELS)).requires_grad_(False)
    del model.encoder.layer[-layers:]
    hidden, masks = [], []
    for first in range(0, len(passages), batch):
        inputs = tokenizer(
            [passage.text for passage in passages[first : first + batch]],
            padding="max_length",
            truncation=True,
            max_length=tokens,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden.append(model(**inputs).last_hidden_state)
        masks.append(inputs["attention_mask"].bool())
    labels = torch.tensor([passage.label for passage in passages])
    return Samples(torch.cat(hidden).clone(), torch.cat(masks), labels), top


def adapted(top: Top, kind: str, seed: int) -> peft.PeftModel:
    """A copy of the upper layers with a fresh adapter and head; the same for the same seed.

    Args:
        top: Without adapters.
        kind: One of CONFIGS.
        seed: Of the adapter's and the head's first values.
    """
    config = deepcopy(CONFIGS[kind])
    config.target_modules, config.modules_to_save = list(TARGETS), ["classifier"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copy = deepcopy(top)
        nn.init.normal_(copy.classifier.weight, std=0.02)
        nn.init.zeros_(copy.classifier.bias)
        return peft.get_peft_model(copy, config)


def missing() -> str:
    """What to install, when the weights are not there; else empty."""
    try:
        weights_path(SPECS["minilm"])
    except ModuleNotFoundError as error:
        return str(error)
    return ""
