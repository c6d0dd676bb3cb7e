"""A client that crashed sends the same again, or nothing."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest
import torch

from pyfed import Key
from pyfed.errors import ArgumentError, ProtocolError
from pyfed.secagg import FileJournal, Message
from pyfed.secagg.digests import fingerprint
from pyfed.secagg.messages import Survivors, Upload
from pyfed.secagg.session import survivors_digest
from secagg.rounds import Round, client_secret, protocol, replaced, state


class Spy:
    """Remembers entries, with what the client had sent when they were made; can fail."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, bytes]] = []
        self.fail = False

    def record(self, kind: str, digest: bytes) -> None:
        if self.fail:
            raise OSError("the disk is full")
        self.entries.append((kind, digest))


def test_entries_are_made_before_the_messages_are_released() -> None:
    spy = Spy()
    run = Round(protocol(), journals={2: spy})
    run.play("share")
    run.collect()
    run.close()
    assert spy.entries == [("roster", run.clients[2]._session)]
    spy.fail = True
    before = state(run.clients[2]._values)
    with pytest.raises(OSError, match="disk is full"):
        run.clients[2].handle(run.downwards[2], -1)
    assert run.clients[2].phase == "share"
    assert state(run.clients[2]._values) == before
    spy.fail = False
    run.send("upload")
    upload = run.upwards[2]
    assert isinstance(upload, Upload)
    own = Key(client_secret(2)).derive("journal")
    assert spy.entries[1:] == [("upload", fingerprint(own, upload.masked))]
    run.collect()
    run.close()
    spy.fail = True
    with pytest.raises(OSError, match="disk is full"):
        run.clients[2].handle(run.downwards[2], -1)
    spy.fail = False
    run.send("recover")
    assert spy.entries[2:] == [("answer", survivors_digest((0, 1, 2, 3, 4)))]
    run.finish()


def resumed(
    run: Round, seen: list[Message], path: Path, update: torch.Tensor
) -> tuple[list[Message], Round]:
    """What client 2 would send when it is made again from its round key and fed what it saw."""
    again = Round(run.agreed)
    client = run.agreed.client(2, 0, Key(client_secret(2)), FileJournal(path))
    again.clients[2] = client
    sent = client.start(update, run.weights[2])
    for message in seen:
        sent = client.handle(message, -1)
    return sent, again


def test_a_resumed_client_sends_the_same_bytes_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "client-2-round-0"
    run = Round(protocol(), journals={2: FileJournal(path)})
    seen = []
    run.play("keys")
    for phase in ("share", "upload", "recover"):
        run.collect()
        run.close()
        seen.append(run.downwards[2])
        run.send(phase)
        if phase == "upload":
            upload = run.upwards[2]
    answer = run.upwards[2]

    (again,), _ = resumed(run, seen[:2], path, run.updates[2])
    assert again.to_bytes() == upload.to_bytes()
    (again,), _ = resumed(run, seen, path, run.updates[2])
    assert again.to_bytes() == answer.to_bytes()

    retrained = run.updates[2] + 0.5
    with pytest.raises(ProtocolError, match="another upload: this round is burnt"):
        resumed(run, seen[:2], path, retrained)

    survivors = seen[2]
    assert isinstance(survivors, Survivors)
    fewer = replaced(survivors, survivors=(0, 1, 2, 3))
    with pytest.raises(ProtocolError, match="another answer: this round is burnt"):
        resumed(run, [*seen[:2], fewer], path, run.updates[2])
    run.finish()


def test_a_conflict_with_the_journal_wipes_the_client(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal")
    journal.record("upload", bytes(32))
    run = Round(protocol(), journals={2: journal})
    run.play("share")
    run.collect()
    run.close()
    client = run.clients[2]
    values = client._values
    assert values.any()
    with pytest.raises(ProtocolError, match="burnt"):
        client.handle(run.downwards[2], -1)
    assert client.phase == "closed"
    assert not values.any()


def test_the_file_keeps_entries_and_drops_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    FileJournal(path).record("upload", bytes(range(32)))
    again = FileJournal(path)
    again.record("upload", bytes(range(32)))
    with pytest.raises(ProtocolError, match="burnt"):
        again.record("upload", bytes(32))
    whole = path.read_bytes()
    assert whole == b"upload " + bytes(range(32)).hex().encode() + b"\n"
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut].replace(b"upload", b"answer"))
        journal = FileJournal(path)
        assert path.read_bytes() == whole
        journal.record("answer", bytes(32))
        assert path.read_bytes() == whole + b"answer " + b"00" * 32 + b"\n"
    for damaged in (b"upload\n", b"upload 00\n", b"upload " + b"zz" * 32 + b"\n", b"\n\n"):
        path.write_bytes(damaged)
        with pytest.raises(ProtocolError, match="damaged"):
            FileJournal(path)


