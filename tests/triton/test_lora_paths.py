"""Interpreted Triton kernels of adapters: dropout bit for bit, sums as near as float32 allows.

Sums are compared with the reference in float64. A kernel's may be off by a few units of float32's
last place for each product, relative to the sum of absolute values: the same op on absolute values.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

import pyfed
from matching import DEVICES, FLOATS, check_equal, floats_of
from pyfed.ops import counter_dropout, lora_merge_
from pyfed.ops.lora import lora_linear_op
from pyfed.ops.lora_backward import lora_linear_backward_op
from pyfed.triton_kernels import dropout, lora, merge

pytestmark = pytest.mark.parametrize("device", DEVICES)

KEY = pyfed.Key(bytes(range(32)))
OFF = 2e-6  # of the sum of absolute values, over two products behind one another


def owners(rows: int, clients: int, device: str) -> torch.Tensor:
    """The client of each row, ascending; some have none."""
    return torch.sort(torch.randint(0, clients, (rows,))).values.to(device)


def starts_of(owner: torch.Tensor, clients: int) -> torch.Tensor:
    return torch.searchsorted(owner, torch.arange(clients + 1, device=owner.device))


def near(got: torch.Tensor, exact: torch.Tensor, size: torch.Tensor) -> bool:
    """Whether a result is the exact one, off by what float32 may be, and rounded to its dtype."""
    kind = torch.finfo(got.dtype)
    rounding = kind.eps / 2 * exact.abs() + kind.smallest_normal * kind.eps
    return bool(((got.double() - exact).abs() <= OFF * size + 1.001 * rounding).all())


def on(backend: str, op: Any, *args: Any) -> Any:
    with pyfed.use_backend(backend):
        return op.torch_op(*args)


def wide(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [t.double() for t in tensors]


def test_known_answer_of_philox(device: str) -> None:
    """Of counter 0 and key 0, as Random123 gives it: a word is kept up to itself."""
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    key = torch.zeros(8, dtype=torch.int32, device=device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    for place, word in enumerate(words):
        for threshold in (word, word + 1):
            x = torch.ones(1, 4, device=device)
            starts = torch.tensor([0, 1], device=device)
            out = dropout.counter_dropout(x, key, zero, starts, threshold, 2.0)
            assert out[0, place].item() == (2.0 if threshold == word else 0.0)


@pytest.mark.filterwarnings("ignore:overflow")  # that of numpy, which interprets
def test_counter_dropout(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks with and without a tail, rows of any alignment, clients with none, long streams."""
    monkeypatch.setattr(dropout, "BLOCK", 256)
    cases = []
    settings = itertools.product(
        (1, 3, 4, 8, 30, 64), (1, 2, 4), FLOATS, (0.05, 0.5, 0.999), (5, 23)
    )
    for features, clients, dtype, rate, rows in settings:
        own = owners(rows, clients, device)
        stream = torch.randint(0, 2**63 - 1, (clients,), device=device)
        x = floats_of((rows, features), dtype, device)
        cases.append(partial(counter_dropout, x, rate, KEY, own, clients, stream))
    assert check_equal(cases) >= 200


def test_counter_dropout_of_whole_blocks(device: str) -> None:
    x = torch.randn(2, dropout.BLOCK + 8, device=device)
    x[0, :9] = torch.tensor([float("nan"), float("inf"), -float("inf")] * 3, device=device)
    cases = [partial(counter_dropout, x[:, :n], r, KEY) for n in (2048, 2049) for r in (0.0, 0.5)]
    assert check_equal(cases) == 4


def merged(case: int, shape: Sequence[int], device: str) -> None:
    rows, columns, rank = shape
    flipped = bool(case % 2)
    dtype = FLOATS[case % 3]
    factors = torch.float32 if case % 5 else dtype
    base = torch.randn(rows, columns, device=device).to(dtype)
    outs, ins = (columns, rows) if flipped else (rows, columns)
    a = torch.randn(rank, ins, device=device).to(factors)
    b = torch.randn(outs, rank, device=device).to(factors)
    scale = torch.randn(rank, device=device)
    exact, size = base.double(), base.double().abs()
    with pyfed.use_backend("reference"):
        lora_merge_(exact, *wide(a, b, scale), flipped)
        lora_merge_(size, *(t.abs() for t in wide(a, b, scale)), flipped)
    with pyfed.use_backend("triton"):
        lora_merge_(base, a, b, scale, flipped)
    assert near(base, exact, size), (case, shape)


