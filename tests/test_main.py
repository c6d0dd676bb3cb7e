"""``python -m pyfed`` always prints, tells the truth, and exits with 1 when a kernel is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyfed import __main__ as diagnostics
from pyfed.op import BACKENDS, OPS, Kernel
from runs import LACKING


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m pyfed`` in a process and a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "pyfed", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(sys.executable).parent,
        env=kept | environment,
    )


def test_the_json_report_covers_every_op_on_every_backend() -> None:
    done = run("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert set(facts["ops"]) == set(OPS)
    for name, results in facts["ops"].items():
        assert tuple(results) == BACKENDS
        assert results["reference"] == results["cpu"] == "ok", name
        if torch.cuda.device_count() == 0:
            assert results["triton"] == "there is no CUDA device"
            reasons = ("there is no CUDA device", "pyfed was built without CUDA")
            lacking = (f"{name} has no cuda kernel",)
            assert results["cuda"] in (lacking if "cuda" in LACKING.get(name, ()) else reasons)
    assert facts["extension"]["simd"] in ("plain", "avx2", "avx512")
    assert facts["torch"] == torch.__version__


def test_interpreted_triton_kernels_are_checked_too() -> None:
    facts = json.loads(run("--json", TRITON_INTERPRET="1").stdout)
    assert {results["triton"] for results in facts["ops"].values()} == {"ok"}


def test_the_text_says_why_a_backend_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    facts = diagnostics.report()
    facts["ops"]["field_sum"]["cuda"] = "a reason of its own"
    shown = diagnostics.text(facts)
    assert "cuda: a reason of its own (field_sum)" in shown
    assert all(f"\n{name} " in shown for name in OPS)


def test_a_wrong_kernel_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    op = OPS["field_sum"]

    def off_by_one(*args: Any) -> torch.Tensor:
        return op.kernels["reference"].run(*args) + 1

    monkeypatch.setitem(op.kernels, "cpu", Kernel(off_by_one, None))
    assert diagnostics.main([]) == 1
    assert "cpu: FAILED: differs from the reference (field_sum)" in capsys.readouterr().out


def test_a_kernel_that_writes_the_wrong_thing_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result of an op that works in place may be right, and what it leaves wrong."""
    op = OPS["mask_prune_"]

    def forgetful(weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        return op.kernels["reference"].run(weight.clone(), *rest)

    monkeypatch.setitem(op.kernels, "cpu", Kernel(forgetful, None))
    assert diagnostics.main([]) == 1
    assert "cpu: FAILED: differs from the reference (mask_prune_)" in capsys.readouterr().out


def test_a_kernel_that_is_off_by_more_than_roundings_fails_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of sums that kernels add in any order, too; and one result of several may be wrong."""
    op = OPS["lora_linear_backward"]

    def imprecise(*args: Any) -> tuple[torch.Tensor, ...]:
        dx, da, db = op.kernels["reference"].run(*args)
        return dx, da, db * (1 + 1e-3)

    monkeypatch.setitem(op.kernels, "cpu", Kernel(imprecise, None))
    assert diagnostics.main([]) == 1
    shown = capsys.readouterr().out
    assert "cpu: FAILED: differs from the reference (lora_linear_backward)" in shown


def test_a_kernel_that_raises_fails_the_check_and_not_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any) -> torch.Tensor:
        raise MemoryError("none left")

    monkeypatch.setitem(OPS["quantize"].kernels, "cpu", Kernel(broken, None))
    assert diagnostics.main(["--json"]) == 1
    results = json.loads(capsys.readouterr().out)["ops"]
    assert results["quantize"]["cpu"] == "FAILED: MemoryError: none left"
    assert results["dequantize"]["cpu"] == "ok"


def test_two_openmp_runtimes_are_found_and_warned_of() -> None:
    line = "7f00-7f01 r-xp 00000000 fd:00 42                         {}\n"
    files = ("/usr/lib/libgomp.so.1.0.0", "/opt/torch/libgomp-a34b3233.so.1", "/usr/lib/libm.so.6")
    maps = "".join(line.format(name) * 2 for name in files)
    assert diagnostics.openmp_runtimes(maps) == sorted(files[:2])
    facts = diagnostics.report()
    assert len(facts["openmp"]) <= 1
    assert "warning" not in diagnostics.text(facts)
    assert "warning: 2 OpenMP" in diagnostics.text({**facts, "openmp": list(files[:2])})
