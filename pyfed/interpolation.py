"""Polynomials over a prime field by their values: weights, matrices between points, and checks."""

from __future__ import annotations

import torch


def batch_inverse(values: torch.Tensor, modulus: int) -> torch.Tensor:
    """Inverses along the last dimension of non-zero residues, by one inversion per row.

    Args:
        values: int64 (rows, count), all non-zero modulo the prime.
        modulus: the prime.

    Returns:
        int64 (rows, count). Products of prefixes are formed, the last one is inverted, and the
        inverses are peeled off backwards: 3 products an element (Montgomery's trick).
    """
    rows, count = values.shape
    prefix = torch.empty(count + 1, rows, dtype=torch.int64)
    prefix[0] = 1
    columns = values.t().contiguous()  # (count, rows), so that one step is contiguous
    for i in range(count):
        prefix[i + 1] = prefix[i] * columns[i] % modulus
    running = torch.tensor([pow(int(p), -1, modulus) for p in prefix[count]], dtype=torch.int64)
    inverses = torch.empty_like(columns)
    for i in range(count - 1, -1, -1):
        inverses[i] = running * prefix[i] % modulus
        running = running * columns[i] % modulus
    return inverses.t()


def product(values: torch.Tensor, modulus: int) -> torch.Tensor:
    """The product along the last dimension: int64 (rows, count) → (rows,)."""
    out = torch.ones(values.shape[0], dtype=torch.int64)
    for column in values.t().contiguous():
        out = out * column % modulus
    return out


def point_weights(points: torch.Tensor, modulus: int) -> torch.Tensor:
    """1 / ∏_{m≠j}(x_j - x_m) for each of the distinct points x: int64 (count,)."""
    between = (points[:, None] - points[None]) % modulus
    between.fill_diagonal_(1)
    # An inversion each is faster than single steps over tensors of one element.
    inverses = [pow(x, -1, modulus) for x in product(between, modulus).tolist()]
    return torch.tensor(inverses, dtype=torch.int64)


def lagrange_matrix(sources: torch.Tensor, targets: torch.Tensor, modulus: int) -> torch.Tensor:
    """Values at ``targets`` of the Lagrange polynomials of ``sources``: int64 (targets, sources).

    L_i(x) = M(x) · w_i / (x - s_i), with M(x) = ∏(x - s_i) and w_i = 1 / ∏_{j≠i}(s_i - s_j).
    No target may be a source.
    """
    weights = point_weights(sources, modulus)
    apart = (targets[:, None] - sources[None]) % modulus  # (targets, sources)
    master = product(apart, modulus)
    return master[:, None] * weights % modulus * batch_inverse(apart, modulus) % modulus


def parity_matrix(points: torch.Tensor, threshold: int, modulus: int) -> torch.Tensor:
    """Checks of a word of degree below ``threshold``: int64 (n - threshold, n).

    Row i is w_j · x_j^i with w_j = 1 / ∏_{m≠j}(x_j - x_m): the dual of the generalised
    Reed-Solomon code with points x. Its product with a word is zero exactly for a codeword.
    """
    n = points.numel()
    out = torch.empty(max(n - threshold, 0), n, dtype=torch.int64)
    row = point_weights(points, modulus)
    for i in range(out.shape[0]):
        out[i] = row
        row = row * points % modulus
    return out


def interpolate(
    points: torch.Tensor, values: torch.Tensor, modulus: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The polynomial that vanishes at all points, and the one that takes given values there.

    Args:
        points: int64 (n,), distinct.
        values: int64 (n,), in [0, modulus).
        modulus: the prime.

    Returns:
        The coefficients, lowest first, of M(x) = ∏(x - x_j) as int64 (n + 1,), and of
        Σ_j y_j · w_j · M(x) / (x - x_j) as int64 (n,).
    """
    n = points.numel()
    master = torch.zeros(n + 1, dtype=torch.int64)
    master[0] = 1
    for x in points.tolist():
        shifted = master.roll(1)  # the top coefficient is still zero
        master = (shifted - x * master) % modulus
    scaled = values * point_weights(points, modulus) % modulus
    out = torch.empty_like(values)
    quotient = torch.ones(n, dtype=torch.int64)  # a coefficient of M(x) / (x - x_j), for each j
    for degree in range(n - 1, -1, -1):
        # n ≤ 4096 terms below 2^31 add up to less than 2^43.
        out[degree] = (scaled * quotient % modulus).sum() % modulus
        quotient = (quotient * points + master[degree]) % modulus
    return master, out


def evaluate(polynomial: torch.Tensor, points: torch.Tensor, modulus: int) -> torch.Tensor:
    """Values of one polynomial, its coefficients lowest first, at points: int64 (points,)."""
    out = torch.zeros_like(points)
    for coefficient in reversed(polynomial.tolist()):
        out = (out * points + coefficient) % modulus
    return out
