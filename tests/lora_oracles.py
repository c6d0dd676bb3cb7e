"""What dropout, adapters and means must compute, written with NumPy and nothing of the library.

Where kernels may add in any order, a result must lie between two bounds: the exact sum, computed in
float64, and the error that float32 sums can have, as in Higham's "Accuracy and Stability", 3.1: k
roundings change a sum of products by at most k·2^-24·Σ|aᵢ||bᵢ|, and terms that are 0 by nothing.
Both bounds are rounded once to the dtype of the result, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch

from mask_oracles import F32, Array, rounded

U = 2.0**-24  # half the distance of 1 to the next float32
SLACK = 1.001  # k·u / (1 - k·u) for the k that occur, and float64's own roundings
TINY = 2.0**-149  # what a product below float32's normal range may lose


class Between(NamedTuple):
    """The least and the greatest right result."""

    low: torch.Tensor
    high: torch.Tensor
    tensor_core_low: torch.Tensor | None = None
    tensor_core_high: torch.Tensor | None = None

    def ends(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The bounds on a device."""
        if device == "cpu" or self.tensor_core_low is None or self.tensor_core_high is None:
            return self.low, self.high
        return self.tensor_core_low, self.tensor_core_high


TENSOR_CORE = 8
"""How many times as far off a sum on tensor cores may be.

A float32 factor is split into two of tf32, 11 bits each, so the product lacks 3 · 2^-22 of itself
at most, and their adders truncate where others round.
"""


def between(exact: Array, error: Array, dtype: torch.dtype) -> Between:
    """The numbers of a dtype within an error; rounding keeps the order, so it may come last."""
    off = [-error, error, -TENSOR_CORE * error, TENSOR_CORE * error]
    with np.errstate(over="ignore"):
        bounds = [exact + distance for distance in off]
        if dtype != torch.float64:
            bounds = [bound.astype(F32) for bound in bounds]
    return Between(*(torch.from_numpy(np.array(bound)).to(dtype) for bound in bounds))


