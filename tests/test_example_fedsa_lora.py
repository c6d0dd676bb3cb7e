"""The parts of examples/fedsa_lora.py, on a tiny model and without downloads."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
for needed in ("matplotlib", "msgpack", "rich", "safetensors"):
    pytest.importorskip(needed)

EXAMPLES = str(Path(__file__).parents[1] / "examples")


def example(name: str) -> ModuleType:
    """A module of the examples' folder."""
    sys.path.insert(0, EXAMPLES)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(EXAMPLES)


text, records, model, study, report = (
    example(f"fedsa_lora_{part}") for part in ("text", "records", "model", "study", "report")
)
LABELS = len(text.LABELS)


@pytest.fixture(scope="module")
def passages() -> list:
    return text.passages()


def tiny_bert(layers: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertModel(config).eval()


def tiny_study(passages: list, rounds: int = 3) -> object:
    """Random numbers in place of what frozen layers give, with the label in them."""
    bert = tiny_bert(1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([passage.label for passage in passages])
    hidden = torch.randn(len(labels), 3, 32, generator=generator)
    hidden[:, 0, :LABELS] += 6 * torch.nn.functional.one_hot(labels, LABELS)
    mask = torch.ones(len(labels), 3, dtype=torch.bool)
    top = model.Top(bert.encoder.layer, bert.config, LABELS).requires_grad_(False)
    parts = text.deal(passages, 3, 20, 30, 0.5, seed=0, balanced=5)
    return study.Study(
        model.Samples(hidden, mask, labels), top, parts, study.Setting(rounds, 2, 4, 2), 0
    )


def method(name: str) -> object:
    return next(one for one in study.METHODS if one.name == name)


@pytest.fixture(autouse=True)
def small_vera(monkeypatch):
    small = peft.VeraConfig(r=8, vera_dropout=0.05, projection_prng_key=0)
    monkeypatch.setitem(model.CONFIGS, "VeRA", small)


def test_passages_are_many_of_every_family_and_never_twice(passages):
    counts = Counter(passage.label for passage in passages)
    assert len(passages) > 2000
    assert len(counts) == LABELS
    assert min(counts.values()) > 100
    assert len({passage.text for passage in passages}) == len(passages)
    assert all(len(passage.text.split()) >= text.WORDS for passage in passages)
    families = {}
    for passage in passages:
        assert families.setdefault(passage.document, passage.label) == passage.label


def test_no_document_is_on_both_sides_and_no_sample_has_two_owners(passages):
    parts = text.deal(passages, 10, 80, 100, 0.3, seed=1)
    trained = torch.cat(parts.train).tolist()
    tested = {n for part in [*parts.tests, parts.everyone] for n in part.tolist()}
    assert [len(part) for part in parts.train] == [80] * 10
    assert [len(part) for part in parts.tests] == [100] * 10
    assert len(set(trained)) == len(trained)
    assert not {passages[n].document for n in trained} & {passages[n].document for n in tested}
    for part in [*parts.tests, parts.everyone]:
        assert len(part.unique()) == len(part)


def test_a_clients_tests_have_its_own_mix_and_the_global_test_has_each_label_alike(passages):
    parts = text.deal(passages, 10, 80, 100, 0.3, seed=1)
    labels = torch.tensor([passage.label for passage in passages])

    def shares(numbers: torch.Tensor) -> torch.Tensor:
        return labels[numbers].bincount(minlength=LABELS) / len(numbers)

    own = torch.stack([shares(part) for part in parts.train])
    tests = torch.stack([shares(part) for part in parts.tests])
    apart = torch.cdist(own, tests, p=1)
    assert (apart.argmin(1) == torch.arange(10)).all()
    assert own.max(1).values.mean() > 0.35
    assert (shares(parts.everyone) == 1 / LABELS).all()


def test_labels_are_less_skewed_with_a_larger_alpha(passages):
    means = [
        text.deal(passages, 10, 40, 40, alpha, 0).mixes.max(1).values.mean() for alpha in (0.1, 5.0)
    ]
    assert means[0] > 2 * means[1]


def test_a_deal_is_the_same_for_the_same_seed_alone(passages):
    first, again, other = (text.deal(passages, 4, 20, 20, 0.3, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.cat(first.train), torch.cat(again.train))
    assert torch.equal(torch.cat(first.tests), torch.cat(again.tests))
    assert not torch.equal(torch.cat(first.train), torch.cat(other.train))


def test_too_many_samples_are_refused(passages):
    with pytest.raises(ValueError, match="too many"):
        text.deal(passages, 10, len(passages), 10, 0.3, seed=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_upper_layers_on_stored_states_give_what_the_whole_model_gives(layers):
    bert = tiny_bert(2)
    ids = torch.randint(50, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    with torch.no_grad():
        states = bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        top = model.Top(bert.encoder.layer[-layers:], bert.config, LABELS)
        expected = top.classifier(states[-1][:, 0])
        found = top(states[-1 - layers], mask.bool())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("one", study.METHODS, ids=lambda one: one.name)
def test_every_method_trains_and_agrees_with_its_messages(passages, one):
    row = tiny_study(passages).run(one)
    assert len(row.personal) == 3
    assert all(0 <= value <= 1 for value in [*row.personal, *row.trained])
    assert (row.global_accuracy is None) == (not one.is_global)
    assert (row.uplink > 0) == (one.rule is not None)
    assert list(row.curve) == [2, 3]
    assert row.curve[3] == pytest.approx(row.mean)
    json.dumps(asdict(row))


def test_training_learns_what_the_samples_show(passages):
    made = tiny_study(passages, rounds=30)
    assert made.run(replace(method("fedit"), lr=2e-2)).global_accuracy > 3 / LABELS
    local = made.run(replace(method("local-only"), lr=2e-2))
    assert local.mean > 3 / LABELS
    assert local.own_models < local.mean


def test_a_run_is_repeated_bit_for_bit(passages):
    for name in ("fedsa", "flora"):
        first, again = (tiny_study(passages).run(method(name)) for _ in range(2))
        assert replace(first, seconds=0.0) == replace(again, seconds=0.0)


def test_clients_have_one_model_after_a_global_rule_and_their_own_after_fedsa(passages):
    banks = {}

    class Watched(study.Study):
        def _everyone(self, bank, one):
            banks[one.name] = bank.arena.data.clone()
            return super()._everyone(bank, one)

    made = tiny_study(passages)
    made.__class__ = Watched
    for name in ("fedit", "fedsa", "local-only"):
        made.run(method(name))
    assert all(torch.equal(row, banks["fedit"][0]) for row in banks["fedit"])
    assert not torch.equal(banks["fedsa"][0], banks["fedsa"][1])
    assert not torch.equal(banks["local-only"][0], banks["local-only"][1])


def test_fedsa_sends_a_alone_and_vera_one_number_for_each_rank(passages):
    rows = {
        name: tiny_study(passages, 2).run(method(name))
        for name in ("fedsa", "fedit, own heads", "fedsa, VeRA")
    }
    inputs, outputs, targets = 4 * 32 + 48, 3 * 32 + 48 + 32, 5
    most = 192  # bytes around the payload
    assert 0 < rows["fedsa"].uplink - 4 * 8 * inputs < most
    assert 0 < rows["fedit, own heads"].uplink - 4 * 8 * (inputs + outputs) < most
    assert 0 < rows["fedsa, VeRA"].uplink - 4 * 8 * targets < most


def rows_of(values: dict[str, list[list[float]]]) -> list:
    """Rows with these personal accuracies: method → seed → client."""
    empty = {"rule": None, "heads": "local", "adapter": "LoRA", "lr": 1.0, "uplink": 1.0}
    rest = {"global_accuracy": None, "mean_model": 0.5, "own_models": 0.4, "downlink": 1.0}
    return [
        records.Row(name, seed, personal=own, trained=own, curve={1: 0.5}, **empty, **rest)
        for name, seeds in values.items()
        for seed, own in enumerate(seeds)
    ]


def test_a_claim_holds_only_beyond_two_standard_errors():
    names = {name for claim in report.CLAIMS for name in claim[2:]}
    flat = {name: [[0.5, 0.5], [0.5, 0.5]] for name in names}
    better = flat | {"fedsa": [[0.6, 0.61], [0.59, 0.6]]}
    worse = flat | {"fedsa": [[0.4, 0.41], [0.39, 0.4]]}
    noisy = flat | {"fedsa": [[0.9, 0.2], [0.3, 0.7]]}
    verdicts = [report.judges(rows_of(case))[0] for case in (better, worse, noisy, flat)]
    assert [one.verdict for one in verdicts] == ["holds", "does NOT hold", "open", "open"]
    assert verdicts[0].mean == pytest.approx(0.1)
    assert "+10.0 points" in str(verdicts[0])


def test_table_summary_and_figure_name_every_method(tmp_path):
    names = {name for claim in report.CLAIMS for name in claim[2:]}
    rows = rows_of({name: [[0.5, 0.6], [0.7, 0.8]] for name in sorted(names)})
    table = report.table(rows)
    assert all(f"| {name} |" in table for name in names)
    assert "65.0 ± 14.1" in table
    found = json.loads(json.dumps(report.summary(rows, report.judges(rows))))
    assert {entry["method"] for entry in found["methods"]} == names
    report.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
