"""Groups, trees and the planner: seats as cards are dealt, heights by brute force, loads as met."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg import SwiftAgg
from pyfed.secagg.swiftagg_plan import Layout, even_layout, tree_parents
from secagg.swift_oracle import parents_of, seats
from secagg.swift_rounds import SwiftRound, swift

LAYOUTS = [(n, h) for n in (3, 4, 7, 12, 23, 40, 61) for h in (2, 3, 5, 7, 12) if h <= n]


@pytest.mark.parametrize(("clients", "holders"), LAYOUTS)
def test_every_client_has_one_seat_in_groups_as_even_as_can_be(clients: int, holders: int) -> None:
    layout = even_layout(clients, holders)
    groups = seats(clients, holders)
    assert [list(members) for members in layout.members] == groups
    sizes = {len(members) for members in groups}
    assert min(sizes) >= holders and max(sizes) - min(sizes) <= 1
    assert layout.groups == len(groups) and layout.spare == clients - holders * len(groups)
    for group, members in enumerate(groups):
        assert list(layout.holders_of(group)) == members[:holders]
        for position, client in enumerate(members):
            assert layout.seat(client) == (group, position)
            assert layout.client(group, position) == client
    for position in range(holders):
        assert layout.column(position) == tuple(members[position] for members in groups)


@pytest.mark.parametrize("tree", ["chain", "binary", "star", "caterpillar"])
@pytest.mark.parametrize("groups", range(1, 14))
def test_every_way_leads_up_to_the_root(tree: Any, groups: int) -> None:
    parents = parents_of(tree, groups) if tree in ("chain", "binary") else []
    if tree == "star":  # the last group is the root
        tree = parents = [*[groups - 1] * (groups - 1), -1]
    if tree == "caterpillar":
        tree = parents = [-1, *(0 if g % 2 or g == 2 else g - 2 for g in range(1, groups))]
    layout = Layout(3 * groups + 1, 3, tree_parents(tree, groups))
    assert list(layout.parents) == parents
    heights = [0] * groups
    for leaf in range(groups):
        group, steps = leaf, 0
        while group != -1:
            heights[group] = max(heights[group], steps)
            group, steps = parents[group], steps + 1
    assert list(layout.heights) == heights
    assert layout.root == parents.index(-1) and layout.hops == heights[layout.root] + 1
    assert layout.fan_in == max(parents.count(group) for group in range(groups))
    for client in range(layout.clients):
        group, position = layout.seat(client)
        if position >= 3:
            assert layout.above(client) is None and layout.below(client) == ()
            continue
        above = layout.above(client)
        assert above == (-1 if parents[group] == -1 else layout.client(parents[group], position))
        if above != -1:
            assert client in layout.below(above)
        below = [g for g in range(groups) if parents[g] == group]
        assert layout.below(client) == tuple(layout.client(g, position) for g in below)


def test_a_chain_takes_a_hop_a_group_and_a_binary_tree_their_logarithm() -> None:
    for groups in range(1, 70):
        assert even_layout(3 * groups, 3, "chain").hops == groups
        assert even_layout(3 * groups, 3, "binary").hops == len(f"{groups:b}")
        assert even_layout(3 * groups, 3, "binary").fan_in <= 2


@pytest.mark.parametrize(
    ("tree", "error", "text"),
    [
        ("star", ArgumentError, "it must be 'binary', 'chain'"),
        (3, DtypeError, "tree is int"),
        ([0.0, -1, 0], DtypeError, "sequence of ints"),
        ([-1, True, 0], DtypeError, "sequence of ints"),
        ([-1, 0], ArgumentError, "2 groups; there are 3"),
        ([-1, -1, 0], ArgumentError, "one -1"),
        ([1, 2, 0], ArgumentError, "one -1"),
        ([-1, 3, 0], ArgumentError, "below 3"),
        ([-2, -1, 0], ArgumentError, "below 3"),
        ([-1, 2, 1], ArgumentError, r"from groups \[1, 2\] no way"),
        ([-1, 1, 0], ArgumentError, r"from groups \[1\] no way"),
    ],
)
def test_what_is_no_tree_is_refused(tree: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        tree_parents(tree, 3)


@pytest.mark.parametrize(
    ("clients", "privacy", "dropouts", "errors", "detect"),
    [(12, 1, 1, 0, 0), (20, 2, 1, 0, 0), (13, 2, 2, 1, 1), (7, 3, 0, 0, 2)],
)
def test_the_plan_has_a_row_for_every_feasible_k_that_a_round_agrees_with(
    clients: int, privacy: int, dropouts: int, errors: int, detect: int
) -> None:
    plan = SwiftAgg.plan(clients, privacy, dropouts, errors, detect)
    slack = privacy + dropouts + 2 * errors + detect
    assert [row.blocks for row in plan] == list(range(1, clients - slack + 1))
    assert len(plan) == len(plan.rows)
    with pytest.raises(ArgumentError):
        swift(clients, privacy, dropouts, len(plan) + 1, errors=errors, detect=detect)
    for row in plan.rows[:: max(1, len(plan) // 3)]:
        length = 2 * row.blocks - 1  # with the weight two columns
        more = {"errors": errors, "detect": detect, "length": length}
        chain = swift(clients, privacy, dropouts, row.blocks, tree="chain", **more)
        binary = swift(clients, privacy, dropouts, row.blocks, **more)
        p = binary.parameters
        run = SwiftRound(binary).play()
        assert row.user_load == max(Fraction(run.sent_words(i), p.width) for i in range(clients))
        needed = sum(run.server_words()[: p.needed])
        assert row.server_load == Fraction(needed, p.width)
        assert row.links == run.links()
        assert (row.group, row.groups) == (p.holders, p.layout.groups)
        assert row.spare == clients - row.group * row.groups
        assert (row.chain_hops, row.binary_hops) == (chain.parameters.layout.hops, p.layout.hops)


def test_loads_fall_with_k_and_the_balanced_k_is_near_t_plus_d() -> None:
    plan = SwiftAgg.plan(240, 4, 4)
    for less, more in zip(plan.rows, plan.rows[1:], strict=False):
        assert more.server_load < less.server_load and more.user_load < less.user_load
        assert more.chain_hops <= less.chain_hops
    assert plan.row(8) == plan.balanced
    assert plan.row(8).links == 240 * 17 // 2
    for blocks in (0, len(plan) + 1):
        with pytest.raises(ArgumentError, match="blocks is"):
            plan.row(blocks)


def test_the_plan_is_aligned_text() -> None:
    lines = str(SwiftAgg.plan(20, 2, 1)).splitlines()
    assert lines[0].split()[:4] == ["K", "group", "groups", "spare"]
    assert lines[2].split() == ["2", "5", "4", "0", "2.000L", "2.500L", "60", "4", "3"]
    assert len(lines) == 18 and len({len(line) for line in lines}) == 1


def test_a_setting_without_a_plan_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least 2"):
        SwiftAgg.plan(5, 2, 2)
    with pytest.raises(ArgumentError, match="at least 1"):
        SwiftAgg.plan(8, 2, 2, errors=2)
    with pytest.raises(DtypeError):
        SwiftAgg.plan(8.0, 2, 2)  # type: ignore[arg-type]


def test_no_group_has_more_holders_than_there_are_points() -> None:
    """A code has at most 4096 shares, so the plan ends there, and the class says so."""
    plan = SwiftAgg.plan(4200, 1, 1)
    assert len(plan) == 4094 and plan.rows[-1].group == 4096
    assert swift(4200, 1, 1, 4094, max_weight=1).parameters.holders == 4096
    for blocks, group in ((4095, 4097), (4150, 4152)):
        text = rf"2·errors \+ detect = {group}; it must be at most 4096, .*; use fewer blocks"
        with pytest.raises(ArgumentError, match=text):
            swift(4200, 1, 1, blocks, max_weight=1)
    with pytest.raises(ArgumentError, match=r"= 4097; it must be at most 4096"):
        SwiftAgg.plan(9000, 2048, 2048)
    assert len(SwiftAgg.plan(9000, 2048, 2047)) == 1
