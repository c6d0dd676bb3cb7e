"""Finding wrong shares: random linear combinations of columns, then Gao's decoder on those."""

from __future__ import annotations

import math

import torch

from pyfed.fields import Field
from pyfed.keys import Key
from pyfed.ops.field import field_matmul
from pyfed.ops.random import random_residues

ESCAPE_BITS = 60
"""A wrong row escapes all challenges with probability below 2^-60."""


def challenge_rows(rows: torch.Tensor, field: Field) -> torch.Tensor:
    """Each row's sums over its columns with independent random coefficients.

    The coefficients come from a fresh key of the operating system, drawn now that all rows are
    held; they are independent, never powers of one number, so a wrong row escapes one of them with
    probability 1/p exactly.

    Args:
        rows: int32 (n, columns).
        field: the prime field.

    Returns:
        int32 (n, challenges + 1): two challenges for a 31-bit prime, and one to check with.
    """
    challenges = math.ceil(ESCAPE_BITS / math.log2(field.modulus)) + 1
    key = Key.generate()
    count = rows.shape[1] * challenges
    coefficients = random_residues(key, count, field, device=rows.device)
    return field_matmul(rows, coefficients.view(rows.shape[1], challenges), field)


def parity_matrix(points: torch.Tensor, threshold: int, modulus: int) -> torch.Tensor:
    """Checks of a word of degree below ``threshold``: int64 (n - threshold, n).

    Row i is v_j · x_j^i with v_j = 1 / ∏_{m≠j}(x_j - x_m): the dual of the generalised
    Reed-Solomon code with points x.
    """
    n = points.numel()
    xs = points.tolist()
    row = []
    for j, x in enumerate(xs):
        product = 1
        for m, other in enumerate(xs):
            if m != j:
                product = product * (x - other) % modulus
        row.append(pow(product, -1, modulus))
    rows = []
    for _ in range(n - threshold):
        rows.append(list(row))
        row = [value * x % modulus for value, x in zip(row, xs, strict=True)]
    return torch.tensor(rows, dtype=torch.int64).reshape(n - threshold, n)


def _trim(poly: list[int]) -> list[int]:
    while poly and poly[-1] == 0:
        poly.pop()
    return poly


def _divided(a: list[int], b: list[int], p: int) -> tuple[list[int], list[int]]:
    """Quotient and remainder of polynomials, lowest coefficient first."""
    rest, inverse = list(a), pow(b[-1], -1, p)
    quotient = [0] * max(len(a) - len(b) + 1, 0)
    for shift in range(len(a) - len(b), -1, -1):
        factor = rest[shift + len(b) - 1] * inverse % p
        quotient[shift] = factor
        if factor:
            for i, value in enumerate(b):
                rest[shift + i] = (rest[shift + i] - factor * value) % p
    return _trim(quotient), _trim(rest[: len(b) - 1])


def _minus_product(a: list[int], b: list[int], c: list[int], p: int) -> list[int]:
    """The polynomial a - b·c."""
    out = a + [0] * max(len(b) + len(c) - 1 - len(a), 0)
    for i, x in enumerate(b):
        for j, y in enumerate(c):
            out[i + j] = (out[i + j] - x * y) % p
    return _trim(out)


def _value(poly: list[int], x: int, p: int) -> int:
    total = 0
    for coefficient in reversed(poly):
        total = (total * x + coefficient) % p
    return total


def _interpolated(xs: list[int], ys: list[int], p: int) -> tuple[list[int], list[int]]:
    """∏(x - x_i) and the polynomial through the points, by Newton's form."""
    master, poly = [1], list[int]()
    for x, y in zip(xs, ys, strict=True):
        step = (y - _value(poly, x, p)) * pow(_value(master, x, p), -1, p) % p
        poly = _minus_product(poly, [-step % p], master, p)
        master = _minus_product([0, *master], [x], master, p)
    return master, poly


def gao_errors(xs: list[int], ys: list[int], threshold: int, most: int, p: int) -> set[int] | None:
    """Positions where ys leaves the one polynomial of degree < threshold within ``most`` errors.

    None when there is no such polynomial. Unique when 2 · most ≤ n - threshold.

    Source: S. Gao, A new algorithm for decoding Reed-Solomon codes, 2003.
    """
    older, newer = _interpolated(xs, ys, p)
    before, cofactor = list[int](), [1]
    while 2 * len(newer) > len(xs) + threshold + 1:  # degree of newer ≥ (n + threshold) / 2
        quotient, rest = _divided(older, newer, p)
        older, newer = newer, rest
        before, cofactor = cofactor, _minus_product(before, quotient, cofactor, p)
    poly, rest = _divided(newer, cofactor, p)
    if rest or len(poly) > threshold:
        return None
    wrong = {i for i, (x, y) in enumerate(zip(xs, ys, strict=True)) if _value(poly, x, p) != y}
    return wrong if len(wrong) <= most else None


def locate_errors(
    combined: torch.Tensor, xs: list[int], threshold: int, most: int, p: int
) -> set[int] | None:
    """Positions of wrong rows, from all challenges but the last, which then checks the kept rows.

    Args:
        combined: int32 (n, challenges + 1).
        xs: the n points of the rows.
        threshold: rows that determine the data.
        most: wrong rows that may be told from right ones, (n - threshold) / 2.
        p: the prime.

    Returns:
        The positions, or None when more than ``most`` rows are wrong and they cannot be told.
    """
    columns = combined.t().tolist()
    wrong: set[int] = set()
    for ys in columns[:-1]:
        found = gao_errors(xs, ys, threshold, most, p)
        if found is None:
            return None
        wrong |= found
    if len(wrong) > most:
        return None
    kept = [i for i in range(len(xs)) if i not in wrong]
    check = gao_errors([xs[i] for i in kept], [columns[-1][i] for i in kept], threshold, 0, p)
    return None if check is None else wrong
