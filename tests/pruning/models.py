"""Tiny random models and clients of every family, and what tests ask about them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from pyfed.errors import ProtocolError
from pyfed.pruning import FedPrLLM, PruneMessage, PruneResult, local_votes

WORDS, LENGTH = 50, 12


def llama(layers: int = 2, **more: Any) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        **more,
    )
    return transformers.LlamaForCausalLM(config)


def bert(layers: int = 2) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
    )
    return transformers.BertModel(config)


def opt(layers: int = 2) -> nn.Module:
    config = transformers.OPTConfig(
        vocab_size=WORDS,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    model = transformers.OPTForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they are made 0, which would hide what they do
            nn.init.normal_(parameter)
    return model


def gpt2(layers: int = 2) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_embd=16,
        n_layer=layers,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def sliding() -> nn.Module:
    """Blocks with a sliding window in turn with blocks without: their masks differ."""
    config = transformers.Qwen2Config(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    )
    return transformers.Qwen2ForCausalLM(config)


class Plain(nn.Module):
    """No Hugging Face model: an embedding, a ModuleList of blocks, a head."""

    def __init__(self, layers: int = 2, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.blocks = nn.ModuleList(PlainBlock(width) for _ in range(layers))
        self.head = nn.Linear(width, WORDS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden, _ = block(hidden)
        return self.head(hidden)


class PlainBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        return hidden + self.dropout(self.down(torch.relu(self.up(hidden)))), None


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": llama,
    "bert": bert,
    "opt": opt,
    "gpt2": gpt2,
    "sliding": sliding,
    "plain": Plain,
}


def tokens(count: int = 3, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, WORDS, (count, length))


def fingerprint(model: nn.Module) -> list[Any]:
    """All that calibration must leave as it was: bits, memory, modes, hooks, gradients."""
    state = [
        (name, t.data_ptr(), t.stride(), t.detach().clone().view(torch.uint8).numpy().tobytes())
        for name, t in model.state_dict().items()
    ]
    modules = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]
    gradients = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return [state, modules, gradients]


def inputs_of(model: nn.Module, names: list[str], *batches: Any) -> dict[str, torch.Tensor]:
    """What comes into layers in ordinary forward passes: float64 (tokens, in), padding left out."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    real: list[torch.Tensor | None] = [None]

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            rows = args[0].detach().double().reshape(-1, args[0].shape[-1])
            seen[name].append(rows if real[0] is None else rows[real[0].reshape(-1).bool()])

        return hook

    hooks = [model.get_submodule(n).register_forward_pre_hook(keep(n)) for n in names]
    was = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            if isinstance(batch, dict):
                real[0] = batch["attention_mask"]
                model(**batch)
            else:
                model(batch)
    model.train(was)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) for name, rows in seen.items()}


def matrix(model: nn.Module, name: str) -> torch.Tensor:
    """The weight of a layer as (out, in), in the model's memory."""
    module = model.get_submodule(name)
    weight = module.weight.detach()
    return weight if isinstance(module, nn.Linear) else weight.t()


def play(
    rule: FedPrLLM,
    model: nn.Module,
    samples: list[Any],
    order: list[int] | None = None,
) -> tuple[PruneResult, list[nn.Module]]:
    """A round with a copy of the model for each client: the server's result, and the copies."""
    server = rule.server(model, clients=len(samples))
    copies = [copy.deepcopy(model) for _ in samples]
    clients = [rule.client(i, copies[i], own) for i, own in enumerate(samples)]
    for index in order or range(len(samples)):
        for vote in clients[index].start():
            assert server.handle(again(vote, server.plan), index) == []
    while server.phase == "vote":
        for decision in server.close_phase():
            answers = clients[decision.recipient].handle(again(decision, server.plan), -1)
            for vote in answers:
                server.handle(again(vote, server.plan), decision.recipient)
    return server.result, copies


def masks_of(result: PruneResult) -> dict[str, list[list[bool]]]:
    return {layer.name: result.mask(layer.name).tolist() for layer in result.plan.layers}


def votes_of(model: nn.Module, samples: Any, **more: Any) -> dict[str, list[list[bool]]]:
    return {
        name: mask.tolist()
        for masks in local_votes(model, samples, **more)
        for name, mask in masks.items()
    }


def shares(count: int = 3) -> list[torch.Tensor]:
    return [tokens(2) for _ in range(count)]


def again(message: PruneMessage, plan: Any) -> PruneMessage:
    """A message as it comes out of its bytes."""
    return PruneMessage.from_bytes(message.to_bytes(), plan)


def refused(call: Callable[..., Any], *args: Any) -> str:
    """What the ProtocolError says that a call must raise."""
    try:
        call(*args)
    except ProtocolError as error:
        return str(error)
    raise AssertionError("was not refused")