def test_an_entry_is_on_disk_before_record_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    synchronised = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synchronised.append(path.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    FileJournal(path)  # a name without an entry may be lost
    journal = FileJournal(path)
    journal.record("upload", bytes(32))
    line = b"upload " + b"00" * 32 + b"\n"
    assert synchronised == [b"", line]  # the directory, which has the new name; then the file
    FileJournal(path).record("answer", bytes(32))
    assert len(synchronised) == 3


def test_an_entry_never_stands_behind_a_line_that_was_cut_short(tmp_path: Path) -> None:
    """A disk that was full in the middle of a write, while the journal is open."""
    path = tmp_path / "journal"
    journal = FileJournal(path)
    journal.record("roster", bytes(32))
    with path.open("ab") as file:
        file.write(b"a")
    journal.record("answer", b"1" * 32)
    for other in (journal, FileJournal(path)):
        with pytest.raises(ProtocolError, match="another answer"):
            other.record("answer", b"2" * 32)
    assert path.read_bytes().count(b"\n") == 2


def test_a_second_journal_waits_until_the_first_has_written(tmp_path: Path) -> None:
    """Else it would take the half of a line for one that a crash cut short, and drop it."""
    path = tmp_path / "journal"
    FileJournal(path).record("roster", bytes(32))
    opened = threading.Event()

    def open_another() -> None:
        FileJournal(path)
        opened.set()

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"answer ")
        file.flush()
        other = threading.Thread(target=open_another)
        other.start()
        assert not opened.wait(0.2)
        file.write(b"00" * 32 + b"\n")
    other.join()
    with pytest.raises(ProtocolError, match="another answer"):
        FileJournal(path).record("answer", b"2" * 32)


def test_a_journal_needs_its_folder_and_notices_that_its_file_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no folder"):
        FileJournal(tmp_path / "missing" / "journal")
    journal = FileJournal(tmp_path / "journal")
    journal.record("upload", bytes(32))
    (tmp_path / "journal").unlink()
    with pytest.raises(ProtocolError, match="is gone"):
        journal.record("answer", bytes(32))


def test_two_journals_of_one_file_see_each_other(tmp_path: Path) -> None:
    one, other = FileJournal(tmp_path / "j"), FileJournal(tmp_path / "j")
    one.record("upload", b"a" * 32)
    other.record("upload", b"a" * 32)
    with pytest.raises(ProtocolError, match="another upload"):
        other.record("upload", b"b" * 32)


def test_a_file_with_two_entries_of_a_kind_or_no_text_is_refused(tmp_path: Path) -> None:
    line = b"upload %s\n"
    (tmp_path / "two").write_bytes(line % (b"00" * 32) + line % (b"11" * 32))
    with pytest.raises(ProtocolError, match="holds two of upload"):
        FileJournal(tmp_path / "two")
    (tmp_path / "noise").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ProtocolError, match="is damaged"):
        FileJournal(tmp_path / "noise")


def test_an_entry_that_was_not_made_safe_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a second attempt, in this process or the next, would take it for safe."""
    path, fsync, calls = tmp_path / "journal", os.fsync, list[int]()
    journal = FileJournal(path)
    journal.record("roster", bytes(32))

    def broken(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError("input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="input/output"):
        journal.record("upload", b"1" * 32)
    assert path.read_bytes().count(b"\n") == 1
    journal.record("upload", b"1" * 32)
    assert len(calls) == 2 and path.read_bytes().count(b"\n") == 2


def test_a_name_behind_which_only_a_cut_line_stands_is_made_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fsync, seen = tmp_path / "journal", os.fsync, list[bytes]()

    def watched(descriptor: int) -> None:
        seen.append(path.read_bytes())
        fsync(descriptor)

    path.write_bytes(b"roster 12")
    monkeypatch.setattr(os, "fsync", watched)
    FileJournal(path).record("roster", bytes(32))
    assert len(seen) == 2  # the folder, then the file
