"""Lagrange sharing: from floats to shares, residues to shares, and shares back to the vector."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

import baselines as user
import pyfed
from contests import Baseline, Contest, butterflies, random_floats, random_residues, sizes
from pyfed import SOLINAS31
from pyfed.codes import lagrange_matrix
from verified import KEY, is_encoding, rounded
from warpgroups import WARPGROUPS, by_wgmma, here

P = SOLINAS31.modulus
PRODUCTS = "pyfed, by products"
IN_TWO = "pyfed, in two ops"
Size = tuple[int, int, int, int]


def _shape(size: Size) -> str:
    length, shares, blocks, privacy = size
    return f"{length:,} values, N={shares} K={blocks} T={privacy}"


def _work(size: Size) -> tuple[int, int, int]:
    """Columns, multiply-adds and keystream bytes of an encoding."""
    length, shares, blocks, privacy = size
    columns = -(-length // blocks)
    return columns, columns * shares * (blocks + privacy), 4 * privacy * columns


def _butterflies(size: Size) -> int:
    """Of the transforms behind an encoding."""
    length, shares, blocks, privacy = size
    return -(-length // blocks) * butterflies(shares, blocks, privacy)


def _own(run: Callable[[], torch.Tensor]) -> Baseline:
    """Another way of pyfed, which must give the same bits."""

    def check(output: torch.Tensor, expected: torch.Tensor) -> None:
        assert torch.equal(output, expected)

    return Baseline(run, check)


@sizes(
    cpu={
        (1_000_000, 100, 40, 30): (IN_TWO, user.NUMPY_INT64, user.LIMBS),
        (1_000_000, 100, 64, 30): (IN_TWO, user.NUMPY_INT64),
        (1_000_000, 16, 8, 4): (IN_TWO, user.NUMPY_INT64, user.LIMBS),
    },
    cuda={(100_000_000, 100, 40, 30): (user.LIMBS,), (1 << 26, 16, 8, 4): (user.LIMBS,)},
    small=(1003, 9, 4, 3),
)
def bench_encode_from_floats(measure: Callable[[Contest], None], device: str, size: Size) -> None:
    length, shares, blocks, privacy = size
    columns, macs, padding = _work(size)
    values = random_floats(length, device)
    code = pyfed.LagrangeCode(shares, blocks, privacy)
    matrix = code.encoding_matrix(device)  # ready, as are the coefficients of every baseline
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=shares)
    coarse = 2.0**10  # what fits a 15-bit prime: a value within ±1 takes 11 bits of it
    measure(
        Contest(
            op="quantize_encode",
            shape=_shape(size),
            dtype="float32",
            run=lambda: code.encode(values, KEY, fixed=fixed),
            holds=lambda made: is_encoding(made, rounded(length, device, fixed), code),
            bytes=4 * (length + shares * columns),
            macs=macs,
            butterflies=_butterflies(size),
            chacha=4 * length + padding,
            baselines={
                IN_TWO: lambda: _own(lambda: code.encode(fixed.encode(values, KEY), KEY)),
                user.NUMPY_INT64: lambda: user.numpy_encode(
                    values, shares, blocks, privacy, coarse
                ),
                user.LIMBS: lambda: user.limb_encode(
                    values, matrix, blocks, P, fixed.scale, fixed.clip
                ),
            },
        )
    )


@sizes(
    cpu={
        (1_000_000, 256, 128, 64): (PRODUCTS,),
        (1_000_000, 100, 40, 30): (PRODUCTS,),
        (1_000_000, 16, 8, 4): (PRODUCTS,),
    },
    cuda={(100_000_000, 100, 40, 30): here(), (1 << 26, 16, 8, 4): here()},
    small=(1003, 9, 4, 3),
)
def bench_lagrange_encode(measure: Callable[[Contest], None], device: str, size: Size) -> None:
    length, shares, blocks, privacy = size
    columns, macs, padding = _work(size)
    data = random_residues(P, length, device=device)
    code = pyfed.LagrangeCode(shares, blocks, privacy)
    matrix = code.encoding_matrix(device)
    encode = functools.partial(pyfed.ops.lagrange_encode, data, matrix, KEY, SOLINAS31, blocks)
    measure(
        Contest(
            op="lagrange_encode",
            shape=_shape(size),
            run=lambda: encode(standard=True),
            holds=lambda made: is_encoding(made, data, code),
            bytes=4 * (length + shares * columns),
            macs=macs,
            butterflies=_butterflies(size),
            chacha=padding,
            baselines={
                PRODUCTS: lambda: _own(encode),
                WARPGROUPS: lambda: by_wgmma(lambda: encode(standard=True)),
            },
        )
    )


@sizes(
    cpu={(1_000_000, 100, 40, 30): (user.LIMBS,)},
    cuda={(100_000_000, 100, 40, 30): (user.LIMBS, *here())},
    small=(1003, 9, 4, 3),
)
def bench_lagrange_decode(measure: Callable[[Contest], None], device: str, size: Size) -> None:
    length, shares, blocks, privacy = size
    data = random_residues(P, length, device=device)
    code = pyfed.LagrangeCode(shares, blocks, privacy)
    threshold, columns = code.threshold, -(-length // blocks)
    survivors = range(shares - threshold, shares)
    rows = code.encode(data, KEY)[survivors.start :].clone()
    sources = torch.tensor(SOLINAS31.share_points(shares))[survivors.start :]
    targets = torch.tensor(SOLINAS31.block_points(blocks))
    matrix = lagrange_matrix(sources, targets, P).int().to(device)

    def run() -> torch.Tensor:
        return pyfed.ops.lagrange_decode(rows, matrix, SOLINAS31, length)

    measure(
        Contest(
            op="lagrange_decode",
            shape=_shape(size),
            run=run,
            expected=lambda: data,
            bytes=4 * (threshold * columns + length),
            macs=blocks * threshold * columns,
            baselines={
                user.LIMBS: lambda: user.limb_decode(rows, matrix, P, length),
                WARPGROUPS: lambda: by_wgmma(run),
            },
        )
    )


@sizes(
    cpu={(1_000_000, 100, 40, 30): ()},
    cuda={(100_000_000, 100, 40, 30): ()},
    small=(1003, 9, 4, 3),
)
def bench_checked_decode(measure: Callable[[Contest], None], device: str, size: Size) -> None:
    length, shares, blocks, privacy = size
    data = random_residues(P, length, device=device)
    code = pyfed.LagrangeCode(shares, blocks, privacy)
    columns = -(-length // blocks)
    rows = code.encode(data, KEY)
    everyone = range(shares)
    challenges = 3
    measure(
        Contest(
            op="LagrangeCode.decode, all rows checked",
            shape=_shape(size),
            run=lambda: code.decode(rows, everyone, length),
            expected=lambda: data,
            bytes=4 * (shares * columns + length),
            macs=columns * (blocks * code.threshold + challenges * shares),
            chacha=4 * challenges * columns,
        )
    )
