"""What sketches must compute, written with NumPy and Python integers and nothing of the library."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lora_oracles import SLACK, TINY, Between, U, between, philox, wide
from mask_oracles import F32, Array
from oracles import QUARTERS

LOST = 2.0**-133  # the smallest bfloat16: what tensor cores may lose of a number below 2^-110
KINDS = {"rademacher": 1, "gaussian": 2, "countsketch": 3}
NOISE, SKETCH = 4, 6  # purposes

# √½, then the polynomials and constants, lowest power first, as the form is documented.
SQRT_HALF = 0x3F3504F3
LN = (
    *("0x1.555554p-2", "-0x1.000226p-2", "0x1.99a00ep-3", "-0x1.547282p-3"),
    *("0x1.22d9e6p-3", "-0x1.0d8308p-3", "0x0.82add1p-2", "-0x1.38c07p-4"),
)
SIN = ("-0x1.555546p-3", "0x1.11076p-7", "-0x1.994eb4p-13")
COS = ("0x1.55554ap-5", "-0x1.6c0c8cp-10", "0x1.9a025ap-16")
HIGH, LOW, STEP = (
    F32(float.fromhex(h)) for h in ("0x1.63p-1", "-0x1.bd0106p-13", "0x1.921fb6p-30")
)


def seed_of(key: bytes) -> int:
    """The public seed: 8 bytes of HKDF-SHA256 with the label "sketch" (RFC 5869)."""
    extracted = hmac.digest(b"pyfed/v1", key, hashlib.sha256)
    info = struct.pack("<I", 6) + b"sketch"
    return int(struct.unpack("<Q", hmac.digest(extracted, info + b"\x01", hashlib.sha256)[:8])[0])


def chacha(key: bytes, counters: Array, nonce: Sequence[Any]) -> Array:
    """The blocks of ChaCha20 (RFC 8439): uint32 (…, 16), of counters and nonce words (…)."""
    fixed = struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key)
    every = np.broadcast_arrays(counters, *nonce)
    start = [np.full(every[0].shape, word, np.uint32) for word in fixed]
    start += [word.astype(np.uint32) for word in every]
    w = list(start)
    for _ in range(10):
        for a, b, c, d in QUARTERS:
            for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                w[x] = w[x] + w[y]
                mixed = w[z] ^ w[x]
                w[z] = mixed << np.uint32(bits) | mixed >> np.uint32(32 - bits)
    return np.stack([x + y for x, y in zip(w, start, strict=True)], axis=-1)


def words(source: int | bytes, rows: Array, places: Array, kind: int, stream: int) -> Array:
    """W(r, i), uint64 (rows, places): from a seed by Philox, from a key by ChaCha20."""
    r, i = rows.astype(np.uint64)[:, None], places.astype(np.uint64)[None, :]
    if isinstance(source, bytes):
        nonce = r, stream, SKETCH << 24 | kind
        return secret_words(source, r, i, nonce)
    four = np.uint64(4)
    high = (i // four >> np.uint64(32)) | np.uint64(kind << 8)
    counter = (i // four & np.uint64(0xFFFFFFFF), high, r, np.uint64(stream))
    block = np.broadcast_arrays(*philox(counter, (source & 0xFFFFFFFF, source >> 32)))
    return np.choose((i % four).astype(int), block).astype(np.uint64)


def secret_words(key: bytes, r: Array, i: Array, nonce: Sequence[Any]) -> Array:
    """ChaCha20's words at places i (1, places) of the rows r (rows, 1), uint64."""
    blocks, which = np.unique(i // np.uint64(16), return_inverse=True)
    made = chacha(key, blocks[None, :], nonce)  # (rows, blocks, 16)
    return made[:, which.ravel(), (i[0] % np.uint64(16)).astype(int)].astype(np.uint64)


def polynomial(coefficients: Sequence[str], x: Array) -> Array:
    value = np.full_like(x, F32(float.fromhex(coefficients[-1])))
    for coefficient in coefficients[-2::-1]:
        value = value * x + F32(float.fromhex(coefficient))
    return value


def normals(w0: Array, w1: Array) -> tuple[Array, Array]:
    """The two normals of two words, by float32 operations in the documented order."""
    half, one = F32(0.5), F32(1)
    v = (w0 | np.uint64(1)).astype(F32)
    bits = v.view(np.int32)
    shift = (bits - SQRT_HALF) >> 23
    z = (bits - (shift << 23)).astype(np.int32).view(F32) - one
    e = (shift - 32).astype(F32)
    s = z * z
    y = polynomial(LN, z) * z * s
    y = y + LOW * e
    y = y - half * s
    q = F32(-2) * ((z + y) + HIGH * e)
    rho = np.sqrt(np.where(q > 0, q, F32(0)))
    moved = (w1 + np.uint64(2**29)) & np.uint64(0xFFFFFFFF)
    quarter = (moved >> np.uint64(30)).astype(int)
    a = ((moved & np.uint64(2**30 - 1)).astype(np.int64) - 2**29).astype(F32) * STEP
    b = a * a
    sine = a + polynomial(SIN, b) * b * a
    cosine = one + (polynomial(COS, b) * b * b - half * b)
    x = np.choose(quarter, (cosine, -sine, -cosine, sine))
    y = np.choose(quarter, (sine, cosine, -sine, -cosine))
    return rho * x, rho * y


def entries(
    source: int | bytes, kind: str, stream: int, rows: Array, columns: Array, height: int
) -> Array:
    """G at these rows and columns, float32; of ``height`` rows in all."""
    number = KINDS[kind]
    columns = columns.astype(np.uint64)
    if kind == "countsketch":
        w, sign = words(source, np.arange(2), columns, number, stream)
        at = (w * np.uint64(height)) >> np.uint64(32)
        value = np.where(sign & np.uint64(1), F32(-1), F32(1)) * F32(math.sqrt(height))
        return np.where(at == rows[:, None].astype(np.uint64), value, F32(0)).astype(F32)
    if kind == "rademacher":
        w = words(source, rows, columns // np.uint64(32), number, stream)
        return (1 - 2 * ((w >> columns % np.uint64(32)) & np.uint64(1)).astype(F32)).astype(F32)
    even = columns - columns % np.uint64(2)
    pair = (words(source, rows, even + np.uint64(i), number, stream) for i in (0, 1))
    return np.where(columns % np.uint64(2) == 0, *normals(*pair)).astype(F32)


def noise(key: bytes, stream: int, rows: int, features: int) -> Array:
    """The Gaussian noise of standard deviation 1, float32 (rows, features)."""
    r = np.arange(rows, dtype=np.uint64)[:, None]
    f = np.arange(features, dtype=np.uint64)[None, :]
    even, nonce = f - f % np.uint64(2), (r, stream, NOISE << 24)
    if features == 0:
        return np.zeros((rows, 0), F32)
    pair = (secret_words(key, r, even + np.uint64(i), nonce) for i in (0, 1))
    return np.where(f % np.uint64(2) == 0, *normals(*pair)).astype(F32)


def product(matrix: Array, x: Array) -> tuple[Array, Array]:
    """The exact product, and how far float32 sums in any order may be off."""
    m, values = np.abs(matrix.astype(float)), np.abs(x)
    terms = (m != 0).sum(1, keepdims=True) + 2
    lost = LOST * m.sum(1, keepdims=True) + TINY * terms
    return matrix.astype(float) @ x, SLACK * U * terms * (m @ values) + lost


def sketch(
    x: torch.Tensor,
    rows: int,
    key: Any,
    kind: str = "rademacher",
    noise_std: float = 0.0,
    stream: int = 0,
    public: bool = True,
    *,
    transpose: bool = False,
    starts: torch.Tensor | None = None,
) -> list[Between]:
    """Between what a sketch with Gaussian noise, or a transposed one, must lie."""
    secret = b"" if isinstance(key, int) else key.reveal()
    source = (key if isinstance(key, int) else seed_of(secret)) if public else secret
    given = wide(x)
    samples, height = (rows, x.shape[-2]) if transpose else (len(x), rows)
    edges = [0, samples] if starts is None else starts.tolist()
    exact, off = [], []
    for client, (first, last) in enumerate(itertools.pairwise(edges)):
        own = stream + client
        g = entries(source, kind, own, np.arange(height), np.arange(last - first), height)
        if transpose:
            one, error = product(g.T, given if starts is None else given[client])
        else:
            one, error = product(g, given[first:last])
            if noise_std:
                added = float(F32(noise_std)) * noise(secret, own, *one.shape).astype(float)
                one, error = one + added, error + SLACK * U * 2 * np.abs(added)
        exact.append(one)
        off.append(error)
    if transpose:
        return [between(np.concatenate(exact), np.concatenate(off), torch.float32)]
    if starts is None:
        return [between(exact[0], off[0], torch.float32)]
    return [between(np.stack(exact), np.stack(off), torch.float32)]
