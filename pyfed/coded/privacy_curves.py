"""δ(ε) of k independent rows N(0, Σ) when one record leaves Σ, exactly, and its Rényi bound.

A secret Gaussian G makes the rows of G·X + noise independent draws of N(0, Σ), Σ = XᵀX + σ²·I. Take
a record x away and Σ loses x·xᵀ: along one direction the variance falls from 1 to r = 1/(1 + q),
q = xᵀ(Σ − x·xᵀ)⁻¹x, along all others nothing changes. So the privacy loss depends on k and q
alone, through a χ² variable with k degrees of freedom, and it grows with q: what N(0, 1) against
N(0, r) tells, N(0, 1) against a smaller r tells too, since y ↦ a·y + b·z with a² + b² = 1 and
z ~ N(0, 1) turns the latter pair into the former.

Every integral here has a positive integrand, so that nothing cancels however small δ is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_DROP = 80.0
"""Where the density has fallen by e^-80 from its peak, the rest is left away."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_ORDERS = 4000


def _log_normalizer(half: float) -> float:
    """ln(h^h · e^-h / Γ(h)), without the cancellation of the three terms for large h."""
    if half < 20:
        return half * math.log(half) - half - math.lgamma(half)
    # Stirling's series; its next term, h^-9 / 1188, is below 2e-15 for h ≥ 20.
    square = half * half
    rest = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / half
    return 0.5 * math.log(half / (2 * math.pi)) - rest


def _cut(half: float, peak: float, sign: float) -> float:
    """Beyond which u, left (sign −1) or right (+1) of ``peak``, the density has fallen by e^-80."""
    top = peak - math.expm1(peak)
    step = 1 / (math.sqrt(half) + half * abs(math.expm1(peak)))
    while half * (top - (peak + sign * step) + math.expm1(peak + sign * step)) < _DROP:
        step *= 2
    return peak + sign * step


def _one_sided(half: float, edge: float, rate: float, sign: float) -> float:
    """E[(1 − e^(−rate · |e^w − 1|))₊] over w = u − edge on the side ``sign`` of the edge.

    u = ln(T / k), T a χ² variable with k = 2·half degrees of freedom; its density
    exp(h·(u + 1 − e^u)) · h^h · e^-h / Γ(h) is log-concave with peak 0 and width 1/√h for every k.

    Args:
        half: h = k/2.
        edge: where the bracket is zero.
        rate: how fast it opens.
        sign: +1 for u > edge, −1 for u < edge.
    """
    peak = max(edge, 0.0) if sign > 0 else min(edge, 0.0)
    low, high = _cut(half, peak, -1.0), _cut(half, peak, 1.0)
    low, high = (max(low, edge), high) if sign > 0 else (low, min(high, edge))
    # Panels that double in width away from the edge and from the peak, on either side, resolve
    # both a bracket that opens at once and one that opens slowly.
    smallest = min(1 / rate, 1 / math.sqrt(half), high - low) / 8
    doubling = smallest * 2.0 ** np.arange(int(math.log2((high - low) / smallest)) + 2)
    points = np.concatenate(
        [np.linspace(low, high, 33), edge + sign * doubling, peak + doubling, peak - doubling]
    )
    points = np.unique(points[(points >= low) & (points <= high)])
    middle, radius = (points[1:] + points[:-1]) / 2, (points[1:] - points[:-1]) / 2
    u = middle[:, None] + radius[:, None] * _NODES  # (panels, nodes)
    bracket = -np.expm1(-rate * np.abs(np.expm1(u - edge)))
    density = np.exp(half * (u - np.expm1(u)) + _log_normalizer(half))
    return min(1.0, float((density * bracket * radius[:, None] * _WEIGHTS).sum()))


def secret_deltas(rows: int, ratio: float, epsilon: float) -> tuple[float, float]:
    """δ of P = N(0, 1)^k over Q = N(0, r)^k, r = 1/(1 + q), and of Q over P, at ε.

    With T ~ χ²_k the losses are ln(P/Q) = −(k/2)·ln(1+q) + q·T/2 under P and
    ln(Q/P) = (k/2)·ln(1+q) − (1−r)·T/2 under Q, and δ = E[(1 − e^(ε − loss))₊]. That equals
    Q_k(s) − e^ε·Q_k(s/r), and F_k(s'/r) − e^ε·F_k(s'), with the survival and distribution functions
    of χ²_k, s = 2(ε + (k/2)·ln(1+q))/q, s' = 2((k/2)·ln(1+q) − ε)/q, where leading digits cancel.

    Args:
        rows: k ≥ 1.
        ratio: q > 0.
        epsilon: ε ≥ 0.

    Returns:
        Both, with relative error below 1e-9 where above 1e-300. Derived for this library.
    """
    half = rows / 2
    drift = half * math.log1p(ratio)
    with np.errstate(under="ignore"):
        edge = math.log((drift + epsilon) / (half * ratio))
        forward = _one_sided(half, edge, drift + epsilon, 1.0)
        if drift <= epsilon:
            return forward, 0.0  # the other loss never exceeds ε
        edge = math.log((drift - epsilon) / (half * ratio)) + math.log1p(ratio)
        return forward, _one_sided(half, edge, drift - epsilon, -1.0)


