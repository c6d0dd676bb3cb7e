"""Messages of SwiftAgg+ that break a rule: refused, and nobody's state has changed."""

from __future__ import annotations

import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg.session import SERVER
from secagg.rounds import refuse, replaced
from secagg.swift_rounds import SwiftRound, swift, with_bad_boxes


def test_messages_of_the_server_that_break_a_rule_are_refused() -> None:
    agreed = swift(8, 1, 1, 2)
    run = SwiftRound(agreed).play(until=("share", 0))
    inbox = {m.recipient: m for m in run.server.close_phase()}
    for change, text in (
        ({"dealers": (1, 2, 3)}, "leaves this client out"),
        ({"dealers": (0, 1, 2, 4)}, "not in this group's roster"),
        ({"dealers": (0, 1)}, "at least 3"),
        ({"boxes": inbox[0].boxes[:-1]}, "every other dealer"),
    ):
        refuse(run.clients[0], replaced(inbox[0], **change), SERVER, text)
    for i, client in enumerate(run.clients):
        (report,) = client.handle(inbox[i], SERVER)
        refuse(run.server, replaced(report, complaints=((i + 4) % 8,)), i, "dealt nothing")
        run.server.handle(report, i)
    members = {m.recipient: m for m in run.server.close_phase()}
    everybody = tuple(range(8))
    for change, text in (
        ({"members": (1, 2, 3, 4, 5, 6, 7)}, "leave this client out"),
        ({"members": (0, 1, 2, 3, 4, 5)}, "at least 7"),
    ):
        refuse(run.clients[0], replaced(members[0], **change), SERVER, text)
    (hop,) = run.clients[4].handle(members[4], SERVER)
    assert run.clients[4].handle(members[4], SERVER) == [hop]  # again: the same
    refuse(run.server, replaced(hop, digest=bytes(32)), 4, "other members")
    refuse(run.server, replaced(hop, boxes=((1, hop.boxes[0][1]),)), 4, "parent group")
    assert run.clients[0].handle(members[0], SERVER) == []
    for i in range(4, 8):
        messages = [hop] if i == 4 else run.clients[i].handle(members[i], SERVER)
        run.server.handle(messages[0], i)
    after = {m.recipient: m for m in run.server.close_phase()}
    assert set(after) == {0, 1, 2, 3}
    refuse(run.clients[1], after[1], SERVER, "does not belong")  # it has no members yet
    other = replaced(after[0], boxes=((5, after[0].boxes[0][1]),))
    refuse(run.clients[0], other, SERVER, "each group below")
    forged = replaced(after[0], boxes=tuple((c, after[1].boxes[0][1]) for c, _ in after[0].boxes))
    refuse(run.clients[0], forged, SERVER, "client 4 handed on is bad")
    (root,) = run.clients[0].handle(after[0], SERVER)
    assert run.clients[0].handle(after[0], SERVER) == [root]
    refuse(run.clients[0], forged, SERVER, "other sums")
    to_leaf = replaced(after[0], recipient=4, boxes=((1, after[0].boxes[0][1]),))
    refuse(run.clients[4], to_leaf, SERVER, "awaits no sums")
    as_hop = replaced(hop, sender=0, boxes=((4, hop.boxes[0][1]),))
    refuse(run.server, as_hop, 0, "parent group")
    run.clients[1].handle(members[1], SERVER)
    second = replaced(members[1], members=everybody[1:])
    with pytest.raises(ProtocolError, match="second set"):
        run.clients[1].handle(second, SERVER)
    assert run.clients[1].phase == "closed"


def test_members_must_have_dealt_and_their_boxes_be_good() -> None:
    run = with_bad_boxes(swift(8, 1, 1, 2), {(0, 3)}).play(until=("upload", 0))
    message = run.server.close_phase()[0]
    assert message.members == (0, 1, 2, 4, 5, 6, 7)
    everybody = replaced(message, recipient=3, members=tuple(range(8)))
    refuse(run.clients[3], everybody, SERVER, "box was bad")
    run = SwiftRound(swift(8, 1, 1, 2), {"share": {3}}).play(until=("upload", 0))
    message = replaced(run.server.close_phase()[0], members=tuple(range(8)))
    refuse(run.clients[0], message, SERVER, "dealt no shares")
    run = SwiftRound(swift(8, 1, 1, 2), {"keys": {7}}).play(until=("upload", 0))
    message = replaced(run.server.close_phase()[0], members=tuple(range(8)))
    refuse(run.clients[0], message, SERVER, "not in the roster")


def test_a_root_row_from_another_group_is_refused() -> None:
    run = SwiftRound(swift(8, 1, 1, 2)).play(until=("recover", 1))
    root = next(m for m in run.sent if m.kind == "Root" and m.sender == 0)
    run = SwiftRound(swift(8, 1, 1, 2)).play(until=("upload", 0))
    run.server.close_phase()
    refuse(run.server, replaced(root, sender=4), 4, "root group")


def test_a_spare_client_has_nothing_to_complain_about() -> None:
    run = SwiftRound(swift(9, 1, 1, 2)).play(until=("share", 0))
    inbox = {m.recipient: m for m in run.server.close_phase()}
    (report,) = run.clients[4].handle(inbox[4], SERVER)
    refuse(run.server, replaced(report, complaints=(0,)), 4, "dealt nothing")
    refuse(run.clients[0], replaced(inbox[0], boxes=()), SERVER, "every other dealer")
