"""Cases of the ops that select by votes: every kind of group, rule for ties, and dtype."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch

from case import KEY, Case

HALVES = (torch.float32, torch.float16, torch.bfloat16)
RULES: tuple[tuple[str, torch.dtype | None], ...] = (
    *(("index", None), ("random", None)),
    *((rule, dtype) for rule in ("magnitude", "score") for dtype in HALVES),
)
GROUPS = (
    *((("layer"), (5, 13)), ("row", (7, 33)), ("column", (33, 7)), ("4x16", (12, 48))),
    *(("3x1", (9, 5)), ("2:4", (5, 44)), ("1:2", (3, 34)), ("5:8", (2, 3, 16))),
)
SPECIAL = (0.0, -0.0, 1.0, -1.0, 6e-8, -6e-8, 65_504.0, -65_504.0, 0.1, -0.1)


def votes(clients: int, *shape: int) -> torch.Tensor:
    """Counts of ``clients`` clients, piled up at both ends as real ones are."""
    counts = torch.randint(0, clients + 1, shape)
    ends = torch.rand(shape)
    counts = counts.masked_fill(ends < 0.3, 0).masked_fill(ends > 0.7, clients)
    return counts.to(torch.uint8 if clients < 256 else torch.int32)


def floats(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random floats with equal ones, zeros of both signs and extremes among them."""
    values = (torch.randn(shape) * 4).round() / 8
    flat = values.view(-1)
    count = flat[::5].numel()
    flat[::5] = torch.tensor(SPECIAL).repeat(count // len(SPECIAL) + 1)[:count]
    return values.to(dtype)


def _tie(rule: str, dtype: torch.dtype | None, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a rule for ties needs, beside the weight of mask_prune_."""
    if rule == "random":
        return {"key": KEY, "stream": 2**32 - 1}
    if rule == "score":
        assert dtype is not None
        return {"score": floats(dtype, *shape)}
    return {}


def _layouts() -> Iterator[tuple[str, tuple[int, ...], dict[str, Any]]]:
    """Name, shape and arguments of every kind of group."""
    for number, (group, shape) in enumerate(GROUPS):
        sparsity = None if ":" in group else (0.5, 0.29, Fraction(1, 3), 0.9)[number % 4]
        rounding = ("floor", "nearest", "ceil")[number % 3]
        yield group, shape, {"sparsity": sparsity, "group": group, "rounding": rounding}


def _edges() -> Iterator[tuple[str, tuple[int, ...], dict[str, Any]]]:
    for shape in ((), (0,), (1,), (0, 5), (5, 0), (1, 1), (513,), (6, 4, 3, 3)):
        yield f"{shape}", shape, {"sparsity": 0.5}
    for sparsity in (0, 1, 0.0, 1.0, Fraction(1, 77), 0.999):
        for group in ("layer", "row"):
            how = {"sparsity": sparsity, "group": group}
            yield f"{group}, sparsity {sparsity!r}", (7, 11), how
    yield "rows of one", (40, 1), {"sparsity": 1, "group": "row"}
    yield "columns of one", (1, 40), {"sparsity": 0.5, "group": "column", "rounding": "ceil"}
    yield "4:4 prunes nothing", (3, 8), {"sparsity": None, "group": "4:4"}
    yield "N:M in one dimension", (64,), {"sparsity": 0.5, "group": "2:4"}


def _large(rule: str) -> Iterator[tuple[str, tuple[int, ...], dict[str, Any]]]:
    groups = {"index": "layer", "random": "row", "magnitude": "column", "score": "64x100"}
    shape = (128, 900) if rule != "random" else (64, 700)
    yield f"large {groups[rule]}", shape, {"sparsity": 0.5, "group": groups[rule]}


def mask_select() -> Iterator[Case]:
    """Cases of mask_select."""
    for name, shape, how in _layouts():
        for number, (rule, dtype) in enumerate(RULES):
            clients = (3, 64, 300, 255, 65_535)[number % 5]
            kwargs = {**how, "ties": rule, **_tie(rule, dtype, shape)}
            if rule == "magnitude":
                assert dtype is not None
                kwargs["weight"] = floats(dtype, *shape)
            shown = f"{name}, ties by {rule}, {dtype}, {clients} clients"
            yield Case(shown, (votes(clients, *shape), shape), kwargs)
    for name, shape, how in _edges():
        kwargs = {**how, "ties": "index"}
        yield Case(name, (votes(9, *shape), shape), kwargs)
        yield Case(f"{name}, int32", (votes(700, *shape), shape), kwargs)
    zeros, full = torch.zeros(4, 9, dtype=torch.uint8), torch.full((4, 9), 255, dtype=torch.uint8)
    for what, counts in (("zero", zeros), ("full", full), ("full", full.to(torch.int32) + 65_280)):
        name = f"all counts {what}, {counts.dtype}"
        yield Case(name, (counts, (4, 9)), {"sparsity": 0.5, "ties": "random", "key": KEY})
    yield Case("flat counts", (votes(5, 24), (2, 3, 4)), {"sparsity": 0.5})
    for rule in ("index", "random", "score", "magnitude"):
        for name, shape, how in _large(rule):
            kwargs = {**how, "ties": rule, **_tie(rule, torch.float32, shape)}
            if rule == "magnitude":
                kwargs["weight"] = floats(torch.bfloat16, *shape)
            yield Case(name, (votes(300, *shape), shape), kwargs, large=True)


def mask_prune() -> Iterator[Case]:
    """Cases of mask_prune_."""
    for name, shape, how in _layouts():
        for number, (rule, dtype) in enumerate(RULES):
            clients = (3, 64, 300, 255, 65_535)[number % 5]
            weight = floats(dtype or HALVES[number % 3], *shape)
            kwargs = {**how, "ties": rule, **_tie(rule, HALVES[(number + 1) % 3], shape)}
            if number % 2:
                kwargs["clients"] = clients
            shown = f"{name}, ties by {rule}, {weight.dtype}, {clients} clients"
            yield Case(shown, (weight, votes(clients, *shape)), kwargs)
    for number, (name, shape, how) in enumerate(_edges()):
        dtype = HALVES[number % 3]
        args = floats(dtype, *shape), votes(9, *shape)
        yield Case(f"{name}, {dtype}", args, {**how, "ties": "index"})
        yield Case(f"{name}, {dtype}, scaled", args, {**how, "ties": "index", "clients": 9})
    for number, rule in enumerate(("index", "random", "score", "magnitude")):
        for name, shape, how in _large(rule):
            kwargs = {**how, "ties": rule, **_tie(rule, torch.float32, shape), "clients": 300}
            args = floats(HALVES[number % 3], *shape), votes(300, *shape)
            yield Case(name, args, kwargs, large=True)
