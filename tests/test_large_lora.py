"""Dropout, adapters and arenas of more than 2^31 elements, where a 32-bit index would wrap.

As in ``test_large.py``, inputs are zero pages that take memory only where they are written.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lora_oracles as oracles
from contract import fits, same_bits
from pyfed import Key
from pyfed.op import OPS
from pyfed.ops import (
    bank_adamw_,
    bank_sgd_,
    counter_dropout,
    lora_linear,
    lora_merge_,
    segment_clip_,
    weighted_mean,
)
from runs import DEVICES
from test_large import COUNT, PLACES, zeros

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("device", DEVICES)]
KEY = Key(bytes(range(32)))
ROWS, COLUMNS = 2**16 + 3, 2**15  # 2^31 + 3 · 2^15 elements
CLIENTS, LENGTH = 2**11 + 2, 2**20
HALF = np.float16


def test_dropout(device: str) -> None:
    x = zeros(COUNT, HALF, dict.fromkeys(PLACES, 1.0), device)
    got = counter_dropout(x, 0.5, KEY, stream=3)
    for place in PLACES:
        word = oracles.words(KEY.reveal(), 3, 1, first=place)[0]
        assert float(got[place]) == (2.0 if word >= 2**31 else 0.0), place
    assert int(torch.count_nonzero(got)) <= len(PLACES)


def test_merging(device: str) -> None:
    base = zeros(ROWS * COLUMNS, HALF, {ROWS * COLUMNS - 1: 2.0}, device).view(ROWS, COLUMNS)
    a, b = torch.zeros(1, COLUMNS, device=device), torch.zeros(ROWS, 1, device=device)
    a[0, 0], a[0, -1], b[1, 0], b[-1, 0] = 3.0, 5.0, 7.0, 11.0
    lora_merge_(base, a, b, 0.5)
    assert int(torch.count_nonzero(base)) == 4
    found = [float(base[row, column]) for row in (1, -1) for column in (0, -1)]
    assert found == [10.5, 17.5, 16.5, 29.5]


def test_adapters_and_their_gradient(device: str) -> None:
    """The last client begins behind 2^31 elements of x."""
    marks = {place: 1.0 + i for i, place in enumerate(PLACES[:-1])}
    marks[ROWS * COLUMNS - 1] = 9.0
    x = zeros(ROWS * COLUMNS, HALF, marks, device).view(ROWS, COLUMNS)
    client = torch.zeros(ROWS, dtype=torch.int64, device=device)
    client[-2:] = 1
    a, b = torch.ones(2, 1, COLUMNS, device=device), torch.ones(2, 2, 1, device=device)
    b[1] = 3
    base = torch.zeros(ROWS, 2, dtype=torch.float16, device=device)
    out = lora_linear(x, base, a, b, 1.0, client)
    wanted: dict[int, float] = {}
    for place, mark in marks.items():
        row = place // COLUMNS
        wanted[row] = wanted.get(row, 0.0) + mark * (3 if row >= ROWS - 2 else 1)
    assert torch.nonzero(out[:, 0]).flatten().tolist() == sorted(wanted)
    assert {row: float(out[row, 1]) for row in wanted} == wanted
    grad = torch.zeros_like(out)
    grad[-1, 0] = 1.0
    given = lora_linear.prepare(x, base, a, b, 1.0, client)
    hidden = torch.ones(ROWS, 1, device=device)
    rest = (*given[2:4], hidden, *given[4:])
    dx, da, db = OPS["lora_linear_backward"].torch_op(grad, x, *rest)
    assert int(torch.count_nonzero(dx)) == COLUMNS
    assert bool((dx[-1] == 3).all())
    assert torch.nonzero(da).tolist() == [[1, 0, COLUMNS - 1]]
    assert float(da[1, 0, -1]) == 27
    assert db.flatten().tolist() == [0, 0, 1, 0]


def test_means_of_lists(device: str) -> None:
    marks = {place: 1.0 + i for i, place in enumerate(PLACES)}
    large = zeros(COUNT, HALF, marks, device)
    mean, other = weighted_mean([[large, large[:9]]])
    assert torch.nonzero(mean).flatten().tolist() == list(PLACES)
    assert [float(mean[place]) for place in PLACES] == list(marks.values())
    assert same_bits(other, large[:9])


def arena(device: str) -> torch.Tensor:
    """Zeros (clients, length) but for the last client, behind 2^31 elements."""
    made = zeros(CLIENTS * LENGTH, np.float32, {}, device).view(CLIENTS, LENGTH)
    made[-1] = 1.0
    return made


def test_clipping(device: str) -> None:
    grads = arena(device)
    norms = segment_clip_(grads, 1.0)
    assert torch.nonzero(norms).flatten().tolist() == [CLIENTS - 1]
    assert float(norms[-1]) == 2**10
    right = oracles.between(np.full(LENGTH, 2.0**-10), np.full(LENGTH, 1e-9), torch.float32)
    assert fits(grads[-1], right)
    assert int(torch.count_nonzero(grads[:-1])) == 0


@pytest.mark.parametrize("op", ["adamw", "sgd"])
def test_steps(device: str, op: str) -> None:
    """All clients but the last are skipped, so their pages are never written."""
    params, grads, first = arena(device), arena(device), arena(device)
    steps = torch.zeros(CLIENTS, dtype=torch.int64, device=device)
    steps[-1] = 1
    if op == "adamw":
        bank_adamw_(params, grads, first, arena(device), steps, 0.5, weight_decay=0.0)
        alone = [torch.ones(1, LENGTH, device=device) for _ in range(4)]
        bank_adamw_(*alone, steps[-1:], 0.5, weight_decay=0.0)
    else:
        bank_sgd_(params, grads, first, steps, 0.5, momentum=0.9)
        alone = [torch.ones(1, LENGTH, device=device) for _ in range(3)]
        bank_sgd_(*alone, steps[-1:], 0.5, momentum=0.9)
    assert same_bits(params[-1], alone[0][0])
    assert same_bits(first[-1], alone[2][0])
    assert not same_bits(params[-1], torch.ones_like(params[-1]))
    assert int(torch.count_nonzero(params[:-1])) == 0