def test_lora_merge(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile and more, whole and cut; one rank and more; both layouts, of every dtype."""
    cases = itertools.product((1, 9, 64, 80), (1, 33, 64, 72), (1, 2, 4, 16, 20, 33), range(3))
    for number, (*shape, _) in enumerate(cases, 1):
        merged(number, shape, device)
    assert number >= 200
    monkeypatch.setattr(merge, "MANY", 0)  # large tiles
    for number, shape in enumerate(itertools.product((1, 130, 256), (64, 72), (8, 17))):
        merged(number, shape, device)


def test_lora_merge_visits_every_tile_once(device: str) -> None:
    """More rows of tiles than a group has, and a group that is not full."""
    base = torch.zeros(11 * 64 - 3, 3 * 64 - 1, device=device)
    ones = torch.ones(1, base.shape[1], device=device), torch.ones(base.shape[0], 1, device=device)
    with pyfed.use_backend("triton"):
        lora_merge_(base, *ones)
    assert torch.equal(base, torch.ones_like(base))


def check_layer(
    case: int, rows: int, clients: int, sizes: tuple[int, int, int], rate: float, device: str
) -> None:
    """Output and hidden rows of a layer, and its gradients, in views of one arena."""
    ins, outs, rank = sizes
    dtype = FLOATS[case % 3]
    own = owners(rows, clients, device)
    starts = starts_of(own, clients)
    x, base, grad = (torch.randn(rows, n, device=device).to(dtype) for n in (ins, outs, outs))
    gap = (0, 1, 4)[case % 3]
    arena = torch.randn(clients, rank * (ins + outs) + gap, device=device)
    a = arena[:, : rank * ins].view(clients, rank, ins)
    b = arena[:, rank * ins : rank * (ins + outs)].view(clients, outs, rank)
    scale = torch.rand(clients, device=device) + 0.5
    streams = torch.randint(0, 2**63 - 1, (clients,), device=device)
    key = KEY.words(x.device) if rate else None
    drop = (starts, key, streams, rate)
    none = (starts, None, streams, 0.0)

    out, hidden = on("triton", lora_linear_op, x, base, a, b, scale, *drop)
    dx, da, db = on("triton", lora_linear_backward_op, grad, x, a, b, hidden, scale, *drop)
    kept = torch.ones(rows, ins, device=device)
    dropped = x
    if rate:
        with pyfed.use_backend("reference"):
            kept, dropped = (
                counter_dropout(t, rate, KEY, own, clients, streams) for t in (kept, x)
            )
    given = wide(dropped, base, a, b, scale)
    above = wide(grad, dropped, a, b, hidden, scale)
    sizes_of = [t.abs() for t in given], [t.abs() for t in above]
    found = out, hidden, dx, da, db
    exact = (
        *on("reference", lora_linear_op, *given, *none),
        *on("reference", lora_linear_backward_op, *above, *none),
    )
    size = (
        *on("reference", lora_linear_op, *sizes_of[0], *none),
        *on("reference", lora_linear_backward_op, *sizes_of[1], *none),
    )
    mask = kept.double()
    for got, right, most, factor in zip(found, exact, size, (1, 1, mask, 1, 1), strict=True):
        assert got.shape == right.shape
        assert near(got, right * factor, most * factor), (case, rows, clients, sizes, rate)
    assert [t.dtype for t in found] == [dtype, torch.float32, dtype, torch.float32, torch.float32]


@pytest.mark.slow
def test_lora_linear_and_its_gradient(device: str) -> None:
    """Rows from none to some tiles, clients with none, ranks and features of every alignment."""
    sizes = ((16, 48, 4), (5, 3, 1), (80, 16, 8), (7, 66, 3))
    cases = itertools.product((1, 6, 17), (1, 2, 4), sizes, (0.0, 0.4), range(3))
    for number, (rows, clients, shape, rate, _) in enumerate(cases, 1):
        check_layer(number, rows, clients, shape, rate, device)
    assert number >= 200
    for number, rank in enumerate((16, 17, 32, 33, 40, 5, 2, 24)):
        check_layer(number, 9, 2, (16, 32, rank), 0.4 * (number % 2), device)


def test_large_tiles_and_split_sums(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that many rows get; one client has them all, or they are shared."""
    monkeypatch.setattr(lora, "FEW", 0)
    for number, (rows, clients) in enumerate(
        ((70, 1), (130, 3), (200, 2), (5, 4), (600, 1), (1100, 2))
    ):
        check_layer(number, rows, clients, (16, 16, 4), 0.4 * (number % 2), device)
    check_layer(2, 600, 1, (5, 3, 3), 0.4, device)


def test_layers_of_size_zero(device: str) -> None:
    for sizes in ((0, 3, 2), (3, 0, 2), (3, 3, 0)):
        check_layer(0, 4, 2, sizes, 0.0, device)
    check_layer(0, 0, 2, (3, 3, 2), 0.4, device)


def test_a_gradient_is_the_same_in_every_run(device: str) -> None:
    monitor = []
    for _ in range(2):
        torch.manual_seed(3)
        x, grad = torch.randn(2, 640, 16, device=device)
        a, b = torch.randn(1, 4, 16, device=device), torch.randn(1, 16, 4, device=device)
        rest = torch.ones(1, device=device), starts_of(owners(640, 1, device), 1)
        rest = *rest, None, torch.zeros(1, dtype=torch.int64, device=device), 0.0
        _, hidden = on("triton", lora_linear_op, x, grad, a, b, *rest)
        monitor.append(on("triton", lora_linear_backward_op, grad, x, a, b, hidden, *rest))
    assert all(torch.equal(*pair) for pair in zip(*monitor, strict=True))


def test_starts_out_of_range_touch_nothing(device: str) -> None:
    """The op reports them; on CUDA only afterwards, so a kernel must stay in its tensors."""
    x = torch.randn(6, 16, device=device)
    a, b = torch.randn(3, 4, 16, device=device), torch.randn(3, 16, 4, device=device)
    key = KEY.words(x.device)
    streams = torch.zeros(3, dtype=torch.int64, device=device)
    for numbers in ([-1, -1, -1, -1], [0, 2**40, -(2**40), 6], [9, 3, 1, 0], [0, 2, 4, 99]):
        starts = torch.tensor(numbers, device=device)
        rest = torch.ones(3, device=device), starts, key, streams, 2**31, 2.0
        assert dropout.counter_dropout(x, key, streams, starts, 2**31, 2.0).shape == x.shape
        out, hidden = lora.lora_linear(x, x, a, b, *rest)
        found = lora.lora_linear_backward(x, x, a, b, hidden, *rest)
        assert [t.shape for t in (out, *found)] == [x.shape, x.shape, a.shape, b.shape]
