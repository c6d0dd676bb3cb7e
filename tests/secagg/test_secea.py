"""SecEA gives every client exactly the sums over the owners of its own entities."""

from __future__ import annotations

import pytest
import torch

from pyfed import SOLINAS31, FixedPoint, Key
from pyfed.engines.secea import simulate_secea
from pyfed.errors import ArgumentError, ProtocolError, ThresholdError
from pyfed.secagg import simulate
from pyfed.secagg.secea import SecEA
from secagg.rounds import SECRET
from secagg.secea_rounds import check_result, drive, protocol, set_up, some_entities

# clients, privacy, blocks, dropouts, dim, entities, lost by phase
SETTINGS = [
    (3, 1, 1, 0, 1, 4, {}),
    (4, 1, 1, 1, 2, 7, {"keys": {0}}),
    (4, 1, 1, 1, 3, 9, {"recover": {0}}),
    (5, 1, 1, 2, 2, 12, {"share": {0}, "upload": {1}}),
    (5, 1, 2, 0, 3, 12, {}),
    (5, 2, 1, 0, 1, 6, {}),
    (6, 1, 2, 1, 1, 14, {"share": {5}}),
    (6, 2, 1, 1, 4, 14, {"upload": {2}}),
    (7, 1, 3, 0, 7, 16, {}),
    (7, 2, 2, 0, 5, 16, {}),
    (7, 3, 1, 0, 2, 16, {}),
    (7, 1, 1, 4, 2, 16, {"keys": {1}, "share": {3}, "upload": {5}, "recover": {0}}),
    (8, 1, 2, 3, 3, 9, {"upload": {0, 1, 2}}),
    (8, 2, 2, 1, 8, 18, {"recover": {7}}),
    (8, 3, 1, 1, 1, 18, {"keys": {4}}),
    (9, 2, 2, 2, 7, 20, {"share": {8}, "recover": {1}}),
    (9, 2, 1, 4, 3, 20, {"keys": {0, 1, 2, 3}}),
    (9, 4, 1, 0, 2, 20, {}),
    (10, 2, 3, 1, 8, 22, {"recover": {4}}),
    (11, 2, 2, 4, 3, 12, {"share": {1, 2}, "upload": {3, 4}}),
    (12, 3, 3, 1, 10, 26, {"recover": {11}}),
    (13, 1, 1, 10, 1, 14, {"keys": {0, 1, 2, 3, 4}, "recover": {5, 6, 7, 8, 9}}),
    (13, 1, 6, 0, 4, 14, {}),
]


@pytest.mark.parametrize(
    ("clients", "privacy", "blocks", "dropouts", "dim", "count", "drop"), SETTINGS
)
def test_sums_are_those_of_exactly_the_owners(
    clients: int,
    privacy: int,
    blocks: int,
    dropouts: int,
    dim: int,
    count: int,
    drop: dict[str, set[int]],
) -> None:
    agreed = protocol(clients, privacy, blocks, dim, dropouts)
    entities = some_entities(clients, dim, count)
    weights = [1 + i % 3 for i in range(clients)]
    result = simulate_secea(agreed, entities, weights, drop, Key(SECRET))
    lost = {phase: set(who) for phase, who in drop.items()}
    after = lost.pop("recover", set())
    before = set().union(*lost.values())
    assert result.included == set(range(clients)) - before
    assert set(result.clients) == result.included - after
    assert result.union_size == len(set().union(*entities))
    check_result(result, agreed, entities, weights)


def test_simulate_takes_secea() -> None:
    entities = some_entities(5, 3, 12)
    result = simulate(protocol(), entities, drop={"upload": {4}}, key=Key(SECRET))
    assert set(result.clients) == {0, 1, 2, 3}
    check_result(result, protocol(), entities, [1] * 5)


