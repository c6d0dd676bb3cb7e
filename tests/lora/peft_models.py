"""Tiny random transformers with PEFT adapters on them, and what tests ask about them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import peft
import torch
import transformers
from torch import nn

WORDS, LABELS, HIDDEN = 50, 3, 16


def bert(layers: int = 2, labels: int = LABELS, dropout: float = 0.0) -> nn.Module:
    """Square query and value (16, 16), rectangular feed-forward; a classifier on top."""
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_labels=labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return transformers.BertForSequenceClassification(config)


def gpt2(layers: int = 2) -> nn.Module:
    """Conv1D layers: weights are stored (in, out)."""
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_embd=HIDDEN,
        n_layer=layers,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return transformers.GPT2LMHeadModel(config)


def llama(layers: int = 2) -> nn.Module:
    """Fewer key than query heads, so k_proj and v_proj are rectangular."""
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


BASES: dict[str, Callable[[], nn.Module]] = {"bert": bert, "gpt2": gpt2, "llama": llama}
TARGETS: dict[str, list[str]] = {
    "bert": ["query", "value", "intermediate.dense"],
    "gpt2": ["c_attn", "c_fc"],
    "llama": ["q_proj", "v_proj", "down_proj"],
}


def lora_config(family: str = "bert", **more: Any) -> peft.LoraConfig:
    """Rank 4, alpha 8 on linear layers of a family; of bert the classifier is trained too."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS[family]}
    if family == "bert":
        settings |= {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    if family == "gpt2":
        settings["fan_in_fan_out"] = True
    return peft.LoraConfig(**(settings | more))


def vera_config(**more: Any) -> peft.VeraConfig:
    settings: dict[str, Any] = {"r": 8, "target_modules": ["query", "value"]}
    settings |= {"modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    return peft.VeraConfig(**(settings | more))


def wrapped(base: nn.Module, config: Any, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """A PEFT model of a copy of ``base`` whose trained parameters are random, B too."""
    model = peft.get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = drawn.mul_(scale).to(parameter.dtype)
    return model


def fleet(
    family: str = "bert",
    clients: int = 3,
    configs: Any = None,
    dtype: torch.dtype = torch.float32,
) -> list[nn.Module]:
    """PEFT models of one random base, with unlike random adapters.

    Args:
        family: of ``BASES``.
        clients: how many; as many as ``configs`` when that is a list.
        configs: one for all, or a list of one each; None: ``lora_config(family)``.
        dtype: of the base and of the adapters.
    """
    torch.manual_seed(7)
    base = BASES[family]().to(dtype)
    if configs is None:
        configs = lora_config(family)
    each = list(configs) if isinstance(configs, Sequence) else [configs] * clients
    return [wrapped(base, own, seed=100 + i).to(dtype) for i, own in enumerate(each)]


def states(models: Sequence[nn.Module]) -> list[dict[str, torch.Tensor]]:
    """The saved-style state dicts of the adapters, copied."""
    return [
        {key: value.clone() for key, value in peft.get_peft_model_state_dict(model).items()}
        for model in models
    ]


def load(model: nn.Module, shared: dict[str, torch.Tensor]) -> None:
    """What a client does with a state dict that holds a part of its adapter."""
    whole = {**peft.get_peft_model_state_dict(model), **shared}  # PEFT asks for heads and vera_A
    loaded = peft.set_peft_model_state_dict(model, whole)
    assert not loaded.unexpected_keys


def config_of(model: Any) -> Any:
    return model.peft_config["default"]


def adapted(model: nn.Module) -> dict[str, Any]:
    """Name in the base model → the PEFT layer there."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def deltas(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name → PEFT's own change of the weight, float64, in the form of the weight."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        return {name: layer.get_delta_weight("default") for name, layer in adapted(model).items()}


def base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name → a copy of the base weight under each PEFT layer, float64."""
    return {
        name: layer.get_base_layer().weight.detach().double().clone()
        for name, layer in adapted(model).items()
    }


def mean_delta(models: Sequence[nn.Module], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """Σ w_i ΔW_i by PEFT's own products: the exact aggregate."""
    total = sum(weights)
    each = [deltas(model) for model in models]
    return {
        name: sum(w / total * own[name] for w, own in zip(weights, each, strict=True))
        for name in each[0]
    }


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Frobenius distance, relative to the wanted matrix."""
    return float((found.double() - wanted).norm() / wanted.norm())
