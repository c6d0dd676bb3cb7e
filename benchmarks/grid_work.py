"""The call that a point of the grid stands for, how its result is checked, and its rivals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

import baselines as user
import pairwise_baselines as pairwise
import pyfed
from contests import Baseline, Contest, random_elements, random_floats
from flower_baselines import by_flower
from grid_points import Point
from verified import KEY, by_plane, is_encoding, is_product, rounded

CLIP, BITS, CLIENTS = 1.0, 16, 1024
COARSE = 2.0**10
"""Scale of the numpy way, whose prime has 15 bits: a value within ±1 takes 11 of them."""

MOST_MACS = {
    **{user.FLINT: 2e9, user.LIMBS: 4e9, user.WRAPPING: 8e9},
    **{user.NUMPY_INT64: 1e9, user.GALOIS: 5e6},
}
"""Multiply-adds up to which a baseline is asked: about a second of its work."""

MOST_WORDS = 2 * 10**8
"""Random words up to which a baseline that makes masks is asked."""

MOST_ELEMENTS = 5 * 10**7
"""Of the largest tensor that a baseline is asked for: several times as wide in its own types."""

MOST_CONVERTED = 4 * 10**6
"""Elements that are turned into FLINT's numbers, which takes about a microsecond each."""

Rivals = Mapping[str, Callable[[], Baseline]]


def affordable(name: str, point: Point) -> str | None:
    """Why a baseline is not measured on a point; None: it is."""
    package = user.missing(name)
    if package is not None:
        return f"{package} is not installed"
    most = MOST_MACS.get(name)
    if most is not None and point.macs > most:
        return f"{point.macs / 1e9:.3g} G multiply-adds, above the {most / 1e9:.3g} G it is asked"
    if point.work == "masks" and point.chacha / 4 > MOST_WORDS:
        return f"{point.chacha / 4e9:.3g} G words, above the {MOST_WORDS / 1e9:.3g} G it is asked"
    elements = max(point.bytes // 4, point.shares * point.columns)
    most_elements = MOST_CONVERTED if name == user.FLINT else MOST_ELEMENTS
    if point.work != "field_sum" and elements > most_elements:
        return f"{elements / 1e6:.3g} M elements, above the {most_elements / 1e6:.3g} M"
    return None


def contest_of(point: Point, device: str) -> Contest:
    """A point as a contest."""
    field: pyfed.Field = getattr(pyfed, point.field)
    run, holds, baselines = _WORKS[point.work](point, field, device)
    return Contest(
        op=point.work,
        shape=f"{point.field} {point.shape}",
        run=run,
        holds=holds,
        bytes=point.bytes,
        macs=point.macs,
        chacha=point.chacha,
        butterflies=point.butterflies,
        baselines=baselines,
    )


Call = tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], bool], Rivals]


def _plane_by_plane(
    make: Callable[..., Baseline], field: pyfed.Field, *tensors: torch.Tensor
) -> Baseline:
    """A baseline for one prime, of the planes one after the other.

    Args:
        make: given that plane of each tensor and its prime, prepares the baseline.
        field: of the tensors.
        tensors: residues.
    """
    parts = [make(*own, prime.modulus) for prime, *own in by_plane(field, *tensors)]
    if not field.lead:
        return parts[0]

    def check(outputs: list[Any], expected: torch.Tensor) -> None:
        for part, output, plane in zip(parts, outputs, expected, strict=True):
            part.check(output, plane)

    return Baseline(lambda: [part.run() for part in parts], check, parts[0].lacks)


def _fixed(field: pyfed.Field) -> pyfed.FixedPoint:
    return pyfed.FixedPoint(clip=CLIP, bits=BITS, clients=CLIENTS, field=field)


def _code(point: Point, field: pyfed.Field, device: str) -> pyfed.LagrangeCode:
    """With its matrix ready, as the coefficients of every baseline are."""
    code = pyfed.LagrangeCode(point.shares, point.blocks, point.privacy, field)
    code.encoding_matrix(device)
    return code


def _encode(point: Point, field: pyfed.Field, device: str) -> Call:
    """From floats to shares."""
    values, fixed = random_floats(point.length, device), _fixed(field)
    code = _code(point, field, device)
    n, k, t = point.shares, point.blocks, point.privacy

    def limbs(matrix: torch.Tensor, p: int) -> Baseline:
        return user.limb_encode(values, matrix, k, p, fixed.scale, CLIP)

    rivals: dict[str, Callable[[], Baseline]] = {
        user.LIMBS: lambda: _plane_by_plane(limbs, field, code.encoding_matrix(device))
    }
    if device == "cpu" and not field.lead:
        rivals[user.NUMPY_INT64] = lambda: user.numpy_encode(values, n, k, t, COARSE)
    return (
        lambda: code.encode(fixed.encode(values, KEY), KEY),
        lambda shares: is_encoding(shares, rounded(point.length, device, fixed), code),
        rivals,
    )


