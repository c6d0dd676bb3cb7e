"""Whether large results are right, by Freivalds' check instead of a second, slower computation.

The check itself runs on pyfed's products, and would agree with a kernel whose every product is
wrong in the same way; so two columns are computed by plain torch as well. Rounding is done by the
reference, and random rows come from OpenSSL where it is installed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

import baselines
import pyfed
from contests import random_floats
from pyfed.ops.random import ATTEMPTS, PADDING, chacha_blocks, domain, residues_reference

KEY = pyfed.Key(bytes(range(32)))
"""Makes the noise of roundings and the random rows of encodings."""

PIECE = 1 << 20
"""Values that are looked at together, a multiple of the 16 words of a block."""


def random_row(row: int, first: int, count: int, field: pyfed.Field) -> torch.Tensor:
    """Residues ``first`` … of a random row of an encoding: int32 (count,); 16 divides ``first``."""
    p = field.modulus
    if baselines.missing(baselines.OPENSSL):
        return residues_reference(KEY.words(), first, count, row, 0, PADDING, p).int()
    nonce = (row, 0, domain(PADDING, p))
    words = baselines.openssl_words(KEY.reveal(), nonce, count, first // 16).run()
    values = torch.from_numpy(words & 0x7FFFFFFF)
    for attempt in range(1, ATTEMPTS):
        rejected = torch.nonzero(values >= p).flatten()
        if not rejected.numel():
            break
        index = rejected + first
        blocks = chacha_blocks(KEY.words(), index // 16, [row, 0, domain(PADDING, p, attempt)])
        again = blocks.gather(1, (index % 16)[:, None])[:, 0] & 0x7FFFFFFF
        values[rejected] = again.int()
    return values


def by_plane(field: pyfed.Field, *tensors: torch.Tensor) -> Iterator[tuple[Any, ...]]:
    """The prime field of each plane, and that plane of each tensor."""
    planes = zip(*tensors, strict=True) if field.lead else [tensors]
    return ((prime, *own) for prime, own in zip(field.planes, planes, strict=True))


def is_product(a: torch.Tensor, b: torch.Tensor, product: torch.Tensor, field: pyfed.Field) -> bool:
    """Whether a · b = product: int32 (m, k), (k, n), (m, n), each behind planes if any."""
    if not pyfed.ops.field_verify(a, b, product, field):
        return False
    for prime, left, right, claimed in by_plane(field, a, b, product):
        for column in {0, right.shape[1] - 1} if right.shape[1] else ():
            # Each term is below 2^31, so the sum fits.
            terms = left.long() * right[:, column].long() % prime.modulus
            if not torch.equal(terms.sum(1) % prime.modulus, claimed[:, column].long()):
                return False
    return True


def is_encoding(shares: torch.Tensor, data: torch.Tensor, code: pyfed.LagrangeCode) -> bool:
    """Whether ``shares`` are those of ``data``, a piece of columns at a time.

    Args:
        shares: int32 (shares, columns), behind planes if any.
        data: residues, int32 (length,), behind planes if any.
        code: ``KEY`` makes its random rows, of stream 0.
    """
    columns = -(-data.shape[-1] // code.blocks)
    if shares.shape != (*code.field.lead, code.shares, columns):
        return False
    matrix = code.encoding_matrix(data.device)
    step = max(PIECE // code.threshold // 16 * 16, 16)
    return all(
        is_product(
            own, _inner(values, first, step, code, prime), made[:, first : first + step], prime
        )
        for prime, own, values, made in by_plane(code.field, matrix, data, shares)
        for first in range(0, columns, step)
    )


def _inner(
    data: torch.Tensor, first: int, step: int, code: pyfed.LagrangeCode, prime: pyfed.Field
) -> torch.Tensor:
    """What the matrix multiplies, at most ``step`` columns: int32 (blocks + privacy, count)."""
    own = data[first * code.blocks : (first + step) * code.blocks]
    own = torch.nn.functional.pad(own, (0, -own.numel() % code.blocks)).view(-1, code.blocks)
    rows = [random_row(t, first, len(own), prime).to(data.device) for t in range(code.privacy)]
    return torch.cat([own.t(), *(row[None] for row in rows)])


@functools.lru_cache(maxsize=1)
def rounded(length: int, device: str, fixed: pyfed.FixedPoint) -> torch.Tensor:
    """``random_floats(length)`` rounded with ``KEY`` by the reference, in pieces: int32."""
    values = random_floats(length, device)
    out = torch.empty(*fixed.field.lead, length, dtype=torch.int32, device=device)
    with pyfed.use_backend("reference"):
        for first in range(0, length, PIECE):
            part = values[first : first + PIECE]
            out[..., first : first + PIECE] = fixed.encode(part, KEY, start=first)
    return out
