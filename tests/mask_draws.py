"""Random calls of the mask ops, with what the oracles of ``mask_oracles.py`` say of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

import mask_oracles as oracles
from draw import SIZES, Draw
from pyfed import Key
from pyfed.ops import Indices, Rectangles

LENGTHS = (*SIZES, 63, 64, 65, 127, 128, 129)
LONG = (*LENGTHS, 255, 256, 257, 511, 512, 513, 1023, 1025)
CLIENTS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257)
DTYPES = ("float32", "float16", "bfloat16")


def _bits(rng: random.Random, *shape: int) -> oracles.Array:
    """A mask of any density, from empty to full."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    return numbers.random(shape) < rng.choice((0.0, 1.0, 0.03, 0.97, 0.5, rng.random()))


def _tensor(packed: oracles.Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(packed))


def _rows(rng: random.Random) -> tuple[int, ...]:
    return rng.choice(((), (), (1,), (rng.randrange(5),), (2, rng.randrange(4)), (3, 1, 2)))


def _mask_pack(rng: random.Random) -> Draw:
    bits = _bits(rng, *_rows(rng), rng.choice(LONG))
    return Draw((_tensor(bits),), {}, oracles.pack(bits).ravel())


def _mask_unpack(rng: random.Random) -> Draw:
    length = rng.choice(LONG)
    packed = oracles.pack(_bits(rng, *_rows(rng), length))
    return Draw((_tensor(packed), length), {}, oracles.unpack(packed, length).ravel())


def _mask_popcount(rng: random.Random) -> Draw:
    length = rng.choice(LONG)
    packed = oracles.pack(_bits(rng, *_rows(rng), length))
    wanted = oracles.unpack(packed, length).sum(-1, dtype=np.int64)
    return Draw((_tensor(packed), length), {}, np.atleast_1d(wanted).ravel())


def _mask_count(rng: random.Random) -> Draw:
    length = rng.choice(LONG)
    packed = oracles.pack(_bits(rng, rng.choice(CLIENTS), length))
    wanted = oracles.unpack(packed, length).sum(0, dtype=np.int64)
    return Draw((_tensor(packed), length), {}, wanted)


def _mask_add(rng: random.Random) -> Draw:
    length, clients, planes = rng.choice(LENGTHS), rng.choice(CLIENTS), rng.randrange(16)
    before = oracles.pack(_bits(rng, planes, length))
    packed = oracles.pack(_bits(rng, clients, length))
    added = oracles.unpack(packed, length).sum(0, dtype=np.int64).tolist()
    wanted = [a + b for a, b in zip(oracles.totals(before, length), added, strict=True)]
    least = max(wanted, default=0)
    capacity = min(65_535, rng.choice((least, 2**planes - 1 + clients, 65_535)))
    capacity = max(capacity, least)
    result = oracles.planes_of(wanted, capacity.bit_length())
    return Draw((_tensor(before), _tensor(packed), length, capacity), {}, result.ravel())


def _mask_totals(rng: random.Random) -> Draw:
    length, planes = rng.choice(LONG), rng.randrange(17)
    packed = oracles.pack(_bits(rng, planes, length))
    return Draw((_tensor(packed), length), {}, oracles.totals(packed, length))


