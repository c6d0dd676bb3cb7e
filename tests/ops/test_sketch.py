"""Sketches: the entries of G on every backend, whose they are, and what the product obeys."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import oracles
import pyfed
import sketch_oracles
from case import KEY
from contract import same_bits
from pyfed import Key
from pyfed.ops import sketch, sketch_block, sketch_seed
from runs import Run, runs_of
from sketch_oracles import KINDS

SKETCH_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("sketch"))
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
VECTORS = Path(__file__).parents[1] / "vectors"
BLOCKS = 1020  # of each kind
# Rows, samples of each client, the first client's stream, and whether G is public.
MATRICES = (
    *((33, (130,), 0, True), (7, (40,), 2**32 - 1, False), (64, (65, 0, 31), 2**31 - 1, True)),
    *((17, (100,), 5, True), (19, (33, 1), 2**32 - 2, False), (1, (200,), 77, True)),
)


def source(public: bool) -> int | bytes:
    return sketch_oracles.seed_of(KEY.reveal()) if public else KEY.reveal()


def exported(kind: str, matrix: tuple[Any, ...], device: str) -> list[torch.Tensor]:
    """G of each client, as the kernel has it: the sketch of the unit vectors, which is exact."""
    rows, samples, stream, public = matrix
    starts = torch.tensor([0, *itertools.accumulate(samples)])
    x = torch.cat([torch.eye(max(samples))[:count] for count in samples])
    how = {} if len(samples) == 1 else {"starts": starts.to(device)}
    made = sketch(x.to(device), rows, KEY, kind, 0.0, stream, public, **how)
    return [g[:, :count] for g, count in zip(made.view(-1, *made.shape[-2:]), samples, strict=True)]


@functools.cache
def blocks(kind: str) -> list[tuple[int, int, slice, slice, np.ndarray[Any, Any]]]:
    """Random blocks of the matrices: which matrix, client, rows and columns, and the entries."""
    rng, found = random.Random(f"{kind} 20"), []
    for number in range(BLOCKS):
        which = number % len(MATRICES)
        rows, samples, stream, public = MATRICES[which]
        client = rng.choice([c for c, count in enumerate(samples) if count])
        r, j = rng.randrange(rows), rng.randrange(samples[client])
        last = min(rows, r + rng.randrange(1, 5)), min(samples[client], j + rng.randrange(1, 12))
        entries = sketch_oracles.entries(
            source(public),
            kind,
            stream + client,
            np.arange(r, last[0]),
            np.arange(j, last[1]),
            rows,
        )
        found.append((which, client, slice(r, last[0]), slice(j, last[1]), entries))
    return found


@EVERY_KIND
@SKETCH_RUNS
def test_a_thousand_random_blocks_of_g_are_the_oracles(op: str, run: Run, kind: str) -> None:
    with run.active():
        made = [exported(kind, matrix, run.device) for matrix in MATRICES]
    for which, client, rows, columns, wanted in blocks(kind):
        got = made[which][client][rows, columns].cpu().numpy()
        assert np.array_equal(got, wanted), (MATRICES[which], client, rows, columns)


@pytest.mark.parametrize("public", [True, False])
@EVERY_KIND
def test_a_block_is_the_slice_of_the_whole(kind: str, public: bool) -> None:
    """Wherever it begins and ends, to the bit; and an empty one is empty."""
    rng, shape = random.Random(20), (13, 150)
    whole = sketch_block((0, 13), (0, 150), KEY, kind, shape, 3, public)
    for _ in range(100):
        row, column = rng.randrange(13), rng.randrange(150)
        rows, columns = rng.randrange(14 - row), rng.randrange(151 - column)
        part = sketch_block((row, rows), (column, columns), KEY, kind, shape, 3, public)
        assert same_bits(part, whole[row : row + rows, column : column + columns].contiguous())


@EVERY_KIND
def test_blocks_at_the_ends_of_the_largest_matrix_are_the_oracles(kind: str) -> None:
    """Where counters need more than 32 bits, and rows nearly so."""
    height, width = 2**31, 2**36
    for public, row, column in itertools.product(
        (True, False), (0, 2**16, height - 2), (2**32 - 9, 2**34 - 9, 2**35 + 5, width - 20)
    ):
        at = (row, 2), (column, 20)
        got = sketch_block(*at, KEY, kind, (height, width), 2**32 - 1, public)
        rows, columns = (np.arange(first, first + count) for first, count in at)
        wanted = sketch_oracles.entries(
            source(public), kind, 2**32 - 1, rows, columns.astype(np.uint64), height
        )
        assert np.array_equal(got.numpy().view(np.int32), wanted.view(np.int32))


def test_entries_and_noise_come_out_bit_for_bit() -> None:
    """As they were when the form was frozen; every backend is compared with these elsewhere."""
    form = json.loads((VECTORS / "pyfed_sketch.json").read_text())
    key = Key(bytes.fromhex(form["key_hex"]))
    assert sketch_seed(key) == form["seed"]
    for matrix in form["matrices"]:
        how = matrix["kind"], tuple(matrix["shape"]), form["stream"], matrix["public"]
        for row, wanted in zip(matrix["rows"], matrix["bits"], strict=True):
            for column, bits in zip(form["columns"], wanted, strict=True):
                entry = sketch_block((row, 1), (column, 1), key, *how)
                assert entry.view(torch.int32).item() == oracles.signed(bits)
    made = sketch(torch.zeros(1, 5), 3, key, "rademacher", 1.0, form["stream"])
    assert (made.view(torch.int32).to(torch.int64) % 2**32).tolist() == form["noise"]


def test_the_stored_vectors_are_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("generate", VECTORS / "generate_sketch.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = json.loads((VECTORS / "pyfed_sketch.json").read_text())
    assert json.loads(json.dumps(generate.sketch_form())) == written


@EVERY_KIND
@SKETCH_RUNS
def test_what_enters_g_is_the_seed_or_the_key_the_stream_and_the_kind(
    op: str, run: Run, kind: str
) -> None:
    x = torch.eye(20, device=run.device)
    other = KEY.derive("other")
    with run.active():
        public, secret = (sketch(x, 8, KEY, kind, public=p) for p in (True, False))
        assert same_bits(sketch(x, 8, sketch_seed(KEY), kind), public)
        for change in (
            *(sketch(x, 8, other, kind), sketch(x, 8, KEY, kind, stream=1), secret),
            *(
                sketch(x, 8, sketch_seed(KEY) ^ 1, kind),
                sketch(x, 8, sketch_seed(KEY) ^ 2**63, kind),
            ),
        ):
            assert not torch.equal(change, public)
        assert not torch.equal(sketch(x, 8, other, kind, public=False), secret)


@SKETCH_RUNS
def test_noise_is_chacha20s_whatever_makes_g(op: str, run: Run) -> None:
    """It depends on the key and the stream, and on nothing that is public."""
    rows, features, stream = 9, 21, 2**32 - 2
    zero = torch.zeros(4, features, device=run.device)
    starts = torch.tensor([0, 1, 4], device=run.device)
    wanted = torch.from_numpy(
        np.stack([sketch_oracles.noise(KEY.reveal(), stream + i, rows, features) for i in (0, 1)])
    )
    with run.active():
        for kind, public, std in (
            *(("rademacher", True, 1.0), ("rademacher", False, 0.3), ("gaussian", False, 2.0**-40)),
            *(("gaussian", True, 7.5), ("countsketch", True, 1.0), ("countsketch", False, 1.0)),
        ):
            got = sketch(zero, rows, KEY, kind, std, stream, public, starts=starts)
            assert torch.equal(got.cpu(), torch.tensor(std) * wanted)
    g = sketch_block((0, rows), (0, features), KEY, "gaussian", (rows, features), stream, False)
    assert not torch.isin(g, wanted[0]).any()


@SKETCH_RUNS
def test_a_product_of_small_integers_with_signs_is_exact(op: str, run: Run) -> None:
    """So it is linear to the bit, and a transposed one its adjoint, in both forms."""
    made = torch.Generator().manual_seed(20)
    first, samples, rows = (33, 40, 5) if run.interpreted else (70, 150, 23)
    x, z = (torch.randint(-99, 100, (samples, 11), generator=made).float() for _ in range(2))
    y = torch.randint(-99, 100, (2, rows, 11), generator=made).float()
    starts = torch.tensor([0, first, samples])
    x, y, z, starts = (t.to(run.device) for t in (x, y, z, starts))
    with run.active():
        for public in (True, False):
            how: dict[str, Any] = {"public": public, "stream": 4}
            one, other = (sketch(t, rows, KEY, **how) for t in (x, z))
            assert same_bits(sketch(x - 2 * z, rows, KEY, **how), one - 2 * other)
            back = sketch(y[0], samples, KEY, transpose=True, **how)
            assert torch.equal((one * y[0]).sum(0), (x * back).sum(0))
            grouped = sketch(x, rows, KEY, starts=starts, **how)
            back = sketch(y, samples, KEY, transpose=True, starts=starts, **how)
            for client, (begin, end) in enumerate(((0, first), (first, samples))):
                mine = {**how, "stream": 4 + client}
                assert same_bits(grouped[client], sketch(x[begin:end], rows, KEY, **mine))
                alone = sketch(y[client], end - begin, KEY, transpose=True, **mine)
                assert same_bits(back[begin:end], alone)


@EVERY_KIND
@SKETCH_RUNS
def test_the_error_is_below_the_documented_bound(op: str, run: Run, kind: str) -> None:
    """Against float64 with the exported G; terms of one sign, so that the bound can be reached."""
    samples, rows, features = (600, 20, 9) if run.interpreted else (4096, 64, 40)
    made = torch.Generator().manual_seed(20)
    x = torch.rand(samples, features, generator=made)
    g = sketch_block((0, rows), (0, samples), KEY, kind, (rows, samples)).double()
    n, u = samples + 2, 2.0**-24
    bound = n * u / (1 - n * u) * (g.abs() @ x.double())
    with run.active():
        got = sketch(x.to(run.device), rows, KEY, kind).cpu().double()
    assert ((got - g @ x.double()).abs() <= bound).all()


@SKETCH_RUNS
def test_discrete_noise_is_added_to_the_nearest_step(op: str, run: Run) -> None:
    """Half to even, with the noise of ``discrete_gaussian`` of the client's stream."""
    x = torch.randint(-9, 10, (31, 6)).float().to(run.device)
    starts = torch.tensor([0, 20, 31], device=run.device)
    for grid, std in ((2.0, 3.0), (0.25, 10.0), (2.0**-20, 0.5)):
        how: dict[str, Any] = {"stream": 9, "starts": starts}
        with run.active():
            exact = sketch(x, 8, KEY, **how).double() / grid
            got = sketch(x, 8, KEY, noise_std=std, noise="discrete", grid=grid, **how)
            noise = [
                pyfed.ops.discrete_gaussian(48, std / grid, KEY, 9 + i, device=run.device)
                for i in (0, 1)
            ]
        steps = torch.round(exact) + torch.stack(noise).view(2, 8, 6)
        assert torch.equal(got, (steps * grid).float())
        assert (exact != torch.round(exact)).any() == (grid == 2.0)


