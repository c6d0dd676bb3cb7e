"""Random calls of dropout, merges, adapters, means and optimisers, with what their oracles say."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch

import bank_oracles
import lora_oracles
from bounds import BOUNDS
from draw import SIZES, Draw
from pyfed import Key

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
RATES = (0.0, 0.05, 0.3, 0.5, 0.9, 2**-32, 1 - 2**-32)
SPECIAL = (0.0, -0.0, 1.4e-45, -1.1e-38, 6e-8, 1e-3, 1.0, -2.0, 300.0)


def _numbers(rng: random.Random, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Finite numbers: of both signs or positive, some zero, subnormal, equal or large."""
    made = torch.Generator().manual_seed(rng.randrange(2**32))
    values = torch.randn(shape, generator=made)
    if rng.randrange(3) == 0:
        values = values.abs()
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=made)]
    few = torch.rand(shape, generator=made) < rng.choice((0.0, 0.1, 0.5))
    return torch.where(few, special, values).to(dtype)


def _owner(rng: random.Random, rows: int, clients: int) -> torch.Tensor:
    """The client of each row; some have none, and one may have them all."""
    if rng.randrange(4) == 0:
        return torch.full((rows,), rng.randrange(clients))
    return torch.tensor(sorted(rng.randrange(clients) for _ in range(rows)), dtype=torch.int64)


def _stream(rng: random.Random, clients: int) -> Any:
    if rng.randrange(2):
        return rng.choice((0, 1, 2**32 - 1, rng.randrange(2**32)))
    large = (0, 1, 2**32 - 1, 2**32, 2**63 - 1, rng.randrange(2**63))
    return torch.tensor([rng.choice(large) for _ in range(clients)])


def _rows(rng: random.Random) -> tuple[int, dict[str, Any]]:
    """A number of clients, and what says whose the rows are."""
    clients = rng.choice((1, 1, 2, 3, 5, 8))
    return clients, {"stream": _stream(rng, clients)}


def _shape(rng: random.Random, clients: int, how: dict[str, Any], sizes: Any) -> tuple[int, ...]:
    """Of the leading dimensions; without a client for each row they split equally."""
    rows = rng.choice(sizes)
    if rng.randrange(2):
        how["client"] = _owner(rng, rows, clients)
        return rng.choice(((rows,), (1, rows), (rows, 1)))
    return rng.choice(((rows * clients,), (clients, rows), (rows, 1, clients)))


def _counter_dropout(rng: random.Random) -> Draw:
    clients, how = _rows(rng)
    shape = *_shape(rng, clients, how, SIZES), rng.choice((*SIZES, 63, 64, 65, 130))
    rate, secret, dtype = rng.choice((*RATES, rng.random())), rng.randbytes(32), rng.choice(DTYPES)
    x = _numbers(rng, *shape, dtype=dtype)
    args = x, rate, Key(secret)
    how["clients"] = clients
    return Draw(args, how, lora_oracles.counter_dropout(*args, **how).ravel())


def _lora_merge(rng: random.Random) -> Draw:
    outs, ins, rank = (rng.choice((*SIZES, 63, 65)) for _ in range(3))
    dtype = rng.choice(DTYPES)
    factors = rng.choice((torch.float32, dtype))
    flipped = rng.randrange(2) == 1
    base = _numbers(rng, *((ins, outs) if flipped else (outs, ins)), dtype=dtype)
    a, b = _numbers(rng, rank, ins, dtype=factors), _numbers(rng, outs, rank, dtype=factors)
    kind = rng.choice((torch.float32, torch.float64))
    scale = rng.choice((rng.uniform(-3, 3), 1, _numbers(rng, rank, dtype=kind)))
    args = base, a, b, scale, flipped
    return Draw(args, {}, (), tuple(BOUNDS["lora_merge_"](*args)))


