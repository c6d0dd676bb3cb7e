"""Samples, settings and models that calibration takes only one way, or refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pruning.models import (
    Plain,
    fingerprint,
    gpt2,
    inputs_of,
    llama,
    tokens,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.pruning import local_votes, prunable_layers
from pyfed.pruning.calibration import Calibration
from pyfed.pruning.samples import Samples


def calibrated(model: nn.Module, samples: Any, batch_size: int = 2) -> Calibration:
    checked = Samples(samples, 4096)
    return Calibration(model, prunable_layers(model), checked, batch_size)


def names_of(model: nn.Module, block: int) -> list[str]:
    return [layer.name for layer in prunable_layers(model) if layer.block == block]


def close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got.double(), wanted.double(), rtol=1e-5, atol=1e-6)


def test_long_samples_are_refused_or_cut() -> None:
    model, samples = llama(), tokens(2, 9)
    with pytest.raises(ArgumentError, match=r"9 tokens and max_length is 8; .* truncate=True"):
        next(local_votes(model, samples, max_length=8))
    cut = list(local_votes(model, samples, max_length=8, truncate=True))
    for got, wanted in zip(cut, local_votes(model, samples[:, :8]), strict=True):
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no tensor": ([[1, 2]], DtypeError, "input_ids is list"),
    "floats": (torch.rand(2, 3), DtypeError, "input_ids has dtype"),
    "a vector": (tokens(1)[0], ArgumentError, "1 dimensions"),
    "no samples": (tokens(0), ArgumentError, r"samples has shape \(0, 12\)"),
    "no tokens": (tokens(2, 0), ArgumentError, r"samples has shape \(2, 0\)"),
    "an unknown key": ({"input_ids": tokens(), "labels": tokens()}, ArgumentError, "labels"),
    "no input_ids": ({"attention_mask": tokens()}, ArgumentError, "must have input_ids"),
    "another shape": (
        {"input_ids": tokens(2), "attention_mask": tokens(3)},
        ArgumentError,
        "attention_mask has shape",
    ),
    "a mask of weights": (
        {"input_ids": tokens(), "attention_mask": tokens() * 0 + 2},
        ArgumentError,
        "neither 0 nor 1",
    ),
    "a sample of padding": (
        {"input_ids": tokens(2), "attention_mask": torch.tensor([[1] * 12, [0] * 12])},
        ArgumentError,
        r"samples \[1\] have no real token",
    ),
    "nothing": (None, ArgumentError, "samples is None; score 'wanda' needs them"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_samples_are_named(what: str) -> None:
    samples, error, match = BAD[what]
    with pytest.raises(error, match=match):
        next(local_votes(llama(), samples))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"score": "taylor"}, "score is 'taylor'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"sparsity": 1.5}, "sparsity is 1.5"),
        ({"group": "5x5"}, "must divide"),
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"power": -1}, "power is -1"),
        ({"blocks": "layers"}, "no such module"),
        ({"blocks": "lm_head"}, "which is Linear"),
        ({"skip": ("*0*",)}, r"blocks \[0\] of model.layers have no layer"),
    ],
)
def test_bad_settings_are_named(more: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        next(local_votes(llama(), tokens(2), **more))


def test_layers_are_the_linear_ones_inside_the_blocks() -> None:
    layers = prunable_layers(gpt2())
    assert [layer.name for layer in layers if layer.block == 1] == [
        f"transformer.h.1.{name}"
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert layers[0].shape == (48, 16)  # (out, in), although it is stored as (in, out)
    names = {layer.name for layer in prunable_layers(llama())}
    assert len(names) == 14
    assert not any("lm_head" in name or "embed" in name for name in names)
    skipped = prunable_layers(llama(), skip=["*.k_proj", "*.v_proj"])
    assert {layer.name for layer in skipped} == {n for n in names if n[-6] not in "kv"}


def test_blocks_are_found_around_experts_and_named_where_two_lists_are_equal() -> None:
    model = nn.Module()
    model.blocks = nn.ModuleList(
        nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(4, 4) for _ in range(9))})
        for _ in range(2)
    )
    assert {layer.block for layer in prunable_layers(model)} == {0, 1}
    model.decoder = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    with pytest.raises(ArgumentError, match="name its blocks with blocks="):
        prunable_layers(model)
    assert [layer.name for layer in prunable_layers(model, "decoder")] == ["decoder.0", "decoder.1"]


def test_models_that_cannot_be_pruned_are_refused() -> None:
    with pytest.raises(ArgumentError, match="has none"):
        prunable_layers(nn.Linear(3, 3))
    with pytest.raises(DtypeError, match="model is int"):
        prunable_layers(3)  # type: ignore[arg-type]
    shared = Plain()
    shared.blocks[1].up.weight = shared.blocks[0].up.weight
    with pytest.raises(ArgumentError, match=r"blocks.0.up and blocks.1.up share one weight"):
        prunable_layers(shared)
    with pytest.raises(ArgumentError, match=r"of dtype torch\.float64"):
        prunable_layers(Plain().double())
    with pytest.raises(ArgumentError, match="on the meta device"):
        prunable_layers(Plain().to("meta"))


def expect_uncalibrated(model: nn.Module, match: str, samples: Any = None) -> None:
    before = fingerprint(model)
    with pytest.raises(ArgumentError, match=match):
        list(local_votes(model, tokens(2) if samples is None else samples))
    assert fingerprint(model) == before


def test_models_that_are_no_chain_of_blocks_are_refused() -> None:
    class Doubled(Plain):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            hidden = self.embedding(ids)
            for block in self.blocks:
                hidden = 2 * block(hidden)[0]
            return hidden

    class Backwards(Plain):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            hidden = self.embedding(ids)
            for block in reversed(self.blocks):
                hidden, _ = block(hidden)
            return hidden

    class Short(Plain):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.blocks[0](self.embedding(ids))[0]

    expect_uncalibrated(Doubled(), "block 1 is not given what block 0 gives")
    expect_uncalibrated(Backwards(), "block 1 is called as number 0")
    expect_uncalibrated(Short(), "called 1 of 2 blocks")
    expect_uncalibrated(PlainBlockAside(), "layer blocks.0.up was not called")


class PlainBlockAside(Plain):
    """Blocks that use the weight of a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.forward = lambda hidden, own=block: (  # type: ignore[method-assign]
                nn.functional.linear(hidden, own.up.weight).relu() @ own.down.weight.T,
                None,
            )


