"""Interpreted Triton kernels of sketches are right on every path and at every edge of a tile."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import pyfed
import sketch_oracles
from contract import fits, same_bits
from matching import DEVICES, word_of
from pyfed import Key
from pyfed.checks import NOT_FINITE
from pyfed.ops import normal, sketch, sketch_block
from pyfed.ops.random import NOISE, SKETCH, signed32
from pyfed.ops.sketch_matrix import Matrix, noise_reference
from pyfed.triton_kernels import entries, panels
from pyfed.triton_kernels import normal as normals
from pyfed.triton_kernels import sketch as kernels
from pyfed.triton_kernels.entries import words_of
from pyfed.triton_kernels.normal import EXACT, normal_pair

KEY = Key(bytes(range(32)))
KINDS = ("rademacher", "gaussian", "countsketch")
ROWS, COLUMNS = 16, 32
STARTS = (0, 3, 3, 40, 131, 140)  # one client without samples, some within a tile, one beyond

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles, panels and the counts of programs that make small sketches take every way."""
    for tile in (kernels.SIGNS, kernels.NORMALS, kernels.PANEL_SIGNS, kernels.PANEL_NORMALS):
        monkeypatch.setitem(tile, "ROWS", ROWS)
        monkeypatch.setitem(tile, "num_warps", 4)
        monkeypatch.setitem(tile, "COLUMNS", COLUMNS)
    monkeypatch.setattr(kernels, "NARROW", 16)
    monkeypatch.setattr(kernels, "FUSED", COLUMNS)
    monkeypatch.setattr(kernels, "HEIGHT", 20)
    monkeypatch.setattr(kernels, "PANEL", 2 * 20 * 128)  # 128 samples, the least
    monkeypatch.setattr(kernels, "SAMPLES", 32)
    monkeypatch.setattr(kernels, "LOOKUP", {"SAMPLES": 16, "COLUMNS": 16})
    monkeypatch.setattr(kernels, "CHECK", 128)


def check(device: str, x: torch.Tensor, rows: int, kind: str, public: bool, **how: Any) -> None:
    """Compare one sketch with the oracle."""
    given = {name: t.to(device) if isinstance(t, torch.Tensor) else t for name, t in how.items()}
    with pyfed.use_backend("triton"):
        got = sketch(x.to(device), rows, KEY, kind, public=public, **given)
    pyfed.check()
    right = sketch_oracles.sketch(x, rows, KEY, kind, public=public, **how)[0]
    assert fits(got, right), (kind, public, x.shape, rows, how)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_and_edge(device: str, kind: str) -> None:
    """Rows, columns, samples at, below and above a tile; several panels; aligned lines or not."""
    shapes = (
        *((1, 1, 1), (16, 32, 16), (17, 33, 33), (41, 31, 12), (7, 129, 52)),
        *((15, 128, 5), (21, 260, 36)),
    )
    for number, (rows, samples, features) in enumerate(shapes):
        x = torch.randn(samples, features)
        public = number % 2 == 0
        noise = {"noise_std": 0.5} if number % 3 == 0 else {}
        check(device, x, rows, kind, public, stream=2**32 - 1 - number, **noise)
        there = torch.randn(rows, features)
        check(device, there, samples, kind, not public, stream=number, transpose=True)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", KINDS)