@pytest.mark.parametrize("phase", ["keys", "share", "upload"])
def test_one_loss_too_many_is_an_error(phase: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        simulate_secea(protocol(), some_entities(5, 3, 6), drop={phase: {0, 1, 4}})
    assert caught.value.missing == (0, 1, 4)
    assert caught.value.needed == 3


def test_too_few_answerers_are_an_error() -> None:
    agreed = protocol(7, 2, 1, 2, 1)  # 5 answers are needed
    entities = some_entities(7, 2, 6)
    assert len(simulate_secea(agreed, entities, drop={"recover": {0, 3}}).clients) == 5
    with pytest.raises(ThresholdError, match="5 are needed") as caught:
        simulate_secea(agreed, entities, drop={"recover": {0, 3, 6}})
    assert caught.value.missing == (0, 3, 6)


def test_queries_are_reused_over_rounds_and_results_are_the_same() -> None:
    agreed, key = protocol(), Key(SECRET)
    entities = some_entities(5, 3, 12)
    first = simulate_secea(agreed, entities, key=key)
    again = simulate_secea(agreed, entities, key=key, round=1, setups=first.setups)
    fresh = simulate_secea(agreed, entities, key=key, round=1)
    assert ("client", "setup") in fresh.traffic and ("client", "setup") not in again.traffic
    for result in (again, fresh):
        check_result(result, agreed, entities, [1] * 5, number=1)
    words = agreed.parameters.clients * (agreed.parameters.clients - 1) * 4
    query = max(len(own) for own in entities) * first.union_size * words  # bytes of all queries
    saved = fresh.traffic["client", "recover"] - again.traffic["client", "recover"]
    assert query < saved < query + 20 * 60
    assert again.traffic["client", "share"] == fresh.traffic["client", "share"]


def test_a_client_that_missed_the_queries_gets_them_in_the_next_round() -> None:
    agreed, key = protocol(), Key(SECRET)
    entities = some_entities(5, 3, 12)
    first = simulate_secea(agreed, entities, key=key, drop={"recover": {2}})
    assert set(first.setups[2].held) == set()
    assert set(first.setups[1].held) == {0, 3, 4}
    second = simulate_secea(agreed, entities, key=key, round=1, setups=first.setups)
    check_result(second, agreed, entities, [1] * 5, number=1)
    assert len(second.clients) == 5
    assert all(len(setup.held) == 4 for setup in second.setups.values())
    third = simulate_secea(agreed, entities, key=key, round=2, setups=second.setups)
    check_result(third, agreed, entities, [1] * 5, number=2)
    traffic = [r.traffic["client", "recover"] for r in (first, second, third)]
    assert traffic[0] > traffic[1] > traffic[2]


def test_other_entities_out_of_the_union_begin_an_epoch_of_that_client_alone() -> None:
    agreed = protocol()
    entities = some_entities(5, 3, 12)
    first = simulate_secea(agreed, entities, key=Key(SECRET))
    changed = [dict(own) for own in entities]
    stranger = next(name for name in entities[0] if name not in entities[3])
    changed[3][stranger] = torch.zeros(3)
    first_own = next(iter(entities[3]))
    del changed[3][first_own]
    second = simulate_secea(agreed, changed, key=Key(SECRET), round=1, setups=first.setups)
    check_result(second, agreed, changed, [1] * 5, number=1)
    assert ("client", "setup") not in second.traffic
    union, most = first.setups[0].union, max(len(own) for own in changed)
    parameters = agreed.sized(len(union), most).over(union).parameters
    for i in range(5):
        same = first.setups[i].query_key == second.setups[i].query_key
        assert same == (i != 3)
        assert torch.equal(first.setups[i].union, second.setups[i].union)
        if i != 3:
            assert second.setups[i].held[3][0] == second.setups[3].epoch(parameters)
            assert not torch.equal(second.setups[i].held[3][1], first.setups[i].held[3][1])


def test_an_entity_outside_the_union_makes_all_set_up_again() -> None:
    agreed = protocol()
    entities = some_entities(5, 3, 12)
    first = simulate_secea(agreed, entities)
    changed = [dict(own) for own in entities]
    changed[0]["new"] = torch.ones(3)
    second = simulate_secea(agreed, changed, round=1, setups=first.setups)
    assert second.union_size == first.union_size + 1
    assert second.counts[0]["new"] == 1
    assert all(first.setups[i].query_key != second.setups[i].query_key for i in range(5))
    with pytest.raises(ArgumentError, match="not in the union"):
        first.setups[0].moved(changed[0])


def test_a_longer_query_of_the_same_epoch_is_sent_again() -> None:
    """When one client gets more entities, the public size grows and held queries do not fit."""
    agreed = protocol()
    entities = [{"a": torch.ones(3)}, {"b": torch.ones(3)}, {}, {}, {}]
    first = simulate_secea(agreed, entities)
    more = [{"a": torch.ones(3), "b": torch.zeros(3)}, *entities[1:]]
    second = simulate_secea(agreed, more, round=1, setups=first.setups)
    assert second.counts[:2] == [{"a": 1, "b": 2}, {"b": 2}]
    assert {setup.held[1][1].shape for i, setup in second.setups.items() if i != 1} == {(2, 2)}


def test_answers_that_come_too_late_change_nothing() -> None:
    run = drive()
    run.until("Answer")
    late = {i: run.upwards.pop(i) for i in (1, 4)}
    run.collect()
    run.close()
    for i, message in late.items():
        with pytest.raises(ProtocolError, match="does not belong into phase 'done'"):
            run.server.handle(message, i)
    run.check([0, 2, 3])


def test_every_client_may_be_slow_in_turn() -> None:
    for slow in range(5):
        run = drive()
        run.until("Answer")
        run.upwards.pop(slow)
        run.collect()
        run.close()
        run.check(set(range(5)) - {slow})


def test_a_client_lost_after_its_shares_is_outside_and_after_ready_inside() -> None:
    run = drive()
    run.until("Ready", lost=())
    run.upwards.pop(0)  # it dealt shares and masks, and opened its boxes
    run.collect()
    run.close()
    assert run.server.included == {1, 2, 3, 4}
    run.until("Answers")
    run.check([1, 2, 3, 4])


def test_an_asker_with_too_few_answers_is_told_and_the_others_go_on() -> None:
    run = drive(dropouts=0)  # 3 answers of 5 are needed, 2 of them others'
    run.until("Answers")
    message = run.downwards[2]
    for kept, fails in ((1, True), (2, False)):
        short = type(message)(**{**vars(message), "boxes": message.boxes[:kept]})
        if fails:
            with pytest.raises(ThresholdError, match="2 answers came") as caught:
                run.clients[2].handle(short, -1)
            assert caught.value.needed == 3
            assert 2 not in caught.value.missing
        else:
            run.downwards[2] = short
    run.check(range(5))  # client 2 gets along with 2 of them, and had lost nothing before


def test_a_weight_of_zero_keeps_a_client_out_of_the_means() -> None:
    one, two = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([-0.5, 0.25, 1.0])
    entities = [{"x": one}, {"x": two, "y": two}, {}, {}, {}]
    result = simulate_secea(protocol(), entities, weights=[3, 0, 1, 1, 1])
    assert result.counts[0] == {"x": 3}
    assert torch.equal(result.clients[0].embeddings["x"], one)
    with pytest.raises(ArgumentError, match="'y' first, have owners of weight 0"):
        _ = result.clients[1].embeddings


def test_no_client_has_any_entity() -> None:
    result = simulate_secea(protocol(), [{}] * 5)
    assert result.embeddings == [{}] * 5
    assert result.union_size == 0


def test_the_numbers_at_the_edge_of_the_field_do_not_wrap() -> None:
    fixed = FixedPoint(clip=1.0, bits=16, clients=5, max_weight=6553)
    assert 5 * 6553 * fixed.largest * 1.001 > (SOLINAS31.modulus - 1) // 2
    agreed = SecEA(clients=5, privacy=1, blocks=1, dim=2, fixed=fixed)
    entities = [{"x": torch.tensor([1.0, -1.0])} for _ in range(5)]
    result = simulate_secea(agreed, entities, weights=[6553] * 5)
    top = 5 * 6553 * fixed.largest
    assert result.integers[4]["x"].tolist() == [top, -top]
    assert result.embeddings[4]["x"].tolist() == [1.0, -1.0]


def test_half_precision_and_other_orders_of_a_dict_are_fine() -> None:
    x = torch.tensor([0.5, 0.25, 0.0])
    _, setups = set_up(protocol(), [["b", "a"], ["a"], [], [], []])
    assert setups[0].holds({"a", "b"})
    result = simulate_secea(
        protocol(), [{"a": x.half(), "b": x}, {"a": -x.bfloat16()}, {}, {}, {}], setups=setups
    )
    assert result.counts[0] == {"b": 1, "a": 2}
    assert result.embeddings[0]["a"].tolist() == [0.0] * 3
    assert torch.equal(result.embeddings[0]["b"], x)
