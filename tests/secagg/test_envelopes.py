"""Messages with a wrong round, session, sender, recipient, phase, or sent twice, change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyfed.secagg import Message, secaggplus_messages
from secagg.rounds import PHASES, Round, one_of_each, protocol, refuse, replaced

ENVELOPES: list[tuple[dict[str, Any], int | None, str]] = [
    ({"round": 1}, None, "round"),
    ({"session": bytes(32)}, None, "session"),
    ({"version": 2}, None, "version"),
    ({"protocol": "SwiftAgg"}, None, "protocol"),
    ({"signature": bytes(64)}, None, "signature"),
    ({}, 0, "came from 0"),
    ({}, 4, "came from 4"),
]


def to_each() -> list[Any]:
    """(index, phase, type) of every message that a party can be sent."""
    return [pytest.param(i, id=m.kind) for i, (_, m, _, _) in enumerate(one_of_each())]


def test_a_message_of_another_protocol_in_this_one_s_name_is_refused() -> None:
    """Made in the process, since bytes are read as the protocol's own types."""
    run = Round(protocol())
    run.play("share")
    share = run.upwards[1]
    envelope = {name: getattr(share, name) for name in ("session", "round", "sender", "recipient")}
    for kind in (secaggplus_messages.Share, secaggplus_messages.Pledge):
        body = {"boxes": share.boxes} if kind is secaggplus_messages.Share else {}
        foreign = kind(**envelope, **body, protocol="LightSecAgg")
        refuse(run.server, foreign, 1, "type must be one of LightSecAgg's")
    run.finish()


def before(index: int) -> tuple[Round, Any, Message, int, Callable[[], None]]:
    """A round just before its message number ``index``; the taker, the message, its source."""
    phase = PHASES[index // 2]
    run = Round(protocol())
    run.play(phase)
    if index % 2 == 0:
        return run, run.server, run.upwards[1], 1, run.finish
    run.collect()
    run.close()

    def go_on() -> None:
        if phase == "recover":
            run.clients[2].handle(run.downwards[2], -1)
        else:
            run.send(PHASES[index // 2 + 1])
            run.finish()

    return run, run.clients[2], run.downwards[2], -1, go_on


@pytest.mark.parametrize("index", to_each())
def test_messages_with_a_wrong_envelope_change_nothing(index: int) -> None:
    _, party, message, source, go_on = before(index)
    for change, other, text in ENVELOPES:
        refuse(party, replaced(message, **change), source if other is None else other, text)
    elsewhere = {"sender": 3} if source >= 0 else {"recipient": 3}
    refuse(party, replaced(message, **elsewhere), source)
    refuse(party, "not a message", source, "must be a Message")  # type: ignore[arg-type]
    go_on()


@pytest.mark.parametrize("index", to_each())
def test_messages_of_other_phases_change_nothing(index: int) -> None:
    _, party, message, _, go_on = before(index)
    refused = 0
    for _, other, _, source in one_of_each():
        if (other.recipient < 0) != (message.recipient < 0) or other.kind == message.kind:
            continue
        if (message.kind, other.kind) == ("Result", "Survivors"):
            continue  # asked again while the result is awaited: the next test
        refuse(party, other, source, "does not belong")
        refused += 1
    assert refused >= 2
    go_on()


@pytest.mark.parametrize("index", to_each())
def test_the_same_message_twice_is_taken_once(index: int) -> None:
    run, party, message, source, _ = before(index)
    first = party.handle(message, source)
    if message.kind == "Survivors":
        assert [m.to_bytes() for m in party.handle(message, source)] == [
            m.to_bytes() for m in first
        ]
    else:
        refuse(party, message, source)
    if source >= 0:
        run.upwards.pop(1)
        run.finish()