def test_tokens_that_lose_their_places_are_refused_with_padding_only() -> None:
    model = Plain()
    for block in model.blocks:  # a layer that sees half of the tokens, as in a mixture of experts
        block.forward = lambda hidden, own=block: (  # type: ignore[method-assign]
            hidden + own.down(own.up(hidden)[:, ::2]).repeat_interleave(2, 1),
            None,
        )
    list(local_votes(model, tokens(2)))
    real = torch.ones(2, 12, dtype=torch.int64)
    real[0, 8:] = 0

    class Masked(Plain):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return super().forward(input_ids)

    model.__class__ = Masked
    samples = {"input_ids": tokens(2), "attention_mask": real}
    expect_uncalibrated(model, "rows are not the tokens", samples)


def test_inputs_that_are_not_finite_are_refused() -> None:
    model = Plain()
    with torch.no_grad():
        model.embedding.weight[3] = torch.inf
    samples = tokens(2)
    samples[0, 0] = 3
    expect_uncalibrated(model, "what comes into blocks.0.up is not finite", samples)


def test_a_layer_called_twice_counts_twice() -> None:
    model, samples = Plain(), tokens(2)
    for block in model.blocks:
        block.forward = lambda hidden, own=block: (  # type: ignore[method-assign]
            own.down(own.up(own.down(own.up(hidden)))),
            None,
        )
    names = names_of(model, 0)
    got = calibrated(model, samples).statistics(0, names, False)
    for name, x in inputs_of(model, names, samples).items():
        assert x.shape[0] == 2 * samples.numel()
        assert close(got[name], x.square().sum(0).sqrt())


def test_a_tensor_that_is_written_between_two_layers_is_seen_as_it_was_for_each() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            own = hidden.clone()
            one = self.first(own)
            return one + self.second(own.relu_())

    class Model(Plain):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.blocks[0](self.embedding(ids))

    model, samples = Model(1), tokens(2)
    model.blocks = nn.ModuleList([Written()])
    names = ["blocks.0.first", "blocks.0.second"]
    got = calibrated(model, samples).statistics(0, names, False)
    x = model.embedding(samples).detach().reshape(-1, 8)
    assert close(got[names[0]], x.square().sum(0).sqrt())
    assert close(got[names[1]], x.relu().square().sum(0).sqrt())


def test_blocks_may_write_what_they_are_given() -> None:
    model, samples = Plain(), tokens(3)
    wanted = list(local_votes(model, samples))
    for block in model.blocks:
        block.forward = lambda hidden, own=block: (  # type: ignore[method-assign]
            hidden.add_(own.down(torch.relu(own.up(hidden)))),
            None,
        )
    for got, masks in zip(local_votes(model, samples), wanted, strict=True):
        assert all(torch.equal(got[name], masks[name]) for name in masks)
