"""Files of pruned models come back bit for bit, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from pruning.models import Plain, bert, llama, tokens
from pyfed.errors import ArgumentError, DtypeError
from pyfed.pruning import FedPrLLM, load_compact, save_compact, save_pruned, simulate_pruning

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
SMALL = torch.int8, torch.int16, torch.int32, torch.int64


def words(tensor: torch.Tensor) -> list[int]:
    """The bits of every element."""
    form = {t.itemsize: t for t in SMALL}[tensor.element_size()]
    return tensor.contiguous().reshape(-1).view(form).tolist()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and words(a) == words(b)


def pruned(model: nn.Module) -> nn.Module:
    simulate_pruning(FedPrLLM(score="magnitude"), model, [None]).apply_(model)
    return model


def metadata(path: Path) -> dict[str, str]:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_bit_pattern_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    form = {t.itemsize: t for t in SMALL}[dtype.itemsize]
    info = torch.iinfo(form)
    bits = torch.randint(info.min, info.max, (30, 41), dtype=form)
    bits[torch.rand(30, 41) < 0.6] = 0
    bits[0, 0], bits[0, 1] = info.min, -1  # -0.0, and a NaN with all bits set
    tensor = bits.view(dtype)
    save_compact({"w": tensor}, tmp_path / "m")
    assert "w" in json.loads(metadata(tmp_path / "m")["compact"])
    assert same_bits(load_compact(tmp_path / "m")["w"], tensor)


def test_special_values_are_kept_and_only_plus_zero_is_left_out(tmp_path: Path) -> None:
    tensor = torch.zeros(64)
    tensor[:5] = torch.tensor([-0.0, torch.nan, torch.inf, -torch.inf, 1e-45])
    save_compact({"w": tensor}, tmp_path / "m")
    assert len(load_file(tmp_path / "m")["w/values"]) == 5
    assert same_bits(load_compact(tmp_path / "m")["w"], tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0),
        torch.zeros(3, 0, 2),
        torch.zeros(()),
        torch.tensor(2.5),
        torch.zeros(1),
        torch.zeros(5, 3),
        torch.ones(5, 3),
        torch.eye(9, dtype=torch.bfloat16),
        torch.eye(8).view(4, 2, 8).transpose(0, 2),
        torch.eye(8)[:, ::2],
        torch.arange(9),
        torch.tensor([True, False]),
        torch.zeros(40, dtype=torch.complex64),
        torch.zeros(40, dtype=torch.int32),
    ],
)
def test_every_kind_of_tensor_comes_back(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_compact({"t": tensor}, tmp_path / "m")
    again = load_compact(tmp_path / "m")["t"]
    assert again.dtype == tensor.dtype
    assert again.shape == tensor.shape
    assert torch.equal(again, tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [llama, bert, Plain])
def test_models_come_back_bit_for_bit(tmp_path: Path, make: Any, dtype: torch.dtype) -> None:
    model = pruned(make().to(dtype))
    save_compact(model, tmp_path / "m")
    again = load_compact(tmp_path / "m")
    state = model.state_dict()
    assert set(again) == set(state)
    assert all(same_bits(again[name], tensor) for name, tensor in state.items())
    fresh = make().to(dtype)
    fresh.load_state_dict(again)
    assert all(same_bits(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


def test_tied_tensors_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    apart = save_compact(llama(), tmp_path / "apart")
    assert save_compact(model, tmp_path / "m") < apart
    again = load_compact(tmp_path / "m")
    assert again["lm_head.weight"] is again["model.embed_tokens.weight"]
    assert same_bits(again["lm_head.weight"], model.lm_head.weight)


def test_views_of_one_memory_come_back_apart(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    save_compact({"a": whole, "b": whole[1:], "c": whole.t(), "d": whole}, tmp_path / "m")
    again = load_compact(tmp_path / "m")
    for name, wanted in {"a": whole, "b": whole[1:], "c": whole.t(), "d": whole}.items():
        assert torch.equal(again[name], wanted)
    assert again["d"] is again["a"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes_are_those_documented(tmp_path: Path, dtype: torch.dtype) -> None:
    count = 1 << 16
    dense = torch.randn(256, 256).to(dtype)
    half = dense.clone()
    half.view(-1)[::2] = 0
    sizes = {}
    for name, tensor in {"dense": dense, "half": half}.items():
        save_file({"w": tensor}, tmp_path / f"{name}.ordinary")
        sizes[name] = (tmp_path / f"{name}.ordinary").stat().st_size
        wanted = (
            count // 8 + count // 2 * dtype.itemsize if name == "half" else count * dtype.itemsize
        )
        size = save_compact({"w": tensor}, tmp_path / name)
        assert size == (tmp_path / name).stat().st_size
        assert wanted <= size <= wanted + 500
    assert sizes["dense"] == sizes["half"]  # zeros do not shrink an ordinary file


def test_files_are_replaced_whole_and_leave_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_compact({"w": torch.eye(9)}, path)
    with pytest.raises(ArgumentError):
        save_compact({"w": torch.eye(9), "x/bits": torch.eye(9)}, path)
    assert torch.equal(load_compact(path)["w"], torch.eye(9))
    save_compact({"w": torch.ones(2)}, path)
    assert torch.equal(load_compact(path)["w"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def parts() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What a genuine file holds: w = [0, 1, 0, 0, 0, 0, 0, 0, 2, 0] and a dense tensor."""
    stored = {
        "w/bits": torch.tensor([2, 1], dtype=torch.uint8),
        "w/values": torch.tensor([1.0, 2.0]),
        "d": torch.ones(2),
    }
    meta = {"format": "pyfed-compact", "version": "1", "compact": '{"w": [2, 5]}', "same": "{}"}
    return stored, meta


