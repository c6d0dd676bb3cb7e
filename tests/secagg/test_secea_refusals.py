"""What parties of SecEA refuse, and what they do only once; each refusal changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyfed import Key
from pyfed.errors import ProtocolError
from pyfed.secagg import FileJournal
from pyfed.secagg.secea_messages import Sets
from secagg.rounds import client_secret, refuse, state
from secagg.secea_rounds import (
    changed,
    drive,
    spoiled,
)


def test_sets_with_a_dealer_whose_box_was_bad_are_refused() -> None:
    run = drive()
    run.upwards[1] = spoiled(run.until("Share")[1], 3, 1)
    good: Any = run.until("Sets")[0]
    assert good.survivors == (0, 1, 2, 4)
    everyone = changed(
        good, recipient=3, survivors=(0, 1, 2, 3, 4), dealers=(0, 1, 2, 3), lacking=()
    )
    refuse(run.clients[3], everyone, -1, "whose box was bad")


def test_questions_and_answers_of_outsiders_are_refused() -> None:
    run = drive()
    run.until("Share")
    run.upwards.pop(3)
    asked: Any = run.until("Questions", lost={3})[1]
    outsider = changed(asked, asked=(*asked.asked[:2], (3, bytes(16), ()), *asked.asked[2:]))
    refuse(run.clients[1], outsider, -1, "an asker that is no survivor")
    answers: Any = run.until("Answers", lost={3})[1]
    boxes = (*answers.boxes[:2], (3, answers.boxes[0][1]), *answers.boxes[2:])
    refuse(run.clients[1], changed(answers, boxes=boxes), -1, "an answerer that is no survivor")
    run.check({0, 1, 2, 4})


def test_one_mask_serves_one_answer() -> None:
    """A second, different set of questions in a round is refused, and ends it for the answerer."""
    run = drive()
    questions = run.until("Questions")
    message = questions[1]
    (first,) = run.clients[1].handle(message, -1)
    assert run.clients[1].handle(message, -1) == [first]  # the same again: the same bytes
    for other in (
        changed(message, asked=message.asked[:-1]),  # type: ignore[attr-defined]
        changed(message, asked=tuple((i, bytes(16), ()) for i, *_ in message.asked)),  # type: ignore[attr-defined]
    ):
        run = drive()
        assert run.until("Questions")[1] == message
        (again,) = run.clients[1].handle(message, -1)
        assert again == first
        with pytest.raises(ProtocolError, match="other questions came"):
            run.clients[1].handle(other, -1)
        assert run.clients[1].phase == "closed"
        refuse(run.clients[1], message, -1, "the round is closed")


def test_a_restored_client_does_not_answer_other_questions(tmp_path: Path) -> None:
    run = drive(more={1: {"journal": FileJournal(tmp_path / "one")}})
    message: Any = run.until("Questions")[1]
    saved = run.clients[1].save(Key(bytes(32)))
    (first,) = run.clients[1].handle(message, -1)

    def back() -> Any:
        journal = FileJournal(tmp_path / "one")
        return run.agreed.resume(saved, Key(bytes(32)), journal)

    assert back().handle(message, -1) == [first]
    client = back()
    with pytest.raises(ProtocolError, match="already has another query"):
        client.handle(changed(message, asked=message.asked[1:]), -1)
    assert client.phase == "closed"
    run.upwards = {i: c.handle(run.downwards[i], -1)[0] for i, c in enumerate(run.clients)}
    run.collect()
    run.close()
    run.check(range(5))


def test_a_restarted_client_does_not_share_other_embeddings(tmp_path: Path) -> None:
    run = drive(more={0: {"journal": FileJournal(tmp_path / "zero")}})
    rosters = run.until("Roster")
    run.clients[0].handle(rosters[0], -1)
    journal = FileJournal(tmp_path / "zero")
    again = run.agreed.client(0, 0, Key(client_secret(0)), journal)
    other = {entity: row + 0.5 for entity, row in run.entities[0].items()}
    assert other
    again.start(other, 1, run.setups[0])
    with pytest.raises(ProtocolError, match="another share"):
        again.handle(rosters[0], -1)
    assert again.phase == "closed"


@pytest.mark.parametrize("kind", ["Roster", "Inbox", "Sets", "Questions", "Answers"])
def test_a_client_goes_on_from_its_saved_state_with_the_same_bytes(kind: str) -> None:
    run, storage = drive(), Key(bytes(range(32)))
    before = run.until(kind)
    for i, client in enumerate(run.clients):
        back = run.agreed.resume(client.save(storage), storage)
        assert state(vars(back)["_shares"]) == state(client._shares)
        assert back.handle(before[i], -1) == client.handle(before[i], -1)
        run.clients[i] = back
        run.upwards[i] = back.outbox[0]
    if kind == "Answers":
        assert all(client.phase == "done" for client in run.clients)
        return
    run.server = run.agreed.resume(run.server.save(storage), storage)
    run.collect()
    run.close()
    if kind != "Questions":
        run.until("Answers")
    run.check(range(5))


def broken_sets(good: Sets) -> list[tuple[Sets, str]]:
    return [
        (changed(good, dealers=good.dealers[1:]), "must name the mask dealers"),
        (changed(good, dealers=(*good.dealers, 4)), "must name the mask dealers"),
        (changed(good, survivors=(0, 2), dealers=(0, 2), lacking=()), "at least 3"),
        (changed(good, survivors=(0, 1, 4), dealers=(0, 1), lacking=()), "leave this client out"),
        (changed(good, survivors=(2, 3, 4), dealers=(2, 3), lacking=()), "dealt no shares"),
    ]


def test_sets_that_could_uncover_something_are_refused() -> None:
    """Client 3 is lost when it shares: 0, 1, 2 and 4 are left, of whom 0, 1, 2 deal masks."""
    run = drive()
    run.until("Share")
    run.upwards.pop(3)
    run.collect()
    run.close()
    good: Any = run.until("Sets", lost={3})[2]
    assert (good.survivors, good.dealers) == ((0, 1, 2, 4), (0, 1, 2))
    for bad, why in broken_sets(good):
        refuse(run.clients[2], bad, -1, why)
    refuse(run.clients[2], changed(good, lacking=(3,)), -1, "is no survivor")
    run.until("Answers", lost={3})
    run.check([0, 1, 2, 4])


def test_sets_with_too_few_mask_dealers_are_refused() -> None:
    """Only T of those in the set deal masks: with them an asker would see other rows."""
    run = drive(clients=9, privacy=2, blocks=1, dropouts=4)  # 7 mask dealers
    good: Any = run.until("Sets")[8]
    few = (0, 1, 7, 8)
    bad = changed(good, survivors=few, dealers=(0, 1), lacking=())
    refuse(run.clients[8], bad, -1, "it must name at least privacy \\+ 1 = 3")


def test_a_second_set_ends_the_round() -> None:
    run = drive()
    good: Any = run.until("Sets")[2]
    (query,) = run.clients[2].handle(good, -1)
    assert run.clients[2].handle(good, -1) == [query]
    other = changed(good, survivors=(0, 1, 2, 3), lacking=())
    with pytest.raises(ProtocolError, match="second set of survivors"):
        run.clients[2].handle(other, -1)
    assert run.clients[2].phase == "closed"


def test_messages_out_of_order_or_for_others_are_refused() -> None:
    run = drive()
    seen: dict[str, dict[int, Any]] = {}
    for kind in ("Roster", "Inbox", "Sets", "Questions"):
        seen[kind] = dict(run.until(kind))
        refuse(run.clients[1], seen[kind][2], -1, "is for client 2")
        refuse(run.clients[1], changed(seen[kind][1], round=1), -1, "is of round 1")
    for kind in ("Roster", "Inbox"):
        refuse(run.clients[1], seen[kind][1], -1, "does not belong")
    asked: Any = seen["Questions"][1]
    early = changed(run.until("Answers")[1])
    run = drive()
    run.until("Questions")
    refuse(run.clients[1], early, -1, "Answers came before Questions")
    stranger = changed(asked, asked=((0, bytes(16), ()),))
    run.clients[1].handle(stranger, -1)  # an epoch that it does not hold: no answer for it
    assert run.clients[1].outbox[0].boxes == ()  # type: ignore[attr-defined]


def test_the_server_refuses_what_does_not_fit() -> None:
    run = drive()
    share: Any = run.until("Share")[1]
    refuse(run.server, changed(share, boxes=share.boxes[1:]), 1, "boxes for every other member")
    ready: Any = run.until("Ready")[1]
    refuse(run.server, changed(ready, epoch=b""), 1, "epoch must be 16 bytes")
    query: Any = run.until("Query")[1]
    refuse(run.server, changed(query, epoch=bytes(16)), 1, "another epoch")
    run.send()
    answered = drive()
    answer: Any = answered.until("Answer")[1]
    refuse(run.server, answer, 1, "Answer came before the questions")
    refuse(answered.server, query, 1, "Query came after the questions")
    answered.server.handle(answer, 1)
    refuse(answered.server, answer, 1, "sent its Answer before")


def test_an_answer_for_a_client_that_has_not_asked_is_refused() -> None:
    run = drive()
    run.until("Query")
    run.upwards.pop(4)
    run.collect()
    run.close()
    answer: Any = run.until("Answer", lost={4})[1]
    bad = changed(answer, boxes=(*answer.boxes, (4, answer.boxes[0][1])))
    refuse(run.server, bad, 1, "has not asked")