def _layer(rng: random.Random) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of lora_linear."""
    clients, how = _rows(rng)
    ins, outs, rank = rng.choice(SIZES), rng.choice((*SIZES, 65)), rng.choice(SIZES[1:])
    shape = _shape(rng, clients, how, SIZES[:11])
    dtype = rng.choice(DTYPES)
    how["dropout"] = rng.choice((0.0, *RATES[:5]))
    if how["dropout"]:
        how["key"] = Key(rng.randbytes(32))
    x, base = _numbers(rng, *shape, ins, dtype=dtype), _numbers(rng, *shape, outs, dtype=dtype)
    a, b = _numbers(rng, clients, rank, ins), _numbers(rng, clients, outs, rank)
    scale = rng.choice((rng.uniform(-3, 3), 0, torch.linspace(-1, 2, clients) ** 3))
    return (x, base, a, b, scale), how


def _lora_linear(rng: random.Random) -> Draw:
    args, how = _layer(rng)
    return Draw(args, how, tuple(BOUNDS["lora_linear"](*args, **how)))


def _lora_linear_backward(rng: random.Random) -> Draw:
    args, how = _layer(rng)
    x, base, a = args[:3]
    grad = _numbers(rng, *base.shape, dtype=base.dtype)
    args = grad, _numbers(rng, math.prod(x.shape[:-1]), a.shape[1]), *args
    return Draw(args, how, tuple(BOUNDS["lora_linear_backward"](*args, **how)))


def _weighted_mean(rng: random.Random) -> Draw:
    clients = rng.choice((1, 2, 3, 7, 20))
    forms = [
        (rng.choice(((), (rng.choice(SIZES),), (2, rng.choice(SIZES)))), rng.choice(DTYPES))
        for _ in range(rng.choice((1, 1, 2, 5)))
    ]
    lists = [[_numbers(rng, *shape, dtype=dtype) for shape, dtype in forms] for _ in range(clients)]
    drawn = [rng.choice((0, 1, rng.randrange(1000))) for _ in range(clients)]
    drawn[rng.randrange(clients)] = 1 + rng.randrange(2**40)
    floats = [w * 2.0 ** rng.randrange(-60, 60) for w in drawn]
    weights = rng.choice((None, drawn, floats, torch.tensor(drawn), torch.tensor(drawn).double()))
    means = lora_oracles.weighted_mean(lists, weights)
    return Draw((lists, weights), {}, tuple(mean.ravel() for mean in means))


def _arena(rng: random.Random) -> tuple[int, int]:
    return rng.choice((1, 2, 3, 7)), rng.choice((*SIZES, 63, 64, 65, 129, 511))


def _segment_clip(rng: random.Random) -> Draw:
    grads = _numbers(rng, *_arena(rng)) * 2.0 ** rng.randrange(-100, 100)
    limits: Any = rng.choice((1.0, rng.random() + 1e-3, math.inf, grads.double().norm().item()))
    if not limits > 0 or rng.randrange(2):
        limits = grads.norm(dim=1) * rng.choice((0.5, 1.0, 1.5)) + 1e-30
    norms, rows = BOUNDS["segment_clip_"](grads, limits)
    return Draw((grads, limits), {}, (norms,), (rows,))


def _steps(rng: random.Random, clients: int) -> torch.Tensor:
    numbers = (0, 1, 1, 2, 3, 10, 1000, rng.randrange(10**9))
    return torch.tensor([rng.choice(numbers) for _ in range(clients)])


def _per_client(rng: random.Random, clients: int, high: float) -> Any:
    """A number, or one for each client."""
    kind = rng.choice((torch.float32, torch.float64))
    each = torch.tensor([rng.uniform(0, high) for _ in range(clients)], dtype=kind)
    return rng.choice((rng.uniform(0, high), 0, high, each))


def _adamw(rng: random.Random) -> Draw:
    clients, length = _arena(rng)
    arenas = [_numbers(rng, clients, length) for _ in range(4)]
    arenas[3] = arenas[3].square()
    betas = rng.choice(((0.9, 0.999), (0.0, 0.99), (rng.random(), rng.random())))
    how = {"betas": betas, "eps": rng.choice((1e-8, 1e-3, 1e-6))}
    how["weight_decay"] = _per_client(rng, clients, 0.5)
    args = *arenas, _steps(rng, clients), _per_client(rng, clients, 0.1)
    return Draw(args, how, (), bank_oracles.adamw(*args, **how))


def _sgd(rng: random.Random) -> Draw:
    clients, length = _arena(rng)
    params, grads, buffer = (_numbers(rng, clients, length) for _ in range(3))
    momentum = rng.choice((0.0, 0.9, 1, rng.uniform(0.01, 1)))
    nesterov = momentum > 0 and rng.randrange(3) == 0
    how = {"momentum": momentum, "nesterov": nesterov}
    how["dampening"] = 0.0 if nesterov else rng.choice((0.0, 0.25, 1, rng.random()))
    how["weight_decay"] = _per_client(rng, clients, 0.5)
    held = buffer if momentum else None
    args = params, grads, held, _steps(rng, clients), _per_client(rng, clients, 1.0)
    return Draw(args, how, (), bank_oracles.sgd(*args, **how))


LORA_DRAWERS: dict[str, Callable[[random.Random], Draw]] = {
    "counter_dropout": _counter_dropout,
    "lora_merge_": _lora_merge,
    "lora_linear": _lora_linear,
    "lora_linear_backward": _lora_linear_backward,
    "weighted_mean": _weighted_mean,
    "segment_clip_": _segment_clip,
    "bank_adamw_": _adamw,
    "bank_sgd_": _sgd,
}
