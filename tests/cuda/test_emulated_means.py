"""The CUDA kernels of masked means, run on the CPU; see ``emulate.h``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pyfed.ops
from agreement import SparseBytes, agree, broken, shifted
from pyfed.errors import ArgumentError
from pyfed.ops.places import Indices, Rectangles

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EVERY_KIND = pytest.mark.parametrize("kind", FLOATS, ids=("float32", "float16", "bfloat16"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


MEAN_SHAPES = ((1,), (7,), (8,), (33,), (3, 9), (4, 5, 6), (2, 1100), (24, 64), (0, 3))
RULES = [("keepers", 1), ("keepers", 2), ("all", 1), ("all", 3), ("one", 1)]


def mean_arguments(form: str, shape: tuple[int, ...], clients: int, kind: torch.dtype) -> Any:
    """Values, masks, and the shape where values are packed."""
    values = torch.randn(clients, *shape).to(kind)
    mask = torch.rand(clients, *shape) < 0.5
    if form == "all":
        return values, None, None
    if form == "dense":
        return values.masked_fill(~mask, float("nan")), mask, None
    if form == "packed":
        return values[mask], mask, shape
    if form == "rectangles":
        cuts = [[(i % (n + 1), n - (n - i % (n + 1)) // 3) for n in shape] for i in range(clients)]
        boxes = Rectangles(shape, tuple(tuple(cut[: i % 3]) for i, cut in enumerate(cuts)))
        return [boxes.cut(v, i) for i, v in enumerate(values)], boxes, None
    indices = [row.reshape(-1).nonzero()[:, 0] for row in mask]
    held = [v.reshape(-1)[i] for v, i in zip(values, indices, strict=True)]
    return held, Indices(shape, indices), None


@EVERY_KIND
@pytest.mark.parametrize("form", ["all", "dense", "packed", "rectangles", "indices"])
@pytest.mark.parametrize("shape", MEAN_SHAPES, ids=str)
def test_means_of_any_shape(
    emulated: Any, shape: tuple[int, ...], form: str, kind: torch.dtype
) -> None:
    for number, (denominator, min_votes) in enumerate(RULES):
        clients = (3, 1, 6, 9, 2)[number]
        values, masks, packed = mean_arguments(
            form, shape[: 2 if form != "all" else 3], clients, kind
        )
        dims = shape[: 2 if form != "all" else 3]
        how: dict[str, Any] = {"denominator": denominator, "min_votes": min_votes}
        if number % 2:
            how |= {"empty": "keep", "server": torch.randn(dims).to(kind)}
        if number > 1:
            how["weights"] = [(0, 1, 7, 300)[i % 4] for i in range(clients)]
        args = pyfed.ops.masked_mean.prepare(values, masks, shape=packed, **how)
        agree(emulated, "masked_mean", *args)
        moved = [
            shifted(a) if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel() else a
            for a in args
        ]
        agree(emulated, "masked_mean", *moved)


def test_means_with_the_largest_weights(emulated: Any) -> None:
    values = torch.randn(100, 50)
    weights = [2**24 - 1] * 100
    agree(emulated, "masked_mean", *pyfed.ops.masked_mean.prepare(values, weights=weights))


def test_sparse_means_of_many_clients(emulated: Any) -> None:
    shape, clients = (5000,), 300  # more than one round of searches, several spans of elements
    mask = torch.rand(clients, *shape) < 0.01
    indices = [row.nonzero()[:, 0] for row in mask]
    values = [torch.randn(len(i)) for i in indices]
    agree(emulated, "masked_mean", *pyfed.ops.masked_mean.prepare(values, Indices(shape, indices)))
    agree(
        emulated,
        "masked_mean",
        *pyfed.ops.masked_mean.prepare(torch.cat(values), mask, shape=shape),
    )


@EVERY_KIND
def test_a_mean_that_is_not_finite_is_told_of(emulated: Any, kind: torch.dtype) -> None:
    for form in ("all", "packed", "indices"):
        values, masks, shape = mean_arguments(form, (600,), 3, kind)
        flat = torch.cat(values) if isinstance(values, list) else values
        for bad in (float("nan"), float("inf")):
            wrong = broken(flat, flat.numel() - 1, bad)
            given = wrong
            if isinstance(values, list):
                given = list(wrong.split([len(own) for own in values]))
            args = pyfed.ops.masked_mean.prepare(given, masks, shape=shape)
            with pytest.raises(ArgumentError, match="NaN or infinite"):
                emulated("masked_mean", *args)
    most = torch.full((2, 9), torch.finfo(kind).max, dtype=kind)  # finite, and the sum is not
    args = pyfed.ops.masked_mean.prepare(most, denominator="one")
    with pytest.raises(ArgumentError, match="NaN or infinite"):
        emulated("masked_mean", *args)


def test_places_that_do_not_fit_are_harmless(emulated: Any) -> None:
    # The glue tells of them; the kernel meets them on CUDA all the same, and stays in its memory.
    values, starts = torch.ones(4), torch.tensor([0, 2, 4])
    for listed in ([3, 1, 2, 0], [-5, 2**40, 2047, 2048], [0, 0, 0, 0]):
        places, out = torch.tensor(listed), torch.empty(9)
        pointers = (None, places.data_ptr(), starts.data_ptr(), 4, None, None, 0, 1)
        run = (values.data_ptr(), 1, 2, 9, 0, 3, *pointers, out.data_ptr())
        assert emulated.launch("masked_mean", *run) == 0
    masks, first, many = torch.full((2, 1), 255, dtype=torch.uint8), torch.tensor([0, 8]), 4
    out = torch.empty(8)
    pointers = (masks.data_ptr(), None, first.data_ptr(), many, None, None, 0, 1)
    assert (
        emulated.launch("masked_mean", values.data_ptr(), 1, 2, 8, 0, 1, *pointers, out.data_ptr())
        == 0
    )


def test_more_than_2_to_31_elements(emulated: Any) -> None:
    # Only the last blocks run; they hold the last elements, of two clients.
    count, tail = 2**31 + 64, 40
    emulated.control.last_blocks = 3
    values, out = SparseBytes(4 * count), SparseBytes(2 * count)
    held = torch.randn(2, tail).to(torch.float16)
    for client in range(2):
        end = 2 * count * (client + 1)
        values.bytes[end - 2 * tail : end] = held[client].view(torch.uint8)
    starts = torch.tensor([0, count])
    wanted = ((held[0].float() + held[1].float()) / 2).to(torch.float16)
    boxes = torch.tensor([[0, 1, 0, count]] * 2)
    for form, places in ((0, None), (2, boxes.data_ptr())):
        pointers = (None, places, starts.data_ptr(), 2 * count, None, None, 0, 1)
        args = (values.at, 2, 2, count, count, form, *pointers, out.at)
        assert emulated.launch("masked_mean", *args) == 0
        got = out.bytes[2 * (count - tail) :].view(torch.float16)
        assert torch.equal(got, wanted)
        got.zero_()
