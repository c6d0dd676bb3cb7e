"""Arguments of aggregate that do not fit are refused by name."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lora.peft_models import fleet, lora_config, states
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import aggregate

State = dict[str, torch.Tensor]
A = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"


@functools.cache
def _given() -> list[State]:
    return states(fleet())


def given() -> list[State]:
    return [dict(state) for state in _given()]


def test_configurations_must_fit_their_adapters() -> None:
    config = lora_config().to_dict()
    for wrong, says in (
        ({"r": 8}, r"has rank 4; its configuration says 8"),
        ({"rank_pattern": {"query": 2}}, r"has rank 4; its configuration says 2"),
        ({"modules_to_save": None, "task_type": None}, r"unknown key 'base_model.model.class"),
        ({"peft_type": "LOHA"}, r"configs\[0\] is of LOHA"),
        ({"peft_type": "VERA"}, r"tensors of LORA and a configuration of VERA"),
        ({"r": 0}, r"configs\[0\] has rank 0"),
        ({"lora_alpha": "8"}, r"has alpha '8'"),
        ({"alpha_pattern": {"query": float("nan")}}, r"has alpha nan for 'query'"),
    ):
        with pytest.raises(ArgumentError, match=says):
            aggregate(given(), configs=config | wrong)
    with pytest.raises(ArgumentError, match="configs has 2 entries; there are 3"):
        aggregate(given(), configs=[config, config])
    with pytest.raises(DtypeError, match=r"configs\[0\] is str"):
        aggregate(given(), configs="config.json")
    for scaling, says in (
        ({"query": 2.0}, "scaling does not fit"),
        (float("inf"), "scaling of"),
        ([1.0], "scaling has 1 entries"),
    ):
        with pytest.raises(ArgumentError, match=says):
            aggregate(given(), scaling=scaling)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"default": lora_config()}, r"by the adapters' names.*peft_config\['default'\]"),
        ({}, "without r and lora_alpha; it must have"),
        ({"r": 4}, "a dict without lora_alpha; it must have"),
        ({"lora_alpha": 8, "r": None}, "a dict without r; it must have"),
        ({"r": 4, "alpha": 8}, "has 'alpha', which is no field .*name of alpha is lora_alpha"),
        ({"r": 4, "lora_alpha": 8, "rslora": True}, "has 'rslora', which is no field"),
    ],
)
def test_a_dict_that_does_not_tell_the_scaling_is_refused(config: Any, says: str) -> None:
    for rule in ("fedex", "fedit"):
        with pytest.raises(ArgumentError, match=rf"configs\[0\] .*{says}"):
            aggregate(given(), rule=rule, configs=config)


@pytest.mark.parametrize("rule", ["fedit", "fedex", "flexlora"])
def test_the_config_of_a_result_serves_the_next_round_heads_and_all(rule: str) -> None:
    first = aggregate(given(), rule=rule, configs=lora_config())
    assert first.config is not None and "modules_to_save" not in first.config
    for config in (first.config, {"r": 4, "lora_alpha": 8}):
        again = aggregate(given(), rule=rule, configs=config)
        assert again.shared.keys() == first.shared.keys()
        assert all(torch.equal(again.shared[key], first.shared[key]) for key in first.shared)
    newer = lora_config().to_dict() | {"field_of_a_later_peft": 1}
    assert aggregate(given(), rule=rule, configs=newer).config == first.config
    vera = {"peft_type": "VERA", "r": 8, "projection_prng_key": 0}
    with pytest.raises(ArgumentError, match="tensors of LORA and a configuration of VERA"):
        aggregate(given(), rule=rule, configs=vera)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1, 2], "weights has 2 entries"),
        ([0, 0, 0], "weights sum to 0"),
        ([1, -1, 2], r"weights\[1\] is -1"),
        ([1, float("nan"), 2], r"weights\[1\] is nan"),
        ([1, float("inf"), 2], r"weights\[1\] is inf"),
        (torch.ones(3, 1), "weights is a torch.float32 tensor of shape"),
        (torch.ones(3, dtype=torch.bool), "weights is a torch.bool"),
    ],
)
def test_bad_weights_are_refused(weights: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        aggregate(given(), weights)


def test_fractions_must_sum_to_one() -> None:
    for weights in ([0.2, 0.3, 0.4], [1, 2, 5], [0.5, 0.25, 0.250002]):
        with pytest.raises(ArgumentError, match="normalized ones must sum to 1"):
            aggregate(given(), weights, normalized=True)
    aggregate(given(), [0.5, 0.25, 0.2500005], normalized=True)


def test_other_arguments_are_refused_by_name() -> None:
    state = given()[0]
    for arguments, says in (
        (([],), "adapters is empty"),
        (([state], None, "fedavg"), "rule is 'fedavg'; it must be one of fedsa"),
    ):
        with pytest.raises(ArgumentError, match=says):
            aggregate(*arguments)
    for more, says in (
        ({"rank": 4}, "rank is 4; rule 'fedit' chooses no rank, only flexlora and hetlora do"),
        ({"rank": 0}, "rank is 0"),
        ({"round": -1}, "round is -1"),
        ({"heads": "mine"}, "heads is 'mine'"),
        ({"strip_prefix": "module."}, "does not begin with strip_prefix='module.'"),
    ):
        with pytest.raises(ArgumentError, match=says):
            aggregate([state], **more)  # type: ignore[arg-type]
    for adapters, says in (
        (state, "adapters is dict"),
        ("folder", "adapters is str"),
        ([3], r"adapters\[0\] is int"),
    ):
        with pytest.raises(DtypeError, match=says):
            aggregate(adapters)  # type: ignore[arg-type]
    for wrong, says in (
        ({"weights": "ab"}, "weights is str"),
        ({"weights": ["1"]}, r"weights\[0\] is str"),
        ({"previous": [1]}, "previous is list"),
        ({"strip_prefix": 3}, "strip_prefix is int"),
        ({"round": 1.0}, "round is float"),
    ):
        with pytest.raises(DtypeError, match=says):
            aggregate([state], **wrong)  # type: ignore[arg-type]


def test_fedsvd_takes_the_a_that_all_clients_send() -> None:
    like = {key: value for key, value in given()[0].items() if "lora_A" in key}
    same = [state | like for state in given()]
    told = aggregate(same, [1, 2, 3], "fedsvd", previous=like).shared
    found = aggregate(same, [1, 2, 3], "fedsvd").shared
    assert found.keys() == told.keys() and all(torch.equal(found[k], told[k]) for k in told)


def test_fedsvd_needs_the_frozen_a() -> None:
    like = {key: value for key, value in given()[0].items() if "lora_A" in key}
    same = [state | like for state in given()]
    with pytest.raises(ArgumentError, match=rf"previous has no '{A}'; 'fedsvd' needs the A"):
        aggregate(same, rule="fedsvd", previous={})
    other = {**like, A: like[A] + 1}
    with pytest.raises(ArgumentError, match=rf"adapters\[0\]\['{A}'\] differs from previous"):
        aggregate(same, rule="fedsvd", previous=other)
    with pytest.raises(ArgumentError, match=r"is frozen under 'fedsvd' and differs"):
        aggregate(given(), rule="fedsvd", previous=given()[0])
    sent = [{k: v for k, v in state.items() if "lora_A" not in k} for state in same]
    for some in (sent, [same[0], *sent[1:]], [*same[:2], sent[2]]):
        with pytest.raises(ArgumentError, match=rf"previous is None .*'{A}'.*as previous, or let"):
            aggregate(some, rule="fedsvd")
    with pytest.raises(ArgumentError, match=rf"previous\['{A}'\] has shape \(2, 16\)"):
        aggregate(sent, rule="fedsvd", previous={**like, A: like[A][:2]})


def test_files_that_are_no_adapters_are_refused(tmp_path: Path) -> None:
    empty, pickled = tmp_path / "empty", tmp_path / "adapter_model.bin"
    empty.mkdir()
    torch.save({}, pickled)
    for path in (empty, pickled, tmp_path / "missing", str(tmp_path / "no.safetensors")):
        with pytest.raises(ArgumentError, match=r"adapters\[0\] is .*adapter_model.safetensors"):
            aggregate([path])
    (model,) = fleet(clients=1)
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"adapter_config.json is no JSON"):
        aggregate([tmp_path])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ArgumentError, match=r"adapter_config.json is of IA3"):
        aggregate([tmp_path])
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ArgumentError, match="cannot be read"):
        aggregate([tmp_path], configs=lora_config())
