"""Graphs whose survivors fall into parts: how rarely by chance, and who can bring it about."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from pyfed.secagg.graph import Setting, ring_order


def arcs(ring: list[int], half: int, inside: set[int]) -> list[set[int]]:
    """The connected components of the members inside, by breadth-first search."""
    where = {member: place for place, member in enumerate(ring)}
    left, found = set(inside), []
    while left:
        part = {left.pop()}
        edge = set(part)
        while edge:
            near = {
                ring[(where[m] + step) % len(ring)] for m in edge for step in range(-half, half + 1)
            }
            edge = near & left
            left -= edge
            part |= edge
        found.append(part)
    return found


@pytest.mark.parametrize(("count", "degree"), [(8, 2), (9, 4), (11, 4), (10, 6)])
def test_the_bound_on_a_split_holds_over_all_sets_of_lost_members(count: int, degree: int) -> None:
    for gone in range(1, count - 1):
        sets = [set(s) for s in itertools.combinations(range(count), gone)]
        split = sum(
            len(arcs(list(range(count)), degree // 2, set(range(count)) - lost)) > 1
            for lost in sets
        )
        bound = Setting(count, 1, gone - 1, 0, "curious").split(degree, 2)
        assert Fraction(split, len(sets)) <= bound
        assert (split > 0) == (bound > 0) or gone == count - 1


def test_real_graphs_split_as_rarely_as_the_bound_says() -> None:
    count, degree, gone, draws = 16, 4, 7, 1500
    bound = Setting(count, 1, gone - 1, 0, "curious").split(degree, 2)
    split = 0
    for i in range(draws):  # the lost ones stay; the graph is drawn
        order = ring_order(i.to_bytes(32, "big"), count)
        split += len(arcs(order, degree // 2, set(range(gone, count)))) > 1
    deviation = math.sqrt(draws * bound)
    assert 0 < split < draws * bound + 5 * deviation


def sees_a_part(count: int, half: int, threshold: int, corrupt: set[int], lost: set[int]) -> bool:
    """Whether a server that drops ``lost`` can open the seeds of a part that no edge leaves.

    A survivor's seed is opened by its surviving and its corrupt neighbours.
    """
    honest = set(range(count)) - corrupt - lost
    parts = arcs(list(range(count)), half, honest)

    def shares(member: int) -> int:
        near = {(member + step) % count for step in range(-half, half + 1)} - {member}
        return len(near & (honest | corrupt))

    opened = [part for part in parts if all(shares(m) >= threshold for m in part)]
    return len(parts) > 1 and bool(opened)


@pytest.mark.parametrize("threshold", [3, 4])
def test_a_server_that_chooses_whom_to_drop_sees_no_part_from_the_threshold_on(
    threshold: int,
) -> None:
    count, half = 9, 2
    seen = {True: 0, False: 0}
    for corrupt in itertools.combinations(range(count), 2):
        honest = set(range(count)) - set(corrupt)
        worst = max(
            sum((member + step) % count in corrupt for step in range(1, half + 1))
            for member in honest
        )
        kept = threshold >= half + worst + 1  # the condition that the bound counts on
        for size in range(len(honest)):
            for lost in itertools.combinations(sorted(honest), size):
                attack = sees_a_part(count, half, threshold, set(corrupt), set(lost))
                assert not (kept and attack), (corrupt, lost)
                seen[kept] += attack
    assert seen[True] == 0
    assert seen[False] > 0 or threshold == 4  # below it there are attacks
