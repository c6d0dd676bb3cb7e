"""What ``resume`` does not take: a missing or another journal, and what is the other side's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyfed import FixedPoint, Key
from pyfed.errors import ArgumentError, ProtocolError
from pyfed.secagg import FileJournal, Identity, LightSecAgg
from pyfed.secagg.snapshot import MAGIC, OLDER
from secagg.rounds import Round, protocol

PROTOCOL = protocol()
STORAGE = Key(bytes(range(32)))


def uploaded(path: Path) -> tuple[Round, bytes]:
    """A round whose client 1, with a journal, has uploaded; and that client's state."""
    run = Round(PROTOCOL, journals={1: FileJournal(path)})
    run.play("upload")
    run.collect()
    return run, run.clients[1].save(STORAGE)


def test_a_client_with_a_journal_is_not_resumed_without_one(tmp_path: Path) -> None:
    run, saved = uploaded(tmp_path / "journal")
    with pytest.raises(ArgumentError, match=r"client 1 was made with a journal.*journal="):
        PROTOCOL.resume(saved, STORAGE)
    again = PROTOCOL.resume(saved, STORAGE, journal=FileJournal(tmp_path / "journal"))
    assert again.outbox == run.clients[1].outbox


def test_a_journal_that_is_new_gets_what_the_state_has_released(tmp_path: Path) -> None:
    _, saved = uploaded(tmp_path / "journal")
    PROTOCOL.resume(saved, STORAGE, journal=FileJournal(tmp_path / "new"))
    lines = (tmp_path / "journal").read_bytes()
    assert (tmp_path / "new").read_bytes() == lines
    assert b"upload " in lines


def test_a_journal_of_another_round_is_noticed(tmp_path: Path) -> None:
    _, saved = uploaded(tmp_path / "journal")
    other = FileJournal(tmp_path / "other")
    other.record("upload", bytes(32))
    with pytest.raises(ProtocolError, match="another upload"):
        PROTOCOL.resume(saved, STORAGE, journal=other)


def test_a_client_that_gets_a_journal_later_keeps_it(tmp_path: Path) -> None:
    run = Round(PROTOCOL)
    run.play("upload")
    run.collect()
    saved = run.clients[1].save(STORAGE)
    again = PROTOCOL.resume(saved, STORAGE, journal=FileJournal(tmp_path / "journal"))
    with pytest.raises(ArgumentError, match="made with a journal"):
        PROTOCOL.resume(again.save(STORAGE), STORAGE)


def test_what_belongs_to_the_other_side_is_refused(tmp_path: Path) -> None:
    run = Round(PROTOCOL)
    run.play("upload")
    client, server = run.clients[1].save(STORAGE), run.server.save(STORAGE)
    with pytest.raises(ArgumentError, match=r"deadlines are a server's; .* client 1"):
        PROTOCOL.resume(client, STORAGE, deadlines={"upload": 3.0})
    for given in (
        {"journal": FileJournal(tmp_path / "journal")},
        {"identity": Identity(STORAGE)},
    ):
        with pytest.raises(ArgumentError, match="journal and identity are a client's"):
            PROTOCOL.resume(server, STORAGE, **given)


class FullDisk:
    """Fails at the first entry of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind: str | None = kind

    def record(self, kind: str, digest: bytes) -> None:
        if kind == self.kind:
            self.kind = None
            raise OSError("the disk is full")


@pytest.mark.parametrize("kind", ["coin", "upload"])
def test_a_step_whose_entry_failed_can_be_taken_again_with_checked_dealers(kind: str) -> None:
    fixed = FixedPoint(clip=1.0, bits=12, clients=6)
    checked = LightSecAgg(6, 1, 1, length=5, fixed=fixed, detect=1, check_dealers=True)
    key = Key(bytes(range(32)))

    def client(number: int, journal: FullDisk | None) -> object:
        return checked.client(number, 0, key.derive("client", number), journal)

    clients = [client(i, FullDisk(kind) if i == 2 else None) for i in range(6)]
    server = checked.server(0)
    for client_ in clients:
        server.handle(*client_.start(torch.ones(5)), client_._number)
    for message in server.close_phase():
        server.handle(*clients[message.recipient].handle(message, -1), message.recipient)
    for message in server.close_phase():
        one = clients[message.recipient]
        if message.recipient == 2:
            with pytest.raises(OSError, match="full"):
                one.handle(message, -1)
        server.handle(*one.handle(message, -1), message.recipient)
    for message in server.close_phase():
        server.handle(*clients[message.recipient].handle(message, -1), message.recipient)
    server.close_phase()
    assert server.result.mean.tolist() == [1.0] * 5
    assert server.inconsistent == {}


def test_a_state_of_another_version_is_told_from_a_damaged_one() -> None:
    run = Round(PROTOCOL)
    saved = run.server.save(STORAGE)
    assert saved.startswith(MAGIC)
    with pytest.raises(ProtocolError, match="the state is of another version"):
        PROTOCOL.resume(OLDER[0] + saved[len(MAGIC) :], STORAGE)
    with pytest.raises(ProtocolError, match="the state is damaged: it has no header"):
        PROTOCOL.resume(b"x" + saved, STORAGE)
