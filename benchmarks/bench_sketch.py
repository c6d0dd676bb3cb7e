"""Sketches whose matrix is made on the fly against projections by one that is stored."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pyfed
import sketch_baselines as user
from contests import Baseline, Contest, random_floats, sizes

KEY = pyfed.Key(bytes(range(32)))
NOISE_STD = 4.0
CLIENTS = 32
Size = tuple[int, int, int]
Prepare = Callable[[], Baseline]


def gated(x: torch.Tensor, rows: int, kind: str, edges: list[int], **how: Any) -> torch.Tensor:
    """The sketch by kernels, after a look at some of its rows.

    They lie as near to the float64 product with the exported entries as float32 sums must, with
    eight standard deviations of the noise that ``how`` may ask for.
    """
    out = pyfed.ops.sketch(x, rows, KEY, kind, **how)
    stream, noise_std = how.get("stream", 0), how.get("noise_std", 0.0)
    grouped, public = "starts" in how, how.get("public", True)
    for client, (first, last) in enumerate(itertools.pairwise(edges)):
        own = x[first:last].double()
        for row in {0, rows // 2, rows - 1}:
            at, shape = ((row, 1), (0, last - first)), (rows, last - first)
            g = pyfed.ops.sketch_block(*at, KEY, kind, shape, stream + client, public, x.device)
            g = g.double()
            near = 2**-24 * (last - first + 2) * (g.abs() @ own.abs()) + 8 * noise_std
            found = (out[client] if grouped else out)[row].double()
            assert bool(((found - g @ own).abs() <= near).all())
    return out


def contest(size: Size, device: str, kind: str, rivals: dict[str, Prepare], **how: Any) -> Contest:
    """One kind on one size; ``rivals`` get x when they are prepared."""
    rows, samples, features = size
    x = samples_of(size, device)
    parts = [*("secret" for _ in [0] if not how.get("public", True))]
    parts += ["with noise"] if "noise_std" in how else []
    parts += ["of many clients"] if "starts" in how else []
    starts = how["starts"].tolist() if "starts" in how else [0, samples]
    clients = len(starts) - 1
    return Contest(
        op=", ".join([f"sketch by {kind}", *parts]),
        shape=f"{rows:,}×{samples:,} on {features}",
        dtype="float32",
        run=lambda: pyfed.ops.sketch(x, rows, KEY, kind, **how),
        expected=lambda: gated(x, rows, kind, starts, **how),
        bytes=x.nbytes + 4 * clients * rows * features,
        float_macs=0 if kind == "countsketch" else rows * samples * features,
        baselines=rivals,
    )


def samples_of(size: Size, device: str) -> torch.Tensor:
    """X (samples, features)."""
    _, samples, features = size
    return random_floats(samples * features, device).view(samples, features)


def only_where_it_runs(contestant: str) -> None:
    if contestant == "cuda":
        pytest.skip("on GPUs Triton serves")


def plan(cpu: tuple[str, ...], cuda: tuple[str, ...]) -> dict[str, Any]:
    return {
        "cpu": {(1000, 4096, 784): cpu, (1000, 4096, 64): cpu},
        "cuda": {(2000, 60000, 784): cuda, (2000, 60000, 64): cuda},
        "small": (150, 600, 9),
    }


@sizes(**plan((user.RANDN, user.SIGNS), (user.RANDN, user.SIGNS)))
def bench_sketch_rademacher(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    only_where_it_runs(contestant)
    x = samples_of(size, device)
    rivals: dict[str, Prepare] = {
        user.RANDN: lambda: user.randn(x, size[0]),
        user.SIGNS: lambda: user.signs(x, size[0]),
    }
    measure(contest(size, device, "rademacher", rivals))


@sizes(**plan((user.RANDN, user.PROJECTION, user.PHILOX), (user.RANDN,)))
def bench_sketch_gaussian(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    only_where_it_runs(contestant)
    x = samples_of(size, device)
    rivals: dict[str, Prepare] = {
        user.RANDN: lambda: user.randn(x, size[0]),
        user.PROJECTION: lambda: user.projection(x, size[0]),
        user.PHILOX: lambda: user.philox(x, size[0]),
    }
    measure(contest(size, device, "gaussian", rivals))


@sizes(**plan((user.RANDN,), (user.RANDN,)))
def bench_sketch_gaussian_in_secret(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    only_where_it_runs(contestant)
    x = samples_of(size, device)
    rivals: dict[str, Prepare] = {user.RANDN: lambda: user.randn(x, size[0], NOISE_STD)}
    measure(contest(size, device, "gaussian", rivals, public=False, noise_std=NOISE_STD))


@sizes(**plan((user.INDEX_ADD, user.RANDN), (user.INDEX_ADD,)))
def bench_sketch_countsketch(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    only_where_it_runs(contestant)
    x = samples_of(size, device)
    rivals: dict[str, Prepare] = {
        user.RANDN: lambda: user.randn(x, size[0]),
        user.INDEX_ADD: lambda: user.index_add(x, size[0]),
    }
    measure(contest(size, device, "countsketch", rivals))


@sizes(**plan((user.RANDN,), (user.RANDN,)))
def bench_sketch_of_many_clients(
    measure: Callable[[Contest], None], device: str, size: Size, contestant: str
) -> None:
    only_where_it_runs(contestant)
    rows, samples, _ = size
    x = samples_of(size, device)
    starts = [0, *sorted((7919 * i) % samples for i in range(1, CLIENTS)), samples]
    rivals: dict[str, Prepare] = {user.RANDN: lambda: user.loop(x, rows, starts)}
    edges = torch.tensor(starts, device=device)
    measure(contest(size, device, "rademacher", rivals, starts=edges))