def _name(t: torch.Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def wide(t: torch.Tensor) -> Array:
    """The numbers in float64."""
    return t.detach().double().numpy()


def philox(counter: Sequence[Any], key: Sequence[int]) -> tuple[Any, ...]:
    """Philox4x32-10 of Salmon et al., of Python integers or of uint64 arrays."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b = (right >> 32) ^ b ^ k, right & 0xFFFFFFFF
        c, d = (left >> 32) ^ d ^ m, left & 0xFFFFFFFF
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


def words(key: bytes, stream: int, count: int, first: int = 0) -> Array:
    """The words that decide on elements ``first``, ``first`` + 1, … of a client, uint64."""
    place = np.arange(first, first + count, dtype=np.uint64)
    block, zero = place // 4, np.zeros_like(place)
    mask = 0xFFFFFFFF
    counter = block & mask, block >> 32, zero + (stream & mask), zero + (stream >> 32)
    own = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:8], "little")
    return np.choose((place % 4).astype(int), philox(counter, own)).astype(np.uint64)


def kept(
    shape: tuple[int, int], owner: Sequence[int], rate: float, key: bytes, streams: Sequence[int]
) -> Array:
    """Which elements (rows, features) survive; a client's are counted over its own rows."""
    least = min(round(Fraction(rate) * 2**32), 2**32 - 1)
    mask = np.ones(shape, dtype=bool)
    for client, stream in enumerate(streams):
        mine = np.flatnonzero(np.array(owner) == client)
        count = len(mine) * shape[1]
        mask[mine] = (words(key, stream, count) >= least).reshape(len(mine), shape[1])
    return mask


class Rows(NamedTuple):
    """Whose each row is, and the dropout of them all."""

    owner: list[int]
    clients: int
    rate: float
    key: bytes
    streams: list[int]

    def mask(self, shape: tuple[int, int]) -> Array:
        if self.rate == 0:
            return np.ones(shape, dtype=bool)
        return kept(shape, self.owner, self.rate, self.key, self.streams)

    @property
    def factor(self) -> Any:
        return F32(1.0 / (1.0 - self.rate)) if self.rate else F32(1)

    def dropped(self, x: torch.Tensor) -> Array:
        """Rows x (rows, features) with dropout, in float32 and rounded to the dtype of x."""
        values = x.detach().float().numpy()
        with np.errstate(over="ignore"):
            scaled = rounded(values * self.factor, _name(x))
        return np.where(self.mask(values.shape), scaled, F32(0))


def rows_of(
    rows: int,
    rate: float,
    key: Any,
    client: torch.Tensor | None,
    clients: int,
    stream: int | torch.Tensor,
) -> Rows:
    """The arguments of a public function, in plain numbers."""
    own = range(rows) if client is None else client.tolist()
    owner = [c * clients // rows for c in own] if client is None else list(own)
    each = [stream + (c << 32) for c in range(clients)] if isinstance(stream, int) else None
    streams = each if each is not None else stream.tolist()  # type: ignore[union-attr]
    return Rows(owner, clients, rate, key.reveal() if key else b"", streams)


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.detach().reshape(math.prod(x.shape[:-1]), x.shape[-1])


def counter_dropout(
    x: torch.Tensor,
    rate: float,
    key: Any,
    client: torch.Tensor | None = None,
    clients: int = 1,
    stream: int | torch.Tensor = 0,
) -> Array:
    """Dropout of x (…, features), as float32."""
    rows = flat(x)
    return rows_of(len(rows), rate, key, client, clients, stream).dropped(rows)


def product(
    a: Array, b: Array, error: Array | None = None, roundings: int = 0
) -> tuple[Array, Array]:
    """A @ b, and what a float32 sum of it is off at most, when a is known up to ``error``."""
    doubt = np.zeros_like(a) if error is None else error
    size = (np.abs(a) + doubt) @ np.abs(b)
    terms = ((a != 0) | (doubt != 0)).astype(float) @ (b != 0).astype(float)
    off = SLACK * U * (terms + roundings) * size + terms * TINY
    return a @ b, off + doubt @ np.abs(b)


def scaled(factor: float, a: Array, b: Array, error: Array | None = None) -> tuple[Array, Array]:
    """A product times a factor, which may be multiplied into a, into b or into the sum."""
    exact, off = product(a, b, error, roundings=1)
    lost = TINY * (1 + np.abs(a).sum(1)[:, None] + np.abs(b).sum(0))
    used = (exact != 0) | (off != 0)
    return factor * exact, np.where(used, abs(factor) * off + (lost if factor else 0), 0)


def added(base: Array, update: Array, error: Array, dtype: torch.dtype) -> Between:
    """Base and an update that is known up to ``error``, added in float32."""
    exact = base + update
    moved = (update != 0) | (error != 0)
    return between(exact, error + np.where(moved, U * (np.abs(exact) + error), 0), dtype)


def lora_merge_(
    base: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float | torch.Tensor = 1.0,
    transposed: bool = False,
) -> list[Between]:
    """Bounds of the weight: b times the scale is rounded, then R products are added."""
    factor = wide(scale) if isinstance(scale, torch.Tensor) else np.full(len(a), float(scale))
    left = wide(b) * factor.astype(F32)
    off = np.where(left != 0, U * np.abs(left) + TINY, 0)
    update, error = product(left, wide(a), off)
    if transposed:
        update, error = update.T, error.T
    return [added(wide(base), update, error, base.dtype)]


def _factors(a: torch.Tensor, b: torch.Tensor, scale: float | torch.Tensor) -> tuple[Any, ...]:
    each = wide(scale) if isinstance(scale, torch.Tensor) else np.full(len(a), float(scale))
    return wide(a), wide(b), each.astype(F32).astype(float)


def lora_linear(
    x: torch.Tensor,
    base_out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float | torch.Tensor,
    client: torch.Tensor | None = None,
    dropout: float = 0.0,
    key: Any = None,
    stream: int | torch.Tensor = 0,
) -> list[Between]:
    """Bounds of the layer's output, and of drop(x) Aᵀ."""
    inputs, base = flat(x), wide(flat(base_out))
    rows = rows_of(len(inputs), dropout, key, client, len(a), stream)
    dropped, owner = rows.dropped(inputs).astype(float), np.array(rows.owner, dtype=int)
    down, up, factor = _factors(a, b, scale)
    hidden, hidden_off = np.zeros((2, len(inputs), a.shape[1]))
    update, off = np.zeros((2, *base.shape))
    for c in range(len(a)):
        mine = owner == c
        hidden[mine], hidden_off[mine] = product(dropped[mine], down[c].T)
        update[mine], off[mine] = scaled(factor[c], hidden[mine], up[c].T, hidden_off[mine])
    total = added(base, update, off, base_out.dtype)
    shaped = Between(*(bound.reshape(base_out.shape) for bound in total))
    return [shaped, between(hidden, hidden_off, torch.float32)]


def lora_linear_backward(
    grad: torch.Tensor,
    hidden: torch.Tensor,
    x: torch.Tensor,
    base_out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float | torch.Tensor,
    client: torch.Tensor | None = None,
    dropout: float = 0.0,
    key: Any = None,
    stream: int | torch.Tensor = 0,
) -> list[Between]:
    """Bounds of the gradients of x, A and B."""
    inputs, above, inner = flat(x), wide(flat(grad)), wide(hidden)
    rows = rows_of(len(inputs), dropout, key, client, len(a), stream)
    dropped, owner = rows.dropped(inputs).astype(float), np.array(rows.owner, dtype=int)
    down, up, factor = _factors(a, b, scale)
    dx, dx_off = np.zeros((2, *inputs.shape))
    da, da_off = np.zeros((2, *a.shape))
    db, db_off = np.zeros((2, *b.shape))
    for c in range(len(a)):
        mine = owner == c
        g, g_off = scaled(factor[c], above[mine], up[c])
        dx[mine], dx_off[mine] = product(g, down[c], g_off)
        da[c], da_off[c] = product(g.T, dropped[mine], g_off.T)
        db[c], db_off[c] = scaled(factor[c], above[mine].T, inner[mine])
    if rows.rate:
        survives, by = rows.mask(inputs.shape), float(rows.factor)
        dx_off = np.where(survives, by * (dx_off + U * (np.abs(dx) + dx_off)), 0)
        dx = np.where(survives, dx * by, 0)
    bounds = between(dx, dx_off, x.dtype)
    shaped = Between(*(bound.reshape(x.shape) for bound in bounds))
    wide_dtype = torch.float32
    return [shaped, between(da, da_off, wide_dtype), between(db, db_off, wide_dtype)]


def weighted_mean(
    tensors: Sequence[Sequence[torch.Tensor]], weights: Sequence[float] | None = None
) -> list[Array]:
    """Σ (w / Σ w) t in the order of the clients, each product and each sum rounded to float32."""
    numbers = [1.0] * len(tensors) if weights is None else [float(w) for w in weights]
    total = math.fsum(numbers)
    means = []
    for own in zip(*tensors, strict=True):
        mean = np.zeros(own[0].shape, dtype=F32)
        for weight, tensor in zip(numbers, own, strict=True):
            mean = mean + F32(weight / total) * tensor.float().numpy()
        means.append(rounded(mean, _name(own[0])))
    return means
