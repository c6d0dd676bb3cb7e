"""Attacks on a running round: what does not belong is refused, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import oracles
from pyfed import Key
from pyfed.errors import ProtocolError
from pyfed.ops import field_sum
from pyfed.secagg.messages import Inbox, Result, Roster, Share, Survivors, Upload
from pyfed.secagg.session import Member
from secagg.rounds import (
    PHASES,
    Round,
    client_secret,
    derived,
    protocol,
    refuse,
    replaced,
)


@pytest.mark.parametrize("phase", PHASES)
def test_messages_from_lost_clients_change_nothing(phase: str) -> None:
    run = Round(protocol())
    run.send("keys")
    silent = run.upwards.pop(3)
    for current in PHASES:
        if current != "keys":
            run.send(current)
        if current == phase and phase != "keys":
            forged = replaced(run.upwards[1], sender=3)
            if isinstance(forged, Share):
                forged = replaced(forged, boxes=tuple((i if i else 0, b) for i, b in forged.boxes))
            refuse(run.server, forged, 3, "lost in an earlier phase")
            refuse(run.server, silent, 3, "does not belong")
        run.collect()
        run.close()
    assert run.server.result.included == {0, 1, 2, 4}


def test_a_client_that_did_not_start_or_is_closed_takes_nothing() -> None:
    run = Round(protocol())
    other = Round(protocol())
    other.play("share")
    refuse(run.clients[2], other.downwards[2], -1, "start has not been called")
    run.send("keys")
    with pytest.raises(ProtocolError, match="start was called before"):
        run.clients[2].start(run.updates[2])
    run.clients[2].close()
    refuse(run.clients[2], other.downwards[2], -1, "the round is closed")
    run.server.close()
    refuse(run.server, run.upwards[0], 0, "the round is closed")
    with pytest.raises(ProtocolError, match="no phase to close"):
        run.server.close_phase()
    for party in (run.server, run.clients[0]):
        with pytest.raises(ProtocolError, match="no result yet"):
            _ = party.result


def test_keys_of_small_order_and_foreign_keys_are_refused_by_the_server() -> None:
    run = Round(protocol())
    run.send("keys")
    genuine = run.upwards[1]
    refuse(run.server, replaced(genuine, channel_key=bytes(32)), 1, "all-zero")
    run.server.handle(run.upwards.pop(0), 0)
    stolen = run.clients[0]._channel
    assert stolen is not None
    refuse(run.server, replaced(genuine, channel_key=stolen.public), 1, "another client's key")
    run.finish()


def forged_roster(run: Round, roster: tuple[Member, ...], **change: Any) -> Roster:
    """A Roster for client 2 whose session hash fits what it holds."""
    genuine = run.downwards[2]
    assert isinstance(genuine, Roster)
    session = run.agreed.parameters.session(roster, genuine.nonce)
    return replaced(genuine, **({"roster": roster, "session": session} | change))


def test_rosters_that_are_not_this_clients_are_refused() -> None:
    run = Round(protocol())
    run.send("keys")
    run.collect()
    run.close()
    genuine = run.downwards[2]
    assert isinstance(genuine, Roster)
    members = tuple(Member(*entry) for entry in genuine.roster)
    swapped = (*members[:2], members[2]._replace(channel_key=b"\x09" * 32), *members[3:])
    weak = (members[0]._replace(channel_key=bytes(32)), *members[1:])
    other = protocol(length=5).parameters.packed()
    for message, text in (
        (forged_roster(run, swapped), "own key"),
        (forged_roster(run, members[:2] + members[3:]), "own key"),
        (forged_roster(run, members[:3]), "3 clients; it must name at least 4"),
        (forged_roster(run, weak), "all-zero"),
        (forged_roster(run, members, nonce=bytes(31) + b"\1"), "another session"),
        (forged_roster(run, members, session=bytes(32)), "another session"),
        (forged_roster(run, members, parameters=other), "other parameters"),
        (forged_roster(run, (members[0], *members)), "nobody twice"),
        (
            forged_roster(run, (members[0], members[0]._replace(client=1), *members[2:])),
            "key named",
        ),
    ):
        refuse(run.clients[2], message, -1, text)
    run.send("share")
    run.finish()


def test_shares_must_go_to_every_other_member() -> None:
    run = Round(protocol())
    run.play("share")
    genuine = run.upwards[1]
    assert isinstance(genuine, Share)
    refuse(run.server, replaced(genuine, boxes=genuine.boxes[1:]), 1, "every other member")
    refuse(run.server, replaced(genuine, boxes=()), 1, "every other member")
    run.finish()


def test_inboxes_that_are_not_whole_are_refused() -> None:
    run = Round(protocol())
    run.play("share", lost={4})
    run.collect()
    run.close()
    genuine = run.downwards[2]
    assert isinstance(genuine, Inbox)
    boxes = genuine.boxes
    extra = (*boxes, (4, boxes[0][1]))
    for message, text in (
        (replaced(genuine, dealers=(0, 1, 3), boxes=boxes), "leaves this client out"),
        (replaced(genuine, dealers=(0, 1, 2, 3, 4), boxes=extra), "not in the roster"),
        (replaced(genuine, dealers=(0, 1, 2), boxes=boxes[:2]), "at least 4"),
        (replaced(genuine, boxes=boxes[1:]), "every other dealer"),
        (replaced(genuine, boxes=extra), "every other dealer"),
    ):
        refuse(run.clients[2], message, -1, text)
    run.send("upload", lost={4})
    run.finish()


def test_survivors_that_may_not_be_answered_are_refused() -> None:
    run = Round(protocol(6, 2, 1, 3))
    run.play("upload", lost={5})
    run.collect()
    run.close()
    genuine = run.downwards[2]
    assert isinstance(genuine, Survivors)
    for survivors, text in (
        ((0, 1, 2, 3), "at least 5"),
        ((), "at least 5"),
        ((0, 1, 2, 3, 5), "dealt no shares"),
        ((0, 1, 2, 3, 4, 5), "dealt no shares"),
        ((0, 1, 2, 4, 3), "sorted"),
        ((0, 1, 2, 3, 3, 4), "nobody twice"),
    ):
        refuse(run.clients[2], replaced(genuine, survivors=survivors), -1, text)
    run.send("recover")
    run.finish()


def test_a_member_that_dealt_no_shares_is_no_survivor() -> None:
    """It is in the roster, so only the list of dealers tells."""
    run = Round(protocol(6, 2, 1, 3))
    run.play("keys")
    run.collect()
    run.close()
    run.send("share", lost={5})
    run.collect()
    run.close()
    run.send("upload")
    run.collect()
    run.close()
    genuine = run.downwards[2]
    assert isinstance(genuine, Survivors)
    hostile = replaced(genuine, survivors=(0, 1, 2, 3, 4, 5))
    refuse(run.clients[2], hostile, -1, "dealt no shares")
    run.send("recover")
    run.finish()


def test_a_second_set_of_survivors_closes_the_round() -> None:
    run = Round(protocol())
    run.play("recover")
    client = run.clients[2]
    genuine = run.downwards[2]
    assert isinstance(genuine, Survivors)
    (again,) = client.handle(genuine, -1)
    assert again.to_bytes() == run.upwards[2].to_bytes()
    with pytest.raises(ProtocolError, match="second set of survivors"):
        client.handle(replaced(genuine, survivors=(0, 1, 2, 3)), -1)
    assert client.phase == "closed"
    refuse(client, genuine, -1, "closed")


def test_two_answers_of_each_client_would_uncover_an_update() -> None:
    """Why one answer a round: with S and S without client 0, the server reads client 0's update."""
    agreed = protocol()
    run = Round(agreed)
    run.play("upload")
    uploads = dict(run.upwards)
    run.collect()
    run.close()
    field, code = agreed.fixed.field, agreed.code
    rows = {}
    for survivors in ((0, 1, 2, 3, 4), (1, 2, 3, 4)):
        chosen = [int(i in survivors) for i in range(5)]
        held = [client._held for client in run.clients]
        sums = [field_sum(h, field, weights=chosen) for h in held]
        rows[survivors] = code.decode(torch.stack(sums), list(range(5)), length=5)
    masks = [rows[s].to(torch.int64) for s in rows]
    mask = (masks[0] - masks[1]) % field.modulus
    upload = uploads[0]
    assert isinstance(upload, Upload)
    masked = torch.frombuffer(bytearray(upload.masked), dtype=torch.int32).to(torch.int64)
    leaked = agreed.fixed.integers(((masked - mask) % field.modulus).to(torch.int32))
    assert leaked[-1] == run.weights[0]
    wanted = run.updates[0].clamp(-1, 1) * run.weights[0]
    assert torch.allclose(leaked[:-1] / agreed.fixed.scale, wanted, atol=9 * 2**-15)


