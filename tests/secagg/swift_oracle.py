"""SwiftAgg+ once more, in lists of Python integers, from the published rules alone.

It works on any values that add and multiply by integers, so that a round can also be run over
linear forms: that gives what every party sees as a function of all inputs and random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import oracles

Row = list[int]
"""One column of the grid after another: what one client holds, ⌈width / K⌉ values."""


def seats(clients: int, holders: int) -> list[list[int]]:
    """The clients of each group: as even as cards are dealt, then in order of their numbers."""
    sizes = [0] * (clients // holders)
    for card in range(clients):
        sizes[card % len(sizes)] += 1
    deck = iter(range(clients))
    return [[next(deck) for _ in range(size)] for size in sizes]


def parents_of(tree: str | Sequence[int], groups: int) -> list[int]:
    if tree == "chain":
        return [-1, *range(groups - 1)]
    if tree == "binary":  # two children each, in order, until the groups are used up
        parents = [-1]
        for group in range(groups):
            parents += [group, group]
        return parents[:groups]
    return list(tree)


@dataclass
class Swift:
    """The numbers of a session.

    Args:
        p, clients, blocks, privacy, dropouts: p, N, K, T, D.
        slack: 2E + F.
        tree: of the groups.
    """

    p: int
    clients: int
    blocks: int
    privacy: int
    dropouts: int
    slack: int = 0
    tree: str | Sequence[int] = "binary"
    groups: list[list[int]] = field(init=False)
    parents: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.needed = self.blocks + self.privacy + self.slack
        self.holders = self.needed + self.dropouts
        self.groups = seats(self.clients, self.holders)
        self.parents = parents_of(self.tree, len(self.groups))
        units = [
            [int(i == j) for j in range(self.blocks + self.privacy)]
            for i in range(self.blocks + self.privacy)
        ]
        encoded = [
            oracles.encode_column(u[: self.blocks], u[self.blocks :], self.holders, self.p)
            for u in units
        ]
        self.code = [list(row) for row in zip(*encoded, strict=True)]  # (holders, K + T)

    def shares(self, values: Sequence[int], pads: Sequence[Sequence[int]]) -> list[Row]:
        """A client's shares, one for each position: values (width,), pads (T, columns)."""
        columns = -(-len(values) // self.blocks)
        padded = [*values, *[0] * (columns * self.blocks - len(values))]
        return [
            [
                sum(
                    factor * value
                    for factor, value in zip(
                        line,
                        [*padded[c * self.blocks : (c + 1) * self.blocks], *(r[c] for r in pads)],
                        strict=True,
                    )
                )
                % self.p
                for c in range(columns)
            ]
            for line in self.code
        ]

    def sums(
        self, dealt: Mapping[int, list[Row]], included: Iterable[int], silent: Iterable[int]
    ) -> dict[tuple[int, int], Row]:
        """(group, position) → the sum that it hands on; nothing where a column is broken.

        Args:
            dealt: client → its shares.
            included: who is summed.
            silent: who sends no sum, for whatever reason.
        """
        inside, quiet = set(included), set(silent)
        out: dict[tuple[int, int], Row] = {}

        def visit(group: int) -> None:
            below = [child for child, parent in enumerate(self.parents) if parent == group]
            for child in below:
                visit(child)
            for j in range(self.holders):
                rows = [dealt[i][j] for i in self.groups[group] if i in inside]
                came = [out[child, j] for child in below if (child, j) in out]
                if self.groups[group][j] not in quiet and len(came) == len(below):
                    width = len(next(iter(dealt.values()))[j])
                    nothing = [0] * width
                    out[group, j] = [
                        sum(values) % self.p for values in zip(nothing, *rows, *came, strict=True)
                    ]

        visit(self.parents.index(-1))
        return out

    def rows(self, sums: Mapping[tuple[int, int], Row]) -> dict[int, Row]:
        """Position → the row that reaches the server."""
        root = self.parents.index(-1)
        return {j: row for (group, j), row in sums.items() if group == root}

    def decode(self, rows: Mapping[int, Row], width: int) -> list[int]:
        """The summed values, from the first K + T rows, by interpolation."""
        alphas, betas = oracles.points(self.p, self.holders, self.blocks)
        chosen = sorted(rows)[: self.blocks + self.privacy]
        assert len(chosen) == self.blocks + self.privacy
        xs = [alphas[j] for j in chosen]
        columns = range(-(-width // self.blocks))
        values = [
            oracles.interpolate(xs, [rows[j][c] for j in chosen], beta, self.p)
            for c in columns
            for beta in betas
        ]
        return values[:width]


def random_round(
    swift: Swift, width: int, draw: random.Random
) -> tuple[dict[int, list[int]], dict[int, list[Row]]]:
    """Values and shares of every client, drawn at random."""
    columns = -(-width // swift.blocks)
    uniform: Callable[[], int] = lambda: draw.randrange(swift.p)  # noqa: E731
    values = {i: [uniform() for _ in range(width)] for i in range(swift.clients)}
    pads = {
        i: [[uniform() for _ in range(columns)] for _ in range(swift.privacy)]
        for i in range(swift.clients)
    }
    return values, {i: swift.shares(values[i], pads[i]) for i in values}
