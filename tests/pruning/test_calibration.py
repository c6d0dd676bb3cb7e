"""Calibration against ordinary forward passes: same inputs, no padding, nothing left behind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from pruning.models import (
    FAMILIES,
    WORDS,
    Plain,
    bert,
    fingerprint,
    gpt2,
    inputs_of,
    llama,
    matrix,
    opt,
    tokens,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.pruning import Verdict, local_mask, local_votes, prunable_layers, wanda_scores
from pyfed.pruning.calibration import Calibration
from pyfed.pruning.samples import Samples

EVERY = pytest.mark.parametrize("family", FAMILIES)


def calibrated(model: nn.Module, samples: Any, batch_size: int = 2) -> Calibration:
    checked = Samples(samples, 4096)
    return Calibration(model, prunable_layers(model), checked, batch_size)


def names_of(model: nn.Module, block: int) -> list[str]:
    return [layer.name for layer in prunable_layers(model) if layer.block == block]


def close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got.double(), wanted.double(), rtol=1e-5, atol=1e-6)


def prune(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of the model, pruned."""
    pruned = copy.deepcopy(model)
    for name, mask in masks.items():
        matrix(pruned, name)[mask] = 0
    return pruned


@EVERY
def test_norms_are_those_of_ordinary_forward_passes(family: str) -> None:
    model, samples = FAMILIES[family](), tokens(5)
    calibration = calibrated(model, samples)
    names = names_of(model, 0)
    got = calibration.statistics(0, names, second=False)
    for name, x in inputs_of(model, names, samples).items():
        assert close(got[name], x.square().sum(0).sqrt()), name
        assert got[name].dtype == torch.float32


@EVERY
def test_second_moments_are_those_of_ordinary_forward_passes(family: str) -> None:
    model, samples = FAMILIES[family](), tokens(5)
    names = names_of(model, 0)
    got = calibrated(model, samples).statistics(0, names, second=True)
    for name, x in inputs_of(model, names, samples).items():
        assert close(got[name], x.T @ x), name


@EVERY
def test_later_blocks_see_the_pruned_blocks_before_them(family: str) -> None:
    model, samples = FAMILIES[family](), tokens(4)
    votes: dict[str, torch.Tensor] = {}
    for block, masks in enumerate(local_votes(model, samples, batch_size=3)):
        names = names_of(model, block)
        inputs = inputs_of(prune(model, votes), names, samples)  # the blocks so far are pruned
        for name, x in inputs.items():
            norms = x.square().sum(0).sqrt().float()
            wanted = local_mask(wanda_scores(matrix(model, name), norms))
            assert torch.equal(masks[name], wanted), name
        votes.update(masks)
    assert len(votes) == len(prunable_layers(model))


def test_what_is_sent_takes_the_place_of_the_own_votes() -> None:
    model, samples = llama(), tokens(4)
    first = names_of(model, 0)
    other = {name: torch.rand(matrix(model, name).shape) < 0.3 for name in first}
    for sent in (other, {name: Verdict(mask) for name, mask in other.items()}):
        votes = local_votes(model, samples)
        next(votes)
        masks = votes.send(sent)
        for name, x in inputs_of(prune(model, other), names_of(model, 1), samples).items():
            norms = x.square().sum(0).sqrt().float()
            assert torch.equal(masks[name], local_mask(wanda_scores(matrix(model, name), norms)))


def test_what_is_sent_must_fit_the_block() -> None:
    model, samples = llama(), tokens(2)
    good = next(local_votes(model, samples))
    name = next(iter(good))
    bad: list[tuple[Any, str]] = [
        ([1], "list was sent"),
        ({name: good[name]}, "decisions on"),
        ({**good, name: good[name].T[:3]}, "has shape"),
        ({**good, name: good[name].int()}, "has dtype"),
    ]
    for sent, match in bad:
        votes = local_votes(model, samples)
        next(votes)
        with pytest.raises((ArgumentError, DtypeError), match=match):
            votes.send(sent)