def _decode(point: Point, field: pyfed.Field, device: str) -> Call:
    """From the last K + T shares to the vector."""
    code, length = _code(point, field, device), point.length
    data = random_elements(field, length, device=device)
    survivors = list(range(point.shares - point.threshold, point.shares))
    rows = code.encode(data, KEY)[..., survivors[0] :, :].clone()
    run = functools.partial(code.decode, rows, survivors, length)

    def limbs(own: torch.Tensor, matrix: torch.Tensor, p: int) -> Baseline:
        return user.limb_decode(own, matrix, p, length)

    def both() -> Baseline:
        matrix = code.decoding_matrix(survivors, rows.device)
        return _plane_by_plane(limbs, field, rows, matrix)

    return run, lambda got: torch.equal(got, data), {user.LIMBS: both}


def _matmul(point: Point, field: pyfed.Field, device: str) -> Call:
    """The encoding's matrix by random columns."""
    a = _code(point, field, device).encoding_matrix(device)
    b = random_elements(field, point.threshold, point.columns, device=device)
    ways: dict[str, Callable[..., Baseline]] = {user.LIMBS: user.limb_matmul}
    if device == "cpu":
        ways |= {
            user.FLINT: user.flint_matmul,
            user.GALOIS: user.galois_matmul,
            user.WRAPPING: lambda a, b, p: user.wrapping_matmul(a, b),
        }
    rivals = {
        name: functools.partial(_plane_by_plane, way, field, a, b) for name, way in ways.items()
    }
    run = functools.partial(pyfed.ops.field_matmul, a, b, field)
    return run, lambda got: is_product(a, b, got, field), rivals


def _field_sum(point: Point, field: pyfed.Field, device: str) -> Call:
    """One sum over N clients."""
    x = random_elements(field, point.shares, point.length, device=device)
    ways = {user.TORCH: user.torch_sum} | ({user.NUMPY: user.numpy_sum} if device == "cpu" else {})
    rivals = {name: functools.partial(_plane_by_plane, way, field, x) for name, way in ways.items()}

    def holds(got: torch.Tensor) -> bool:
        return all(
            torch.equal(own.long(), rows.sum(0, dtype=torch.int64) % prime.modulus)
            for prime, own, rows in by_plane(field, got, x)
        )

    return functools.partial(pyfed.ops.field_sum, x, field), holds, rivals


def _masks(point: Point, field: pyfed.Field, device: str) -> Call:
    """A client's upload: rounded, and masked for N neighbours."""
    values, fixed = random_floats(point.length, device), _fixed(field)
    keys = [KEY.derive("pair", i) for i in range(point.shares)]
    signs = [1 - i % 3 % 2 * 2 for i in range(point.shares)]
    rivals: dict[str, Callable[[], Baseline]] = {}
    if device == "cpu" and not field.lead:
        raw = [key.reveal() for key in keys]
        update = pairwise.Update(values, fixed.scale, CLIP, raw, signs)
        rivals = {
            pairwise.GENERATOR: lambda: pairwise.by_generator(update),
            pairwise.CIPHER: lambda: pairwise.by_cipher(update),
            user.FLOWER: lambda: by_flower(update),
        }

    def holds(got: torch.Tensor) -> bool:
        """The masks one after another, from a kernel with a benchmark of its own."""
        total = rounded(point.length, device, fixed).long()
        for key, sign in zip(keys, signs, strict=True):
            mask = pyfed.ops.random_residues(key, point.length, field, device=device)
            total.add_(mask, alpha=sign)
        return all(
            torch.equal(own.long(), sums % prime.modulus)
            for prime, own, sums in by_plane(field, got, total)
        )

    return (
        lambda: pyfed.ops.add_masks_(fixed.encode(values, KEY), keys, signs, field),
        holds,
        rivals,
    )


_WORKS: Mapping[str, Callable[[Point, pyfed.Field, str], Call]] = {
    "encode": _encode,
    "decode": _decode,
    "matmul": _matmul,
    "field_sum": _field_sum,
    "masks": _masks,
}