def secret_delta(rows: int, ratio: float, epsilon: float) -> float:
    """The least δ for which both are (ε, δ)-close; see :func:`secret_deltas`."""
    return max(secret_deltas(rows, ratio, epsilon))


def log1p_rest(x: Vector) -> Vector:
    """ln(1 + x) − x, with its own digits near 0."""
    small = np.abs(x) < 0.01
    near = np.where(small, x, 0.0)
    # The series to x^9: the next term is below 1e-17 of the first.
    series = sum((-1.0) ** (n + 1) * near ** (n - 2) / n for n in range(2, 10)) * near * near
    return np.where(small, series, np.log1p(np.where(small, 0.0, x)) - np.where(small, 0.0, x))


def secret_renyi(rows: int, ratio: float, orders: Vector) -> Vector:
    """Rényi divergence of the worse direction, D_α(N(0, 1)^k ‖ N(0, r)^k), for α > 1.

    φ(α) = (k / (2(α−1))) · (α·ln(1 − 1/γ) − ln(1 − α/γ)) with γ = 1 + 1/q for α < γ, and infinite
    from γ on. Source: Lev et al., NeurIPS 2025 (arXiv 2505.24603); the other direction is smaller.

    Args:
        rows: k ≥ 1.
        ratio: q > 0.
        orders: α, float64 (orders,).

    Returns:
        float64 (orders,).
    """
    inverse = ratio / (1 + ratio)  # 1/γ
    finite = orders * inverse < 1
    kept = np.where(finite, orders, 1.0)
    # The linear terms of the two logarithms cancel, so only what is beyond them is computed.
    ends = kept * log1p_rest(np.array([-inverse])) - log1p_rest(-kept * inverse)
    curve = rows * ends / (2 * np.where(finite, orders - 1, 1.0))
    return np.where(finite, curve, np.inf)


def renyi_orders(greatest: float) -> Vector:
    """Orders α in (1, greatest) to minimise over, dense where minima lie; float64 (orders,)."""
    top = min(greatest - 1, 1e9)
    near = np.geomspace(min(1e-4, top / 10), top, _ORDERS)
    # Divergences explode where α comes near to the greatest: as dense there.
    return np.unique(1 + np.concatenate([near[:-1], top * (1 - np.geomspace(1e-6, 0.5, _ORDERS))]))


def renyi_delta(orders: Vector, curve: Vector, epsilon: float) -> float:
    """δ that a Rényi curve promises at ε: the least e^((α−1)(φ−ε)) · (1−1/α)^(α−1) / α.

    Source: Canonne, Kamath, Steinke, arXiv 2004.00010, proposition 12.

    Args:
        orders: α > 1, float64 (orders,).
        curve: φ(α), float64 (orders,).
        epsilon: ε ≥ 0.
    """
    logs = (orders - 1) * (curve - epsilon + np.log1p(-1 / orders)) - np.log(orders)
    return math.exp(min(0.0, float(np.min(logs))))


def renyi_epsilon(orders: Vector, curve: Vector, delta: float) -> float:
    """ε that a Rényi curve promises at δ; the inverse of :func:`renyi_delta`."""
    bounds = curve + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(np.min(bounds)))


def least(
    holds: Callable[[float], bool], start: float, limit: float, precision: float = 1e-13
) -> float | None:
    """The least x > 0, from above, for which a monotone condition holds.

    Args:
        holds: False below some x, True above it.
        start: where to look first.
        limit: None is returned if it does not hold up to here.
        precision: relative.
    """
    high = start
    while not holds(high):
        if high >= limit:
            return None
        high = min(2 * high, limit)
    low = high / 2
    while low > 0 and holds(low):
        high, low = low, low / 2
    while high - low > precision * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def composed_curve(orders: Vector, secret: Sequence[tuple[int, float]], gaussian: float) -> Vector:
    """Rényi curve of independent releases: the sum of theirs.

    Args:
        orders: α > 1, float64 (orders,).
        secret: k and q of every release with a secret G.
        gaussian: Σ (sensitivity / noise)² of the releases with a public G: φ(α) = α/2 times this.
    """
    total = orders * gaussian / 2
    for rows, ratio in secret:
        total = total + secret_renyi(rows, ratio, orders)
    return total
