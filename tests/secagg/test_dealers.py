"""Checked dealers: who deals shares that are not of one vector is found, and the sum is exact."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pyfed import Key
from pyfed.errors import ArgumentError, DecodeError, DtypeError, ProtocolError, ThresholdError
from pyfed.secagg import LightSecAgg, Message, simulate
from pyfed.secagg.dealer_messages import Inbox, Upload
from pyfed.secagg.journal import FileJournal
from pyfed.secagg.lightsecagg_dealers import DealerCheckClient, DealerCheckServer
from secagg.rounds import Round, exact_sum, protocol, refuse, replaced


def checked(clients: int = 7, privacy: int = 1, dropouts: int = 1, **more: int) -> LightSecAgg:
    sizes = {"length": 9, "errors": 1, "detect": 1} | more
    return protocol(clients, privacy, dropouts, check_dealers=True, **sizes)


def cheat(run: Round, dealer: int, victims: set[int], column: int = 0) -> None:
    """Let a client deal shares in which these recipients' ones are off, in boxes that are sound."""
    client = run.clients[dealer]
    honest = client._dealt_shares

    def off() -> torch.Tensor:
        shares, p = honest(), run.agreed.parameters.field.modulus
        for victim in victims:
            shares[victim, column] = (int(shares[victim, column]) + 1 + victim**2) % p
        return shares

    client._dealt_shares = off


def played(run: Round, until: str = "upload") -> Round:
    run.play(until)
    if until == "upload":
        assert all(message.complaints == () for message in run.upwards.values())
    return run


def found(run: Round) -> dict[int, tuple[int, ...]]:
    assert isinstance(run.server, DealerCheckServer)
    return run.server.inconsistent


@pytest.mark.parametrize("lost", [None, "keys", "share", "upload", "recover"])
def test_honest_dealers_are_not_named_whoever_is_lost(lost: str | None) -> None:
    agreed = checked()
    updates = [torch.linspace(-1, 1, 9) * (i + 1) / 7 for i in range(7)]
    seed = Key(bytes(range(32)))
    drop = {lost: {3}} if lost else {}
    result = simulate(agreed, updates, weights=[2] * 7, drop=drop, key=seed)
    gone = {3} if lost in ("keys", "share", "upload") else set()
    assert result.included == set(range(7)) - gone
    assert result.integers.tolist() == exact_sum(agreed, updates, [2] * 7, result.included)
    run = Round(agreed)
    played(run).finish()
    assert found(run) == {}


@pytest.mark.parametrize("victim", [0, 3, 6])
@pytest.mark.parametrize("column", [0, -1])  # a residue of the share, and one of the pad
def test_a_single_row_that_is_off_is_a_complaint_of_its_holder(victim: int, column: int) -> None:
    run = Round(checked())
    cheat(run, 2, {victim}, column)
    played(run).finish()
    assert found(run) == {2: (victim,)}
    assert run.server.result.included == set(range(7)) - {victim}


@pytest.mark.parametrize("victims", [{0, 4}, {1, 2}, {0, 1, 3}, {0, 1, 3, 4, 5, 6}])
def test_a_dealer_of_inconsistent_shares_is_named_and_left_out_of_an_exact_sum(
    victims: set[int],
) -> None:
    run = Round(checked())  # 7 answers and 3 blocks + 1: one or two can be told, three cannot
    threshold = run.agreed.code.threshold
    cheat(run, 2, victims)
    played(run).finish()
    told = 2 * len(victims) <= 7 - threshold
    assert found(run) == {2: tuple(sorted(victims)) if told else ()}
    assert run.server.result.included == {0, 1, 3, 4, 5, 6}


def test_two_dealers_that_cheat_are_both_named() -> None:
    run = Round(checked(9, 2, 2))
    cheat(run, 2, {0, 1, 3, 4, 5})
    cheat(run, 7, {1, 2, 8}, column=1)
    played(run).finish()
    assert set(found(run)) == {2, 7}
    assert run.server.result.included == set(range(9)) - {2, 7}


@pytest.mark.parametrize("detect", [1, 2])
def test_without_the_check_the_same_dealer_ends_the_round_and_never_gives_a_wrong_sum(
    detect: int,
) -> None:
    for check in (False, True):
        run = Round(protocol(7, 1, 1, 9, detect=detect, check_dealers=check))
        cheat(run, 2, {0, 1, 3})
        played(run)
        if check:
            run.finish()
            assert run.server.result.included == {0, 1, 3, 4, 5, 6}
            continue
        with pytest.raises(DecodeError):
            run.finish()
        assert run.server.phase == "closed"


def test_a_holder_that_lies_about_every_dealer_leaves_alone() -> None:
    run = Round(checked())
    played(run)
    upload = run.upwards[5]
    assert isinstance(upload, Upload)
    lies = bytearray(upload.answers)
    for at in range(0, len(lies), 4):
        lies[at] ^= 1
    run.upwards[5] = replaced(upload, answers=bytes(lies))
    run.finish()
    assert found(run) == dict.fromkeys(range(7), (5,))
    assert run.server.result.included == {0, 1, 2, 3, 4, 6}


def test_a_bad_box_and_a_row_that_is_off_are_counted_together() -> None:
    run = Round(checked())
    cheat(run, 2, {3})
    run.play("share")
    share = run.upwards[2]
    boxes = tuple((to, (bytes(len(b[0])),) if to == 4 else b) for to, b in share.boxes)
    run.upwards[2] = replaced(share, boxes=boxes)
    run.collect()
    run.close()
    run.send("upload")
    assert run.upwards[4].complaints == (2,)
    run.finish()
    assert found(run) == {2: (3,)}  # of the others, whose boxes were sound
    assert run.server.result.included == {0, 1, 3, 4, 5, 6}  # two complaints, T = 1


