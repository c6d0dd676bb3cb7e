"""Cases of dropout, merges, adapters and means: ragged and empty clients, every dtype, odd sizes.

Factors that are all positive leave no room to a sum that is rounded on the way: nothing cancels, so
its exact value is as large as the sum of its terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from case import KEY, Case

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MANY = 2**63 - 1


def owners(*counts: int) -> torch.Tensor:
    """The client of each row, from how many rows each client has."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def _counter_dropout() -> Iterator[Case]:
    for number, (shape, rate, how) in enumerate(
        (
            *(((5, 3), 0.3, {}), ((0, 5), 0.3, {}), ((3, 0), 0.3, {}), ((1, 1), 0.5, {})),
            *(((1,), 0.0, {}), ((257,), 0.1, {"stream": 2**32 - 1})),
            ((2, 3, 5), 0.999, {"clients": 3, "stream": 7}),
            ((6, 4), 0.05, {"clients": 2, "stream": torch.tensor([5, 5])}),
            ((7, 9), 0.3, {"client": owners(0, 3, 0, 4, 0), "clients": 5}),
            ((9, 1), 0.5, {"client": owners(1, 8), "clients": 2, "stream": 3}),
            ((4, 33), 0.9, {"client": owners(4).to(torch.int32)}),
            ((5, 64), 0.5, {"client": owners(2, 3), "clients": 2}),
            ((33, 17), 0.25, {"clients": 3, "stream": torch.tensor([MANY, 0, 2**32 + 1])}),
            ((3, 127), 1 - 2**-32, {"clients": 3}),
            ((3, 129), 2**-32, {"client": owners(1, 0, 2), "clients": 3}),
        )
    ):
        for dtype in DTYPES[:1] if number > 11 else DTYPES:
            name = f"{shape}, {rate}, {', '.join(how)}, {dtype}"
            yield Case(name, (torch.randn(shape).to(dtype), rate, KEY), how)
    tiny = torch.tensor([[1.4e-45, -1.4e-45, -0.0, 3e38, 1.1e-38, -3e38]]).expand(9, 6)
    yield Case("denormals, and products that are infinite", (tiny.clone(), 0.5, KEY))
    for dtype in DTYPES:
        how = {"client": owners(50, 0, 301), "clients": 3}
        yield Case(f"large, {dtype}", (torch.randn(351, 301).to(dtype), 0.3, KEY), how, large=True)


def _merge(
    outs: int, ins: int, rank: int, dtype: torch.dtype, *, wide: bool, positive: bool = False
) -> tuple[torch.Tensor, ...]:
    tensors = torch.randn(outs, ins), torch.randn(rank, ins), torch.randn(outs, rank)
    if positive:
        tensors = tuple(t.abs() for t in tensors)  # type: ignore[assignment]
    base, a, b = tensors
    factors = torch.float32 if wide else dtype
    return base.to(dtype), a.to(factors), b.to(factors)


def _lora_merge() -> Iterator[Case]:
    for number, (outs, ins, rank) in enumerate(
        (
            *((3, 5, 2), (0, 3, 2), (2, 0, 3), (3, 2, 0), (1, 1, 1), (7, 7, 1), (17, 33, 4)),
            *((2, 65, 9), (33, 3, 16), (5, 130, 3), (16, 16, 31), (31, 17, 64)),
        )
    ):
        for dtype in DTYPES:
            base, a, b = _merge(outs, ins, rank, dtype, wide=number % 2 == 0)
            scale = (0.5, torch.randn(rank), -2, torch.rand(rank, dtype=torch.float64))[number % 4]
            name = f"({outs}, {ins}) rank {rank}, {dtype}"
            if number % 3 == 1:
                base, name = base.T.contiguous(), f"{name}, transposed"
            yield Case(name, (base, a, b, scale, number % 3 == 1))
    for dtype in DTYPES:
        base, a, b = _merge(9, 13, 8, dtype, wide=True)
        base = -(b @ a).to(dtype)  # what is left is the rounding of the base
        yield Case(f"cancelled, {dtype}", (base, a, b))
        large = ((70, 131, 40), False), ((131, 600, 257), True), ((260, 67, 16), True)
        for sizes, form in (*large, ((30, 1100, 300), False)):  # the last in several panels
            for positive in (True, False):
                base, a, b = _merge(*sizes, dtype, wide=True, positive=positive)
                scale = torch.rand(sizes[2])
                args = (base.T.contiguous() if form else base), a, b, scale, form
                name = f"large {sizes}, {dtype}, {positive=}, transposed={form}"
                yield Case(name, args, large=True)


def _layer(
    rows: tuple[int, ...], sizes: tuple[int, int, int, int], dtype: torch.dtype, *, positive: bool
) -> tuple[torch.Tensor, ...]:
    """Inputs, outputs of the base and factors of a layer ins → outs, for many clients."""
    ins, outs, rank, clients = sizes
    x, base = torch.randn(*rows, ins), torch.randn(*rows, outs)
    a, b = torch.randn(clients, rank, ins), torch.randn(clients, outs, rank)
    if positive:
        x, base, a, b = x.abs(), base.abs(), a.abs(), b.abs()
    return x.to(dtype), base.to(dtype), a, b


