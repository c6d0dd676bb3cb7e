"""Error location by Welch-Berlekamp with Gaussian elimination, in Python integers."""

from __future__ import annotations

from collections.abc import Sequence


def solve(rows: list[list[int]], p: int) -> list[int] | None:
    """Some x with rows[:, :-1] · x = rows[:, -1] modulo p, or None."""
    rows, width = [list(row) for row in rows], len(rows[0]) - 1
    pivots: list[int] = []
    for column in range(width):
        top = len(pivots)
        found = next((i for i in range(top, len(rows)) if rows[i][column]), None)
        if found is None:
            continue
        rows[top], rows[found] = rows[found], rows[top]
        inverse = pow(rows[top][column], -1, p)
        rows[top] = [x * inverse % p for x in rows[top]]
        for i, row in enumerate(rows):
            if i != top and row[column]:
                factor = row[column]
                rows[i] = [(x - factor * y) % p for x, y in zip(row, rows[top], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    out = [0] * width
    for row, column in zip(rows, pivots, strict=False):
        out[column] = row[-1]
    return out


def value(poly: Sequence[int], x: int, p: int) -> int:
    return sum(c * pow(x, i, p) for i, c in enumerate(poly)) % p


def divide(a: list[int], b: list[int], p: int) -> tuple[list[int], list[int]]:
    """Quotient and remainder; the leading coefficient of b is 1."""
    a, quotient = list(a), []
    for shift in range(len(a) - len(b), -1, -1):
        factor = a[shift + len(b) - 1]
        quotient.append(factor)
        for i, c in enumerate(b):
            a[shift + i] = (a[shift + i] - factor * c) % p
    return quotient[::-1], a


def errors(
    xs: Sequence[int], ys: Sequence[int], threshold: int, most: int, p: int
) -> set[int] | None:
    """Positions where ys leaves a polynomial of degree < threshold at most ``most`` times, or None.

    Q(x) = y · E(x) at every point for a monic E of degree ``most`` and Q of degree below
    threshold + most; then Q / E is the polynomial, whatever solution is found.
    """
    rows = []
    for x, y in zip(xs, ys, strict=True):
        locator = [-y * pow(x, i, p) % p for i in range(most)]
        wide = [pow(x, i, p) for i in range(threshold + most)]
        rows.append([*locator, *wide, y * pow(x, most, p) % p])
    solution = solve(rows, p)
    if solution is None:
        return None
    quotient, rest = divide(solution[most:], [*solution[:most], 1], p)
    if any(rest):
        return None
    wrong = {i for i, (x, y) in enumerate(zip(xs, ys, strict=True)) if value(quotient, x, p) != y}
    return wrong if len(wrong) <= most else None
