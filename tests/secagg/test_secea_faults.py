"""SecEA with lost clients, bad boxes, and shares, masks and answers that lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed.errors import DecodeError, ProtocolError, ThresholdError
from secagg.secea_rounds import (
    Drive,
    changed,
    drive,
    flipped,
    protocol,
    set_up,
    some_entities,
    spoiled,
)


@pytest.mark.parametrize("place", [1, 2], ids=["table", "masks"])
def test_who_complains_alone_leaves(place: int) -> None:
    run = drive()
    run.upwards[1] = spoiled(run.until("Share")[1], 3, place)
    ready: Any = run.until("Ready")
    assert ready[3].complaints == (1,)
    run.until("Answers", lost={3})
    assert run.server.included == {0, 1, 2, 4}
    run.check([0, 1, 2, 4])


def test_a_dealer_with_more_than_t_complaints_leaves() -> None:
    run = drive()
    run.upwards[1] = spoiled(spoiled(run.until("Share")[1], 3, 1), 4, 2)
    run.until("Answers")
    assert run.server.included == {0, 2, 3, 4}
    run.check([0, 2, 3, 4])


def test_every_single_loss_before_ready_leaves_the_sums_of_the_rest() -> None:
    for kind in ("Share", "Ready"):
        for lost in range(5):
            run = drive(count=6)
            run.until(kind)
            run.upwards.pop(lost)
            run.until("Answers", lost={lost})
            rest = set(range(5)) - {lost}
            assert run.server.included == rest
            run.check(rest)


def test_a_client_lost_with_its_query_answers_nobody_and_the_rest_read() -> None:
    for lost in range(5):
        run = drive(count=6)
        run.until("Query")
        run.upwards.pop(lost)
        run.until("Answers", lost={lost})
        assert run.server.included == set(range(5))  # what it dealt is in the sums
        run.check(set(range(5)) - {lost})


def test_a_bad_query_box_is_left_unanswered_by_that_answerer_alone() -> None:
    run = drive()
    run.upwards[0] = spoiled(run.until("Query")[0], 2, 1)
    answers: Any = run.until("Answer")
    assert [asker for asker, _ in answers[2].boxes] == [1, 3, 4]
    run.until("Answers")
    run.check(range(5))
    assert 0 not in run.clients[2].setup.held  # and so it is sent again in the next round


def test_a_bad_answer_box_counts_as_missing() -> None:
    run = drive()
    message: Any = run.until("Answers")[3]
    boxes = tuple((i, flipped(box) if i == 1 else box) for i, box in message.boxes)
    run.downwards[3] = changed(message, boxes=boxes)
    run.check(range(5))


def lying(run: Drive, *liars: int) -> None:
    """From now on the sums of shares of these clients are wrong in one place."""
    run.until("Questions")
    for liar in liars:
        sums = run.clients[liar]._shares
        sums[0, 1] = (sums[0, 1] + 1 + liar) % run.agreed.parameters.field.modulus


def test_wrong_answers_are_repaired_and_named() -> None:
    run = drive(dropouts=0, errors=1)  # 3 + 2 answers
    lying(run, 2)
    run.until("Answers")
    honest = (0, 1, 3, 4)  # client 2 itself has no result, since its own answer is the wrong one
    run.check(honest)
    for i in honest:
        assert run.clients[i].result.wrong == (2,), i


@pytest.mark.parametrize(
    ("numbers", "liars"),
    [({"dropouts": 1, "detect": 1}, (2,)), ({"dropouts": 0, "errors": 1}, (2, 4))],
)
def test_wrong_answers_are_noticed_when_they_cannot_be_repaired(
    numbers: dict[str, int], liars: tuple[int, ...]
) -> None:
    run = drive(**numbers)
    lying(run, *liars)
    run.until("Answers")
    with pytest.raises(DecodeError, match="contradict"):
        run.clients[0].handle(run.downwards[0], -1)
    assert run.clients[0].phase == "recover"


def test_a_forged_table_is_noticed() -> None:
    """A dealer whose shares stand for another row: all answers agree, and cannot be honest."""
    run = drive()
    run.until("Hello")
    cheat = next(i for i in range(5) if run.entities[i])
    table = run.clients[cheat]._table.view(run.agreed.parameters.entities, -1)
    table[:, -1] = 99  # the symbol of every entity, above clients · max_weight = 45
    run.until("Answers")
    asker = next(i for i in range(5) if run.entities[i] and i != cheat)
    with pytest.raises(DecodeError, match=r"which must be from"):
        run.clients[asker].handle(run.downwards[asker], -1)


def test_a_mask_that_does_not_vanish_is_noticed() -> None:
    """A mask dealer that adds something to a row which asks for nothing."""
    run = drive()
    run.until("Roster")
    cheat, p = run.clients[0], run.agreed.parameters
    asker = next(i for i in (1, 2, 3, 4) if 0 < len(run.entities[i]) < p.wanted)
    honest = cheat._dealt_masks

    def forged() -> torch.Tensor:
        masks = honest()
        flat = torch.zeros(p.wanted, p.width, dtype=torch.int32)
        flat[-1, 0] = 7
        more = run.agreed.code.reading.encode(flat.view(-1))
        masks[:, asker] = ((masks[:, asker].long() + more) % p.field.modulus).int()
        return masks

    cheat._dealt_masks = forged  # type: ignore[method-assign]
    run.until("Answers")
    with pytest.raises(DecodeError, match="asks for nothing is not zero"):
        run.clients[asker].handle(run.downwards[asker], -1)
    run.check(set(range(5)) - {asker})


def test_shares_outside_the_field_are_complained_about() -> None:
    run = drive()
    run.until("Roster")
    cheat, p = run.clients[2], run.agreed.parameters
    honest = cheat._dealt_shares

    def outside() -> torch.Tensor:
        shares = honest()
        shares[4, 0] = p.field.modulus
        return shares

    cheat._dealt_shares = outside  # type: ignore[method-assign]
    ready: Any = run.until("Ready")
    assert [i for i in range(5) if ready[i].complaints] == [4]
    assert ready[4].complaints == (2,)
    run.until("Answers", lost={4})
    run.check({0, 1, 2, 3})


def test_a_query_of_another_epoch_is_not_answered() -> None:
    """An answerer that holds an older query of an asker keeps silent towards it."""
    run = drive()
    run.until("Answers")
    run.check(range(5))
    again = Drive(run.agreed, run.entities, {i: c.setup for i, c in enumerate(run.clients)}, 1)
    asked: Any = again.until("Questions")[1]
    assert all(box == () for *_, box in asked.asked)
    newer = tuple((i, bytes(16) if i == 3 else epoch, box) for i, epoch, box in asked.asked)
    again.downwards[1] = changed(asked, asked=newer)
    answers: Any = again.until("Answer")
    assert [i for i, _ in answers[1].boxes] == [0, 2, 4]
    assert [i for i, _ in answers[0].boxes] == [1, 2, 3, 4]
    again.until("Answers")
    again.check(range(5))


@pytest.mark.parametrize(("numbers", "needed"), [({}, 3), ({"detect": 1}, 4), ({"errors": 1}, 5)])
def test_an_asker_needs_answers_enough_to_keep_its_promises(
    numbers: dict[str, int], needed: int
) -> None:
    run = drive(dropouts=0, **numbers)
    message: Any = run.until("Answers")[0]
    short = changed(message, boxes=message.boxes[: needed - 2])
    with pytest.raises(ThresholdError) as caught:
        run.clients[0].handle(short, -1)
    assert caught.value.needed == needed
    run.downwards[0] = changed(message, boxes=message.boxes[: needed - 1])
    run.check(range(5))


def test_the_round_is_too_small_when_complaints_exclude_too_many() -> None:
    entities = some_entities(5, 3, 6)
    bound, setups = set_up(protocol(dropouts=0), entities)
    run = Drive(bound, entities, setups)
    run.upwards[1] = spoiled(run.until("Share")[1], 3, 1)
    run.until("Ready")
    run.collect()
    with pytest.raises(ThresholdError, match=r"complaints excluded \[3\]"):
        run.close()


def test_the_server_holds_no_result() -> None:
    run = drive()
    with pytest.raises(ProtocolError, match="not settled"):
        _ = run.server.included
    run.until("Answers")
    with pytest.raises(ProtocolError, match="the server has no result"):
        _ = run.server.result


def test_closing_overwrites_what_a_client_holds() -> None:
    run = drive()
    run.until("Sets")
    client = run.clients[0]
    held = [client._shares, client._masks, client._table]
    keys = [client._query_key, client._group_key, client._root]
    assert held[0].any() and held[1].any()
    client.close()
    assert not any(tensor.any() for tensor in held)
    assert all(key.reveal() == bytes(32) for key in keys)
    with pytest.raises(ProtocolError):
        _ = client.setup
    assert run.setups[0].query_key.reveal() != bytes(32)  # that is the caller's


def test_secrets_are_overwritten_when_they_have_served() -> None:
    run = drive()
    run.until("Roster")
    tables = [client._table for client in run.clients]
    assert any(table.any() for table in tables)
    run.until("Inbox")
    assert not any(table.any() for table in tables)
    assert all(client._root.reveal() == bytes(32) for client in run.clients)
    run.until("Sets")
    dealt = [tensor for client in run.clients for tensor in (client._shares, client._masks)]
    assert all(tensor.any() for tensor in dealt)
    run.until("Questions")
    assert not any(tensor.any() for tensor in dealt)
    sums = [tensor for client in run.clients for tensor in (client._shares, client._masks)]
    run.until("Answers")
    assert not any(tensor.any() for tensor in sums)
    own = [client._own_answer for client in run.clients]
    run.check(range(5))
    assert not any(tensor.any() for tensor in own)