def test_a_file_of_the_documented_form_is_read(tmp_path: Path) -> None:
    stored, meta = parts()
    save_file(stored, tmp_path / "m", {**meta, "same": '{"e": "d"}'})
    again = load_compact(tmp_path / "m")
    assert again["w"].tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 2, 0]]
    assert again["e"].tolist() == [1, 1]


BAD: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no metadata": ({}, dict.fromkeys(("format", "version"), ""), "format and version"),
    "another format": ({}, {"format": "pt"}, "format and version are 'pt'"),
    "another version": ({}, {"version": "2"}, "and '2'"),
    "no table": ({}, {"compact": ""}, "'compact' is not a JSON object"),
    "a table of a list": ({}, {"same": "[]"}, "'same' is not a JSON object"),
    "a table too deep": ({}, {"compact": "[" * 100_000}, "'compact' is not a JSON object"),
    "another shape": ({}, {"compact": '{"w": [2, 50]}'}, "do not fit shape"),
    "a negative shape": ({}, {"compact": '{"w": [-2, -5]}'}, "the shape of 'w' is"),
    "a shape of floats": ({}, {"compact": '{"w": [2.0, 5]}'}, "the shape of 'w' is"),
    "a shape of text": ({}, {"compact": '{"w": "25"}'}, "the shape of 'w' is"),
    "no bits": ({"w/bits": None}, {}, "lacks its bits"),
    "no values": ({"w/values": None}, {}, "lacks its bits or its values"),
    "bits of 16": ({"w/bits": torch.tensor([2, 1], dtype=torch.int16)}, {}, "the bits of 'w'"),
    "padding": (
        {"w/bits": torch.tensor([2, 5], dtype=torch.uint8)},
        {},
        "a bit set behind its last element",
    ),
    "a value too few": ({"w/values": torch.ones(1)}, {}, "not those of its 2 set bits"),
    "a value too many": ({"w/values": torch.ones(3)}, {}, "not those of its 2 set bits"),
    "a value of zero": ({"w/values": torch.tensor([1.0, 0.0])}, {}, "not those of its 2 set"),
    "values of integers": ({"w/values": torch.tensor([1, 2])}, {}, "no row of floats"),
    "values in a matrix": ({"w/values": torch.ones(1, 2)}, {}, "no row of floats"),
    "a part of nothing": ({"x/bits": torch.ones(1)}, {}, "'x/bits' is there twice, or is no part"),
    "a tensor twice": ({"w": torch.ones(1)}, {}, "'w' is there twice"),
    "tied to nothing": ({}, {"same": '{"e": "x"}'}, "'e' cannot be tied to 'x'"),
    "tied to itself": ({}, {"same": '{"e": "e"}'}, "'e' cannot be tied to 'e'"),
    "tied to what is tied": ({}, {"same": '{"e": "d", "f": "e"}'}, "'f' cannot be tied to 'e'"),
    "tied over a tensor": ({}, {"same": '{"w": "d"}'}, "'w' cannot be tied to 'd'"),
    "tied to a list": ({}, {"same": '{"e": ["d"]}'}, "'e' cannot be tied"),
}


@pytest.mark.parametrize("what", BAD)
def test_files_that_are_not_of_the_form_are_refused(tmp_path: Path, what: str) -> None:
    tensors, more, match = BAD[what]
    stored, meta = parts()
    for name, tensor in tensors.items():
        stored.pop(name, None)
        if tensor is not None:
            stored[name] = tensor
    save_file(stored, tmp_path / "m", {**meta, **more})
    with pytest.raises(ArgumentError, match=match):
        load_compact(tmp_path / "m")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_files_cut_short_are_refused(tmp_path: Path, keep: int) -> None:
    save_compact({"w": torch.eye(30)}, tmp_path / "m")
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:keep])
    with pytest.raises(ArgumentError, match="it is no safetensors file"):
        load_compact(tmp_path / "m")


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_compact(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"save_compact: there is no folder .*/none"):
        save_compact({"w": torch.eye(3)}, tmp_path / "none" / "m")


def test_folders_are_not_taken_for_files(tmp_path: Path) -> None:
    for call in (load_compact, lambda path: save_compact({"w": torch.eye(3)}, path)):
        with pytest.raises(ArgumentError, match="a folder; it must be of a file"):
            call(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        ([1], DtypeError, "model is list"),
        ({3: torch.ones(1)}, DtypeError, "a name is int"),
        ({"w": [1]}, DtypeError, "'w' is list"),
        ({"w/values": torch.ones(1)}, ArgumentError, "no tensor may have such a name"),
        ({"w": torch.ones(1, device="meta")}, ArgumentError, "meta device"),
        ({"w": torch.eye(3).to_sparse()}, ArgumentError, "layout"),
    ],
)
def test_what_cannot_be_written_is_named(
    tmp_path: Path, model: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        save_compact(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_pruned_models_are_ordinary_ones(tmp_path: Path) -> None:
    model = pruned(llama())
    folder = save_pruned(model, tmp_path / "deep" / "llama")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert all(same_bits(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    ids = tokens(2)
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)
    plain = pruned(Plain())
    folder = save_pruned(plain, tmp_path / "plain")
    state = load_file(folder / "model.safetensors")
    assert all(same_bits(state[name], tensor) for name, tensor in plain.state_dict().items())
    with pytest.raises(DtypeError, match="model is dict"):
        save_pruned({}, tmp_path)  # type: ignore[arg-type]
