"""Whose the secrets of a setup of SecEA are, and that none serves once it is wiped."""

from __future__ import annotations

import pytest
import torch

from pyfed import Key
from pyfed.engines.secea import simulate_secea
from pyfed.errors import ArgumentError
from pyfed.secagg.secea_setup import Setup
from secagg.rounds import SECRET
from secagg.secea_rounds import Drive, drive, protocol, some_entities


def test_wiping_a_setup_leaves_the_others_alone() -> None:
    agreed, entities = protocol(dropouts=0), some_entities(5, 3, 12)
    first = simulate_secea(agreed, entities)
    second = simulate_secea(agreed, entities, round=1, setups=first.setups)
    moved = {i: setup.moved(setup.ids) for i, setup in second.setups.items()}
    for setup in first.setups.values():
        setup.wipe()
    third = simulate_secea(agreed, entities, round=2, setups=second.setups)
    assert third.failed == {} and third.counts == first.counts
    for setup in second.setups.values():
        setup.wipe()
    assert all(query.any() for setup in moved.values() for _, query in setup.held.values())
    fourth = simulate_secea(agreed, entities, round=3, setups=moved)
    assert fourth.failed == {} and fourth.counts == first.counts


def test_the_setup_of_a_client_that_was_lost_is_a_copy_too() -> None:
    agreed, entities = protocol(), some_entities(5, 3, 12)
    first = simulate_secea(agreed, entities)
    second = simulate_secea(agreed, entities, None, {"keys": {2}}, round=1, setups=first.setups)
    first.setups[2].wipe()
    third = simulate_secea(agreed, entities, round=2, setups=second.setups)
    assert third.failed == {} and third.counts == first.counts
    assert second.setups[2].held.keys() == {0, 1, 3, 4}


def test_wiping_a_setup_does_not_touch_a_client_that_runs() -> None:
    run = drive(dropouts=0)
    run.until("Answers")
    kept = {i: client.setup for i, client in enumerate(run.clients)}
    again = Drive(run.agreed, run.entities, kept, 1)
    again.until("Roster")
    for setup in kept.values():
        setup.wipe()
    again.until("Answers")
    again.check(range(5))


def test_what_makes_queries_is_overwritten_when_it_has_served() -> None:
    run = drive()
    run.until("Questions")
    keys = [client._asking_key for client in run.clients]
    zero = Key(bytes(32))
    assert zero not in keys
    run.clients[4].close()
    assert [key == zero for key in keys] == [False, False, False, False, True]
    run.until("Answers", lost={4})
    assert all(key == zero for key in keys)


def test_a_client_overwrites_the_queries_that_it_holds() -> None:
    run = drive()
    run.until("Answers")
    kept = {i: client.setup for i, client in enumerate(run.clients)}
    older = [query for client in run.clients for _, query in client._queries.values()]
    assert len(older) == 20
    for client in run.clients:
        client.close()
    assert not any(query.any() for query in older)
    assert all(query.any() for setup in kept.values() for _, query in setup.held.values())
    kept[3] = kept[3].moved(kept[3].ids)
    again = Drive(run.agreed, run.entities, kept, 1)
    again.until("Questions")
    replaced = [client._queries[3][1] for i, client in enumerate(again.clients) if i != 3]
    again.until("Answers")
    assert not any(query.any() for query in replaced)


@pytest.mark.parametrize("which", ["all", "query_key", "group_key"])
def test_a_wiped_setup_serves_nothing(which: str) -> None:
    run = drive()
    setup = run.setups[0]
    if which == "all":
        setup.wipe()
    else:
        getattr(setup, which).wipe()
    with pytest.raises(ArgumentError, match="setup of client 0 was wiped"):
        run.clients[0].start(run.entities[0], 1, setup)
    assert not run.clients[0]._table.numel()  # refused before anything is encoded
    with pytest.raises(ArgumentError, match="setup of client 0 was wiped"):
        setup.moved(setup.ids)
    with pytest.raises(ArgumentError, match="setup of client 0 was wiped"):
        setup.epoch(run.agreed.parameters)
    others = [dict(own) for own in run.entities]
    del others[1][next(iter(others[1]))]
    for entities in (run.entities, others):
        with pytest.raises(ArgumentError, match="setup of client 0 was wiped"):
            simulate_secea(run.agreed, entities, round=1, setups=run.setups)


def test_a_wiped_key_makes_no_setup() -> None:
    zero, good = Key(bytes(32)), Key(SECRET)
    union = torch.empty(0, 4, dtype=torch.int32)
    for group, own in ((zero, good), (good, zero)):
        with pytest.raises(ArgumentError, match="is all zero"):
            Setup.made(0, [], group, union, own)