def test_answers_for_other_survivors_are_refused() -> None:
    run = Round(protocol())
    run.play("recover")
    refuse(run.server, replaced(run.upwards[1], digest=bytes(32)), 1, "other survivors")
    run.finish()


def test_a_late_upload_is_dropped_with_its_mask() -> None:
    run = Round(protocol())
    run.play("upload")
    late = run.upwards.pop(4)
    run.collect()
    run.close()
    refuse(run.server, late, 4, "does not belong")
    assert run.server._uploads.keys() == {0, 1, 2, 3}
    run.send("recover")
    run.finish()
    assert run.server.result.included == {0, 1, 2, 3}


def test_results_for_other_survivors_are_refused() -> None:
    run = Round(protocol())
    run.play("recover")
    run.collect()
    run.close()
    genuine = run.downwards[2]
    assert isinstance(genuine, Result)
    refuse(run.clients[2], replaced(genuine, survivors=(0, 1, 2, 3), weight=1), -1, "other surv")
    run.clients[2].handle(genuine, -1)


def test_keys_of_a_round_are_derived_as_documented() -> None:
    """The masked upload is the encoded update plus residues of the round key's "mask"."""
    run = Round(protocol())
    run.play("upload")
    fixed = run.agreed.fixed
    modulus = fixed.field.modulus
    for i, message in run.upwards.items():
        assert isinstance(message, Upload)
        mask_key = derived(client_secret(i), "mask")
        rounding = derived(client_secret(i), "rounding")
        values = run.updates[i].tolist()
        encoded = oracles.quantize(values, fixed.scale, fixed.clip, modulus, rounding)
        plain = [x * run.weights[i] for x in encoded] + [run.weights[i]]
        masked = [
            (x + oracles.residue(mask_key, at, modulus)) % modulus for at, x in enumerate(plain)
        ]
        assert torch.frombuffer(bytearray(message.masked), dtype=torch.int32).tolist() == masked


def test_clients_draw_fresh_keys_when_they_are_given_none() -> None:
    agreed = protocol()
    update = torch.zeros(4)
    keys = {agreed.client(0, 0).start(update)[0].channel_key for _ in range(4)}  # type: ignore[attr-defined]
    assert len(keys) == 4
    again = {
        agreed.client(0, 0, Key(bytes(32))).start(update)[0].channel_key  # type: ignore[attr-defined]
        for _ in range(4)
    }
    assert len(again) == 1