def test_exclusions_beyond_what_can_be_lost_are_told() -> None:
    run = Round(checked())
    cheat(run, 2, {0, 1, 3, 4, 5, 6})
    cheat(run, 3, {0, 1, 2, 4, 5, 6})
    played(run).collect()
    for _ in range(2):  # nothing has changed the second time
        with pytest.raises(ThresholdError, match=r"excluded \[2, 3\]"):
            run.server.close_phase()


def test_complaints_by_almost_everybody_are_told_as_such() -> None:
    """Fewer holders are left than a vector needs, so that there is nothing to compare."""
    run = Round(checked(privacy=3, errors=0))  # 2 blocks, 5 rows decode
    played(run)
    for client in (3, 4, 5):
        run.upwards[client] = replaced(run.upwards[client], complaints=(2,))
    run.collect()
    with pytest.raises(ThresholdError, match=r"complaints excluded \[3, 4, 5\]"):
        run.server.close_phase()


def test_the_coin_is_fresh_and_comes_when_all_boxes_are_there() -> None:
    coins = set()
    for _ in range(3):
        run = Round(checked())
        run.play("share")
        run.collect()
        run.close()
        here = {message.coin for message in run.downwards.values()}
        assert len(here) == 1 and bytes(32) not in here
        coins |= here
    assert len(coins) == 3


def inboxes(run: Round) -> dict[int, Message]:
    run.play("share")
    run.collect()
    return run.close()


@pytest.mark.parametrize("coin", [b"", bytes(31), bytes(33), "a" * 32, None])
def test_a_coin_of_another_size_is_refused(coin: object) -> None:
    run = Round(checked())
    refuse(run.clients[1], replaced(inboxes(run)[1], coin=coin), -1, "coin must be 32 bytes")


def test_a_client_answers_one_coin_only_after_a_crash_too(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "1")
    run = Round(checked(), journals={1: journal})
    inbox, key = inboxes(run)[1], Key(bytes(32))
    before = run.clients[1].save(key)
    (upload,) = run.clients[1].handle(inbox, -1)
    other = replaced(inbox, coin=bytes(32))
    refuse(run.clients[1], other, -1)

    again = run.agreed.resume(before, key, FileJournal(tmp_path / "1"))
    assert again.handle(inbox, -1) == [upload]
    burnt = run.agreed.resume(before, key, FileJournal(tmp_path / "1"))
    with pytest.raises(ProtocolError, match="another coin"):
        burnt.handle(other, -1)
    assert burnt.phase == "closed"


def test_pads_are_overwritten_when_they_have_served(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Round(checked())
    inbox = inboxes(run)[1]
    client = run.clients[1]
    assert isinstance(client, DealerCheckClient)
    own, p = client._own, run.agreed.parameters
    assert own.shape == (1, p.columns + 3)
    opened = []

    def spy(self: DealerCheckClient) -> None:
        opened.append(self._held)
        uploaded(self)

    uploaded = DealerCheckClient._uploaded
    monkeypatch.setattr(DealerCheckClient, "_uploaded", spy)
    client.handle(inbox, -1)
    (wide,) = opened
    assert wide.shape == (7, p.columns + 3)
    assert not wide.any() and not own.any()
    assert client._held.shape == (7, p.columns) and client._held.any()


def test_messages_with_checks_survive_their_bytes_and_have_one_form() -> None:
    run = Round(checked())
    for phase in ("keys", "share", "upload", "recover"):
        for message in (*run.send(phase).values(), *(run.collect() or run.close()).values()):
            data = message.to_bytes()
            assert Message.from_bytes(data, run.agreed.parameters) == message
            assert len(data) <= message.largest(run.agreed.parameters)


@pytest.mark.parametrize(
    ("answers", "words"),
    [(b"", "answers must be 84 bytes"), (bytes(80), "84 bytes"), (b"\xff" * 84, "residues below")],
)
def test_answers_of_another_size_or_no_residues_are_refused(answers: bytes, words: str) -> None:
    run = played(Round(checked()))
    refuse(run.server, replaced(run.upwards[1], answers=answers), 1, words)


def test_messages_of_sessions_with_and_without_checks_do_not_mix() -> None:
    run, plain = Round(checked()), Round(protocol(7, 1, 1, 9, errors=1, detect=1))
    parameters = run.agreed.parameters
    assert parameters.digest() != plain.agreed.parameters.digest()
    assert parameters.digest() != dataclasses.replace(parameters, challenges=4).digest()
    inbox = inboxes(plain)[1]
    inboxes(run)
    refuse(run.clients[1], inbox, -1)
    data = inbox.to_bytes()
    with pytest.raises(ProtocolError):
        Message.from_bytes(data, run.agreed.parameters)
    assert isinstance(run.downwards[1], Inbox)
    with pytest.raises(ProtocolError):
        Message.from_bytes(run.downwards[1].to_bytes(), plain.agreed.parameters)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"check_dealers": 1, "detect": 1}, DtypeError, "check_dealers is int"),
        ({"check_dealers": True}, ArgumentError, "needs errors or detect.*both are 0"),
        (
            {"check_dealers": True, "detect": 1, "server": "malicious"},
            ArgumentError,
            "needs server='curious'.*different coins",
        ),
    ],
)
def test_checks_that_would_be_unsafe_or_empty_are_refused(
    more: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        protocol(7, 1, 1, 9, **more)
    assert "check_dealers=True" in repr(checked())
