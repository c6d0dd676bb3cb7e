"""What a curious server and T clients of SwiftAgg+ see depends on the sum alone.

The view is linear in the honest clients' values and padding. It is taken from the oracle run on
unit vectors, and judged in two independent ways: by ranks, and by running through every value of
all random numbers of a tiny field. Real rounds are held against the same oracle, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
import torch

import oracles
from secagg.swift_oracle import Swift
from secagg.test_privacy import rank

P = oracles.P_SOLINAS


class View:
    """The linear map from the honest clients' (values, padding) to what colluders and server see.

    Args:
        swift: the session.
        width: values of a client.
        colluders: clients that tell the server all they know.
        included: who is summed; everybody has dealt.
        silent: who sends no sum.
        clear: whether the sums travel in clear through the server.
        sets: further sets that are summed, which is forbidden.
    """

    def __init__(
        self,
        swift: Swift,
        width: int,
        colluders: Iterable[int],
        included: Iterable[int] | None = None,
        silent: Iterable[int] = (),
        clear: bool = False,
        sets: Sequence[Sequence[int]] = (),
    ) -> None:
        everybody = range(swift.clients)
        self.swift, self.width, self.clear = swift, width, clear
        self.columns = -(-width // swift.blocks)
        self.colluders, self.silent = tuple(colluders), tuple(silent)
        self.sets = [tuple(everybody if included is None else included), *map(tuple, sets)]
        self.honest = [i for i in everybody if i not in self.colluders]
        pads = [("r", t, c) for t in range(swift.privacy) for c in range(self.columns)]
        self.values = [(h, i) for h in self.honest for i in range(width)]
        self.randoms = [(h, *pad) for h in self.honest for pad in pads]
        # One row for each number seen: (seen, values), (seen, randoms).
        self.a = self._transposed([self.seen({v: 1}, {}) for v in self.values])
        self.b = self._transposed([self.seen({}, {r: 1}) for r in self.randoms])

    @staticmethod
    def _transposed(columns: list[list[int]]) -> list[list[int]]:
        return [list(row) for row in zip(*columns, strict=True)]

    def seen(
        self, values: dict[tuple[int, int], int], randoms: dict[tuple[int, str, int, int], int]
    ) -> list[int]:
        """All that the colluders and the server see of one round; what colluders deal is zero."""
        swift = self.swift
        dealt = {}
        for h in range(swift.clients):
            own = [values.get((h, i), 0) for i in range(self.width)]
            pads = [
                [randoms.get((h, "r", t, c), 0) for c in range(self.columns)]
                for t in range(swift.privacy)
            ]
            dealt[h] = swift.shares(own, pads)
        out: list[int] = []
        for members in swift.groups:
            for j in range(swift.holders):
                if members[j] in self.colluders:
                    for h in members:
                        out += dealt[h][j]
        for chosen in self.sets:
            sums = swift.sums(dealt, chosen, self.silent)
            for (group, j), row in sorted(sums.items()):
                parent = swift.parents[group]
                # The root answers the server; other sums reach the same position of the parent.
                if parent == -1 or self.clear or swift.groups[parent][j] in self.colluders:
                    out += row
        return out

    def hidden(self) -> list[list[int]]:
        """Changes of the values that keep the sum over the honest members: one per column."""
        summed = [h for h in self.honest if h in self.sets[0]]
        out = []
        for h, i in self.values:
            if h == summed[0]:
                continue
            change = [0] * len(self.values)
            change[self.values.index((h, i))] = 1
            if h in summed:
                change[self.values.index((summed[0], i))] = -1
            out.append(change)
        return out

    def is_private(self) -> bool:
        """No change that keeps the sum is seen: A·change lies in the columns of B."""
        changes = self.hidden()
        moved = [
            [sum(f * c for f, c in zip(row, change, strict=True)) for change in changes]
            for row in self.a
        ]
        p = self.swift.p
        return rank(self.b, p) == rank([b + m for b, m in zip(self.b, moved, strict=True)], p)

    def sees_the_sum(self) -> bool:
        """The sum itself is seen: a change of one honest member leaves the columns of B."""
        first = self.values.index((next(h for h in self.honest if h in self.sets[0]), 0))
        joined = [[*b, a[first]] for b, a in zip(self.b, self.a, strict=True)]
        return rank(joined, self.swift.p) == rank(self.b, self.swift.p) + 1


SETTINGS = [  # N, K, T, D, tree
    (6, 1, 1, 1, "chain"),
    (7, 1, 1, 1, "binary"),
    (8, 2, 1, 1, "binary"),
    (9, 1, 1, 1, "binary"),
    (9, 1, 1, 1, "chain"),
    (9, 1, 1, 1, (1, 2, -1)),
    (8, 1, 2, 1, "binary"),
    (6, 2, 1, 0, "chain"),
    (5, 2, 1, 1, "chain"),  # one group and a spare client
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_any_t_clients_and_the_server_see_the_sum_alone(setting: tuple[int, ...]) -> None:
    swift = Swift(P, *setting[:4], tree=setting[4])  # type: ignore[arg-type]
    everybody = range(swift.clients)
    width = swift.blocks + 1
    for colluders in itertools.combinations(everybody, swift.privacy):
        for lost in itertools.combinations(everybody, swift.dropouts):
            left = [i for i in everybody if i not in lost]
            # Lost before the barrier, after it, or only silent because they were excluded.
            for included in (left, everybody):
                view = View(swift, width, colluders, included, lost)
                assert view.is_private(), (colluders, lost)
                assert view.sees_the_sum()


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[2] == 1], ids=str)
def test_t_plus_one_holders_of_a_group_and_the_server_see_more(setting: tuple[int, ...]) -> None:
    swift = Swift(P, *setting[:4], tree=setting[4])  # type: ignore[arg-type]
    for members in swift.groups:
        for colluders in itertools.combinations(members[: swift.holders], swift.privacy + 1):
            assert not View(swift, swift.blocks, colluders).is_private()


@pytest.mark.parametrize("setting", SETTINGS[:8], ids=str)
def test_sums_that_travel_in_clear_would_give_prefix_sums(setting: tuple[int, ...]) -> None:
    swift = Swift(P, *setting[:4], tree=setting[4])  # type: ignore[arg-type]
    assert View(swift, swift.blocks, ()).is_private()
    assert not View(swift, swift.blocks, (), clear=True).is_private()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_sums_over_two_sets_of_members_would_leak(setting: tuple[int, ...]) -> None:
    swift = Swift(P, *setting[:4], tree=setting[4])  # type: ignore[arg-type]
    for left_out in range(swift.clients):
        rest = [i for i in range(swift.clients) if i != left_out]
        assert not View(swift, swift.blocks, (), sets=[rest]).is_private()


def every_view(view: View, values: Sequence[int]) -> torch.Tensor:
    """How often each view occurs over all random numbers: sorted distinct views and counts."""
    p, columns = view.swift.p, len(view.randoms)
    index = torch.arange(p**columns)
    randoms = torch.stack([(index // p**i) % p for i in range(columns)])  # (randoms, p^randoms)
    fixed = torch.tensor(view.a) @ torch.tensor(values)
    seen = (torch.tensor(view.b) @ randoms + fixed[:, None]) % p
    assert p ** len(seen) < 2**63
    radix = torch.tensor([p**i for i in range(len(seen))])
    distinct, counts = torch.unique(radix @ seen, return_counts=True)  # a view as one number
    return torch.stack([distinct, counts])


@pytest.mark.parametrize(
    ("p", "setting", "colluders", "lost", "private"),
    [
        (5, (6, 1, 1, 1, "chain"), (0,), (), True),  # in the root group
        (5, (6, 1, 1, 1, "chain"), (4,), (), True),  # in the leaf group
        (5, (6, 1, 1, 1, "chain"), (1,), (5,), True),  # and one column is silent
        (5, (6, 1, 1, 1, "chain"), (0, 1), (), False),
        (5, (7, 1, 1, 1, "binary"), (3,), (), True),  # a spare client
        (7, (6, 2, 1, 0, "chain"), (2,), (), True),
        (7, (6, 2, 1, 0, "chain"), (3, 5), (), False),
        (5, (9, 1, 1, 1, "binary"), (2,), (8,), True),
        (5, (9, 1, 1, 1, "chain"), (3,), (), True),
    ],
    ids=str,
)
def test_every_value_of_the_randomness_in_a_tiny_field(
    p: int,
    setting: tuple[int, ...],
    colluders: tuple[int, ...],
    lost: tuple[int, ...],
    private: bool,
) -> None:
    """Groups of three: equal sums give one distribution of views, and other sums another."""
    swift = Swift(p, *setting[:4], tree=setting[4])  # type: ignore[arg-type]
    width = swift.blocks  # one column of the code
    view = View(swift, width, colluders, silent=lost)
    assert view.is_private() == private
    count = len(view.values)
    base = every_view(view, list(range(1, count + 1)))
    others = []
    for step in (1, 2):
        values = list(range(1, count + 1))
        for i in range(width):  # give and take between the first, the second and the last
            values[i] += step * (i + 1)
            values[width + i] -= 2 * step * (i + 1)
            values[-width + i] += step * (i + 1)
        others.append(every_view(view, values))
    assert all(torch.equal(base, other) for other in others) == private
    changed = every_view(view, [*range(1, count), count + 1])
    assert not torch.equal(base, changed)  # another sum is always seen
    if private:
        open_view = View(swift, width, colluders, silent=lost, clear=True)
        base, other = (every_view(open_view, v) for v in (list(range(1, count + 1)), values))
        assert not torch.equal(base, other)
