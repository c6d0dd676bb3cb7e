"""The parts of examples/coded_stragglers.py, and its quick form."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

NEEDED = ("cryptography", "dp_accounting", "matplotlib", "mlxtend", "msgpack", "rich", "scipy")
for needed in NEEDED:
    pytest.importorskip(needed)

EXAMPLES = str(Path(__file__).parents[1] / "examples")


def example(name: str) -> ModuleType:
    """A module of the examples' folder."""
    sys.path.insert(0, EXAMPLES)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(EXAMPLES)


data, net, study, noise, report, main = (
    example(f"coded_stragglers{part}")
    for part in ("_data", "_network", "_study", "_privacy", "_report", "")
)


@pytest.fixture(scope="module")
def digits():
    return data.deal(20, 40, 5.0, seed=0)


def test_clients_hold_sorted_digits_and_the_slow_ones_all_from_six_on(digits) -> None:
    owners = {digit: set() for digit in range(10)}
    for client, y in enumerate(digits.y):
        for digit in y.argmax(1).tolist():
            owners[digit].add(client)
    assert [len(y) for y in digits.y] == [200] * 20
    assert all(max(owners[d]) <= min(owners[d + 1]) for d in range(9))
    slow = set(range(12, 20))
    assert sum(owner <= slow for owner in owners.values()) >= 3
    assert float(torch.cat(digits.x).square().sum(1).mean()) == pytest.approx(1, abs=0.1)


def test_slow_clients_are_late_most_of_the_time_and_times_repeat() -> None:
    network = net.network(20, 8, 200, seed=3)
    arrival = network.arrival(1.5, [200] * 20)
    assert min(arrival[i] for i in range(12)) > 0.95
    assert max(arrival[i] for i in range(12, 20)) < 0.3
    times = network.times(5, [200] * 20, 4000)
    assert (times == network.times(5, [200] * 20, 4000)).all()
    for client, p in arrival.items():
        error = math.sqrt(p * (1 - p) / 4000)
        assert float((times[:, client] <= 1.5).mean()) == pytest.approx(p, abs=5 * error + 1e-3)


def test_a_round_ends_at_the_deadline_or_with_the_last_client(digits) -> None:
    network = net.network(20, 8, 200, seed=1)
    setting = study.Setting(rows=50, rounds=4, deadline=1.5, kind="rademacher")
    drop, wait = (study.play(name, digits, network, setting, 1) for name in ("drop", "wait"))
    assert drop.seconds == [1.5, 3.0, 4.5, 6.0]
    longest = network.times(1, [200] * 20, 4).max(1).cumsum()
    assert wait.seconds == pytest.approx(longest.tolist(), abs=0.01)
    assert wait.accuracy[-1] > 0.3
    assert drop.at(4.4) == drop.accuracy[1]
    assert drop.at(1.0) == 0.1
    scfl = study.play("complement", digits, network, setting, 1)
    assert scfl.setup == pytest.approx(50 * 50 / 400 * 0.1 / 0.9)
    assert scfl.seconds[0] == pytest.approx(scfl.setup + 1.5, abs=0.01)


def test_a_level_is_kept_from_the_last_rise_above_it() -> None:
    run = study.Run("drop", 0, 1.0, 0.0, [1.0, 2.0, 3.0, 4.0], [0.9, 0.7, 0.85, 0.9])
    assert [run.settled(level) for level in (0.6, 0.8, 0.88, 0.95)] == [1.0, 3.0, 4.0, math.inf]


def test_noise_of_those_who_do_not_collude_and_are_not_lost_suffices() -> None:
    each = noise.share_of(3.0, 20)
    assert (20 - noise.COLLUDERS - noise.LOST) * each**2 == pytest.approx(9.0)


def runs_of(scfl: float, drop: float, wait: float, inverse: float) -> list:
    """Runs of two seeds with these accuracies; the others are lower."""
    values = dict.fromkeys(study.METHODS, 0.3)
    values |= {"complement": scfl, "drop": drop, "wait": wait, "inverse": inverse}
    return [
        study.Run(name, seed, 1.0, 0.5, [1.5, 2.5], [0.2, value])
        for name, value in values.items()
        for seed in (0, 1)
    ]


def noisy_of(coded: float, statistics: float) -> list:
    values = {"scfl": 0.5, "coded": coded, "statistics": statistics}
    return [
        noise.Noisy(kind, seed, level, 1.0, value, 0.0, 1e-4, 1.0)
        for kind, value in values.items()
        for level in (2.0, math.inf)
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("runs", "noisy", "wanted"),
    [
        ((0.9, 0.7, 0.91, 0.8), (0.8, 0.7), [True, True, True, True, True]),
        ((0.7, 0.65, 0.9, 0.8), (0.6, 0.7), [False, False, False, False, True]),
    ],
)
def test_a_claim_holds_only_where_the_figures_say_so(
    runs: tuple[float, ...], noisy: tuple[float, ...], wanted: list[bool]
) -> None:
    found = report.verdicts(runs_of(*runs), noisy_of(*noisy))
    if runs[2] > runs[0]:  # waiting for all ends at the same simulated second here
        wanted = [*wanted[:2], False, *wanted[3:]]
    assert [one["verdict"] == "holds" for one in found] == wanted


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("--deadline 0.01", "deadline must be above 0.6 s, which everybody takes at least"),
        ("--deadline 0.6", "deadline must be above 0.6 s"),
        ("--deadline nan", "deadline must be above 0.6 s"),
        ("--rows 100000", "rows must be fewer than the 4000 records of all clients"),
        ("--rows 2000 --clients 10 --slow 4", "rows must be fewer than the 2000 records"),
        ("--kind normal", "invalid choice: 'normal'"),
        ("--epsilons 0", "epsilons must be finite and at least 0.1"),
        ("--epsilons 2 nan", "epsilons must be finite and at least 0.1"),
        ("--epsilons inf", "epsilons must be finite"),
        ("--rounds 0", "must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is_made(
    given: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["coded_stragglers", *given.split(), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_quick_form_runs_and_says_what_it_showed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    less = ["--rounds", "12", "--rows", "60", "--features", "40", "--epsilons", "8"]
    monkeypatch.setattr(sys, "argv", ["coded_stragglers", "--quick", *less, "--out", str(tmp_path)])
    main.main()
    (folder,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in (folder / "coded-stragglers.jsonl").open()]
    assert [one["method"] for one in lines if one["part"] == "time"] == list(study.METHODS)
    noisy = [one for one in lines if one["part"] == "noise"]
    assert [one["kind"] for one in noisy] == 2 * list(noise.KINDS)
    assert all(0 <= one["largest_error"] < 1e-2 for one in noisy)
    assert lines[-1]["part"] == "summary"
    assert (folder / "coded-stragglers.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert all(name in said for name in (*report.NAMES.values(), *report.NOISY.values()))