def test_clients_have_their_own_matrices_in_one_call(device: str, kind: str) -> None:
    starts, clients = torch.tensor(STARTS), len(STARTS) - 1
    for public, features in ((True, 36), (False, 5)):
        x = torch.randn(STARTS[-1], features)
        check(device, x, 18, kind, public, starts=starts, stream=5, noise_std=2.0)
        there = torch.randn(clients, 21, features)
        check(device, there, STARTS[-1], kind, public, starts=starts, stream=5, transpose=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("public", [True, False])
def test_sums_that_are_split_are_right(
    device: str, kind: str, public: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 512 samples go to several programs, and parts of long buckets."""
    splits = []
    original = kernels.Sketch.splits

    def record(call: kernels.Sketch, programs: int, steps: int) -> int:
        splits.append(original(call, programs, steps))
        return splits[-1]

    monkeypatch.setattr(kernels.Sketch, "splits", record)
    check(device, torch.randn(3 * 1024 + 5, 2), 2, kind, public)
    if kind == "gaussian":
        monkeypatch.setattr(kernels, "FUSED", 0)
        check(device, torch.randn(700, 2), 2, kind, public)
    assert min(splits) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("public", [True, False])
def test_every_entry_is_that_of_the_reference_bit_for_bit(
    device: str, kind: str, public: bool
) -> None:
    """A sketch of the unit matrix is G: ways with G in tiles, and, transposed, in panels."""
    for number, (rows, samples) in enumerate(((5, 70), (130, 9), (3, 140))):
        wanted = sketch_block(
            (0, rows), (0, samples), KEY, kind, (rows, samples), number, public, device
        )
        how: dict[str, Any] = {"stream": number, "public": public}
        with pyfed.use_backend("triton"):
            got = sketch(torch.eye(samples, device=device), rows, KEY, kind, **how)
            there = sketch(
                torch.eye(rows, device=device), samples, KEY, kind, transpose=True, **how
            )
        assert torch.equal(got, wanted)
        assert torch.equal(there, wanted.T)


def test_noise_is_that_of_the_reference_bit_for_bit(device: str) -> None:
    for clients, rows, features in ((1, 3, 1), (2, 5, 16), (3, 17, 33), (1, 1, 260)):
        out = torch.zeros(clients, rows, features, device=device)
        kernels.add_noise(out, KEY.words(device), 2**32 - 1 - clients, 1.0)
        for client, mine in enumerate(out):
            stream = 2**32 - 1 - clients + client
            wanted = noise_reference(KEY.words(device), rows, features, stream)
            assert torch.equal(mine, wanted)


@triton.jit
def pairs_kernel(out, words, COUNT: tl.constexpr):
    place = tl.arange(0, COUNT)
    first = tl.load(words + 2 * place).to(tl.uint32, bitcast=True)
    second = tl.load(words + 2 * place + 1).to(tl.uint32, bitcast=True)
    x, y = normal_pair(first, second)
    tl.store(out + 2 * place, x)
    tl.store(out + 2 * place + 1, y)


def test_normals_are_those_of_the_reference_bit_for_bit(device: str) -> None:
    """Zeros keep their signs."""
    edges = [0, 1, 2, 2**29 - 1, 2**29, 2**29 + 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
    edges += [quarter * 2**30 + step for quarter in range(4) for step in (0, 2**29, 2**29 - 1)]
    words = torch.tensor(list(itertools.product(edges, edges))).flatten()
    words = torch.cat([words, torch.randint(0, 2**32, (2 * 8192 - len(words),))])
    out = torch.empty(len(words), device=device)
    mine = signed32(words).to(device)
    pairs_kernel[(1,)](out, mine, COUNT=len(words) // 2, **EXACT)
    assert same_bits(out, normal.normal_pairs(words))


@triton.jit(do_not_specialize=["first", "row", "stream"])
def words_kernel(
    out,
    source,
    first: tl.int64,
    row: tl.int64,
    stream: tl.int32,
    KIND: tl.constexpr,
    PUBLIC: tl.constexpr,
):
    line, place = tl.arange(0, 4), tl.arange(0, 32)
    rows = (row + line).to(tl.uint32)
    words = words_of(source, rows, first, stream.to(tl.uint32), KIND, PUBLIC, 32)
    at = out + line[:, None] * 32 + place[None, :]
    tl.store(at, words.to(tl.int32, bitcast=True))


@pytest.mark.parametrize("public", [True, False])
def test_words_far_away_are_those_of_the_reference(device: str, public: bool) -> None:
    """Up to word 2^37 of the pairs of 2^36 normals (2^36 from ChaCha20), and row 2^31 - 1."""
    source = (KEY.words(device)[:2] if public else KEY.words(device)).contiguous()
    last = 2**37 - 32 if public else 2**36 - 32
    for kind, first, row in itertools.product((1, 2, 3), (0, 2**34, last), (0, 2**31 - 4)):
        out = torch.empty(4, 32, dtype=torch.int32, device=device)
        words_kernel[(1,)](out, source, first, row, -kind, KIND=kind, PUBLIC=public)
        seed, key = (source, None) if public else (None, source)
        wanted = Matrix(seed, key, kind, 2**32 - kind).words((row, 4), (first, 32))
        assert torch.equal(out, signed32(wanted))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_told_of_wherever_it_is(device: str, kind: str) -> None:
    """But no overflow of finite numbers."""
    number = KINDS.index(kind) + 1
    for transpose, features in itertools.product((False, True), (4, 33)):
        starts = torch.tensor([0, 70], device=device)
        shape = (1, 21, features) if transpose else (70, features)
        for place, bad in ((0, float("nan")), (-1, float("inf")), (features, -float("inf"))):
            x = torch.ones(shape, device=device)
            x.view(-1)[place] = bad
            seed, word = KEY.words(device)[:2], word_of(device)
            how = (starts, 70, 21, number, 0, 0.0, transpose, word)
            kernels.sketch(x, seed, None, *how)
            assert word.item() == NOT_FINITE
            word.zero_()
            x.fill_(3e38)
            kernels.sketch(x, seed, None, *how)
            assert word.item() == 0


BAD_STARTS = (
    *((-(10**9), 2, 4), (0, 10**9, 4), (0, -(10**9), 10**9), (4, 2, 0), (0, 3, 1), (3, 9, 9)),
    (-(2**63), 2**63 - 1, 4),
)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_that_do_not_fit_read_and_write_nothing_else(device: str, kind: str) -> None:
    """They are told of, on CUDA only afterwards: kernels run, and must not leave their tensors."""
    seed, word, number = KEY.words(device)[:2], word_of(device), KINDS.index(kind) + 1
    for places, transpose in itertools.product(BAD_STARTS, (False, True)):
        starts = torch.tensor(places, device=device)
        x = torch.ones((2, 2, 3) if transpose else (4, 3), device=device)
        out = kernels.sketch(x, seed, None, starts, 4, 2, number, 0, 0.0, transpose, word)
        assert out.shape == ((4, 3) if transpose else (2, 2, 3))
        assert word.item() == 0
        if transpose or kind == "gaussian":
            continue
        # No client has more than all the samples, of ones: times 1, or √2.
        assert (out.abs() < 6).all()


def test_panels_of_a_secret_matrix_are_wiped(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also, no panel is larger than it may be."""
    seen: list[torch.Tensor] = []
    original = kernels.Sketch.fill

    def record(call: kernels.Sketch, panel: torch.Tensor, row: int, sample: int) -> None:
        original(call, panel, row, sample)
        assert panel.any()
        seen.append(panel)

    monkeypatch.setattr(kernels.Sketch, "fill", record)
    monkeypatch.setattr(kernels, "PANEL", 6000)
    x = torch.ones(7, 2, device=device)
    for kind in ("rademacher", "gaussian"):
        with pyfed.use_backend("triton"):
            sketch(x, 200, KEY, kind, public=False, transpose=True)
    assert len(seen) == 3
    for panel in seen:
        assert panel.numel() * 2 <= 6000
        assert not panel.any()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_sums_that_noise_is_to_hide_are_wiped(
    device: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = kernels.Sketch.parts

    def record(call: kernels.Sketch, shape: tuple[int, ...], splits: int) -> torch.Tensor:
        seen.append(original(call, shape, splits))
        return seen[-1]

    monkeypatch.setattr(kernels.Sketch, "parts", record)
    monkeypatch.setattr(kernels, "FUSED", 0)
    monkeypatch.setattr(kernels, "NARROW", 16)
    for tile in (kernels.SIGNS, kernels.PANEL_NORMALS):
        monkeypatch.setitem(tile, "ROWS", ROWS)
        monkeypatch.setitem(tile, "num_warps", 4)
    x = torch.ones(2048 if kind == "rademacher" else 512, 1, device=device)
    for noise in ({"noise_std": 1.0}, {"noise_std": 1.0, "noise": "discrete", "grid": 1.0}, {}):
        with pyfed.use_backend("triton"):
            sketch(x, 2, KEY, kind, **noise)
        parts = seen.pop()
        assert len(parts) > 1 and not seen
        assert bool(parts.any()) != bool(noise)


def test_numbers_that_kernels_repeat_are_those_of_the_reference(device: str) -> None:
    for name, wanted in (("LN", normal.LN), ("SIN", normal.SIN), ("COS", normal.COS)):
        for power, coefficient in enumerate(wanted):
            assert getattr(normals, f"{name}{power}").value == coefficient
    for name in ("LN2_HIGH", "LN2_LOW", "STEP", "SQRT_HALF"):
        assert getattr(normals, name).value == getattr(normal, name)
    assert (entries.SKETCH, entries.NOISE) == (SKETCH, NOISE)
    assert [getattr(entries, kind.upper()).value for kind in KINDS] == [1, 2, 3]
    assert panels.RADEMACHER is entries.RADEMACHER
