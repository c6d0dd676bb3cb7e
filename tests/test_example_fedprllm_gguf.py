"""A GGUF file of a tiny Llama, as examples/fedprllm_models.py reads it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

EXAMPLES = str(Path(__file__).parents[1] / "examples")
HEADS, KEY_HEADS = 4, 2


def example(name: str) -> ModuleType:
    """A module of the examples' folder."""
    sys.path.insert(0, EXAMPLES)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(EXAMPLES)


models = example("fedprllm_models")


def tiny_llama() -> torch.nn.Module:
    """A random causal model: two blocks, four heads of which two pairs share keys."""
    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


NAMES = {
    "embed_tokens": "token_embd",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """What GGUF calls a parameter of a Llama."""
    name = name.removeprefix("model.").replace("layers.", "blk.")
    if name == "norm.weight":
        return "output_norm.weight"
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head in GGUF's order: i and i + half become neighbours."""
    size = len(weight) // heads
    order = [
        head * size + half * size // 2 + i
        for head in range(heads)
        for i in range(size // 2)
        for half in range(2)
    ]
    return weight[order]


def unpacked_q4_1(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of 32: a float16 step and minimum, then 16 bytes whose low nibbles come first."""
    blocks = data.reshape(-1, 20)
    step, low = (blocks[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return (step * codes + low).reshape(shape)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A GGUF file of a tiny model, and what each of its parameters must be after reading."""
    torch.manual_seed(3)
    state = tiny_llama().state_dict()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(
        [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>", "<unk>", "th"]
    )
    writer.add_token_types([1] * 256 + [3] * 3 + [1])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_unk_token_id(258)
    expected = {}
    for name, tensor in state.items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        weight = tensor.numpy()
        if weight.ndim == 1:
            writer.add_tensor(gguf_name(name), weight)
            expected[name] = weight
            continue
        heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(name.split(".")[-2], 0)
        data = gguf.quants.quantize(
            interleaved(weight, heads) if heads else weight, gguf.GGMLQuantizationType.Q4_1
        )
        writer.add_tensor(gguf_name(name), data, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        # A block lies in one row, so the rows can be packed in any order.
        own = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
        expected[name] = unpacked_q4_1(own, weight.shape)
        assert np.abs(expected[name] - weight).max() < 0.01  # the packing lost little
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, expected


def test_a_gguf_model_is_unpacked_with_its_q_and_k_rows_in_order(packed):
    path, expected = packed
    model, _ = models.read_gguf(path)
    state = model.state_dict()
    for name, weight in expected.items():
        assert state[name].dtype == torch.float32
        torch.testing.assert_close(state[name], torch.from_numpy(weight), rtol=1e-6, atol=1e-7)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)


def test_a_gguf_model_can_be_saved_and_read_as_any_other(packed, tmp_path):
    model, _ = models.read_gguf(packed[0])
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(20).view(1, 20)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


def test_a_gguf_tokenizer_merges_and_gives_the_text_back(packed):
    _, tokenizer = models.read_gguf(packed[0])
    ids = tokenizer.backend_tokenizer.encode("this, that", add_special_tokens=False).ids
    assert ids.count(259) == 2  # "th"
    assert tokenizer.decode(ids) == "this, that"
