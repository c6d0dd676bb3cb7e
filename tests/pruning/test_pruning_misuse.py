"""What a new user may do wrong with models, patterns, samples and verdicts: refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from pruning.models import Plain, fingerprint, llama, matrix, tokens
from pyfed.errors import ArgumentError, DtypeError
from pyfed.pruning import (
    FedPrLLM,
    Verdict,
    local_votes,
    prunable_layers,
    simulate_pruning,
)


def old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer)


PARAMETRISED: dict[str, Callable[[nn.Module], Any]] = {
    "weight norm": parametrizations.weight_norm,
    "another parametrisation": lambda m: parametrize.register_parametrization(
        m, "weight", nn.Identity()
    ),
    "the old weight norm": old_weight_norm,
    "the old spectral norm": nn.utils.spectral_norm,
    "a mask of torch": lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
}


@pytest.mark.parametrize("what", PARAMETRISED)
def test_weights_that_are_computed_from_others_are_refused(what: str) -> None:
    rule = FedPrLLM(score="magnitude")
    result = simulate_pruning(rule, Plain(), [None])
    model, late = Plain(), Plain()
    client = rule.client(0, late)
    for each in (model, late):
        PARAMETRISED[what](each.blocks[1].up)
    text = "layer blocks.1.up: its weight is parametrised"
    before = fingerprint(model)
    for call in (
        lambda: prunable_layers(model),
        lambda: result.apply_(model),
        lambda: rule.client(0, model),
        lambda: rule.server(model, 2),
        lambda: client.start(),
    ):
        with pytest.raises(ArgumentError, match=text):
            call()
    assert fingerprint(model) == before
    assert len(prunable_layers(model, skip=["blocks.1.up"])) == 3


def test_weights_are_pruned_once_what_computes_them_is_removed() -> None:
    model = Plain()
    for layer in (model.blocks[0].up, model.blocks[1].down):
        parametrizations.weight_norm(layer)
        parametrize.remove_parametrizations(layer, "weight")
        prune.l1_unstructured(layer, "weight", amount=0.2)
        prune.remove(layer, "weight")
    prune.l1_unstructured(model.blocks[0].up, "bias", amount=0.5)  # a bias may be masked
    result = simulate_pruning(FedPrLLM(score="magnitude"), model, [None])
    result.apply_(model)
    model(tokens(1))
    for layer in result.plan.layers:
        assert bool((matrix(model, layer.name)[result.mask(layer.name)] == 0).all())


def test_patterns_that_match_no_layer_are_refused() -> None:
    text = r"skip pattern 'k_proj' matches no layer; .* such as '\*\.q_proj' does; layers are model"
    for call in (
        lambda: prunable_layers(llama(), skip=("*.v_proj", "k_proj")),
        lambda: FedPrLLM(skip=("k_proj",)).client(0, llama(), tokens(1)),
        lambda: next(local_votes(llama(), tokens(1), skip=("k_proj",))),
    ):
        with pytest.raises(ArgumentError, match=text):
            call()


def test_blocks_are_named_and_modules_are_not_printed() -> None:
    model = llama()
    with pytest.raises(DtypeError, match="blocks is ModuleList; it must be a dotted name or None"):
        prunable_layers(model, model.model.layers)


@pytest.mark.parametrize("token", [50, -1])
def test_tokens_that_the_model_has_not_are_refused(token: int) -> None:
    model, samples = llama(), tokens(2)
    samples[1, 3] = token
    samples[0, 0], samples[0, 1] = 0, 49
    low, high = min(token, 0), max(token, 49)
    text = rf"samples have tokens from {low} to {high}; the model's are in \[0, 50\)"
    with pytest.raises(ArgumentError, match=text):
        FedPrLLM().client(0, model, samples)
    with pytest.raises(ArgumentError, match=text):
        next(local_votes(model, samples))


def test_models_that_do_not_tell_their_embeddings_are_taken() -> None:
    class Silent(Plain):
        def get_input_embeddings(self) -> nn.Module:
            raise NotImplementedError

    class Other(Plain):
        def get_input_embeddings(self) -> nn.Module:
            return nn.Identity()

    for model in (Silent(), Other(), Plain()):
        assert len(list(local_votes(model, tokens(2)))) == 2


@pytest.mark.parametrize("score", ["magnitude", "wanda", "ria", "sparsegpt"])
@pytest.mark.parametrize("layer", ["blocks.0.up", "blocks.1.down"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(score: str, layer: str, value: float) -> None:
    model = Plain()
    matrix(model, layer)[1, 2] = value
    with pytest.raises(
        ArgumentError, match=f"in the weight of {layer} 1 of 128 elements are NaN or infinite"
    ):
        next(local_votes(model, tokens(2), score=score))


MASK = torch.tensor([[True, False], [False, False]])
VOTES = torch.tensor([[3, 1], [0, 2]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((MASK.byte(),), DtypeError, "mask has dtype torch.uint8; it must be torch.bool"),
        (([[True]],), DtypeError, "mask is list"),
        ((MASK[0],), ArgumentError, "mask has 1 dimensions"),
        ((MASK, VOTES), ArgumentError, "clients is None"),
        ((MASK, VOTES.long(), 3), DtypeError, "counts has dtype torch.int64"),
        ((MASK, VOTES.float(), 3), DtypeError, "counts has dtype torch.float32"),
        ((MASK, VOTES[:1], 3), ArgumentError, r"counts has shape \(1, 2\); .* \(2, 2\)"),
        ((MASK, VOTES, 2), ArgumentError, r"counts are from 0 to 3; they must be in \[0, 2\]"),
        ((MASK, VOTES.int() - 1, 3), ArgumentError, r"counts are from -1 to 2"),
        ((MASK, VOTES, 0), ArgumentError, "clients is 0"),
        ((MASK, VOTES, 3.0), DtypeError, "clients is float"),
    ],
)
def test_verdicts_that_cannot_be_are_refused(
    arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"Verdict: {text}"):
        Verdict(*arguments)


def test_verdicts_are_applied_to_matrices_of_their_shape_outside_of_gradients() -> None:
    for counts in (VOTES, VOTES.int()):
        verdict = Verdict(MASK, counts, 3)
        for wrong, error, text in (
            (torch.ones(2, 3), ArgumentError, r"matrix has shape \(2, 3\); the mask has \(2, 2\)"),
            (torch.ones(1, 2), ArgumentError, r"matrix has shape \(1, 2\)"),
            (torch.ones(2, 2).int(), DtypeError, "matrix has dtype torch.int32"),
            (nn.Parameter(torch.ones(2, 2)), ArgumentError, r"torch\.no_grad"),
        ):
            before = wrong.detach().clone()
            with pytest.raises(error, match=text):
                verdict.apply_(wrong)
            assert torch.equal(wrong.detach(), before)
        weight = nn.Parameter(torch.full((2, 2), 3.0))
        with torch.no_grad():
            assert verdict.apply_(weight) is weight
        assert torch.allclose(weight, torch.tensor([[0.0, 2.0], [3.0, 1.0]]))


def test_scaling_shrinks_at_every_application() -> None:
    """As documented: a result with scaling is applied once."""
    once = Verdict(MASK, VOTES, 3).apply_(torch.full((2, 2), 9.0))
    twice = Verdict(MASK, VOTES, 3).apply_(once.clone())
    assert torch.allclose(once, torch.tensor([[0.0, 6.0], [9.0, 3.0]]))
    assert torch.allclose(twice, torch.tensor([[0.0, 4.0], [9.0, 1.0]]))