def test_the_gradient_of_a_gradient_is_the_sketch_again() -> None:
    x = torch.randn(30, 4, requires_grad=True)
    above = torch.randn(7, 4, requires_grad=True)
    out = sketch(x, 7, KEY, "gaussian", 2.0)
    (grad,) = torch.autograd.grad(out, x, above, create_graph=True)
    assert same_bits(grad.detach(), sketch(above.detach(), 30, KEY, "gaussian", transpose=True))
    (second,) = torch.autograd.grad(grad, above, torch.ones_like(grad))
    assert same_bits(second, sketch(torch.ones(30, 4), 7, KEY, "gaussian"))


def test_the_public_seed_is_a_hash_of_the_key() -> None:
    """Eight bytes of HKDF, which the words of the key do not show."""
    for number in range(50):
        key = KEY.derive("some", number)
        assert sketch_seed(key) == sketch_oracles.seed_of(key.reveal())
        assert sketch_seed(key).to_bytes(8, "little") not in key.reveal()
    assert sketch_seed(Key(KEY.reveal())) == sketch_seed(KEY)


MEMORY = """
import torch, pyfed
key, x = pyfed.Key(bytes(32)), torch.ones(2**15, 2)
def peak():  # that of getrusage begins at the parent's
    with open("/proc/self/status") as facts:
        return next(int(line.split()[1]) for line in facts if line.startswith("VmHWM"))
with pyfed.use_backend("cpu"):
    for kind in ("rademacher", "gaussian", "countsketch"):
        for public in (True, False):
            pyfed.ops.sketch(torch.ones(9, 2), 9, key, kind, 1.0, public=public)
            before = peak()
            pyfed.ops.sketch(x, 4096, key, kind, 1.0, public=public)
            print(peak() - before)
"""


def test_the_kernel_stores_no_g() -> None:
    """G has 512 MB here; in a process of its own, whose peak of memory is that of the call."""
    if sys.platform != "linux":
        pytest.skip("needs Linux's /proc")
    run = [sys.executable, "-c", MEMORY]
    grown = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert len(grown) == 6
    assert max(map(int, grown)) < 32 * 1024
