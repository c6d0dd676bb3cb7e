"""Whole rounds of SwiftAgg+: exact sums, and the loads and links of the paper."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch

from pyfed import MERSENNE31, FixedPoint, Key
from pyfed.errors import ArgumentError
from pyfed.lanes import VoteLanes
from pyfed.secagg import simulate
from secagg.rounds import SECRET, exact_sum, some_updates
from secagg.swift_rounds import (
    PHASES,
    SwiftRound,
    agreed_on,
    included,
    oracle_of,
    swift,
)

# N, K, T, D, length and more: n = K + T + D + 2E + F divides N, and K divides L = length + 1.
EVEN = [
    (3, 2, 1, 0, 1, {}),
    (4, 1, 1, 0, 0, {}),
    (6, 1, 1, 0, 4, {}),
    (4, 2, 1, 1, 5, {}),
    (6, 1, 1, 1, 3, {"tree": "chain"}),
    (8, 2, 1, 1, 7, {}),
    (9, 1, 1, 1, 2, {"tree": (1, 2, -1)}),
    (10, 3, 1, 1, 11, {}),
    (10, 2, 2, 1, 9, {"tree": "chain"}),
    (12, 1, 1, 1, 4, {}),
    (12, 2, 1, 1, 5, {"tree": "chain"}),
    (12, 4, 1, 1, 7, {}),
    (12, 2, 2, 2, 5, {}),
    (12, 1, 2, 1, 1, {"tree": (-1, 0, 0)}),
    (14, 3, 2, 2, 8, {}),
    (15, 2, 2, 1, 13, {"tree": "chain"}),
    (16, 5, 2, 1, 9, {}),
    (18, 3, 2, 1, 5, {"tree": (2, 2, -1)}),
    (20, 2, 2, 1, 9, {}),
    (20, 2, 2, 1, 9, {"tree": "chain"}),
    (21, 4, 2, 1, 3, {}),
    (24, 6, 1, 1, 11, {}),
    (24, 2, 1, 1, 7, {"tree": (3, 3, 4, 4, -1, 4)}),
    (18, 2, 1, 1, 7, {"errors": 1}),
    (16, 2, 2, 1, 5, {"errors": 1, "detect": 1}),
    (12, 3, 1, 1, 5, {"detect": 1}),
]
UNEVEN = [
    (5, 2, 1, 1, 4, {}),
    (7, 1, 1, 1, 4, {}),
    (7, 1, 1, 1, 0, {"tree": "chain"}),
    (11, 2, 1, 1, 6, {}),
    (13, 2, 2, 1, 4, {"tree": "chain"}),
    (17, 3, 1, 2, 7, {}),
    (23, 2, 1, 1, 5, {"tree": (1, 4, 1, 4, -1)}),
    (14, 3, 2, 1, 6, {"detect": 1}),
]


@pytest.mark.parametrize("setting", EVEN, ids=str)
def test_sums_are_exact_and_loads_and_links_are_those_of_the_paper(
    setting: tuple[Any, ...],
) -> None:
    """Residues and pairs are counted on the messages of a round, not taken from a formula."""
    clients, blocks, privacy, dropouts, length, more = setting
    agreed = agreed_on(setting)
    group = blocks + privacy + dropouts + 2 * more.get("errors", 0) + more.get("detect", 0)
    update = length + 1  # the weight is one more value
    assert clients % group == 0 and update % blocks == 0
    run = SwiftRound(agreed).play()
    run.check(range(clients))
    loads = {Fraction(run.sent_words(i), update) for i in range(clients)}
    if not (more.get("errors") or more.get("detect")):
        assert loads == {1 + Fraction(privacy + dropouts, blocks)}
        assert 2 * run.links() == clients * (blocks + privacy + dropouts + 1)
    assert loads == {Fraction(group, blocks)}
    assert 2 * run.links() == clients * (group + 1)
    rows = run.server_words()
    assert len(rows) == group
    # With as many columns lost as may be, what reaches the server is what it needs.
    root = agreed.parameters.layout.members[agreed.parameters.layout.root]
    lost = set(list(root)[:dropouts])
    short = SwiftRound(agreed, {("recover", agreed.parameters.layout.hops - 1): lost}).play()
    short.check(range(clients))
    needed = Fraction(sum(short.server_words()), update)
    assert needed == Fraction(group - dropouts, blocks)
    if not (more.get("errors") or more.get("detect")):
        assert needed == 1 + Fraction(privacy, blocks)


@pytest.mark.parametrize("setting", UNEVEN, ids=str)
def test_clients_that_fill_no_group_are_summed_and_loads_stay_within_bounds(
    setting: tuple[Any, ...],
) -> None:
    clients, blocks, _, dropouts, length, _ = setting
    agreed = agreed_on(setting)
    p = agreed.parameters
    run = SwiftRound(agreed).play()
    run.check(range(clients))
    group, update = p.holders, length + 1
    most = Fraction(group * (update + blocks - 1), blocks)
    assert all(run.sent_words(i) <= most for i in range(clients))
    assert all(run.sent_words(i) == group * p.columns for i in range(clients))
    assert sum(run.server_words()[: group - dropouts]) == (group - dropouts) * p.columns
    groups, spare = divmod(clients, group)
    assert run.links() == groups * group * (group + 1) // 2 + spare * group
    assert run.links() == p.layout.links()


def test_the_server_is_content_with_the_first_columns_that_are_enough() -> None:
    agreed = swift(10, 2, 1, 2)
    run = SwiftRound(agreed).play(until=("recover", 1))
    server = agreed.server(0, nonce=bytes(32))
    for message in run.sent:
        if message.sender < 0:
            continue
        if message.kind == "Hop" and server._step == 0 and not server._came:
            assert server.waiting == set(range(5, 10))
        if message.kind == "Root" and len(server._came) == 4:
            break
        if message.kind not in server._EXPECTED[server.phase] or not server.waiting:
            server.close_phase()
        server.handle(message, message.sender)
    server.close_phase()
    assert server.result.integers.tolist() == exact_sum(agreed, run.updates, run.weights, range(10))


def test_the_other_field_is_exact_and_the_largest_sum_does_not_wrap() -> None:
    fixed = FixedPoint(clip=0.75, bits=20, clients=9, max_weight=3, field=MERSENNE31)
    agreed = swift(9, fixed=fixed)
    SwiftRound(agreed, {"upload": {4}}, number=2**64 - 1).play().check(set(range(9)) - {4})
    fixed = FixedPoint(clip=1.0, bits=16, clients=9, max_weight=32_766 // 9)
    result = simulate(swift(9, fixed=fixed), [torch.ones(4)] * 9, weights=[fixed.max_weight] * 9)
    assert result.integers.tolist() == [9 * fixed.max_weight * 32_768] * 4
    assert result.mean.tolist() == [1.0] * 4


def test_votes_are_counted() -> None:
    lanes = VoteLanes(clients=9)
    votes = [torch.tensor([(i >> j) & 1 for j in range(7)], dtype=torch.bool) for i in range(9)]
    result = simulate(swift(9, length=7, fixed=lanes), votes, drop={"share": {5}})
    wanted = sum(vote.to(torch.int64) for i, vote in enumerate(votes) if i != 5)
    assert torch.equal(result.integers, wanted)


def test_rows_are_those_of_the_oracle_bit_for_bit() -> None:
    for setting, drop in (
        (EVEN[4], {}),
        (EVEN[8], {"upload": {7}}),
        (UNEVEN[4], {"keys": {12}}),
        (UNEVEN[6], {"recover": {11}}),
    ):
        agreed = agreed_on(setting)
        run = SwiftRound(agreed, drop).play()
        oracle = oracle_of(agreed, agreed.parameters.parents)
        _, shares = run.dealt()
        inside = included(agreed, drop)
        silent = {i for clients in drop.values() for i in clients}
        rows = oracle.rows(oracle.sums(shares, inside, silent))
        sent = {m.sender: m.row for m in run.sent if m.kind == "Root"}
        root = oracle.groups[oracle.parents.index(-1)]
        assert {root.index(i): memoryview(r).cast("I").tolist() for i, r in sent.items()} == rows


def test_the_engine_gives_the_same_sum_and_counts_its_traffic() -> None:
    agreed = swift(11, length=30)
    updates = some_updates(11, 30)
    weights = [i % 10 for i in range(11)]
    result = simulate(agreed, updates, weights, drop={"upload": {3}}, key=Key(SECRET))
    assert result.included == set(range(11)) - {3}
    assert result.integers.tolist() == exact_sum(agreed, updates, weights, result.included)
    assert result.total_weight == sum(weights) - weights[3]
    assert set(result.traffic) == {(r, phase) for r in ("client", "server") for phase in PHASES}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clients": 2}, "clients is 2"),
        ({"privacy": 0}, "privacy is 0"),
        ({"dropouts": -1}, "dropouts is -1"),
        ({"blocks": 0}, "blocks is 0"),
        ({"length": -1}, "length is -1"),
        ({"clients": 4, "privacy": 1, "dropouts": 2}, "at least 2"),
        ({"clients": 4, "blocks": 3}, r"= 5, the members of a group"),
        ({"clients": 9, "blocks": 1, "errors": 3, "detect": 1}, "at least 1"),
        ({"tree": "star"}, "tree is 'star'"),
        ({"server": "honest"}, "server is 'honest'"),
        ({"server": "malicious"}, "identities"),
        ({"clients": 5, "dropouts": 2, "blocks": 1, "server": "malicious"}, "2·dropouts"),
        ({"fixed": FixedPoint(clients=3)}, "sums of 3 clients"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        swift(**({"clients": 8} | change))
