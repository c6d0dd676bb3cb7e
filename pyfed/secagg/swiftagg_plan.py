"""Who sits where in SwiftAgg+, which group hands its sums to which, and what that costs.

Pure functions of public numbers: every party computes the same layout from the parameters.

Source: Jahani-Nezhad, Maddah-Ali, Li, Caire, SwiftAgg+, IEEE JSAC 41(4), 2023. How clients that
fill no whole group are seated, and trees other than the chain, are this library's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from pyfed.codes import MOST_SHARES
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.table import aligned

ROOT = -1
"""The parent of the group that answers the server."""

TREES = ("binary", "chain")


def tree_parents(tree: object, groups: int) -> tuple[int, ...]:
    """The parent of each group, -1 for the one root.

    Args:
        tree: ``"binary"``: group g hands to ⌊(g - 1) / 2⌋; ``"chain"``: to g - 1; or the parents
            themselves, a sequence with one entry a group, of which exactly one is -1.
        groups: how many groups there are.

    Raises:
        DtypeError: ``tree`` is neither a name nor a sequence of ints.
        ArgumentError: the name is unknown, or the parents are no rooted tree over the groups.
    """
    if tree == "binary":
        return tuple((group - 1) // 2 if group else ROOT for group in range(groups))
    if tree == "chain":
        return tuple(group - 1 for group in range(groups))
    if isinstance(tree, str):
        raise ArgumentError(
            f"SwiftAgg: tree is {tree!r}; it must be 'binary', 'chain' or the parent of each group"
        )
    if not isinstance(tree, Sequence) or any(type(parent) is not int for parent in tree):
        kind = type(tree).__name__
        raise DtypeError(f"SwiftAgg: tree is {kind}; it must be a name or a sequence of ints")
    parents = tuple(tree)
    if len(parents) != groups:
        raise ArgumentError(
            f"SwiftAgg: tree names the parents of {len(parents)} groups; there are {groups}"
        )
    if any(not ROOT <= parent < groups for parent in parents) or parents.count(ROOT) != 1:
        raise ArgumentError(
            f"SwiftAgg: tree is {parents}; its entries must be groups below {groups}, but for one "
            "-1 at the root"
        )
    lost = sorted(set(range(groups)) - set(_downwards(parents)))
    if lost:
        raise ArgumentError(f"SwiftAgg: tree is {parents}; from groups {lost} no way leads to -1")
    return parents


def _children(parents: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    below: list[list[int]] = [[] for _ in parents]
    for group, parent in enumerate(parents):
        if parent != ROOT:
            below[parent].append(group)
    return tuple(map(tuple, below))


def _downwards(parents: tuple[int, ...]) -> list[int]:
    """The groups that hang on the root, every parent before its children."""
    below, order = _children(parents), [parents.index(ROOT)]
    for group in order:
        order.extend(below[group])
    return order


@dataclass(frozen=True)
class Layout:
    """Groups of neighbouring clients, each with the same number of holders in front.

    The first ``holders`` clients of a group hold shares; column j is the j-th of every group, and
    its sums run from group to group up to the root. A client behind them, where the groups are
    larger, is spare: it deals its shares and reports as the others do, and holds and hands on none.

    Args:
        clients: N.
        holders: n = K + T + D + 2E + F; N ≥ n.
        parents: group → parent group, -1 at the root; ⌊N / n⌋ entries.
    """

    clients: int
    holders: int
    parents: tuple[int, ...]

    @property
    def groups(self) -> int:
        """How many groups there are: ⌊N / n⌋."""
        return len(self.parents)

    @cached_property
    def root(self) -> int:
        """The group that answers the server."""
        return self.parents.index(ROOT)

    @property
    def spare(self) -> int:
        """How many clients hold no shares: N mod n, spread over the groups from 0 on."""
        return self.clients - self.groups * self.holders

    @cached_property
    def members(self) -> tuple[range, ...]:
        """The clients of each group."""
        size, larger = divmod(self.clients, self.groups)
        starts = [group * size + min(group, larger) for group in range(self.groups + 1)]
        return tuple(range(a, b) for a, b in itertools.pairwise(starts))

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The groups that hand their sums to each group."""
        return _children(self.parents)

    @cached_property
    def fan_in(self) -> int:
        """The most groups that hand their sums to one."""
        return max(map(len, self.children))

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """The longest way from a leaf to each group: when it hands on, counted in hops from 0."""
        heights = [0] * self.groups
        for group in reversed(_downwards(self.parents)[1:]):
            parent = self.parents[group]
            heights[parent] = max(heights[parent], heights[group] + 1)
        return tuple(heights)

    @property
    def hops(self) -> int:
        """Steps one after another from the first sums to the server's rows."""
        return self.heights[self.root] + 1

    def seat(self, client: int) -> tuple[int, int]:
        """The group of a client and its position there; it is spare from ``holders`` on."""
        size, larger = divmod(self.clients, self.groups)
        in_larger = larger * (size + 1)
        if client < in_larger:
            return divmod(client, size + 1)
        group, position = divmod(client - in_larger, size)
        return group + larger, position

    def client(self, group: int, position: int) -> int:
        """The client at a position of a group."""
        return self.members[group][position]

    def holders_of(self, group: int) -> range:
        """The clients of a group that hold shares."""
        return self.members[group][: self.holders]

    def column(self, position: int) -> tuple[int, ...]:
        """The clients at a position, one of each group."""
        return tuple(self.client(group, position) for group in range(self.groups))

    def below(self, client: int) -> tuple[int, ...]:
        """The clients that hand their sums to this one, sorted."""
        group, position = self.seat(client)
        if position >= self.holders:
            return ()
        return tuple(self.client(child, position) for child in self.children[group])

    def above(self, client: int) -> int | None:
        """Whom this client hands its sum to: a client, -1 for the server, None when it is spare."""
        group, position = self.seat(client)
        if position >= self.holders:
            return None
        parent = self.parents[group]
        return ROOT if parent == ROOT else self.client(parent, position)

    def links(self) -> int:
        """Pairs of parties that exchange shares or sums when nobody is lost.

        Gn(n - 1)/2 inside the groups, n a spare client, and one up from each holder:
        N(n + 1)/2 when n divides N.
        """
        n = self.holders
        return self.groups * n * (n - 1) // 2 + self.spare * n + self.groups * n


