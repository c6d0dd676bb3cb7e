"""What queries and answers of SecEA are bound to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import MERSENNE31, FixedPoint, Key
from pyfed.engines.secea import simulate_secea
from pyfed.errors import DecodeError, ThresholdError
from pyfed.secagg import Identity
from pyfed.secagg.secea import SecEA
from pyfed.secagg.secea_setup import Setup
from secagg.rounds import SECRET
from secagg.secea_rounds import Drive, changed, drive, protocol, set_up

CLIENTS = 7
RING = [Identity(Key(bytes([i + 1] * 32))) for i in range(CLIENTS)]


def numbered(**more: Any) -> SecEA:
    """A protocol of seven clients over at most eight entities, two of them of one client."""
    given = {"dim": 2, "dropouts": 0, "entities": 8, "wanted": 2, **more}
    return protocol(CLIENTS, **given)


OTHERS = {
    "blocks": numbered(blocks=2),
    "privacy": numbered(privacy=2),
    "wanted": numbered(wanted=3),
    "blocks and wanted": numbered(blocks=2, wanted=3),
    "clients": protocol(8, 1, 1, 2, 0, entities=8, wanted=2),
    "mode": numbered(server="malicious", identities=[identity.public for identity in RING]),
    "field": numbered(fixed=FixedPoint(clients=CLIENTS, max_weight=9, field=MERSENNE31)),
}


def cats_and_dogs() -> list[dict[Any, torch.Tensor]]:
    cat, dog = torch.tensor([0.5, 0.25]), torch.tensor([-0.5, -0.25])
    return [{"cat": cat}, *[{"cat": cat, "dog": dog} for _ in range(CLIENTS - 1)]]


def query_of(agreed: SecEA, setup: Setup, answerer: int) -> torch.Tensor:
    """What a client that starts with a setup asks one answerer."""
    bound = agreed.over(setup.union)
    client: Any = bound.client(0, 0, Key(SECRET), identity=RING[0] if bound.identities else None)
    client.start(cats_and_dogs()[0], 1, setup)
    query: torch.Tensor = client._query(answerer)
    return query


@pytest.mark.parametrize("name", OTHERS)
def test_a_setup_asks_with_other_randomness_under_other_numbers(name: str) -> None:
    """The same R under another Z would show one answerer the rows that are asked for."""
    one, other = numbered(), OTHERS[name]
    setup = set_up(one, [list(own) for own in cats_and_dogs()])[1][0]
    first, second = (agreed.over(setup.union).parameters for agreed in (one, other))
    assert setup.epoch(first) == setup.epoch(one.over(setup.union).parameters)
    assert setup.epoch(first) != setup.epoch(second)
    p, rows = one.parameters.field.modulus, len(setup.union)
    for answerer in (1, 6):
        seen = [query_of(agreed, setup, answerer) for agreed in (one, other)]
        for position in range(rows):
            if position in setup.positions:
                continue  # Z·R elsewhere: its quotient must not be that of both Z
            numbers = [int(query[0, position]) for query in seen]
            zs = [hiding(agreed, answerer) for agreed in (one, other)]
            assert numbers[0] * zs[1] % p != numbers[1] * zs[0] % p


def hiding(agreed: SecEA, answerer: int) -> int:
    """Z at the point of an answerer."""
    code = agreed.code
    return int(code.sharing.encoding_matrix()[answerer, code.blocks])


@pytest.mark.parametrize("name", ["blocks", "privacy", "wanted", "blocks and wanted"])
def test_setups_serve_other_numbers_with_queries_that_are_sent_again(name: str) -> None:
    entities = cats_and_dogs()
    first = simulate_secea(numbered(), entities)
    second = simulate_secea(OTHERS[name], entities, round=1, setups=first.setups)
    assert second.failed == {} and second.counts == first.counts
    for i, setup in second.setups.items():
        assert setup.held.keys() == first.setups[i].held.keys()
        for asker, (epoch, _) in setup.held.items():
            assert epoch != first.setups[i].held[asker][0]


def test_other_places_or_another_union_make_another_epoch() -> None:
    """A key that serves twice, against its description, does not serve two queries."""
    key, group = Key(bytes([1] * 32)), Key(bytes([2] * 32))
    bound, setups = set_up(protocol(), [["a", "b"], ["c"], [], [], []])
    union, parameters = setups[0].union, bound.parameters
    group = setups[0].group_key
    epochs = {
        Setup.made(0, own, group, union, key).epoch(parameters)
        for own in (["a", "b"], ["b", "a"], ["a"], ["c"])
    }
    assert len(epochs) == 4
    parts = [
        protocol(entities=3, wanted=2).over(rows).parameters for rows in (union[:2], union[1:])
    ]
    one = Setup.made(0, [], group, union, key)
    assert one.epoch(parts[0]) != one.epoch(parts[1])


def moved_round(server: str, errors: int) -> Drive:
    """Client 0 asked for the cat and now asks for the dog; the others hold both queries."""
    more: dict[str, Any] = {"errors": errors}
    given: dict[int, dict[str, Any]] = {}
    if server == "malicious":
        more |= {"server": server, "identities": [identity.public for identity in RING]}
        given = {i: {"identity": identity} for i, identity in enumerate(RING)}
    agreed = protocol(CLIENTS, dim=2, dropouts=0, **more)
    entities = cats_and_dogs()
    bound, setups = set_up(agreed, [list(own) for own in entities])
    first = Drive(bound, entities, setups, 0, given)
    first.until("Answers")
    first.check(range(CLIENTS))
    kept = {i: client.setup for i, client in enumerate(first.clients)}
    old = kept[0].epoch(bound.parameters)
    kept[0] = kept[0].moved(["dog"])
    entities[0] = {"dog": entities[1]["dog"]}
    run = Drive(bound, entities, kept, 1, given)
    run.until("Questions")
    for i, message in run.downwards.items():
        asked = tuple((a, old, ()) if a == 0 else (a, e, b) for a, e, b in message.asked)  # type: ignore[attr-defined]
        run.downwards[i] = changed(message, asked=asked)
    return run


@pytest.mark.parametrize("server", ["curious", "malicious"])
@pytest.mark.parametrize("errors", [0, 1])
def test_an_answer_to_an_older_query_does_not_open(server: str, errors: int) -> None:
    """A server that has the old query answered gets no wrong mean past the asker."""
    run = moved_round(server, errors)
    run.until("Answers")
    with pytest.raises(ThresholdError, match="1 answers came"):
        run.clients[0].handle(run.downwards[0], -1)
    run.check(range(1, CLIENTS))


def test_an_answer_over_other_survivors_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    run = drive()
    run.until("Questions")
    run.clients[2]._survivors = (0, 1, 2, 3)
    questions: Any = run.downwards[2]
    run.downwards[2] = changed(questions, asked=tuple(e for e in questions.asked if e[0] != 4))
    run.until("Answers")
    opened: list[tuple[int, bool]] = []
    client = run.clients[0]
    honest = client._opened

    def noted(peer: int, *given: Any) -> bool:
        opened.append((peer, honest(peer, *given)))
        return opened[-1][1]

    monkeypatch.setattr(client, "_opened", noted)
    client.handle(run.downwards[0], -1)
    assert opened == [(1, True), (2, False), (3, True), (4, True)]


def test_a_query_is_bound_to_the_epoch_that_its_asker_names() -> None:
    run = drive()
    asked: Any = run.until("Questions")[1]
    assert all(box for *_, box in asked.asked)
    other = tuple((i, bytes(16) if i == 3 else epoch, box) for i, epoch, box in asked.asked)
    run.downwards[1] = changed(asked, asked=other)
    answers: Any = run.until("Answer")
    assert [i for i, _ in answers[1].boxes] == [0, 2, 4]
    assert 3 not in run.clients[1].setup.held


def test_an_asker_whose_own_answer_is_outvoted_has_no_result() -> None:
    """All others answer of another table, as one: the majority is not right."""
    run = drive(dropouts=0, errors=1)
    run.until("Questions")
    sums = run.clients[2]._shares
    sums[0, 1] = (sums[0, 1] + 1) % run.agreed.parameters.field.modulus
    run.until("Answers")
    with pytest.raises(DecodeError, match="client 2's own answer") as caught:
        run.clients[2].handle(run.downwards[2], -1)
    assert caught.value.rows == ()
    run.check({0, 1, 3, 4})


def test_a_held_query_of_another_size_is_neither_told_of_nor_answered() -> None:
    """A server that names its epoch gets no answer, instead of products that do not fit."""
    entities = cats_and_dogs()
    first = simulate_secea(numbered(), entities)
    bound = OTHERS["wanted"].over(first.setups[0].union)
    run = Drive(bound, entities, first.setups, 1)
    ready: Any = run.until("Ready")
    assert all(message.held == () for message in ready.values())
    asked: Any = run.until("Questions")[1]
    held = first.setups[1].held
    older = tuple((i, held[i][0], ()) for i, *_ in asked.asked)
    run.downwards[1] = changed(asked, asked=older)
    answers: Any = run.until("Answer")
    assert answers[1].boxes == ()
    run.until("Answers")
    run.check(range(CLIENTS))