@pytest.mark.parametrize("family", ["llama", "bert", "opt", "gpt2", "sliding"])
def test_padding_does_not_count(family: str) -> None:
    model, samples = FAMILIES[family](), tokens(3)
    real = torch.ones_like(samples)
    real[0, 7:] = 0
    real[2, 4:] = 0
    others = torch.where(real == 1, samples, (samples + 7) % WORDS)
    names = names_of(model, 0)
    found = [
        calibrated(model, {"input_ids": ids, "attention_mask": real}).statistics(0, names, False)
        for ids in (samples, others)
    ]
    alone = [samples[:1, :7], samples[1:2], samples[2:, :4]]
    for name, x in inputs_of(model, names, *alone).items():
        assert torch.equal(found[0][name], found[1][name]), name  # not one bit differs
        assert close(found[0][name], x.square().sum(0).sqrt()), name


@pytest.mark.parametrize("make", [llama, bert, opt, gpt2])
def test_a_mask_without_padding_changes_nothing(make: Any) -> None:
    model, samples = make(), tokens(3)
    for given in (torch.ones_like(samples), torch.ones_like(samples, dtype=torch.bool)):
        with_mask = {"input_ids": samples, "attention_mask": given}
        for a, b in zip(local_votes(model, samples), local_votes(model, with_mask), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


@EVERY
def test_only_the_samples_are_run(family: str) -> None:
    model, samples = FAMILIES[family](), tokens(5)
    seen: list[torch.Tensor] = []
    embedding = next(m for m in model.modules() if isinstance(m, nn.Embedding))
    embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    list(local_votes(model, samples, batch_size=2))
    rows = {tuple(row) for batch in seen for row in batch.tolist()}
    assert rows == {tuple(row) for row in samples.tolist()}
    assert max(len(batch) for batch in seen) <= 2


@pytest.mark.parametrize("family", ["opt", "bert"])
def test_two_samples_are_not_drowned_by_biases(family: str) -> None:
    # Inputs of zeros would meet biases and learned positions, and shift every norm after them.
    model, samples = FAMILIES[family](), tokens(2)
    names = names_of(model, 1)
    calibration = calibrated(model, samples, 8)
    calibration.advance(0, {})
    got = calibration.statistics(1, names, second=False)
    for name, x in inputs_of(model, names, samples).items():
        assert close(got[name], x.square().sum(0).sqrt()), name


@EVERY
def test_batch_size_and_order_do_not_matter_beyond_rounding(family: str) -> None:
    model, samples = FAMILIES[family](), tokens(5)
    names = names_of(model, 0)
    wanted = calibrated(model, samples, 5).statistics(0, names, False)
    for other in (calibrated(model, samples, 1), calibrated(model, samples.flip(0), 2)):
        got = other.statistics(0, names, False)
        assert all(close(got[name], wanted[name]) for name in names)


@EVERY
@pytest.mark.parametrize("score", ["magnitude", "wanda", "ria", "sparsegpt"])
def test_the_model_is_left_as_it_was(family: str, score: str) -> None:
    model = FAMILIES[family]()
    model.train()
    next(model.children()).eval()  # modes may differ
    before = fingerprint(model)
    for _ in local_votes(model, tokens(2), score=score):
        assert fingerprint(model) == before  # also while the generator waits
    assert fingerprint(model) == before


@pytest.mark.parametrize("call", range(1, 8))
def test_the_model_is_left_as_it_was_when_a_forward_pass_fails(call: int) -> None:
    model = Plain(3)
    model.train()
    calls = 0

    def fail(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError("no memory")

    for block in model.blocks:
        block.down.register_forward_pre_hook(fail)
    before = fingerprint(model)
    with pytest.raises(OSError, match="no memory"):
        list(local_votes(model, tokens(2)))
    assert fingerprint(model) == before


def test_the_model_is_left_as_it_was_when_the_generator_is_given_up() -> None:
    model = llama()
    before = fingerprint(model)
    votes = local_votes(model, tokens(2))
    next(votes)
    votes.close()
    assert fingerprint(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [llama, gpt2, Plain])
def test_weights_of_16_bits_are_calibrated_in_their_dtype(make: Any, dtype: torch.dtype) -> None:
    model, samples = make().to(dtype), tokens(3)
    before = fingerprint(model)
    names = names_of(model, 0)
    got = calibrated(model, samples, 3).statistics(0, names, False)
    for name, x in inputs_of(model, names, samples).items():
        assert close(got[name], x.square().sum(0).sqrt())
    assert all(
        int(m.sum()) * 2 == m.numel() for v in local_votes(model, samples) for m in v.values()
    )
    assert fingerprint(model) == before