def even_layout(clients: int, holders: int, tree: object = "binary") -> Layout:
    """The layout of ⌊clients / holders⌋ groups; ArgumentError when there is not even one."""
    if clients < holders:
        raise ArgumentError(
            f"SwiftAgg: clients is {clients}; it must be at least blocks + privacy + dropouts + "
            f"2·errors + detect = {holders}, the members of a group"
        )
    return Layout(clients, holders, tree_parents(tree, clients // holders))


@dataclass(frozen=True)
class PlanRow:
    """What one choice of K means.

    Args:
        blocks: K.
        group: n = K + T + D + 2E + F, the members of a group that hold shares.
        groups: ⌊N / n⌋.
        spare: N mod n, clients that hold none.
        server_load: residues that the server needs, in updates: (K + T + 2E + F) / K.
        user_load: residues that a client sends at most, in updates: n / K.
        links: pairs of parties that exchange shares or sums.
        chain_hops: steps from the first sums to the server along a chain of groups.
        binary_hops: the same along a binary tree.
    """

    blocks: int
    group: int
    groups: int
    spare: int
    server_load: Fraction
    user_load: Fraction
    links: int
    chain_hops: int
    binary_hops: int


@dataclass(frozen=True)
class Plan:
    """Every feasible K of a setting: larger K, smaller loads; smaller K, fewer links.

    ``str(plan)`` is an aligned table. An update is L = ⌈length / lanes⌉ + 1 residues, the last one
    its weight; loads are exact where K divides L and at most K - 1 residues a share above.

    Args:
        rows: one for each K, from 1 on.
    """

    rows: tuple[PlanRow, ...]

    def __iter__(self) -> Iterator[PlanRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, blocks: int) -> PlanRow:
        """The row of one K.

        Raises:
            ArgumentError: K is not feasible.
        """
        if not 1 <= blocks <= len(self.rows):
            raise ArgumentError(f"plan: blocks is {blocks}; it must be in [1, {len(self.rows)}]")
        return self.rows[blocks - 1]

    @property
    def balanced(self) -> PlanRow:
        """The row with the least product of user load and links; K is near T + D."""
        return min(self.rows, key=lambda row: row.user_load * row.links)

    def __str__(self) -> str:
        header = ["K", "group", "groups", "spare", "server", "user", "links", "chain", "binary"]
        return aligned(
            header,
            [
                [
                    *map(str, (row.blocks, row.group, row.groups, row.spare)),
                    f"{float(row.server_load):.3f}L",
                    f"{float(row.user_load):.3f}L",
                    *map(str, (row.links, row.chain_hops, row.binary_hops)),
                ]
                for row in self.rows
            ],
        )


def plan_rows(clients: int, privacy: int, dropouts: int, errors: int, detect: int) -> Plan:
    """Every K whose group has at most N and 4096 members; the caller has checked the numbers."""
    slack = privacy + dropouts + 2 * errors + detect
    rows = []
    for blocks in range(1, min(clients, MOST_SHARES) - slack + 1):
        layout = even_layout(clients, blocks + slack)
        rows.append(
            PlanRow(
                blocks=blocks,
                group=layout.holders,
                groups=layout.groups,
                spare=layout.spare,
                server_load=Fraction(layout.holders - dropouts, blocks),
                user_load=Fraction(layout.holders, blocks),
                links=layout.links(),
                chain_hops=layout.groups,
                binary_hops=layout.groups.bit_length(),
            )
        )
    return Plan(tuple(rows))
