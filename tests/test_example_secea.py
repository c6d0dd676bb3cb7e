"""The parts of examples/secea_embeddings.py, on little text and few clients."""

from __future__ import annotations

import importlib
import json
import math
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import pyfed

for needed in ("cryptography", "matplotlib", "msgpack", "rich"):
    pytest.importorskip(needed)

EXAMPLES = str(Path(__file__).parents[1] / "examples")


def example(name: str) -> ModuleType:
    """A module of the examples' folder."""
    sys.path.insert(0, EXAMPLES)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(EXAMPLES)


text, model, study, report = (
    example(f"secea_embeddings_{part}") for part in ("text", "model", "study", "report")
)
SETTING = study.Setting(
    rounds=2, steps=3, batch=16, lr=0.02, dim=4, privacy=1, blocks=1, drop=False
)
KEY = pyfed.Key(bytes(range(32)))


def some_texts(modules: int = 12) -> dict[str, list[list[str]]]:
    """Made-up modules, with words that are everywhere and words of their own."""
    rng = random.Random(1)
    common = [f"common{chr(97 + i)}" for i in range(12)]
    return {
        f"module{m}": [
            rng.choices(common, k=6) + rng.choices([f"own{m}{i}" for i in "abcd"], k=4)
            for _ in range(20 + m)
        ]
        for m in range(modules)
    }


@pytest.fixture(scope="module")
def corpora() -> list:
    return text.deal(some_texts(), clients=5, each=30, vocabulary=15, seed=0)


def test_paragraphs_are_many_and_none_is_there_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"files": ("shutil", "tarfile"), "numbers": ("statistics",)}
    monkeypatch.setattr(text, "FAMILIES", few)
    found = text.documentation()
    assert list(found) == ["shutil", "tarfile", "statistics"]
    assert all(len(parts) > 30 for parts in found.values())
    words = {word for parts in found.values() for part in parts for word in part}
    assert {"archive", "median"} <= words
    assert all(word == word.lower() and word.isalpha() and len(word) > 1 for word in words)


def test_every_module_has_one_client_and_every_client_text(corpora: list) -> None:
    owners = Counter(module for corpus in corpora for module in corpus.modules)
    assert owners == dict.fromkeys(some_texts(), 1)
    for corpus in corpora:
        assert 12 <= len(corpus.words) <= 15
        assert list(corpus.words) == sorted(set(corpus.words))
        assert float(corpus.noise.sum()) == pytest.approx(1)
        for part in (corpus.train, corpus.heldout):
            assert float(part.weights.sum()) == pytest.approx(1)
            assert int(part.centers.max()) < len(corpus.words)
        assert len(corpus.train.centers) > len(corpus.heldout.centers) > 0
    sets = [set(corpus.words) for corpus in corpora]
    assert set.intersection(*sets)
    assert all(one - other for one in sets for other in sets if one is not other)


def test_a_deal_is_the_same_for_the_same_seed_alone() -> None:
    first, again, other = (text.deal(some_texts(), 4, 20, 12, seed) for seed in (1, 1, 2))
    assert [one.words for one in first] == [one.words for one in again]
    assert torch.equal(first[0].train.centers, again[0].train.centers)
    assert [one.modules for one in first] != [one.modules for one in other]


def test_pairs_are_within_the_window_and_weighed_by_both_words() -> None:
    words = ("aa", "bb", "cc")
    made = text.pairs([["aa", "xx", "bb", "cc", "aa", "bb", "bb"]], words, torch.ones(3) / 2)
    known, wanted = [0, 1, 2, 0, 1, 1], []
    for i, center in enumerate(known):
        near = [j for j in range(6) if 0 < abs(i - j) <= text.WINDOW]
        wanted += [(center, known[j]) for j in near]
    assert list(zip(made.centers.tolist(), made.contexts.tolist(), strict=True)) == wanted
    skewed = text.pairs([["aa", "bb", "cc"]], words, torch.tensor([1.0, 0.5, 0.25]))
    products = {(0, 1): 0.5, (0, 2): 0.25, (1, 2): 0.125}
    for *pair, weight in zip(skewed.centers, skewed.contexts, skewed.weights, strict=True):
        low, high = sorted(map(int, pair))
        assert float(weight) == pytest.approx(products[low, high] / 1.75)


def test_first_values_are_by_spelling_alone() -> None:
    one, two = model.first_values(["aa", "bb"], 4), model.first_values(["bb"], 4)
    assert one.shape == (2, 8)
    assert torch.equal(one[1:], two)
    assert not torch.equal(one[0], one[1])


