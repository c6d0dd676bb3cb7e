"""Keys of PEFT state dicts are read in both styles, and nothing is paired by guessing."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch

from lora.peft_models import BASES, bert, fleet, llama, lora_config, states, vera_config, wrapped
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import aggregate, upload
from pyfed.lora.keys import PREFIX, parse_key, parse_keys

CONFIGS: dict[str, Any] = {
    "lora": lora_config(),
    "embedding": lora_config(target_modules=["query", "word_embeddings"]),
    "dora": lora_config(use_dora=True),
    "bias": lora_config(lora_bias=True),
    "vera": vera_config(),
}


def live(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What many training loops take for the state of an adapter."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_names_are_those_of_peft(name: str) -> None:
    model = wrapped(bert(1), CONFIGS[name])
    saved = states([model])[0]
    assert all(parse_key(key).name == key for key in saved)
    trained = {key for key in saved if parse_key(key).role != "frozen"}
    assert {parse_key(key).name for key in live(model)} == trained


def test_an_embedding_that_peft_saves_with_its_adapter_is_frozen() -> None:
    model = wrapped(llama(1), lora_config("llama", target_modules=["embed_tokens"]))
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        saved = peft.get_peft_model_state_dict(model)
    extra = [key for key in saved if parse_key(key).role == "frozen"]
    assert extra == [f"{PREFIX}model.embed_tokens.base_layer.weight"]
    assert set(aggregate([saved, copy.deepcopy(saved)]).shared) == set(saved) - set(extra)


@pytest.mark.parametrize("family", BASES)
def test_live_and_saved_keys_give_the_same_aggregate(family: str) -> None:
    models = fleet(family, 3)
    wanted = aggregate(states(models), [1, 2, 3]).shared
    found = aggregate([live(model) for model in models], [1, 2, 3]).shared
    assert list(found) and found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_the_name_of_the_adapter_does_not_matter() -> None:
    key = f"{PREFIX}layer.0.query.lora_B.my-adapter_2.weight"
    assert parse_key(key).name == f"{PREFIX}layer.0.query.lora_B.weight"
    assert parse_key(key).adapter == "my-adapter_2"


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module.model."])
def test_a_foreign_prefix_is_refused_by_name_or_stripped_on_request(prefix: str) -> None:
    plain = states(fleet(clients=2))
    foreign = [{prefix + key: value for key, value in state.items()} for state in plain]
    with pytest.raises(ArgumentError, match=f"strip_prefix='{prefix}'"):
        aggregate(foreign)
    with pytest.raises(ArgumentError, match="adapters\\[1\\]"):
        aggregate([plain[0], foreign[1]])
    found = aggregate(foreign, strip_prefix=prefix).shared
    assert all(torch.equal(found[key], value) for key, value in aggregate(plain).shared.items())
    with pytest.raises(ArgumentError, match="does not begin with strip_prefix"):
        aggregate([foreign[0], plain[1]], strip_prefix=prefix)


@pytest.mark.parametrize(
    "key",
    [
        "encoder.query.weight",
        "classifier.weight",
        f"{PREFIX}query.lora_C.weight",
        f"{PREFIX}query.lora_A",
        f"{PREFIX}query.lora_A.default.more.weight",
        f"{PREFIX}query.lora_A.default.data",
        f"{PREFIX}query.vera_lambda_e",
        f"{PREFIX}embeddings.token_adapter.trainable_tokens_delta",
        f"{PREFIX}classifier.modules_to_save.weight",
        "base_model.model.",
        "",
    ],
)
def test_unknown_keys_are_named(key: str) -> None:
    with pytest.raises(ArgumentError, match="unknown key") as caught:
        parse_keys("op", "adapters[4]", [key], "")
    assert repr(key) in str(caught.value) and "adapters[4]" in str(caught.value)


def test_the_state_of_a_model_that_was_merged_and_unloaded_is_told() -> None:
    merged = wrapped(bert(1), lora_config()).merge_and_unload()
    with pytest.raises(ArgumentError, match=r"state has no key with lora_ .* merged and unloaded"):
        upload(merged.state_dict())


def test_strip_prefix_is_advised_only_where_there_is_one() -> None:
    key = f"module.{PREFIX}q.lora_A.weight"
    with pytest.raises(ArgumentError, match=r"strip it, or give strip_prefix='module\.'"):
        parse_keys("op", "state", [key], "")
    with pytest.raises(ArgumentError, match=r"with the prefix 'module\.'; strip it$"):
        parse_keys("op", "state", [key], None)


def test_two_keys_of_one_tensor_are_refused() -> None:
    saved = f"{PREFIX}query.lora_A.weight"
    with pytest.raises(ArgumentError, match="name one tensor"):
        parse_keys("op", "state", [saved, f"{PREFIX}query.lora_A.default.weight"], "")
    with pytest.raises(ArgumentError, match="name one tensor"):
        parse_keys("op", "s", [f"{PREFIX}q.lora_A.{n}.weight" for n in ("one", "two")], "")


def test_a_state_of_two_adapters_or_of_the_whole_model_is_refused() -> None:
    keys = [f"{PREFIX}q.lora_A.one.weight", f"{PREFIX}v.lora_A.two.weight"]
    with pytest.raises(ArgumentError, match="adapters one, two"):
        parse_keys("op", "state", keys, "")
    model = wrapped(bert(1), lora_config())
    with pytest.raises(ArgumentError, match="a weight of the base model"):
        upload(model.state_dict())
    with pytest.raises(ArgumentError, match="must be a str"):
        parse_keys("op", "state", [3], "")


def test_each_rule_sends_its_half() -> None:
    state = states(fleet(clients=1))[0]
    kinds = {
        "fedsa": {"lora_A"},
        "ffa": {"lora_B"},
        "fedsvd": {"lora_B"},
        "fedit": {"lora_A", "lora_B"},
        "flora": {"lora_A", "lora_B"},
    }
    for rule, halves in kinds.items():
        sent = upload(state, rule, heads="local")
        assert {key.split(".")[-2] for key in sent} == halves
        more = upload(state, rule).keys() - sent.keys()
        assert more == {f"{PREFIX}classifier.weight", f"{PREFIX}classifier.bias"}
    for number, half in ((0, "lora_B"), (1, "lora_A"), (2, "lora_B")):
        sent = upload(state, "rolora", round=number, heads="local")
        assert {key.split(".")[-2] for key in sent} == {half}
    assert all(sent[key] is state[key] for key in sent)


def test_vera_sends_one_vector_a_module_and_never_its_projections() -> None:
    state = states([wrapped(bert(2), vera_config())])[0]
    assert {key for key in state if "vera_A" in key or "vera_B" in key}
    sent = upload(state, "fedsa", heads="local")
    assert [value.shape for value in sent.values()] == [(8,)] * 4
    assert all(key.endswith("vera_lambda_d") for key in sent)
    assert not any("vera_A" in key for key in upload(state, "fedit"))


def test_dora_and_bias_travel_under_fedit_alone() -> None:
    for name in ("dora", "bias"):
        state = states([wrapped(bert(1), CONFIGS[name])])[0]
        extra = {key for key in state if "magnitude" in key or key.endswith("lora_B.bias")}
        assert extra and extra <= upload(state, "fedit").keys()
        assert not extra & upload(state, "fedsa").keys()


def test_what_upload_cannot_use_is_refused() -> None:
    with pytest.raises(ArgumentError, match="rule is 'fedavg'"):
        upload({}, "fedavg")
    with pytest.raises(ArgumentError, match="heads is 'mine'"):
        upload({}, heads="mine")
    with pytest.raises(ArgumentError, match="round is -1"):
        upload({}, round=-1)
    with pytest.raises(DtypeError, match="state is list"):
        upload([])  # type: ignore[arg-type]
