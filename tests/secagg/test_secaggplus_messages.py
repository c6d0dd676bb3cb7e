"""Messages of SecAgg+ that break a rule: keys that are no keys, boxes, both secrets at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg.secaggplus_messages import Unmask
from pyfed.secagg.session import SERVER
from secagg.attacks import sent_by
from secagg.journeys import Journey
from secagg.plus_rounds import scene
from secagg.rounds import refuse, replaced

SMALL_ORDER = bytes(32)


def test_keys_for_masks_of_small_order_or_named_twice_are_refused_by_the_server() -> None:
    journey = Journey(scene(6, 1, 2))
    hellos = [client.start(*journey.scene.inputs[i])[0] for i, client in enumerate(journey.clients)]
    assert journey.server.handle(hellos[0], 0) == []
    own, masks = hellos[1].channel_key[:32], hellos[1].channel_key[32:]
    others = hellos[0].channel_key
    for keys, text in [
        (own + SMALL_ORDER, "all-zero secret"),
        (SMALL_ORDER + masks, "all-zero secret"),
        (own + others[32:], "repeats another client's key"),
        (others[32:] + masks, "repeats another client's key"),
        (own + own, "repeats"),
        (own, "64 bytes"),
    ]:
        refuse(journey.server, replaced(hellos[1], channel_key=keys), 1, text)
    assert journey.server.handle(hellos[1], 1) == []


def test_keys_for_masks_of_small_order_or_named_twice_are_refused_by_the_clients() -> None:
    journey = Journey(scene(6, 1, 2))
    for event in journey.clients_act():
        journey.happen(event)
    roster = journey.server.close_phase()[3]
    keys = [member.channel_key for member in roster.roster]

    def with_keys(of: int, new: bytes) -> Any:
        members = list(roster.roster)
        members[of] = members[of]._replace(channel_key=new)
        changed = replaced(roster, roster=tuple(members))
        return changed_session(journey, changed)

    client = journey.parties[3]
    for new, text in [
        (keys[1][:32] + SMALL_ORDER, "all-zero secret"),
        (keys[1][:32] + keys[2][32:], "without a key named twice"),
        (keys[2][32:] + keys[1][32:], "without a key named twice"),
        (keys[1][:32] * 2, "without a key named twice"),
    ]:
        refuse(client, with_keys(1, new), SERVER, text)
    assert [message.kind for message in client.handle(roster, SERVER)] == ["Share"]


def changed_session(journey: Journey, roster: Any) -> Any:
    session = journey.scene.protocol.parameters.session(roster.roster, roster.nonce)
    return replaced(roster, session=session)


def test_a_late_upload_is_refused_and_its_client_stays_outside() -> None:
    journey = Journey(scene(6, 1, 2))
    journey.take_turn()
    journey.take_turn()
    events = journey.clients_act()
    for event in events:
        if event.source != 2:
            journey.happen(event)
    for message in journey.server.close_phase():
        journey.deliver(message.to_bytes())
    late = next(event for event in events if event.source == 2)
    refuse(journey.server, journey.read(late.data or b""), 2, "does not belong into phase")
    journey.turn += 1
    journey.take_turn()
    assert sorted(journey.server.result.included) == [0, 1, 3, 4, 5]
    journey.scene.check(journey)


def test_an_unmask_of_both_secrets_is_no_message() -> None:
    journey = Journey(scene(6, 1, 2), lost=frozenset({(2, 5)})).run()
    good = sent_by(journey, 0, "Unmask")
    (key,), (pair,) = good.keys, good.pairs
    p = journey.scene.protocol.parameters
    good.check(p)
    share = good.seeds[0][1]
    for change, text in [
        ({"seeds": (*good.seeds, (5, share))}, "of clients of which no pair key is told"),
        ({"keys": ((1, share), key)}, "of clients of which a pair key is told"),
        ({"keys": (key, key)}, "name nobody twice"),
        ({"pairs": (pair, pair)}, "name nobody twice"),
        ({"pairs": ((5, bytes(31)),)}, "each of pairs must be 32 bytes"),
        ({"keys": ((5, share[:-1]),)}, "keys must be 36 bytes"),
        ({"keys": ((5, b"\xff" * 36),)}, "residues below"),
        ({"seeds": ((0, share),)}, "seeds must be of other clients"),
        ({"seeds": [(1, share)]}, "seeds must be an array"),
        ({"seeds": ((1, share, 0),)}, "each of seeds must be a pair"),
    ]:
        with pytest.raises(ProtocolError, match=text):
            replaced(good, **change).check(p)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"seeds": m.seeds[1:]},
        lambda m: {"keys": ()},
        lambda m: {"keys": (), "pairs": ()},
        lambda m: {"seeds": m.seeds[1:], "pairs": ((1, m.pairs[0][1]), *m.pairs)},
        lambda m: {"digest": bytes(32)},
    ],
)
def test_an_unmask_that_is_not_what_the_survivors_ask_for_is_refused(change: Any) -> None:
    journey = Journey(scene(6, 1, 2), lost=frozenset({(2, 5)}))
    for _ in range(3):
        journey.take_turn()
    event = journey.clients_act()[0]
    message = journey.read(event.data or b"")
    assert isinstance(message, Unmask) and message.sender == 0
    wrong = dataclasses.replace(message, **change(message))
    refuse(journey.server, wrong, 0, "Unmask")
    assert journey.server.handle(message, 0) == []


def test_a_share_for_others_than_the_neighbours_is_refused() -> None:
    journey = Journey(scene(10, 1, 0, degree=4))
    journey.take_turn()
    event = journey.clients_act()[0]
    message = journey.read(event.data or b"")
    refuse(journey.server, replaced(message, boxes=message.boxes[1:]), 0, "for every neighbour")  # type: ignore[attr-defined]
    stranger = next(i for i in range(1, 10) if i not in dict(message.boxes))  # type: ignore[attr-defined]
    boxes = tuple(sorted([(stranger, message.boxes[0][1]), *message.boxes[1:]]))  # type: ignore[attr-defined]
    refuse(journey.server, replaced(message, boxes=boxes), 0, "for every neighbour")


def test_an_inbox_without_a_neighbours_box_is_refused() -> None:
    journey = Journey(scene(10, 1, 1, degree=6))
    journey.take_turn()
    for event in journey.clients_act():
        journey.happen(event)
    inbox = journey.server.close_phase()[4]
    client = journey.parties[4]
    others = tuple(d for d in inbox.dealers if d != 4)
    for change, text in [
        ({"boxes": inbox.boxes[1:]}, "a box from every dealer that is a neighbour"),
        ({"dealers": others}, "leaves this client out"),
        ({"dealers": inbox.dealers[:8], "boxes": ()}, "names 8 clients"),
    ]:
        refuse(client, replaced(inbox, **change), SERVER, text)
    assert [message.kind for message in client.handle(inbox, SERVER)] == ["Upload"]


def test_an_inbox_that_names_a_stranger_is_refused() -> None:
    journey = Journey(scene(10, 1, 2), lost=frozenset({(0, 9)}))
    journey.take_turn()
    for event in journey.clients_act():
        journey.happen(event)
    inbox = journey.server.close_phase()[4]
    strange = replaced(inbox, dealers=(*inbox.dealers, 9))
    refuse(journey.parties[4], strange, SERVER, "a dealer that is not in the roster")
