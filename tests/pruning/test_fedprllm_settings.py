"""Settings of FedPrLLM: bad ones are named, and all are part of what parties agree on."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import pytest
import torch

import pyfed
from pruning.models import (
    llama,
    tokens,
)
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import counts
from pyfed.pruning import (
    FedPrLLM,
    PrunableLayer,
    plan,
    prunable_layers,
)

KEY = pyfed.Key(bytes(range(32)))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"sparsity": 1.01}, "sparsity is 1.01"),
        ({"sparsity": "half"}, "sparsity is str"),
        ({"sparsity": None}, "sparsity is NoneType"),
        ({"sparsity": 0.5, "local_group": "1:4"}, "give that, or None"),
        ({"score": "taylor"}, "score is 'taylor'"),
        ({"local_group": "matrix"}, "local_group.*group is 'matrix'"),
        ({"group": "0x4"}, "group is '0x4'"),
        ({"group": 4}, "group is int"),
        ({"ties": "score"}, "ties is 'score'"),
        ({"rounding": "up"}, "rounding is 'up'"),
        ({"scaling": 1}, "scaling is int"),
        ({"iterative": "no"}, "iterative is str"),
        ({"truncate": None}, "truncate is NoneType"),
        ({"key": b"secret"}, "key is bytes"),
        ({"max_length": 0}, "max_length is 0"),
        ({"power": 9}, "power is 9"),
        ({"damping": 0}, "damping is 0"),
        ({"blocks": 3}, "blocks is int"),
        ({"skip": "*.k_proj"}, "skip is"),
        ({"skip": 3}, "skip is int"),
        ({"skip": (name for name in ("*.k_proj",))}, "skip is generator"),
        ({"skip": (torch.ones(3),)}, "skip holds a Tensor; it must be a tuple of patterns"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], match: str) -> None:
    with pytest.raises((ArgumentError, DtypeError), match=match):
        FedPrLLM(**settings)


def test_settings_are_frozen_and_show_no_key() -> None:
    rule = FedPrLLM(key=KEY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.sparsity = 0.6  # type: ignore[misc]
    assert "key" not in repr(rule)


@pytest.mark.parametrize(
    "other",
    [
        {"sparsity": 0.6},
        {"score": "ria"},
        {"local_group": "layer"},
        {"group": "row"},
        {"ties": "random"},
        {"scaling": True},
        {"iterative": True},
        {"rounding": "ceil"},
        {"max_length": 7},
        {"truncate": True},
        {"power": 1.0, "score": "ria"},
        {"damping": 0.1, "score": "sparsegpt"},
        {"skip": ("*.k_proj",)},
        {"key": KEY},
    ],
)
def test_every_setting_is_part_of_the_digest(other: dict[str, Any]) -> None:
    model = llama()
    same = {"score": other["score"]} if len(other) > 1 else {}
    digests = {FedPrLLM(**settings).plan(model).digest for settings in (same, other)}
    assert len(digests) == 2


N_OF_M = {"group": "2:4", "local_group": "2:4"}


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({}, {"power": 1.0}),
        ({}, {"damping": 0.1}),
        ({"score": "sparsegpt"}, {"score": "sparsegpt", "power": 1.0}),
        ({"score": "ria"}, {"score": "ria", "damping": 0.1}),
        ({**N_OF_M, "sparsity": None}, {**N_OF_M, "sparsity": 0.5}),
        ({"ties": "index"}, {"ties": "index", "key": KEY}),
        ({"ties": "random"}, {"key": KEY}),
    ],
)
def test_settings_that_do_not_count_are_not_part_of_the_digest(
    settings: dict[str, Any], other: dict[str, Any]
) -> None:
    model = llama()
    assert FedPrLLM(**settings).plan(model).digest == FedPrLLM(**other).plan(model).digest


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "index"),
        ({"group": "column"}, "magnitude"),
        ({"key": KEY}, "random"),
        ({"group": "column", "key": KEY}, "random"),
        ({"ties": "index", "key": KEY}, "index"),
        ({"ties": "magnitude", "key": KEY}, "magnitude"),
    ],
)
def test_ties_are_random_where_a_key_is_given_and_no_rule_is(
    settings: dict[str, Any], rule: str
) -> None:
    """As pyfed.ops.mask_select has it."""
    assert FedPrLLM(**settings).tie_rule == rule


def test_equal_settings_have_one_digest() -> None:
    model = llama()
    rules = [FedPrLLM(), FedPrLLM(sparsity=Fraction(1, 2)), FedPrLLM(ties="index")]
    plans = [rule.plan(source) for rule in rules for source in (model, prunable_layers(model))]
    assert len({plan.digest for plan in plans}) == 1


def test_layers_and_shapes_are_part_of_the_digest() -> None:
    rule = FedPrLLM()
    layers = [("a", (4, 8), 0), ("b", (4, 8), 0)]
    others = [
        layers,
        [("a", (4, 8), 0), ("c", (4, 8), 0)],
        [("a", (4, 8), 0), ("b", (8, 4), 0)],
        [("a", (4, 8), 0), ("b", (4, 8), 1)],
        [("b", (4, 8), 0), ("a", (4, 8), 0)],
    ]
    digests = {rule.plan([PrunableLayer(*layer) for layer in given]).digest for given in others}
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ([], "layers is empty"),
        ("layers", "layers holds something else"),
        (3, "layers is int"),
        ([("a", (4,), 0)], "has shape"),
        ([("a", (4, 0), 0)], "has shape"),
        ([("a", (2**20, 2**20), 0)], "2\\^31 at most"),
        ([(1, (4, 4), 0)], "name must be a str"),
        ([("a", (4, 4), 1)], "blocks must be in order"),
        ([("a", (4, 4), 0), ("a", (4, 4), 0)], "names must differ"),
        ([("a", (4, 4), 0), ("b", (4, 4), 2)], "blocks must be in order"),
    ],
)
def test_bad_layers_are_named(layers: Any, match: str) -> None:
    with pytest.raises((ArgumentError, DtypeError), match=match):
        FedPrLLM().server(layers, 2)


def test_groups_must_divide_every_layer() -> None:
    with pytest.raises(
        ArgumentError, match=r"FedPrLLM: model.layers.0.self_attn.k_proj.*must divide"
    ):
        FedPrLLM(group="16x16").plan(llama())


def test_servers_and_clients_name_what_they_lack() -> None:
    model = llama()
    layers = prunable_layers(model)
    with pytest.raises(ArgumentError, match="key is None; random ties need it"):
        FedPrLLM(ties="random").server(model, 2)
    with pytest.raises(ArgumentError, match="weights is None; ties by magnitude need them"):
        FedPrLLM(group="column").server(layers, 2)
    with pytest.raises(ArgumentError, match="weights lacks"):
        FedPrLLM(ties="magnitude").server(layers, 2, weights={})
    shapes = {layer.name: torch.zeros(layer.shape[::-1]) for layer in layers}
    with pytest.raises(ArgumentError, match="must be"):
        FedPrLLM(ties="magnitude", skip=("*q_proj", "*o_proj")).server(model, 2, weights=shapes)
    for clients in (0, 65_536, -1):
        with pytest.raises(ArgumentError, match=f"clients is {clients}"):
            FedPrLLM().server(layers, clients)
    with pytest.raises(ArgumentError, match="samples is None"):
        FedPrLLM().client(0, model)
    with pytest.raises(ArgumentError, match="max_length is 8"):
        FedPrLLM(max_length=8).client(0, model, tokens(1))
    with pytest.raises(ArgumentError, match="index is -1"):
        FedPrLLM().client(-1, model, tokens(1))
    with pytest.raises(DtypeError, match="model is tuple"):
        FedPrLLM().client(0, layers, tokens(1))  # type: ignore[arg-type]


def test_limits_are_those_of_the_ops() -> None:
    assert plan.MOST_CLIENTS == counts.MOST_CLIENTS  # the plan knows nothing of torch
    assert plan.NARROW == counts.NARROW