# Shape of the rows, then ins, outs, rank and clients, and the other arguments.
LAYERS: tuple[tuple[tuple[int, ...], tuple[int, int, int, int], dict[str, Any]], ...] = (
    ((4,), (5, 3, 2, 2), {}),
    ((3, 2), (7, 5, 3, 2), {"dropout": 0.3, "key": KEY, "stream": 9}),
    ((0,), (3, 2, 1, 2), {}),
    ((4,), (0, 3, 2, 2), {}),
    ((4,), (3, 0, 2, 2), {}),
    ((4,), (3, 2, 0, 2), {}),
    ((), (9, 4, 2, 1), {"dropout": 0.5, "key": KEY}),
    ((1,), (1, 1, 1, 1), {}),
    ((7,), (17, 9, 4, 5), {"client": owners(0, 3, 0, 4, 0), "dropout": 0.05, "key": KEY}),
    ((9,), (8, 16, 16, 3), {"client": owners(1, 7, 1), "dropout": 0.5, "key": KEY}),
    ((2, 3, 2), (33, 31, 8, 4), {"dropout": 0.9, "key": KEY, "stream": torch.arange(4) << 33}),
    ((5,), (3, 70, 5, 2), {"client": owners(5, 0).to(torch.int32)}),
    ((20,), (16, 16, 1, 20), {}),
    ((18,), (5, 6, 9, 2), {"client": owners(1, 17), "dropout": 0.3, "key": KEY}),
)
LARGE: tuple[tuple[tuple[int, ...], tuple[int, int, int, int], dict[str, Any]], ...] = (
    ((8, 9), (384, 130, 16, 8), {"dropout": 0.05, "key": KEY, "stream": 2**32 - 1}),
    ((130,), (67, 257, 3, 3), {"client": owners(1, 128, 1), "dropout": 0.3, "key": KEY}),
    ((70,), (1025, 64, 33, 2), {"client": owners(69, 1)}),
)


def _layers() -> Iterator[tuple[str, tuple[torch.Tensor, ...], Any, dict[str, Any], bool]]:
    for number, (rows, sizes, how) in enumerate((*LAYERS, *LARGE)):
        large = number >= len(LAYERS)
        for dtype in DTYPES:
            for positive in (False, True) if large else (number % 2 == 0,):
                clients = sizes[3]
                scale = 0.5 if number % 3 else torch.linspace(-2, 2, clients)
                tensors = _layer(rows, sizes, dtype, positive=positive)
                yield f"{rows}, {sizes}, {dtype}, {positive=}", tensors, scale, how, large


def _lora_linear() -> Iterator[Case]:
    for name, tensors, scale, how, large in _layers():
        yield Case(name, (*tensors, scale), how, large)


def _lora_linear_backward() -> Iterator[Case]:
    """What the forward kept is any float32 here: it need not follow from the other arguments."""
    for name, (x, base, a, b), scale, how, large in _layers():
        grad, hidden = torch.randn(base.shape), torch.randn(math.prod(x.shape[:-1]), a.shape[1])
        if "positive=True" in name:
            grad, hidden = grad.abs(), hidden.abs()
        yield Case(name, (grad.to(x.dtype), hidden, x, base, a, b, scale), how, large)


def _lists(clients: int, shapes: Any, dtypes: Any) -> list[list[torch.Tensor]]:
    return [
        [torch.randn(shape).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        for _ in range(clients)
    ]


def _weighted_mean() -> Iterator[Case]:
    f32, b16, f16 = DTYPES
    for clients, shapes, dtypes, weights in (
        (3, ((5,), (2, 3)), (f32, b16), [1, 2, 3]),
        (1, ((7,),), (f32,), None),
        (1, ((3,), (9,)), (f16, f32), [0.1]),
        (2, ((), (1,), (0,), (3, 0)), (f32, f16, f32, b16), None),
        (5, ((17,), (3, 5), (33,)), (f16, f32, b16), [0, 1.5, 0, 1e-30, 2]),
        (4, ((65,),), (b16,), torch.tensor([3, 0, 2**40, 1])),
        (4, ((2, 2, 2),), (f16,), torch.tensor([0.1, 0.2, 0.3, 0.4])),
        (3, ((129,), (1,)), (f32, f32), torch.rand(3, dtype=torch.float64)),
        (17, ((31,), (8, 4)), (b16, f32), torch.arange(17, dtype=torch.int32)),
        (100, ((3,),), (f32,), None),
        (2, ((4,),) * 40, (f32, b16) * 20, [1, 2]),
        (2, ((1000,),), (f32,), [1e-300, 1e-290]),
    ):
        name = f"{clients} clients, {len(shapes)} tensors from {shapes[0]}, {type(weights)}"
        args = _lists(clients, shapes, dtypes)
        yield Case(name, (args,) if weights is None else (args, weights))
    tiny = torch.tensor([1.4e-45, -1.4e-45, -0.0, 3e38, 1.1e-38, -3e38, 0.0])
    yield Case("denormals and the largest", ([[tiny], [tiny]],))
    yield Case("signs of zero", ([[tiny], [-tiny]], [1, 0]))
    shapes = (16_383,), (16_384,), (16_385,), (5,), (0,), (130, 301)
    args = _lists(6, shapes, (f32, b16, f16) * 2)
    yield Case("large", (args, [3, 1, 4, 1, 5, 9]), large=True)


LORA_MAKERS: dict[str, Callable[[], Iterator[Case]]] = {
    "counter_dropout": _counter_dropout,
    "lora_merge_": _lora_merge,
    "lora_linear": _lora_linear,
    "lora_linear_backward": _lora_linear_backward,
    "weighted_mean": _weighted_mean,
}
