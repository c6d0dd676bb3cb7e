"""The table of costs: held against the bytes of real rounds, and against counts by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import FixedPoint, Key
from pyfed.engines.secea import simulate_secea
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg import Identity, LightSecAgg, SecAggPlus, SecEA, SwiftAgg, compare, simulate
from pyfed.secagg.comparison import Comparison
from pyfed.secagg.costs import (
    Cost,
    lightsecagg_cost,
    secaggplus_cost,
    secea_cost,
    swiftagg_cost,
)

SUMS: dict[str, tuple[Any, Any]] = {
    "LightSecAgg": (LightSecAgg, lightsecagg_cost),
    "SwiftAgg": (SwiftAgg, swiftagg_cost),
    "SecAggPlus": (SecAggPlus, secaggplus_cost),
}


def expect_traffic(cost: Cost, measured: dict[tuple[str, str], int]) -> None:
    """Every phase within 8 %, which is a few bytes of small messages, and the whole within 1 %."""
    assert set(cost.traffic) == set(measured)
    for place, count in measured.items():
        assert abs(cost.traffic[place] - count) <= 0.08 * count, place
    for role, told in (("client", cost.client_sent), ("server", cost.client_received)):
        whole = sum(count for (who, _), count in measured.items() if who == role)
        assert abs(told * cost.clients - whole) <= 0.01 * whole
    assert abs(cost.server_bytes - sum(measured.values())) <= 0.01 * cost.server_bytes


CURIOUS: dict[str, Any] = {}
MALICIOUS: dict[str, Any] = {"server": "malicious"}


def pinned(more: dict[str, Any], clients: int) -> tuple[list[Identity] | None, dict[str, Any]]:
    """Identities, if the setting needs them, and what the protocol takes besides."""
    if "server" not in more:
        return None, more
    identities = [Identity(Key(bytes([i]) * 32)) for i in range(clients)]
    return identities, {**more, "identities": [i.public for i in identities]}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize(
    ("clients", "privacy", "dropouts", "length", "more"),
    [
        (4, 1, 1, 2000, CURIOUS),
        (4, 1, 1, 2000, MALICIOUS),
        (12, 2, 2, 3000, CURIOUS),
        (12, 2, 2, 3000, {"errors": 1, "detect": 1}),
        (12, 2, 2, 3000, {"detect": 2, **MALICIOUS}),
        (17, 3, 1, 900, CURIOUS),
        (17, 3, 1, 900, MALICIOUS),
        (30, 2, 3, 5000, CURIOUS),
    ],
)
def test_traffic_is_what_a_round_measures(
    name: str, clients: int, privacy: int, dropouts: int, length: int, more: dict[str, Any]
) -> None:
    kind, cost = SUMS[name]
    fixed = FixedPoint(clip=1.0, bits=16, clients=clients)
    spare = 2 * more.get("errors", 0) + more.get("detect", 0)
    blocks = min(2, clients - dropouts - privacy - spare)
    own = {"blocks": blocks} if name == "SwiftAgg" else {}
    numbers = {"clients": clients, "privacy": privacy, "dropouts": dropouts, "length": length}
    identities, all_more = pinned(more, clients)
    protocol = kind(**numbers, fixed=fixed, **own, **all_more)
    result = simulate(protocol, [torch.zeros(length)] * clients, identities=identities)
    expect_traffic(cost(protocol), result.traffic)
    table = compare(clients, length, privacy, dropouts, swift_blocks=blocks, **more)
    expect_traffic(table.row(name), result.traffic)
    assert table.row(name).steps == len(protocol.phases) + (
        protocol.parameters.layout.hops - 1 if name == "SwiftAgg" else 0
    )


@pytest.mark.parametrize(
    ("clients", "privacy", "blocks", "dropouts", "dim", "more"),
    [
        (5, 1, 1, 1, 16, CURIOUS),
        (7, 1, 2, 0, 9, MALICIOUS),
        (8, 2, 1, 1, 32, CURIOUS),
        (8, 1, 1, 1, 32, {"detect": 2, **MALICIOUS}),
    ],
)
def test_the_traffic_of_embeddings_is_what_a_round_measures(
    clients: int, privacy: int, blocks: int, dropouts: int, dim: int, more: dict[str, Any]
) -> None:
    fixed = FixedPoint(clip=1.0, bits=16, clients=clients)
    identities, all_more = pinned(more, clients)
    protocol = SecEA(clients, privacy, blocks, dim, fixed, dropouts=dropouts, **all_more)
    entities = [{j: torch.zeros(dim) for j in range(i * 20, i * 20 + 40)} for i in range(clients)]
    result = simulate_secea(protocol, entities, identities=identities)
    measured = {place: n for place, n in result.traffic.items() if place[1] != "setup"}
    expect_traffic(secea_cost(protocol.sized(result.union_size, 40)), measured)
    table = compare(
        clients, 1, privacy, dropouts, dim=dim, entities=result.union_size, wanted=40,
        entity_blocks=blocks, **more,
    )  # fmt: skip
    expect_traffic(table.row("SecEA"), measured)


def test_all_four_stand_side_by_side() -> None:
    table = compare(clients=100, length=1_000_000)
    # Uploads and one answer of 1/K each; (1 + T/K), and D/K for checks; uploads; nothing.
    own = [row.server_own / 4e6 for row in table]
    assert own == pytest.approx([100 + 100 / 80, 50 / 30, 100, 0], rel=0.01, abs=0.05)
    assert [row.protocol for row in table] == ["LightSecAgg", "SwiftAgg", "SecAggPlus", "SecEA"]
    assert table.unavailable == ()
    assert table.row("LightSecAgg").chosen == "K=80"  # T = D = 10
    assert table.row("SwiftAgg").chosen == "K=30, 2 groups of 50"
    assert table.row("SecAggPlus").client_sent < 1.01 * 4_000_000
    # 1 + (T + D)/K updates; and N/K updates, the masked one, and 1/K of one.
    assert table.row("SwiftAgg").client_sent == pytest.approx(4e6 * 5 / 3, rel=0.01)
    assert table.row("LightSecAgg").client_sent == pytest.approx(4e6 * (100 / 80 + 1), rel=0.01)


def test_work_is_counted_as_by_hand() -> None:
    table = compare(clients=12, length=2999, privacy=2, dropouts=2, swift_blocks=2)
    light, swift, plus = (table.row(name) for name in SUMS)
    assert light.chosen == "K=8"
    assert light.client_macs == 12 * (8 + 2) * 375 + 12 * 375  # shares, then one sum of them
    assert light.server_macs == 12 * 3000 + 8 * (8 + 2) * 375
    assert light.client_words == 3000 + 2 * 375
    assert swift.chosen == "K=2, 2 groups of 6"
    one = compare(clients=12, length=9, privacy=2, dropouts=2, swift_blocks=8).row("SwiftAgg")
    assert one.chosen == "K=8, 1 group of 12"
    assert swift.client_macs == 6 * (2 + 2) * 1500 + 6 * 1500 + 1500
    assert swift.server_macs == 2 * (2 + 2) * 1500
    assert swift.client_words == 2 * 1500
    assert (light.steps, swift.steps, plus.steps) == (4, 5, 4)
    degree = SecAggPlus(12, 2, 2, 2999, FixedPoint(clients=12)).parameters.degree
    assert plus.client_words == (degree + 1) * 3000
    assert plus.server_words == (10 + 2 * degree) * 3000  # two are lost
    assert (light.server_words, swift.server_words) == (0, 0)


def test_the_large_table_of_entities_is_told() -> None:
    """M = 15,000, d = 256, E = 7,500 for ten clients, T = 2 and K = 3: the query dominates."""
    setting = {"dim": 256, "entities": 15_000, "wanted": 7_500, "entity_blocks": 3}
    row = compare(10, 15_000 * 256, privacy=2, dropouts=0, **setting).row("SecEA")
    word, wide = 4, 86 + 1  # ⌈256 / 3⌉ and the ownership symbol
    query = word * 7_500 * 15_000
    assert query == 450_000_000
    tables, answers = word * 15_000 * wide, word * 7_500 * wide
    masks = 10 * answers * 3 / 10  # T + 1 of ten clients deal them, for all ten askers
    by_hand = 9 * (query + tables + answers + masks)
    assert row.client_sent == pytest.approx(by_hand, rel=0.001)
    assert row.client_received == pytest.approx(by_hand, rel=0.001)
    assert row.server_bytes == pytest.approx(20 * by_hand, rel=0.001)
    answering = 10 * 7_500 * 15_000 * wide
    assert 0.9 * row.client_macs < answering < row.client_macs


def test_what_a_setting_does_not_allow_is_told_and_the_rest_compared() -> None:
    table = compare(clients=5000, length=1000, privacy=5, dropouts=5)
    assert [row.protocol for row in table] == ["SwiftAgg"]
    assert {name for name, _ in table.unavailable} == {"LightSecAgg", "SecAggPlus", "SecEA"}
    assert "not for this setting: LightSecAgg: clients is 5000" in str(table)
    with pytest.raises(ArgumentError, match=r"LightSecAgg has no row: .*clients is 5000"):
        table.row("LightSecAgg")
    with pytest.raises(ArgumentError, match="no such protocol"):
        table.row("SecAgg")
    with pytest.raises(ArgumentError, match="clients is 2"):
        compare(2, 10)
    largest = compare(65_536, 10, privacy=1, dropouts=1, bits=14, swift_blocks=9)
    assert [row.protocol for row in largest] == ["SwiftAgg"]
    assert [row.protocol for row in compare(32_766, 10, 1, 1, swift_blocks=9)] == ["SwiftAgg"]
    with pytest.raises(ArgumentError, match="use bits ≤ 15"):
        compare(32_767, 10)
    with pytest.raises(ArgumentError, match="clients is 65537"):
        compare(65_537, 10)
    with pytest.raises(ArgumentError, match="privacy is 9"):
        compare(9, 10, privacy=9)
    with pytest.raises(ArgumentError, match="server is 'evil'"):
        compare(9, 10, server="evil")
    with pytest.raises(DtypeError):
        compare(9, 10.0)  # type: ignore[arg-type]


def test_the_table_is_aligned_text() -> None:
    table = compare(clients=10, length=1000)
    assert isinstance(table, Comparison)
    lines = str(table).splitlines()
    setting = "10 clients, 1000 values of 16 bits, T = 1 colluders, D = 1 lost"
    assert lines[0] == f"{setting}, a curious server"
    wary = compare(10, 1000, errors=1, detect=2, server="malicious")
    more = "E = 1 wrong shares repaired and F = 2 more noticed, a malicious server"
    assert wary.setting == f"{setting}, {more}"
    assert "needs pinned Ed25519 identities; ChaCha20" in str(wary)
    assert lines[1].split()[:2] == ["protocol", "client"]
    assert {len(line) for line in lines[1:6]} == {len(lines[1])}
    assert [line.split()[0] for line in lines[2:6]] == [row.protocol for row in table]
    for row, line in zip(table, lines[6:], strict=True):
        assert line == f"{row.protocol}: learnt is {row.learnt}; needs {row.rests_on}"