def _floats(rng: random.Random, count: int, dtype: str, spread: float = 1.0) -> oracles.Array:
    """Finite numbers of a dtype as float32: equal ones, zeros, denormals, extremes."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    values = (numbers.standard_normal(count) * spread).astype(np.float32)
    if rng.randrange(2):
        values = np.round(values * 2) / np.float32(2)
    special = np.array([0.0, -0.0, 1e-45, -1e-45, 6e-8, -6e-8, 1.0, -1.0], dtype=np.float32)
    where = numbers.random(count) < 0.3
    values[where] = special[numbers.integers(0, len(special), int(where.sum()))]
    return oracles.rounded(values, dtype)


def _as(values: oracles.Array, dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.array(values)).to(getattr(torch, dtype))


def _layout(rng: random.Random) -> tuple[tuple[int, ...], str]:
    """A shape, and a group that fits it."""
    group = rng.choice(("layer", "row", "column", "block", "pattern"))
    rows, columns = rng.choice(SIZES[:10]), rng.choice(SIZES)
    if group == "block":
        high, wide = rng.choice((1, 2, 3, 4)), rng.choice((1, 2, 5, 8, 16))
        shape = (high * rng.randrange(4), wide * rng.randrange(4))
        return shape, f"{high}x{wide}"
    if group == "pattern":
        of = rng.choice((1, 2, 4, 5, 8, 16))
        width = of * rng.randrange(6)
        shapes = ((rows, width), (width,), (rows, of, width // of))
        return rng.choice(shapes), f"{rng.randrange(1, of + 1)}:{of}"
    if group != "column" and rng.randrange(4) == 0:
        return rng.choice(((columns,), ())), group
    return rng.choice(((rows, columns), (rows, 2, columns), (rows % 5, 3, 3, 3))), group


def _selection(rng: random.Random) -> tuple[Any, ...]:
    """Shape, layout, counts, rule, its values, and the right mask."""
    shape, group = _layout(rng)
    size = math.prod(shape)
    clients = rng.choice((0, 1, 2, 3, 64, 127, 128, 255, 256, 257, 1000, 65_535))
    wide = clients > 255 or rng.randrange(3) == 0
    many = rng.randrange(3) > 0  # else most counts are equal
    common = [rng.randint(0, clients) for _ in range(3)]
    counts = [rng.randint(0, clients) if many else rng.choice(common) for _ in range(size)]
    exact = Fraction(rng.randrange(101), rng.choice((100, 101, 128)))
    sparsity = rng.choice((exact, rng.randrange(101) / 100, rng.random(), 0, 1, 0.5))
    sparsity = min(sparsity, 1)
    how: dict[str, Any] = {"sparsity": None if ":" in group else sparsity, "group": group}
    how["rounding"] = rng.choice(("floor", "nearest", "ceil"))
    rule, stream = rng.choice(("index", "random", "magnitude", "score")), rng.randrange(2**32)
    dtype, secret = rng.choice(DTYPES), rng.randbytes(32)
    values = _floats(rng, size, dtype)
    if rule == "score":
        how["score"] = _as(values, dtype).reshape(shape)
    if rule == "random":
        how |= {"key": Key(secret), "stream": stream}
    tensor = torch.tensor(counts, dtype=torch.int32 if wide else torch.uint8)
    votes = tensor if rng.randrange(2) else tensor.reshape(shape)
    ways = {
        "index": lambda: [0] * size,
        "random": lambda: oracles.random_keys(secret, size, stream),
        "magnitude": lambda: np.abs(values).tolist(),
        "score": lambda: values.tolist(),
    }
    cut = oracles.groups(shape, group)
    takes = [oracles.per_group(group, len(places), sparsity, how["rounding"]) for places in cut]
    how["ties"] = rule

    def mask(weight: oracles.Array) -> oracles.Array:
        keys = np.abs(weight).tolist() if rule == "magnitude" else ways[rule]()
        return oracles.select(counts, keys, cut, takes)

    return shape, votes, counts, clients, how, values, dtype, mask


def _mask_select(rng: random.Random) -> Draw:
    shape, votes, _, _, how, values, dtype, mask = _selection(rng)
    if how["ties"] == "magnitude":
        how["weight"] = _as(values, dtype).reshape(shape)
    return Draw((votes, shape), how, mask(values))


def _mask_prune(rng: random.Random) -> Draw:
    shape, votes, counts, clients, how, _, _, mask = _selection(rng)
    dtype = rng.choice(DTYPES)
    weight = _floats(rng, len(counts), dtype)
    scaled = clients or None
    if rng.randrange(2):
        scaled = None
    else:
        how["clients"] = scaled
    chosen = mask(weight)
    after = oracles.prune(weight, counts, chosen, scaled, dtype)
    held = _as(weight, dtype).reshape(shape)
    return Draw((held, votes), how, chosen, (after,))


def _masked_mean(rng: random.Random) -> Draw:
    """Any form; values that no mask keeps are NaN in the dense one."""
    form = rng.choice(("everyone", "dense", "bytes", "packed", "rectangles", "indices"))
    shape = rng.choice(((rng.choice(LENGTHS),), (rng.choice(SIZES), rng.choice(SIZES)), (3, 2, 5)))
    clients, n, dtype = rng.choice((0, 1, 2, 3, 5, 8, 17)), math.prod(shape), rng.choice(DTYPES)
    held = _bits(rng, clients, n)
    if form == "everyone":
        held = np.ones((clients, n), dtype=bool)
    boxes: list[list[tuple[int, int]]] = []
    if form == "rectangles":
        held = np.zeros((clients, *shape), dtype=bool)
        for own in held:
            axes = range(rng.randrange(min(2, len(shape)) + 1))
            cuts = [sorted(rng.randint(0, shape[axis]) for _ in range(2)) for axis in axes]
            boxes.append([(a, b) for a, b in cuts])
            own[tuple(slice(a, b) for a, b in boxes[-1])] = True
        held = held.reshape(clients, n)
    values = _floats(rng, clients * n, dtype, spread=2.0).reshape(clients, n)
    weights = [rng.choice((0, 1, rng.randrange(100))) for _ in range(clients)]
    if dtype == "float32" and rng.randrange(3) == 0:
        weights = [rng.randrange(2**24) for _ in range(clients)]
    weighted, keep = rng.randrange(3) > 0, rng.randrange(2) > 0
    server = _floats(rng, n, dtype)
    how: dict[str, Any] = {"denominator": rng.choice(("keepers", "all", "one"))}
    how["min_votes"] = rng.choice((1, 1, 2, 3, 65_535))
    used = weights if weighted else [1] * clients
    if weighted:
        how["weights"] = rng.choice((weights, torch.tensor(weights, dtype=torch.int64)))
    if keep:
        how |= {"empty": "keep", "server": _as(server, dtype).reshape(shape)}
    rule = how["denominator"], how["min_votes"]
    rest = server if keep else np.zeros_like(server)
    wanted = oracles.mean(values, held, used, *rule, rest, dtype)
    args = _in_form(form, shape, values, held, boxes, dtype, how)
    return Draw(args, how, wanted)


def _in_form(
    form: str,
    shape: tuple[int, ...],
    values: oracles.Array,
    held: oracles.Array,
    boxes: list[list[tuple[int, int]]],
    dtype: str,
    how: dict[str, Any],
) -> tuple[Any, ...]:
    """The values as a form takes them; what describes them goes into ``how``."""
    clients = len(values)
    if form == "everyone":
        return (_as(values, dtype).reshape(clients, *shape),)
    if form in ("dense", "bytes"):
        bits = _tensor(oracles.pack(held)) if form == "bytes" else _tensor(held)
        how["masks"] = bits if form == "bytes" else bits.reshape(clients, *shape)
        hidden = np.where(held, values, np.float32("nan"))
        return (_as(hidden, dtype).reshape(clients, *shape),)
    if form == "packed":
        how |= {"masks": _tensor(oracles.pack(held)), "shape": shape}
    elif form == "rectangles":
        how["masks"] = Rectangles(shape, tuple(map(tuple, boxes)))
    else:
        how["masks"] = Indices(shape, [torch.from_numpy(np.flatnonzero(row)) for row in held])
    return (_as(values[held], dtype),)


MASK_DRAWERS: dict[str, Callable[[random.Random], Draw]] = {
    "mask_pack": _mask_pack,
    "mask_unpack": _mask_unpack,
    "mask_popcount": _mask_popcount,
    "mask_count": _mask_count,
    "mask_add": _mask_add,
    "mask_totals": _mask_totals,
    "mask_select": _mask_select,
    "mask_prune_": _mask_prune,
    "masked_mean": _masked_mean,
}
