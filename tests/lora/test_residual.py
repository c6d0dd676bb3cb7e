"""Residuals get into the right weights in the right form, or nowhere."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lora.peft_models import adapted, base_weights, bert, fleet, gpt2, lora_config, wrapped
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import LowRank, merge_residual_, residual_adapter

QUERY = "bert.encoder.layer.0.attention.self.query"


def change(outs: int, ins: int, rank: int = 3, dtype: torch.dtype = torch.float32) -> LowRank:
    scale = torch.linspace(0.5, 1.5, rank, dtype=torch.float64)
    return LowRank(torch.randn(rank, ins).to(dtype), torch.randn(outs, rank).to(dtype), scale)


def wide(own: LowRank) -> torch.Tensor:
    return own.b.double() * own.scale @ own.a.double()


def test_the_norm_and_the_product_are_those_of_the_matrix() -> None:
    own = change(20, 30)
    assert own.rank == 3
    assert float(own.norm()) == pytest.approx(float(wide(own).norm()), rel=1e-12)
    assert torch.allclose(own.dense().double(), wide(own), rtol=1e-6, atol=1e-6)
    none = LowRank(torch.zeros(2, 3), torch.zeros(4, 2), torch.ones(2, dtype=torch.float64))
    assert float(none.norm()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_merging_adds_the_product_in_the_form_of_the_weight(
    family: str, dtype: torch.dtype
) -> None:
    (model,) = fleet(family, 1)
    model = model.to(dtype)
    before = base_weights(model)
    residual = {}
    for name, weight in before.items():
        outs, ins = weight.shape[::-1] if family == "gpt2" else weight.shape
        residual[name] = change(outs, ins, dtype=torch.float32)
    others = {k: v.clone() for k, v in model.state_dict().items() if "base_layer.weight" not in k}
    assert merge_residual_(model, residual) is model
    for name, after in base_weights(model).items():
        product = wide(residual[name])
        wanted = before[name] + (product.T if family == "gpt2" else product)
        bound = 1e-2 if dtype == torch.bfloat16 else 1e-6  # float32 factors on any base
        assert float((after - wanted).norm() / wanted.norm()) < bound
        assert not torch.allclose(after, before[name], atol=0.1)
    now = model.state_dict()
    assert all(torch.equal(now[key], value) for key, value in others.items())


def test_a_bare_model_and_its_peft_model_take_the_same_residual() -> None:
    base = bert(1)
    model = wrapped(base, lora_config())
    residual = {QUERY: change(16, 16)}
    merge_residual_(base, residual)
    merge_residual_(model, residual)
    assert torch.equal(
        base.get_submodule(QUERY).weight, adapted(model)[QUERY].get_base_layer().weight
    )


def test_an_embedding_takes_its_change_transposed() -> None:
    model = bert(1)
    name = "bert.embeddings.word_embeddings"
    before = model.get_submodule(name).weight.detach().clone()
    own = change(16, 50)
    merge_residual_(model, {name: own})
    found = model.get_submodule(name).weight.detach() - before
    assert torch.allclose(found.double(), wide(own).T, atol=1e-5)


def test_a_square_conv1d_is_not_taken_for_a_linear_layer() -> None:
    model = gpt2(1)
    name = "transformer.h.0.attn.c_proj"
    assert model.get_submodule(name).weight.shape == (16, 16)
    before = model.get_submodule(name).weight.detach().clone()
    own = change(16, 16)
    merge_residual_(model, {name: own})
    found = (model.get_submodule(name).weight.detach() - before).double()
    assert torch.allclose(found, wide(own).T, atol=1e-5)
    assert not torch.allclose(found, wide(own), atol=1e-1)


class Linear4bit(nn.Linear):
    """Looks to isinstance like a Linear, as quantisers' layers do."""


Linear4bit.__module__ = "bitsandbytes.nn.modules"


class Codes(torch.Tensor):
    """A tensor that says float32 and holds codes, as torchao's do."""


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(2, 16, dtype=torch.int32))


def _codes() -> nn.Module:
    layer = nn.Linear(16, 16)
    layer.weight = nn.Parameter(torch.randn(16, 16).as_subclass(Codes))
    return layer


def _int8() -> nn.Module:
    layer = nn.Linear(16, 16)
    layer.weight = nn.Parameter(torch.zeros(16, 16, dtype=torch.int8), requires_grad=False)
    return layer


def _float8() -> nn.Module:
    return nn.Linear(16, 16).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("make", [lambda: Linear4bit(16, 16), _codes, _int8, _float8, Packed])
