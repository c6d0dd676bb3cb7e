"""What turns measurements into claims, on made-up measurements."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import floors
import report
from contests import Contest
from limbs import exact_matmul
from machine import name_of
from ratios import interleaved


class Clock:
    """Time that passes only in the calls that are measured, and more slowly in later rounds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, seconds: float) -> Callable[[], None]:
        def spend() -> None:
            # A neighbour slows everything down as time goes on; both calls meet it alike.
            self.now += seconds * (1 + self.now / 3)

        return spend


def test_interleaving_cancels_a_drift_that_changes_every_time() -> None:
    clock = Clock()
    ratio = interleaved(clock.call(0.02), clock.call(0.1), clock, rounds=9)
    assert ratio.median == pytest.approx(5, rel=0.05)
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio.rounds == 9
    assert clock.now > 1.2  # so a call took 40 % longer in the end


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        interleaved(lambda: None, lambda: None, rounds=4)


@pytest.mark.parametrize(
    ("contest", "floor"),
    [
        (Contest("x", "", torch.empty, bytes=800), 8.0),
        (Contest("x", "", torch.empty, bytes=800, macs=90), 9.0),
        (Contest("x", "", torch.empty, bytes=800, macs=90, chacha=20), 10.0),
        (Contest("x", "", torch.empty, bytes=100, macs=90, butterflies=15), 3.0),
        (Contest("x", "", torch.empty, bytes=100, macs=90, butterflies=500), 9.0),
    ],
)
def test_the_floor_is_the_slowest_part(
    monkeypatch: pytest.MonkeyPatch, contest: Contest, floor: float
) -> None:
    monkeypatch.setattr(floors, "copy_bandwidth", lambda device, size: 100.0)
    monkeypatch.setattr(floors, "mac_peak", lambda device: 10.0)
    monkeypatch.setattr(floors, "chacha_peak", lambda device: 2.0)
    monkeypatch.setattr(floors, "butterfly_peak", lambda device: 5.0)
    assert floors.floor_of(contest, "cpu")["seconds"] == floor


def test_a_copy_is_measured_at_the_size_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(floors, "copy_bandwidth", lambda device, size: sizes.append(size) or 1.0)
    for count in (0, 800, 3_000_000, 10**11):
        floors.floor_of(Contest("x", "", torch.empty, bytes=count), "cpu")
    assert sizes == [1 << 7, 1 << 10, 1 << 22, 1 << 28]


def test_a_wrong_result_is_not_measured() -> None:
    """Where a check takes the place of the reference, a red one ends the benchmark."""
    one, two = torch.ones(1), torch.full((1,), 2.0)

    def holds(output: torch.Tensor) -> bool:
        return torch.equal(output, one)

    assert torch.equal(Contest("x", "", lambda: one, bytes=4, holds=holds).reference(), one)
    with pytest.raises(AssertionError, match="the result is wrong"):
        Contest("x", "", lambda: two, bytes=4, holds=holds).reference()


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (
            {"cpu": "AMD EPYC 9654 96-Core Processor", "simd": "avx512"},
            "amd-epyc-9654-avx512-2-cores",
        ),
        (
            {"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "simd": "avx2"},
            "intel-xeon-avx2-2-cores",
        ),
        ({"cpu": "any", "simd": "plain", "gpu": "NVIDIA H200"}, "nvidia-h200"),
    ],
)
def test_machines_are_named_by_their_hardware(info: dict[str, str], name: str) -> None:
    assert name_of({**info, "cores": 2}) == name


def test_limbs_are_exact_at_their_bound() -> None:
    p = 2**31 - 1
    centre = p // 2  # the largest magnitude after centring
    a = torch.full((2, 600), centre, dtype=torch.int32)
    b = torch.full((600, 3), centre + 1, dtype=torch.int32)
    assert torch.equal(
        exact_matmul(a, b, p).long(), torch.full((2, 3), 600 * centre * (centre + 1) % p)
    )


def made_up_raw() -> dict[str, Any]:
    """What pytest-benchmark writes, as far as it is read: one group of three rows."""
    stats = {"median": 0.002, "iqr": 0.0001, "rounds": 7, "iterations": 1, "data": [0.002] * 7}
    common = {"op": "field_sum", "shape": "2×3", "dtype": "int32", "device": "cpu", "threads": 1}
    common |= {"bytes": 4_000_000, "macs": 0, "chacha": 0}
    spread = {"low": 2.9, "high": 3.2, "rounds": 9}
    ratios = {
        "tidy": {"median": 3.0, "lacks": "", **spread},
        "sloppy": {"median": 1.5, "lacks": "wraps", **spread},
    }
    ours = {"contestant": "cpu", "kind": "pyfed", "ratios": ratios, "floor": {"seconds": 0.001}}
    rows = [ours, {"contestant": "tidy", "kind": "baseline", "lacks": ""}]
    machine = {"name": "some-cpu", "cpu": "Some CPU", "simd": "avx2", "cores": 2}
    return {
        "machine_info": {**machine, "versions": {"torch": "2"}},
        "benchmarks": [
            {"group": "field_sum 2×3", "stats": stats, "extra_info": {**common, **row}}
            for row in rows
        ],
    }


def test_a_summary_keeps_no_samples() -> None:
    summary = report.summarise(made_up_raw())
    assert "data" not in json.dumps(summary)
    assert [row["median"] for row in summary["rows"]] == [0.002, 0.002]


def test_the_best_baseline_does_the_same_work() -> None:
    row = report.summarise(made_up_raw())["rows"][0]
    assert report.best_rival(row) == "tidy"
    assert report.best_rival({**row, "ratios": {"sloppy": row["ratios"]["sloppy"]}}) == "sloppy"
    assert report.best_rival({**row, "ratios": {}}) is None


def test_the_command_writes_summary_table_picture_and_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, readme = tmp_path / "raw.json", tmp_path / "README.md"
    raw.write_text(json.dumps(made_up_raw()), encoding="utf-8")
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    files = ["--json", f"{tmp_path}/results/{{machine}}.json", "--markdown", f"{tmp_path}/table.md"]
    files += ["--plot", f"{tmp_path}/bars.png", "--readme", str(readme)]
    monkeypatch.setattr(sys, "argv", ["report.py", str(raw), *files])
    report.main()
    assert json.loads((tmp_path / "results/some-cpu.json").read_text(encoding="utf-8"))["rows"]
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    for path in (readme, tmp_path / "table.md"):
        text = path.read_text(encoding="utf-8")
        assert "| 2 GB/s | 50% | 1.5×" in text.replace(" ± 100 µs | 7", ""), text
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
