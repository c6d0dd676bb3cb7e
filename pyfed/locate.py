"""Finding wrong shares: random linear combinations of columns, then Gao's decoder on those."""

from __future__ import annotations

import math

import torch

from pyfed.errors import DecodeError
from pyfed.fields import Field
from pyfed.interpolation import evaluate, interpolate, parity_matrix
from pyfed.keys import Key
from pyfed.ops.field import field_matmul
from pyfed.ops.random import random_residues

ESCAPE_BITS = 60
"""A wrong row escapes all challenges with probability below 2^-60."""

PIECE_CPU, PIECE_GPU = 1 << 18, 1 << 28
"""Residues of a piece of rows: 1 MiB, which a CPU's cache holds, and 1 GiB."""


def piece_columns(rows: torch.Tensor, height: int) -> int:
    """Columns of a piece that is ``height`` rows high."""
    return max((PIECE_CPU if rows.device.type == "cpu" else PIECE_GPU) // max(height, 1), 1)


def challenge_count(field: Field) -> int:
    """Random combinations: two for a 31-bit prime, and one more that checks the kept rows."""
    return math.ceil(ESCAPE_BITS / math.log2(field.modulus)) + 1


def combine_rows(rows: torch.Tensor, key: Key, field: Field) -> torch.Tensor:
    """Each row's sums over its columns with coefficients from a key.

    The coefficients are independent, never powers of one number: an error, whatever it is, gives
    zero for one of the p values of the coefficient that it meets last, so with probability 1/p,
    where powers of one number meet up to columns - 1 zeros among p.

    Args:
        rows: int32 (n, columns).
        key: coefficient i of column l is residue l · challenges + i of its stream 0.
        field: the prime field.

    Returns:
        int32 (n, challenges).
    """
    (n, columns), challenges = rows.shape, challenge_count(field)
    step = piece_columns(rows, n)
    total = rows.new_zeros(n, challenges, dtype=torch.int64)
    # Pieces bound the memory of coefficients; a copied piece is in the cache when it is read.
    copied = rows.new_empty(n, step) if columns > step else rows
    for first in range(0, columns, step):
        count = min(step, columns - first)
        piece = rows
        if columns > step:
            piece = copied[:, :count].copy_(rows[:, first : first + count])
        coefficients = random_residues(
            key, count * challenges, field, start=first * challenges, device=rows.device
        )
        # Below 2^31 each, so that 2^32 pieces would fit.
        total += field_matmul(piece, coefficients.view(count, challenges), field)
    if columns > step:
        copied.zero_()  # rows may be shares that nobody else should see
    return (total % field.modulus).to(torch.int32)


def challenge_rows(rows: torch.Tensor, field: Field) -> torch.Tensor:
    """:func:`combine_rows` by a fresh key, drawn now that all rows are held, and wiped afterwards.

    Who knew it beforehand could make a wrong row that escapes.
    """
    key = Key.generate()
    try:
        return combine_rows(rows, key, field)
    finally:
        key.wipe()


def _trimmed(poly: torch.Tensor) -> torch.Tensor:
    """Without the zeros above the leading coefficient."""
    top = torch.nonzero(poly)
    return poly[: int(top[-1]) + 1] if top.numel() else poly[:0]


def _divided(a: torch.Tensor, b: torch.Tensor, p: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quotient and remainder of polynomials, lowest coefficient first; b is trimmed."""
    rest, inverse = a.clone(), pow(int(b[-1]), -1, p)
    steps, size = len(a) - len(b), len(b)
    quotient = torch.zeros(max(steps + 1, 0), dtype=torch.int64)
    for shift in range(steps, -1, -1):
        factor = int(rest[shift + size - 1]) * inverse % p
        quotient[shift] = factor
        rest[shift : shift + size] = (rest[shift : shift + size] - factor * b) % p
    return _trimmed(quotient), _trimmed(rest[: size - 1])


def _minus_product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, p: int) -> torch.Tensor:
    """The polynomial a - b·c."""
    out = torch.zeros(max(len(a), len(b) + len(c)), dtype=torch.int64)
    out[: len(a)] = a
    for shift, factor in enumerate(b.tolist()):
        out[shift : shift + len(c)] = (out[shift : shift + len(c)] - factor * c) % p
    return _trimmed(out)


def gao_errors(
    xs: torch.Tensor, ys: torch.Tensor, threshold: int, most: int, p: int
) -> set[int] | None:
    """Positions where ys leaves the one polynomial of degree < threshold within ``most`` errors.

    None when there is no such polynomial. Unique when 2 · most ≤ n - threshold.

    Args:
        xs: distinct points, int64 (n,).
        ys: int64 (n,).
        threshold: bound of the degree.
        most: bound of the errors.
        p: the prime.

    Source: S. Gao, A new algorithm for decoding Reed-Solomon codes, 2003.
    """
    older, start = interpolate(xs, ys, p)
    newer = _trimmed(start)
    before, cofactor = newer[:0], torch.ones(1, dtype=torch.int64)
    while 2 * len(newer) > len(xs) + threshold + 1:  # degree of newer ≥ (n + threshold) / 2
        quotient, rest = _divided(older, newer, p)
        older, newer = newer, rest
        before, cofactor = cofactor, _minus_product(before, quotient, cofactor, p)
    poly, rest = _divided(newer, cofactor, p)
    if len(rest) or len(poly) > threshold:
        return None
    wrong = torch.nonzero(evaluate(poly, xs, p) != ys)[:, 0].tolist()
    return set(wrong) if len(wrong) <= most else None


def locate_errors(
    combined: torch.Tensor, xs: torch.Tensor, threshold: int, field: Field
) -> set[int] | None:
    """Positions of wrong rows: the united errors of all challenges.

    Only a challenge in which the rows that are kept so far disagree is decoded. Where they agree
    they are all but (n - threshold) / 2 rows, so there is no other polynomial so near, and no error
    among them.

    Args:
        combined: int32 (n, challenges).
        xs: the points of the rows, int64 (n,).
        threshold: rows that determine the data.
        field: the prime field.

    Returns:
        The positions, or None when more than (n - threshold) / 2 rows are wrong and they cannot be
        told from right ones.
    """
    n, p = len(xs), field.modulus
    most = (n - threshold) // 2
    wrong: set[int] = set()
    while True:
        kept = [i for i in range(n) if i not in wrong]
        parity = parity_matrix(xs[kept], threshold, p).to(torch.int32)
        checks = field_matmul(parity, combined[kept], field)  # (kept - threshold, challenges)
        at_odds = torch.nonzero(checks.any(0))[:, 0].tolist()
        if not at_odds:
            return wrong
        found = gao_errors(xs, combined[:, at_odds[0]].to(torch.int64), threshold, most, p)
        if found is None or len(wrong | found) > most:
            return None
        assert not found <= wrong, "the rows at odds hold an error that is not yet known"
        wrong |= found


def name_errors(
    op: str,
    combined: torch.Tensor,
    numbers: list[int],
    points: torch.Tensor,
    threshold: int,
    correct: int,
    field: Field,
) -> tuple[int, ...]:
    """Share numbers of the wrong rows, sorted, from random combinations of their columns.

    Args:
        op: name for messages.
        combined: int32 (n, challenges).
        numbers: the share numbers of the rows.
        points: their points, int64 (n,).
        threshold: rows that determine the data.
        correct: how many wrong rows may be repaired.
        field: the prime field.

    Raises:
        DecodeError: more than ``correct`` rows are wrong; ``.rows`` names them where they can be
            told.
    """
    located = locate_errors(combined.cpu(), points, threshold, field)
    wrong = () if located is None else tuple(sorted(numbers[i] for i in located))
    if located is None or len(wrong) > correct:
        most = (len(numbers) - threshold) // 2
        if wrong:
            told = f"unless more than {most} are wrong, those are {list(wrong)}"
            told += f", which correct={len(wrong)} would repair"
        else:
            told = f"more than {most} of them are wrong, so which ones cannot be told"
        raise DecodeError(
            f"{op}: the {len(numbers)} rows contradict one another; {told}", rows=wrong
        )
    return wrong
