"""A menu of contracts: what each type of client gives up and gets, and what the server pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyfed.coded.incentive_setting import Setting, Vector, expect_shares
from pyfed.errors import DtypeError

_TOLERANCE = 1e-9
"""Of the largest amount in a menu: constraints that bind do so up to rounding."""


@dataclass(frozen=True, eq=False)
class Menu:
    """What a mechanism came to; one item (ε_k, R_k) for each type, in the order of ``types``.

    Args:
        mechanism: its name.
        setting: what it is judged by.
        privacy: ε_k, float64 (types,).
        rewards: R_k, float64 (types,).
        unit_price: for each unit of variance that is removed; None where nothing is posted.
    """

    mechanism: str
    setting: Setting
    privacy: Vector
    rewards: Vector
    unit_price: float | None = None

    @property
    def types(self) -> Vector:
        """θ_k, float64 (types,)."""
        return self.setting.types

    @property
    def shares(self) -> Vector:
        """q_k, float64 (types,)."""
        return self.setting.shares

    @property
    def noise(self) -> Vector:
        """σ²(ε_k), float64 (types,)."""
        return self.setting.variances(self.privacy)

    @property
    def total_noise(self) -> float:
        """S = N · Σ q_k σ²(ε_k)."""
        return self.setting.total_noise(self.privacy)

    @property
    def loss(self) -> float:
        """What S does to the training."""
        return float(self.setting.loss(self.total_noise))

    @property
    def payments(self) -> float:
        """All rewards: N · Σ q_k R_k."""
        return self.setting.clients * float(self.shares @ self.rewards)

    @property
    def cost(self) -> float:
        """What the server minimises: loss + price · payments."""
        return self.loss + self.setting.price * self.payments

    @property
    def utilities(self) -> Vector:
        """U[k, j] = R_j - θ_k ε_j, float64 (types, items): what type k has of item j."""
        return self.rewards - np.outer(self.types, self.privacy)

    @property
    def surplus(self) -> float:
        """What clients have over their costs: N · Σ q_k U[k, k]."""
        return self.setting.clients * float(self.shares @ np.diag(self.utilities))

    @property
    def social_cost(self) -> float:
        """The loss and clients' costs, price · N · Σ q_k θ_k ε_k: rewards only change hands."""
        return self.cost - self.setting.price * self.surplus

    @property
    def individually_rational(self) -> bool:
        """Whether nobody loses by taking the own item: U[k, k] ≥ 0 for all k."""
        return bool(np.all(np.diag(self.utilities) >= -self._slack))

    @property
    def incentive_compatible(self) -> bool:
        """Whether nobody has more of another's item: U[k, k] ≥ U[k, j] for all k and j."""
        utilities = self.utilities
        return bool(np.all(np.diag(utilities)[:, None] >= utilities - self._slack))

    @property
    def _slack(self) -> float:
        largest = max(np.abs(self.rewards).max(), (self.types * self.privacy).max())
        return _TOLERANCE * float(largest)

    def under(self, shares: Sequence[float]) -> Menu:
        """The same items, where the types have other shares than the menu was made for.

        Args:
            shares: non-negative, with sum 1; 0 where there is nobody of a type.

        Returns:
            the menu, whose totals and costs are those under ``shares``.

        Raises:
            ArgumentError: the shares are not as they must be.

        >>> from pyfed.coded import incentive
        >>> menu = incentive.contract([1, 2], [0.5, 0.5], 1.0, noise=lambda e: 1 / e)
        >>> menu.under([0.9, 0.1]).payments > menu.payments > menu.under([0.1, 0.9]).payments
        True
        """
        q = expect_shares("under", shares, len(self.types))
        return replace(self, setting=replace(self.setting, shares=q))

    def __str__(self) -> str:
        lines = ["type       share       ε           σ²          reward      utility"]
        columns = (self.types, self.shares, self.privacy, self.noise, self.rewards)
        for row in zip(*columns, np.diag(self.utilities), strict=True):
            lines.append("  ".join(f"{value:<10.5g}" for value in row).rstrip())
        lines.append(
            f"{self.mechanism}: cost {self.cost:.6g} = loss {self.loss:.6g} + "
            f"{self.setting.price:g} · payments {self.payments:.6g}, "
            f"total noise {self.total_noise:.6g}"
        )
        for holds, what in (
            (self.individually_rational, "individually rational"),
            (self.incentive_compatible, "incentive compatible"),
        ):
            if not holds:
                lines.append(f"not {what}")
        return "\n".join(lines)


def compare(*menus: Menu) -> str:
    """A table of menus, one a line: costs, and which constraints hold.

    Args:
        menus: of any mechanisms.

    Returns:
        the table, lines apart.

    Raises:
        DtypeError: something is not a :class:`Menu`.
    """
    lines = ["mechanism    cost        loss        payments    surplus     social cost  IR   IC"]
    for menu in menus:
        if not isinstance(menu, Menu):
            raise DtypeError(f"compare: menus holds a {type(menu).__name__}; it must hold Menus")
        amounts = (menu.cost, menu.loss, menu.payments, menu.surplus, menu.social_cost)
        shown = "  ".join(f"{amount:<10.5g}" for amount in amounts)
        marks = ("yes" if menu.individually_rational else "no").ljust(5)
        marks += "yes" if menu.incentive_compatible else "no"
        lines.append(f"{menu.mechanism:<11}  {shown}   {marks}")
    return "\n".join(lines)
