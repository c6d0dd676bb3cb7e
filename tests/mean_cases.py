"""Cases of masked_mean: its four forms, with every denominator, rule for gaps, and dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from case import Case
from mask_cases import packed_bits, random_bits
from pyfed.ops import Indices, Rectangles
from selection_cases import HALVES

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"denominator": "all", "weights": "list"},
    {"denominator": "one", "weights": "int64"},
    {"weights": "int32", "empty": "keep"},
    {"min_votes": 2, "empty": "keep"},
    {"min_votes": 3, "weights": "list", "denominator": "all"},
    {"weights": "zeros", "empty": "keep"},
    {"denominator": "all", "weights": "zeros"},
)


def _setting(how: dict[str, Any], clients: int, dims: tuple[int, ...], dtype: torch.dtype) -> Any:
    """The arguments of a setting, with weights and server of the right size."""
    kwargs = dict(how)
    drawn = torch.randint(0, 1000, (clients,))
    kinds = {
        "list": drawn.tolist(),
        "int64": drawn,
        "int32": drawn.to(torch.int32),
        "zeros": torch.zeros_like(drawn),
    }
    if "weights" in kwargs:
        kwargs["weights"] = kinds[kwargs["weights"]]
    if kwargs.get("empty") == "keep":
        kwargs["server"] = torch.randn(dims).to(dtype)
    return kwargs


def boxes(clients: int, rows: int, columns: int) -> list[tuple[tuple[int, int], ...]]:
    """Random rectangles, with empty and whole ones among them."""
    found: list[tuple[tuple[int, int], ...]] = [(), ((0, rows), (0, columns)), ((0, 0),)]
    for _ in range(max(0, clients - 3)):
        r = sorted(torch.randint(0, rows + 1, (2,)).tolist())
        c = sorted(torch.randint(0, columns + 1, (2,)).tolist())
        found.append(((r[0], r[1]), (c[0], c[1])))
    return found[:clients]


def _dense(dims: tuple[int, ...], clients: int, dtype: torch.dtype, how: Any) -> tuple[Any, Any]:
    values = torch.randn(clients, *dims).to(dtype)
    bits = torch.Size(dims).numel()
    masks = packed_bits(bits, clients) if how.get("empty") else random_bits(clients, *dims)
    return (values,), {"masks": masks}


def _everyone(dims: tuple[int, ...], clients: int, dtype: torch.dtype, how: Any) -> Any:
    return (torch.randn(clients, *dims).to(dtype),), {}


def _packed(dims: tuple[int, ...], clients: int, dtype: torch.dtype, how: Any) -> tuple[Any, Any]:
    masks = random_bits(clients, *dims)
    return (torch.randn(int(masks.sum())).to(dtype),), {"masks": masks, "shape": dims}


def _rectangles(dims: tuple[int, ...], clients: int, dtype: torch.dtype, how: Any) -> Any:
    boxed = boxes(clients, *dims[:2]) if len(dims) > 1 else [((0, dims[0] // 2),)] * clients
    masks = Rectangles(dims, tuple(boxed))
    total = sum(torch.Size(masks.extents(client)).numel() for client in range(clients))
    return (torch.randn(total).to(dtype),), {"masks": masks}


def _indices(dims: tuple[int, ...], clients: int, dtype: torch.dtype, how: Any) -> tuple[Any, Any]:
    bits = random_bits(clients, torch.Size(dims).numel(), density=0.2)
    masks = Indices(dims, [torch.nonzero(row).flatten() for row in bits])
    return (torch.randn(int(bits.sum())).to(dtype),), {"masks": masks}


FORMS = {
    "everyone": _everyone,
    "dense": _dense,
    "packed": _packed,
    "rectangles": _rectangles,
    "indices": _indices,
}
SHAPES = ((13,), (3, 7), (4, 5, 3, 3), (517,), (1,), (8, 64), (2, 513), (33,))


def masked_mean() -> Iterator[Case]:
    """Cases of masked_mean."""
    for form, make in FORMS.items():
        for number, how in enumerate(SETTINGS):
            dims, dtype = SHAPES[number], HALVES[number % 3]
            clients = (5, 3, 17, 4, 9, 6, 3, 33)[number]
            args, masks = make(dims, clients, dtype, how)
            kwargs = {**masks, **_setting(how, clients, dims, dtype)}
            yield Case(f"{form} {dims}, {dtype}, {how}", args, kwargs)
        for dims, clients in (((0,), 3), ((0, 4), 2), ((4, 0), 2), ((6,), 0), ((1,), 1)):
            args, masks = make(dims, clients, torch.float32, {})
            yield Case(f"{form} {dims} of {clients} clients", args, masks)
    whole = Rectangles((3, 5), ((), ()))
    views = [torch.randn(3, 5), torch.randn(3, 5)]
    yield Case("rectangles, one tensor for each client", (views,), {"masks": whole})
    yield Case("a list of equal shapes", (views,), {"weights": [1, 2**24 - 1]})
    tiny = torch.tensor([[1.4e-45, -1.4e-45, -0.0, 3e38], [0.0, -1.4e-45, -0.0, -3e38]])
    yield Case("denormals and the largest", (tiny,), {})
    for form in ("rectangles", "indices", "packed", "dense"):
        dims = (24, 2501)
        how = {"weights": "int32", "empty": "keep"}
        args, masks = FORMS[form](dims, 6, torch.float32, how)
        kwargs = {**masks, **_setting(how, 6, dims, torch.float32)}
        yield Case(f"large, {form}", args, kwargs, large=True)
