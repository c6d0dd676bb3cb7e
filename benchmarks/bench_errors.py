"""Wrong shares: decoding with a quarter of the rows wrong, beside decoding with none wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch

import baselines as user
import pyfed
from contests import Baseline, Contest, Output, random_residues, sizes
from pyfed import SOLINAS31

KEY = pyfed.Key(bytes(range(32)))
CHALLENGES = 3
RIGHT = "pyfed, no row wrong"
BARE = "pyfed, K+T rows unchecked"
Size = tuple[int, int, int, int]


def _with_wrong_values(rows: torch.Tensor, wrong: range) -> torch.Tensor:
    """One value changed in each of these rows, each in a column of its own."""
    bad = rows.clone()
    for number, row in enumerate(wrong):
        column = (number * 7919) % rows.shape[1]
        bad[row, column] = (int(bad[row, column]) + 1) % SOLINAS31.modulus
    return bad


def _same(found: Output, expected: Output) -> None:
    assert isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor)
    assert torch.equal(found, expected)


def flint_columns(bad: torch.Tensor, code: pyfed.LagrangeCode) -> Baseline:
    """Gao's decoder on every column by itself, with FLINT's polynomials."""
    import flint

    p, (n, columns), threshold = SOLINAS31.modulus, bad.shape, code.threshold
    xs = SOLINAS31.share_points(n)
    targets = SOLINAS31.block_points(code.blocks)
    powers = flint.nmod_mat(n, n, [pow(x, i, p) for x in xs for i in range(n)], p)
    interpolation = powers.inv()  # ready, as is the polynomial that vanishes at all points
    master = flint.nmod_poly([1], p)
    for x in xs:
        master *= flint.nmod_poly([-x % p, 1], p)
    rows = flint.nmod_mat(n, columns, bad.flatten().tolist(), p)

    def decode() -> list[int]:
        through, out = (interpolation * rows).transpose().tolist(), []
        for coefficients in through:
            older, newer = master, flint.nmod_poly(coefficients, p)
            before, cofactor = flint.nmod_poly([], p), flint.nmod_poly([1], p)
            while 2 * newer.degree() >= n + threshold:
                quotient, rest = divmod(older, newer)
                older, newer = newer, rest
                before, cofactor = cofactor, before - quotient * cofactor
            found, _ = divmod(newer, cofactor)
            out += [found(x) for x in targets]
        return out

    def check(found: list[int], expected: Output) -> None:
        assert isinstance(expected, torch.Tensor)
        assert [int(value) for value in found] == expected.tolist()

    return Baseline(decode, check)


@sizes(
    cpu={(1_000_000, 64, 16, 16): (RIGHT, BARE), (10_000, 64, 16, 16): (user.FLINT,)},
    cuda={(10_000_000, 64, 16, 16): (RIGHT, BARE)},
    small=(13, 12, 2, 2),
)
def bench_decode_with_wrong_rows(
    measure: Callable[[Contest], None], device: str, size: Size
) -> None:
    columns, shares, blocks, privacy = size
    code = pyfed.LagrangeCode(shares, blocks, privacy)
    threshold = code.threshold
    most = (shares - threshold) // 2
    length = columns * blocks
    data = random_residues(SOLINAS31.modulus, length, device=device)
    rows = code.encode(data, KEY)
    wrong = range(1, 1 + 3 * most, 3)  # right rows between them
    bad = _with_wrong_values(rows, wrong)
    everyone = list(range(shares))
    assert code.find_errors(bad, everyone) == tuple(wrong)
    measure(
        Contest(
            op=f"LagrangeCode.decode, {most} rows wrong",
            shape=f"{shares} x {columns:,}, K={blocks} T={privacy}",
            run=lambda: code.decode(bad, everyone, length, correct=most),
            expected=lambda: data,
            bytes=4 * (shares * columns + length),
            macs=columns * (blocks * threshold + CHALLENGES * shares),
            chacha=4 * CHALLENGES * columns,
            baselines={
                user.FLINT: lambda: flint_columns(bad, code),
                RIGHT: lambda: Baseline(
                    lambda: code.decode(rows, everyone, length), _same, lacks="any wrong row"
                ),
                BARE: lambda: Baseline(
                    lambda: code.decode(rows[:threshold], everyone[:threshold], length),
                    _same,
                    lacks="any check",
                ),
            },
        )
    )