def test_held_out_loss_and_rank_are_those_of_every_pair_by_itself(corpora: list) -> None:
    corpus = corpora[0]
    values = torch.randn(len(corpus.words), 8, generator=torch.Generator().manual_seed(1))
    values[3] = values[2]  # ties
    inner, outer = values.double()[:, :4], values.double()[:, 4:]
    loss = wins = 0.0
    part = corpus.heldout
    for center, context, weight in zip(part.centers, part.contexts, part.weights, strict=True):
        scores = [float(inner[center] @ row) for row in outer]
        noise = corpus.noise.double().tolist()
        near = scores[context]
        far = sum(q * math.log1p(math.exp(s)) for q, s in zip(noise, scores, strict=True))
        loss += float(weight) * (math.log1p(math.exp(-near)) + model.NEGATIVES * far)
        beaten = sum(
            q * (1 if s < near - 1e-12 else abs(s - near) <= 1e-12 and 0.5)
            for q, s in zip(noise, scores, strict=True)
        )
        wins += float(weight) * beaten
    assert model.heldout(values, corpus) == pytest.approx((loss, wins), rel=1e-5)


def test_training_learns_what_the_text_shows_and_is_repeated_bit_for_bit(corpora: list) -> None:
    corpus = corpora[1]
    start = model.first_values(corpus.words, 8)
    trained = [model.train(start, corpus, 60, 64, 0.02, seed=3) for _ in range(2)]
    assert torch.equal(*trained)
    assert torch.equal(start, model.first_values(corpus.words, 8))
    before, after = model.heldout(start, corpus), model.heldout(trained[0], corpus)
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_an_average_is_over_the_owners_inside(corpora: list) -> None:
    values = [torch.full((len(one.words), 2), float(at)) for at, one in enumerate(corpora)]
    inside = {0, 2, 3}
    for at, new in enumerate(study.average(corpora, values, inside)):
        for word, row in zip(corpora[at].words, new.tolist(), strict=True):
            owners = [i for i in inside if word in corpora[i].words]
            assert row == pytest.approx([sum(owners) / len(owners) if owners else at] * 2)


def test_secret_averages_are_the_plain_ones_up_to_a_step(corpora: list) -> None:
    plain, secea = (study.run(corpora, SETTING, name, 0, key=KEY) for name in ("plain", "secea"))
    step = 2.0**-20
    assert 0 < secea.error <= 1.01 * step
    assert secea.union == plain.union == len({word for one in corpora for word in one.words})
    for one, other in zip(secea.curve, plain.curve, strict=True):
        assert one.received == pytest.approx(other.received, rel=1e-3)
        assert one.received_loss == pytest.approx(other.received_loss, rel=1e-4)
    assert secea.setup > 0
    assert secea.uplink[1] < 0.9 * secea.uplink[0]  # the queries were sent before
    assert plain.setup == sum(plain.uplink) == 0
    json.dumps(secea.json())


def test_lost_clients_change_secret_and_plain_averages_alike(corpora: list) -> None:
    setting = replace(SETTING, drop=True)
    for number in range(2):
        lost = study.lost_in(setting, 5, 0, number)
        assert set(lost) == set(study.LOST)
        assert len(set().union(*lost.values())) == 2
    plain, secea = (study.run(corpora, setting, name, 0, key=KEY) for name in ("plain", "secea"))
    for one, other in zip(secea.accuracies, plain.accuracies, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    stay = study.run(corpora, SETTING, "plain", 0)
    assert stay.accuracies != plain.accuracies


def rows_of(secea: float, plain: float, alone: float) -> list:
    """Rows of two seeds and three clients with these accuracies, and losses of 3 less them."""
    rows = []
    for name, value in (("secea", secea), ("plain", plain), ("alone", alone)):
        for seed in (0, 1):
            points = [study.Point(value, 3 - value, value, 3 - value)]
            each = [value - 0.001, value, value + 0.001 * (1 + seed)]
            row = study.Row(name, seed, 9, points, each, [3 - v for v in each])
            row.uplink = [2e6] if name == "secea" else []
            rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((0.6, 0.6, 0.5), ["holds"] * 4),
        ((0.6, 0.607, 0.6), ["does NOT hold", "open", *["does NOT hold"] * 2]),
        ((0.6, 0.603, 0.7), ["holds", *["does NOT hold"] * 3]),
    ],
)
def test_a_claim_holds_only_where_the_figures_say_so(
    values: tuple[float, float, float], wanted: list[str]
) -> None:
    assert [one["verdict"] for one in report.verdicts(rows_of(*values))] == wanted


def test_table_summary_and_figure_name_every_method(tmp_path: Path) -> None:
    rows = rows_of(0.6, 0.6, 0.5)
    table = report.table(rows)
    assert all(f"| {name} |" in table for name in report.NAMES.values())
    assert "60.00 ± 0.00" in table
    found = json.loads(json.dumps(report.summary(rows)))
    assert [entry["method"] for entry in found["methods"]] == list(study.METHODS)
    report.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
