"""Mechanisms that pay clients for privacy: who gives up more of it is paid more.

Each client adds Gaussian noise of variance σ²(ε) to its coded data set and so has privacy ε. A
client of type θ_k loses θ_k for each unit of ε; the server cannot tell types apart, and knows only
what share q_k of the N clients each type has. It minimises ``loss(S) + price · N · Σ q_k R_k`` with
S = N · Σ q_k σ²(ε_k), the total noise of the summed coded data sets.

:func:`contract` offers a menu of items (ε_k, R_k) from which every client chooses. Stochastic coded
federated learning (Sun et al., IEEE Transactions on Wireless Communications 2023, arXiv 2211.04132)
proposes contracts, with a Stackelberg game to compare them with; the derivations here are our own,
from the standard theory of screening (Maskin and Riley, RAND Journal of Economics 1984; Bolton and
Dewatripont, *Contract Theory*, 2005, chapter 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyfed.coded.extras import scipy
from pyfed.coded.incentive_menu import Menu, compare
from pyfed.coded.incentive_noise import BOUNDS, noise_curve
from pyfed.coded.incentive_setting import Curve, Setting, Vector, expect_setting

__all__ = ["Menu", "compare", "contract", "first_best", "noise_curve", "stackelberg", "uniform"]

_PRICES = 97
"""Over 30 e-folds, say, three to each: all that depends on the price bends over an e-fold."""


def contract(
    types: Sequence[float],
    shares: Sequence[float],
    loss: float | Curve,
    *,
    clients: float = 1,
    price: float = 1.0,
    noise: Curve | None = None,
    bounds: tuple[float, float] = BOUNDS,
) -> Menu:
    """The cheapest menu from which every type takes its own item, and takes part.

    Of all menus that are individually rational, R_k ≥ θ_k ε_k, and incentive compatible,
    R_k − θ_k ε_k ≥ R_j − θ_k ε_j, the cheapest pays the last type its costs and makes each other
    type indifferent to the next one's item:

        R_K = θ_K ε_K,  R_k = R_{k+1} + θ_k (ε_k − ε_{k+1}).

    Put into the cost this leaves types that are dearer than the true ones, by what the cheaper ones
    then have to be left (virtual types):

        c_k = θ_k + (θ_k − θ_{k−1}) · Σ_{j<k} q_j / q_k.

    Where these fall, ε_k would rise with θ_k, which is not incentive compatible; there neighbours
    get one item in common, with the mean of their c_k weighted by q_k (ironing).

    Args:
        types: θ_k > 0, what a unit of ε costs a client, strictly ascending.
        shares: q_k > 0, the share of clients that are of each type, with sum 1.
        loss: of the total noise S: a function that rises and is convex, or its slope.
        clients: N > 0.
        price: λ > 0, what a unit of reward costs in units of loss.
        noise: ε → variance σ²(ε) of a client's noise: falls and is convex. None takes
            ``noise_curve()`` over ``bounds``.
        bounds: least and greatest ε of an item.

    Returns:
        the menu: ``.privacy`` ε_k, ``.rewards`` R_k, ``.cost``, ``.loss``, ``.utilities``; its
        ``str`` is a table.

    Raises:
        ArgumentError: a number is out of its range, or a function does not have its shape.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import incentive
    >>> menu = incentive.contract([1.0, 2.0], [0.5, 0.5], 9.0, noise=lambda e: 1 / e)
    >>> print(menu)
    type       share       ε           σ²          reward      utility
    1           0.5         3           0.33333     4.7321      1.7321
    2           0.5         1.7321      0.57735     3.4641      0
    contract: cost 8.19615 = loss 4.09808 + 1 · payments 4.09808, total noise 0.455342
    """
    setting = _setting("contract", types, shares, loss, clients, price, noise, bounds)
    theta, q = setting.types, setting.shares
    cheaper = np.cumsum(q) - q  # Σ_{j<k} q_j
    virtual = theta + np.diff(theta, prepend=theta[0]) * cheaper / q
    privacy = setting.solve(_iron(virtual, q))
    # R_k is the sum over j ≥ k of θ_j (ε_j − ε_{j+1}), with ε_{K+1} = 0.
    steps = theta * (privacy - np.append(privacy[1:], 0.0))
    return Menu("contract", setting, privacy, np.cumsum(steps[::-1])[::-1])


def first_best(
    types: Sequence[float],
    shares: Sequence[float],
    loss: float | Curve,
    *,
    clients: float = 1,
    price: float = 1.0,
    noise: Curve | None = None,
    bounds: tuple[float, float] = BOUNDS,
) -> Menu:
    """What a server would do that sees types: it pays each its costs, R_k = θ_k ε_k.

    No mechanism costs less. It is not incentive compatible: where types are hidden, all but the
    dearest would claim to be dearer.

    Args:
        types: as in :func:`contract`, as are the others.
        shares: q_k.
        loss: of the total noise S.
        clients: N.
        price: λ.
        noise: ε → σ²(ε).
        bounds: least and greatest ε.

    Returns:
        the items as a menu.

    Raises:
        ArgumentError: a number is out of its range, or a function does not have its shape.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import incentive
    >>> incentive.first_best([1, 2], [0.5, 0.5], 9.0, noise=lambda e: 1 / e).incentive_compatible
    False
    """
    setting = _setting("first_best", types, shares, loss, clients, price, noise, bounds)
    privacy = setting.solve(setting.types)
    return Menu("first best", setting, privacy, setting.types * privacy)


def uniform(
    types: Sequence[float],
    shares: Sequence[float],
    loss: float | Curve,
    *,
    clients: float = 1,
    price: float = 1.0,
    noise: Curve | None = None,
    bounds: tuple[float, float] = BOUNDS,
) -> Menu:
    """One item for all, ε and R = θ_K ε, which the dearest type still takes.

    Args:
        types: as in :func:`contract`, as are the others.
        shares: q_k; the item does not depend on them.
        loss: of the total noise S.
        clients: N.
        price: λ.
        noise: ε → σ²(ε).
        bounds: least and greatest ε.

    Returns:
        a menu of equal items.

    Raises:
        ArgumentError: a number is out of its range, or a function does not have its shape.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import incentive
    >>> incentive.uniform([1, 2], [0.5, 0.5], 8.0, noise=lambda e: 1 / e).rewards.round(6)
    array([4., 4.])
    """
    setting = _setting("uniform", types, shares, loss, clients, price, noise, bounds)
    dearest = np.full_like(setting.types, setting.types[-1])
    privacy = setting.solve(dearest)
    return Menu("uniform", setting, privacy, dearest * privacy)


def stackelberg(
    types: Sequence[float],
    shares: Sequence[float],
    loss: float | Curve,
    *,
    clients: float = 1,
    price: float = 1.0,
    noise: Curve | None = None,
    bounds: tuple[float, float] = BOUNDS,
) -> Menu:
    """The server posts one price, then every client chooses its ε.

    The server leads with a price r for each unit of variance and a fee f, the same for all: whoever
    sends noise of variance σ²(ε) gets f − r σ²(ε). Clients follow with the ε that is best for them,
    −σ²'(ε) = θ_k / r. The fee is the least with which all take part, so that R_K = θ_K ε_K.
    (A price for each unit of ε alone would move every type to one of the bounds, since a client's
    costs are linear in ε; so what is paid for is the noise that is removed.) The server's cost as
    a function of r may have several valleys: the best of 97 prices is refined.

    Clients with a smaller θ choose a larger ε, all as efficiently as the total noise permits; the
    server has one number to steer rewards with, so that :func:`contract` never costs it more.

    Args:
        types: as in :func:`contract`, as are the others.
        shares: q_k.
        loss: of the total noise S.
        clients: N.
        price: λ.
        noise: ε → σ²(ε).
        bounds: least and greatest ε.

    Returns:
        the answers of the types as a menu; ``.unit_price`` is r.

    Raises:
        ArgumentError: a number is out of its range, or a function does not have its shape.
        DtypeError: an argument has a wrong type.

    >>> from pyfed.coded import incentive
    >>> menu = incentive.stackelberg([1.0, 2.0], [0.5, 0.5], 9.0, noise=lambda e: 1 / e)
    >>> round(float(menu.privacy[0] / menu.privacy[1]), 6)  # √(θ_2 / θ_1)
    1.414214
    """
    setting = _setting("stackelberg", types, shares, loss, clients, price, noise, bounds)

    def posted(logarithm: float, rough: bool = False) -> Menu:
        unit_price = float(np.exp(logarithm))
        privacy = np.array(
            [setting.response(theta / unit_price, rough=rough) for theta in setting.types]
        )
        variances = setting.variances(privacy)
        rewards = setting.types[-1] * privacy[-1] + unit_price * (variances[-1] - variances)
        return Menu("stackelberg", setting, privacy, rewards, unit_price)

    # Prices below move nobody from the least ε, prices above leave nobody short of the greatest.
    least, greatest = setting.slopes
    ends = np.log(setting.types[0] / greatest) - 0.01, np.log(setting.types[-1] / least) + 0.01
    grid = np.linspace(*ends, _PRICES)
    best = int(np.argmin([posted(float(logarithm), rough=True).cost for logarithm in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, _PRICES - 1)]
    found = scipy("optimize").minimize_scalar(
        lambda x: posted(x).cost, bounds=around, method="bounded", options={"xatol": 1e-9}
    )
    return min(posted(float(grid[best])), posted(float(found.x)), key=lambda menu: menu.cost)


def _setting(
    op: str,
    types: Sequence[float],
    shares: Sequence[float],
    loss: float | Curve,
    clients: float,
    price: float,
    noise: Curve | None,
    bounds: tuple[float, float],
) -> Setting:
    curve = noise_curve(bounds=bounds) if noise is None else noise
    return expect_setting(op, types, shares, loss, clients, price, curve, bounds)


def _iron(values: Vector, weights: Vector) -> Vector:
    """The non-falling sequence nearest to ``values`` in weighted squares, float64 (types,).

    Pool adjacent violators (Barlow et al., *Statistical Inference under Order Restrictions*, 1972).
    Each ε_k is one and the same falling function of its unit cost, so the ironed unit costs give
    the optimum under ε_1 ≥ … ≥ ε_K too.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, length = value, weight, 1
        while pools and pools[-1][0] >= mean:
            before, heavy, many = pools.pop()
            mean = (heavy * before + total * mean) / (heavy + total)
            total, length = total + heavy, length + many
        pools.append((mean, total, length))
    return np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools])
