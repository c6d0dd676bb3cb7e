"""Bad boxes, wrong sums, and columns that fall silent."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from pyfed import Key
from pyfed.errors import DecodeError, ThresholdError
from pyfed.secagg import Message
from pyfed.secagg.session import SERVER, WORD
from secagg.rounds import client_secret, replaced
from secagg.swift_rounds import SwiftRound, box_words, damaged, swift, with_bad_boxes


@pytest.mark.parametrize(
    ("bad", "privacy", "dropouts", "excluded"),
    [
        ({(0, 3)}, 1, 1, {3}),  # one complaint, T = 1: the complainer leaves
        ({(0, 3), (0, 2)}, 1, 1, {0}),  # two: the dealer leaves
        ({(0, 3), (0, 2)}, 2, 2, {2, 3}),  # two, T = 2: both complainers leave
        ({(0, 3), (3, 0)}, 1, 2, {0, 3}),  # each about the other: both leave
        ({(0, 3), (7, 9)}, 1, 2, {3, 9}),  # in two groups
    ],
)
def test_complaints_exclude_the_dealer_beyond_t_and_the_complainer_up_to_t(
    bad: set[tuple[int, int]], privacy: int, dropouts: int, excluded: set[int]
) -> None:
    agreed = swift(12, privacy, dropouts, 6 - privacy - dropouts)
    assert agreed.parameters.holders == 6
    with_bad_boxes(agreed, bad).play().check(set(range(12)) - excluded)


def test_complaints_beyond_what_can_be_lost_name_those_excluded() -> None:
    text = r"complaints about boxes of clients \[0, 4\] excluded \[3, 7\]$"
    with pytest.raises(ThresholdError, match=text) as caught:
        with_bad_boxes(swift(8, 1, 1, 2), {(0, 3), (4, 7)}).play()
    assert caught.value.missing == (3, 7)


def test_a_dealer_that_blocks_a_round_within_t_complaints_is_named() -> None:
    """T = 2 and D = 1: both complainers leave, which is one too many; their dealer stays."""
    text = r"complaints about boxes of clients \[0\] excluded \[1, 2\]$"
    with pytest.raises(ThresholdError, match=text) as caught:
        with_bad_boxes(swift(8, 2, 1, 1), {(0, 1), (0, 2)}).play()
    assert caught.value.missing == (1, 2)


def spoiling(agreed: Any, senders: set[int]) -> SwiftRound:
    """A round in which clients hand on damaged sums, and those who refuse them say nothing."""

    def tamper(message: Message) -> Message:
        if message.kind == "Hop" and message.sender in senders:
            return replaced(message, boxes=damaged(message.boxes, {to for to, _ in message.boxes}))
        return message

    return SwiftRound(agreed, tamper=tamper, deaf=True)


def test_who_may_have_handed_on_a_bad_sum_is_named_with_whom_it_silenced() -> None:
    """12 clients in a chain of three groups; client 5 gets a bad sum from 9, then 2 one from 6."""
    agreed = swift(12, 1, 1, 2, tree="chain")
    spoiling(agreed, {9}).play().check(range(12))  # one column may be lost
    text = r"missing are \[2, 5\]; .* was bad: here those of clients \[6, 9\]$"
    with pytest.raises(ThresholdError, match=text) as caught:
        spoiling(agreed, {9, 6}).play()
    assert caught.value.missing == (2, 5)
    with pytest.raises(ThresholdError, match=r"missing are \[8, 9\]$"):  # leaves got no sums
        SwiftRound(agreed, {"recover": {8, 9}}).play()


def test_a_share_that_is_no_residue_is_complained_about() -> None:
    def tamper(message: Message) -> Message:
        if message.kind == "Share" and message.sender == 0:
            peers = run.clients[0]._peers
            assert peers is not None
            words = memoryview(b"\xff\xff\xff\x7f" * run.agreed.parameters.columns)
            bad = peers.seal(2, "share", "Share", words)
            boxes = tuple((to, bad if to == 2 else box) for to, box in message.boxes)
            return replaced(message, boxes=boxes)
        return message

    run = SwiftRound(swift(8, 1, 1, 2), tamper=tamper)
    run.play().check(set(range(8)) - {2})


def lying(agreed: Any, liars: set[int]) -> SwiftRound:
    """A round in which liars add 1 to a residue of the sum that they hand on."""

    def tamper(message: Message) -> Message:
        if message.sender not in liars or message.kind not in ("Hop", "Root"):
            return message
        word = message.sender % agreed.parameters.columns
        if message.kind == "Root":
            row = bytearray(message.row)
            row[4 * word] ^= 1
            return replaced(message, row=bytes(row))
        ((to, box),) = message.boxes
        plain = bytearray(WORD * box_words(box))
        parent = run.clients[to]._peers
        assert parent is not None
        assert parent.open_into(message.sender, "hop", "Hop", box, memoryview(plain))
        plain[4 * word] ^= 1
        return replaced(message, boxes=((to, resealed(run, message.sender, to, plain)),))

    run = SwiftRound(agreed, tamper=tamper)
    return run


def resealed(run: SwiftRound, sender: int, to: int, plain: bytearray) -> tuple[bytes, ...]:
    """A box that a client could make; its own secrets are gone, and are made again."""
    copy = run.agreed.client(sender, run.number, Key(client_secret(sender, run.number)))
    copy.start(run.updates[sender], run.weights[sender])
    roster = next(m for m in run.sent if m.kind == "Roster" and m.recipient == sender)
    copy.handle(roster, SERVER)
    assert copy._peers is not None
    return copy._peers.seal(to, "hop", "Hop", memoryview(plain))


def column_mates(agreed: Any, clients: Iterable[int]) -> tuple[int, ...]:
    """All clients of the columns of these."""
    layout = agreed.parameters.layout
    columns = {layout.seat(client)[1] for client in clients}
    return tuple(i for i in range(layout.clients) if layout.seat(i)[1] in columns)


@pytest.mark.parametrize(("errors", "detect"), [(1, 0), (0, 1), (1, 1), (0, 2)])
@pytest.mark.parametrize("tree", ["chain", "binary"])
def test_wrong_sums_are_repaired_or_noticed_wherever_they_are_told(
    errors: int, detect: int, tree: str
) -> None:
    n = 3 + 2 * errors + detect
    agreed = swift(3 * n, 1, 0, 2, errors=errors, detect=detect, tree=tree)
    for group in range(3):
        columns = [group * n + position for position in range(n)]
        for liars in itertools.islice(itertools.combinations(columns, errors), 4):
            run = lying(agreed, set(liars)).play()
            run.check(range(3 * n))
            # Who of a column lied is not known: one of its three clients.
            assert run.server.result.wrong == column_mates(agreed, liars)
        for count in range(errors + 1, errors + detect + 1):
            run = lying(agreed, set(columns[1 : 1 + count]))
            with pytest.raises(DecodeError):
                run.play()
            assert run.server.phase == "closed"


def test_two_lies_in_one_column_are_one_wrong_row() -> None:
    agreed = swift(10, 1, 0, 2, errors=1)
    run = lying(agreed, {3, 8}).play()
    run.check(range(10))
    assert run.server.result.wrong == (3, 8)
    assert lying(agreed, {3}).play().server.result.wrong == (3, 8)  # the column is what is known
    assert SwiftRound(agreed).play().server.result.wrong == ()


def test_columns_beyond_those_needed_check_the_others() -> None:
    agreed = swift(8, 1, 1, 2)  # E = F = 0, but all four columns come
    with pytest.raises(DecodeError):
        lying(agreed, {5}).play()


def test_a_column_falls_silent_where_a_member_is_missing() -> None:
    """8 clients, columns (j, 4 + j): who was lost before the barrier silences both."""
    for lost, silent in ((1, 5), (5, 1)):
        run = SwiftRound(swift(8, 1, 1, 2), {"share": {lost}}).play()
        run.check(set(range(8)) - {lost})
        sums = {m.sender for m in run.sent if m.kind in ("Hop", "Root")}
        assert sums == set(range(8)) - {lost, silent}
    run = SwiftRound(swift(8, 1, 1, 2), {"recover": {6}}).play()
    run.check(range(8))
    assert 2 not in {m.recipient for m in run.sent if m.kind == "Hops"}
    assert not run.clients[2]._row.any() and run.clients[2]._row.numel()


def test_spare_clients_share_and_report_and_hold_nothing() -> None:
    run = SwiftRound(swift(9, 1, 1, 2)).play()  # groups of 5 and 4; client 4 is spare
    run.check(range(9))
    boxes = {m.recipient: m.boxes for m in run.sent if m.kind == "Inbox"}
    assert boxes[4] == () and [d for d, _ in boxes[0]] == [1, 2, 3, 4]
    kinds = [m.kind for m in run.sent if m.sender == 4]
    assert kinds == ["Hello", "Share", "Report"]
    SwiftRound(swift(9, 1, 1, 2), {"recover": {4}}).play().check(range(9))


def test_weights_that_cannot_be_are_noticed() -> None:
    agreed = swift(8, 1, 1, 2)
    run = SwiftRound(agreed).play(until=("keys", 0))
    run.clients[3]._values[-1] = 8 * 9 + 1
    inbox = {m.recipient: m for m in run.server.close_phase()}
    while inbox:
        for index, message in inbox.items():
            for answer in run.clients[index].handle(message, SERVER):
                run.server.handle(answer, index)
        inbox = {} if run.server._step else {m.recipient: m for m in run.server.close_phase()}
    with pytest.raises(DecodeError, match="weights sum to"):
        run.server.close_phase()
    assert run.server.phase == "closed" and not run.server._rows.any()
