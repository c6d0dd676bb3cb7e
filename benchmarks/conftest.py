"""How benchmarks run: one thread, correct before timed, contestants side by side in groups.

With ``--benchmark-disable`` every contestant runs once on a small size, so that ``make test``
keeps benchmarks alive.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's BLAS reads it when it is loaded

import pytest
import torch

import baselines
import pyfed
from contests import Baseline, Contest, Output, Sizes, backends, equal
from floors import floor_of
from machine import describe
from ratios import interleaved, timer_of

HAS_CUDA = torch.cuda.device_count() > 0
THREADS = 1
ROUNDS = {"min_rounds": 5, "max_time": 0.5, "disable_gc": True}
_SECAGG_NEEDS = ("cryptography", "msgpack")
collect_ignore = (
    []
    if all(importlib.util.find_spec(package) for package in _SECAGG_NEEDS)
    else ["bench_secagg.py"]
)


def pytest_report_header() -> list[str]:
    left_out = [
        f"{name} ({package} is not installed)"
        for name in baselines.NEEDS
        if (package := baselines.missing(name))
    ]
    left_out += [
        f"{file} ({' or '.join(_SECAGG_NEEDS)} is not installed)" for file in collect_ignore
    ]
    return [f"benchmarks left out: {', '.join(left_out)}"] if left_out else []


def _nothing_is_timed(config: pytest.Config) -> bool:
    return bool(config.getoption("benchmark_disable")) or hasattr(config, "workerinput")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every size of a benchmark on every device, by each backend and each baseline."""
    found: Sizes | None = getattr(metafunc.function, "sizes", None)
    if found is None:
        return
    small = _nothing_is_timed(metafunc.config)
    parameters = []
    for device, plan in (("cpu", found.cpu), ("cuda", found.cuda)):
        if device == "cuda" and not HAS_CUDA:
            continue
        # A round of 2 ms is long beside the synchronisation that the GPU's clock does.
        shortest = {"min_time": 2e-3} if device == "cuda" else {}
        marks = [pytest.mark.benchmark(timer=timer_of(device), **shortest, **ROUNDS)]
        if device == "cuda":
            marks.append(pytest.mark.gpu)
        if small:
            rivals = dict.fromkeys(name for names in plan.values() for name in names)
            plan = {found.small: tuple(rivals)}
        for size, names in plan.items():
            here = tuple(name for name in names if baselines.missing(name) is None)
            for contestant in (*backends(device), *here):
                label = "-".join([device, "x".join(map(str, size)), contestant.replace(" ", "_")])
                values = (device, size, contestant, here)
                parameters.append(pytest.param(*values, id=label, marks=marks))
    metafunc.parametrize(("device", "size", "contestant", "rivals"), parameters)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


_expected: dict[tuple[str, str], Output] = {}


def expected_of(contest: Contest, device: str) -> Output:
    """What the contest must return; kept while its contestants run, which is one after another."""
    key = (contest.group, device)
    if key not in _expected:
        _expected.clear()
        _expected[key] = contest.reference()
        pyfed.check()
    return _expected[key]


@pytest.fixture
def measure(
    benchmark: Any, device: str, contestant: str, rivals: tuple[str, ...]
) -> Callable[[Contest], None]:
    """Check a contestant, then time it; a backend also against each rival in turn."""

    def run(contest: Contest) -> None:
        expected = expected_of(contest, device)
        benchmark.group = contest.group
        info = {
            "op": contest.op,
            "shape": contest.shape,
            "dtype": contest.dtype,
            "device": device,
            "contestant": contestant,
            "threads": THREADS if device == "cpu" else None,
            "bytes": contest.bytes,
            "macs": contest.macs or contest.float_macs,
            "chacha": contest.chacha,
        }
        if contestant in contest.baselines:
            baseline = checked(contest.baselines[contestant], expected)
            info |= {"kind": "baseline", "lacks": baseline.lacks}
            benchmark(baseline.run)
        else:
            with pyfed.use_backend(contestant):
                assert equal(contest.run(), expected)
                pyfed.check()
                info |= {"kind": "pyfed"}
                benchmark(contest.run)
                if benchmark.enabled:
                    info["floor"] = floor_of(contest, device)
                    info["ratios"] = ratios_of(contest, expected)
        assert torch.get_num_threads() == THREADS
        benchmark.extra_info.update(info)

    def ratios_of(contest: Contest, expected: Output) -> dict[str, dict[str, Any]]:
        found = {}
        for name in rivals:
            rival = checked(contest.baselines[name], expected)
            ratio = interleaved(contest.run, rival.run, timer_of(device))
            found[name] = ratio.summary() | {"lacks": rival.lacks}
        return found

    return run


def checked(prepare: Callable[[], Baseline], expected: Output) -> Baseline:
    """A prepared baseline that keeps its promise."""
    baseline = prepare()
    baseline.check(baseline.run(), expected)
    torch.set_num_threads(THREADS)  # numba sets OpenMP's thread count, torch's too, when it starts
    return baseline


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Put our own description in the place of pytest-benchmark's, which holds the host's name."""
    machine_info.clear()
    machine_info.update(describe())