@pytest.mark.parametrize("under_peft", [False, True])
def test_a_quantised_base_is_refused_with_the_reason(make: Any, under_peft: bool) -> None:
    model = wrapped(bert(1), lora_config()) if under_peft else bert(1)
    if under_peft:
        adapted(model)[QUERY].base_layer = make()
    else:
        model.get_submodule(QUERY.rpartition(".")[0]).query = make()
    with pytest.raises(ArgumentError, match=r"quantised .*lost in the rounding.*residual_adapter"):
        merge_residual_(model, {QUERY: change(16, 16)})


def test_layers_of_dynamic_quantisation_are_told_by_their_class() -> None:
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn" if engine == "none" else engine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch.ao.quantization.quantize_dynamic(bert(1), {nn.Linear})
    finally:
        torch.backends.quantized.engine = engine
    says = r"is quantised \(a torch\.ao\.nn\.quantized\.dynamic\..*\.Linear\).*residual_adapter"
    with pytest.raises(ArgumentError, match=says):
        merge_residual_(model, {QUERY: change(16, 16)})


def _meta(model: nn.Module) -> None:
    model.get_submodule(QUERY).to("meta")


def _parametrised(model: nn.Module) -> None:
    nn.utils.parametrizations.orthogonal(model.get_submodule(QUERY))


def _tied(model: nn.Module) -> None:
    own = model.get_submodule(QUERY)
    model.get_submodule(QUERY.replace("query", "value")).weight = own.weight


def _view(model: nn.Module) -> None:
    own = model.get_submodule(QUERY)
    other = model.get_submodule(QUERY.replace("query", "value"))
    other.weight = nn.Parameter(own.weight.data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_meta, "on the meta device"),
        (_parametrised, "computed from other tensors"),
        (_tied, "is tied"),
        (_view, "is tied"),
    ],
)
def test_weights_that_cannot_take_a_change_are_refused(spoil: Any, says: str) -> None:
    model = bert(1)
    spoil(model)
    with pytest.raises(ArgumentError, match=f"{QUERY}'.*{says}"):
        merge_residual_(model, {QUERY: change(16, 16)})


def test_an_embedding_that_is_tied_to_the_head_is_refused() -> None:
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    with pytest.raises(ArgumentError, match=r"transformer.wte.weight and lm_head.weight are one"):
        merge_residual_(model, {"transformer.wte": change(16, 50)})


@pytest.mark.parametrize(
    ("name", "own", "says"),
    [
        ("bert.encoder.nothing", change(16, 16), "has no layer"),
        ("bert.encoder.layer.0.attention.self", change(16, 16), "it must be a torch.nn.Linear"),
        ("bert.encoder.layer.0.intermediate.dense", change(16, 24), "of shape \\(16, 24\\); the"),
        ("bert.encoder.layer.0.intermediate.dense", change(16, 16), "is of shape \\(24, 16\\)"),
        (QUERY, LowRank(torch.full((1, 16), torch.nan), torch.ones(16, 1), torch.ones(1).double()),
         "NaN or infinity"),
        (QUERY, LowRank(torch.ones(1, 16), torch.ones(16, 1), torch.ones(1).double() / 0),
         "NaN or infinity"),
    ],
)  # fmt: skip
def test_nothing_is_written_when_one_change_does_not_fit(
    name: str, own: LowRank, says: str
) -> None:
    model = bert(1)
    before = copy.deepcopy(model.state_dict())
    good = "bert.encoder.layer.0.attention.self.value"
    with pytest.raises(ArgumentError, match=says):
        merge_residual_(model, {good: change(16, 16), name: own})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_wrong_types_are_refused() -> None:
    with pytest.raises(DtypeError, match="model is dict"):
        merge_residual_({}, {})  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="residual is list"):
        merge_residual_(bert(1), [])  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="is Tensor; it must be LowRank"):
        merge_residual_(bert(1), {QUERY: torch.ones(16, 16)})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="residual is empty"):
        residual_adapter({})


@pytest.mark.parametrize(
    ("a", "b", "scale"),
    [
        (torch.ones(2, 3), torch.ones(4, 3), torch.ones(2).double()),
        (torch.ones(2, 3), torch.ones(4, 2), torch.ones(3).double()),
        (torch.ones(2, 3), torch.ones(4, 2), torch.ones(2)),
        (torch.ones(2, 3), torch.ones(4, 2).double(), torch.ones(2).double()),
    ],
)
def test_factors_must_fit(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> None:
    with pytest.raises((ArgumentError, DtypeError), match="LowRank"):
        LowRank(a, b, scale)
