"""Parties that are killed and resumed in every phase: the same bytes as without, or silence."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pyfed import Key
from pyfed.errors import DecodeError, DtypeError, ProtocolError, ThresholdError
from pyfed.secagg import FileJournal
from secagg.journeys import SERVER, STORAGE, Event, Journey, Ledger, Scene
from secagg.rounds import client_secret, state
from secagg.scenes import EVERY, every_scene, lightsecagg, round_key

HEADER = 14 + 8 + 8 + 32 + 4
"""Bytes of a snapshot before its first nonce."""


def ledgers(scene: Scene) -> dict[int, Any]:
    return {i: Ledger() for i in range(scene.clients)}


def expect_same(journey: Journey, undisturbed: Journey) -> None:
    assert [(e.party, e.source) for e in journey.events] == [
        (e.party, e.source) for e in undisturbed.events
    ]
    assert journey.sent == undisturbed.sent


@EVERY
def test_a_party_killed_after_any_step_goes_on_with_the_same_bytes(scene: Scene) -> None:
    def hook(journey: Journey, event: Event) -> list[bytes]:
        sent = journey.perform(event)
        before = state(journey.parties[event.party])
        journey.revive(event.party)
        party = journey.parties[event.party]
        assert comparable(state(party)) == comparable(before)
        if sent:
            assert [message.to_bytes() for message in party.outbox] == sent
        return sent

    journey = Journey(scene, hook=hook, journals=ledgers(scene)).run()
    expect_same(journey, Journey(scene).run())


def comparable(kept: dict[str, Any]) -> dict[str, Any]:
    """What a snapshot holds: locks, clocks, journals and identities are given anew."""
    anew = ("_lock", "_clock", "_began", "_journal", "_identity", "_deadlines")
    out = {name: value for name, value in kept.items() if name not in anew}
    if out["_result"] is not None:
        out["_result"] = state(vars(out["_result"]))
    return out


@EVERY
def test_a_party_killed_before_its_snapshot_gives_the_same_bytes_again(scene: Scene) -> None:
    def hook(journey: Journey, event: Event) -> list[bytes]:
        older = journey.saved(event.party)
        first = journey.perform(event)
        journey.revive(event.party, older)
        assert journey.perform(event) == first
        return first

    journey = Journey(scene, hook=hook, journals=ledgers(scene)).run()
    expect_same(journey, Journey(scene).run())


@EVERY
def test_a_party_made_again_from_its_key_gives_the_same_bytes(scene: Scene) -> None:
    """No snapshot at all: a client is a function of its round key and of what it was given."""
    journals = ledgers(scene)
    journey = Journey(scene, journals=journals).run()
    for i in range(scene.clients):
        again = scene.make_client(i, 0, journals[i])
        for event, sent in zip(journey.events, journey.sent, strict=True):
            if event.party == i:
                assert step(journey, again, event) == sent


def step(journey: Journey, client: Any, event: Event) -> list[bytes]:
    if event.data is None:
        messages = client.start(*journey.scene.inputs[event.party])
    else:
        messages = client.handle(journey.read(event.data), event.source)
    return [message.to_bytes() for message in messages]


def second_time(scene: Scene, other: Journey, journals: dict[int, Any]) -> Counter[str]:
    """Every client is set back after each step, and gets what it got in another round."""
    told = Counter[str]()
    letters: dict[tuple[int, int], list[Event]] = {}
    for event in other.events:
        letters.setdefault((event.party, event.turn), []).append(event)

    def hook(journey: Journey, event: Event) -> list[bytes]:
        if event.party == SERVER or event.data is None:
            return journey.perform(event)
        older = journey.saved(event.party)
        sent = journey.perform(event)
        newer = journey.saved(event.party)
        for letter in letters.get((event.party, event.turn), []):
            if letter.data == event.data or letter.data is None:
                continue
            journey.revive(event.party, older)
            try:
                again = journey.perform(letter)
            except (DecodeError, ThresholdError):
                told["refused"] += 1
            except ProtocolError as error:
                closed = journey.parties[event.party].phase == "closed"
                assert closed == ("burnt" in str(error) or "closed" in str(error))
                told["burnt" if closed else "refused"] += 1
            else:
                told["same" if again == sent else "different"] += 1
        journey.revive(event.party, newer)
        return sent

    Journey(scene, hook=hook, journals=journals).run()
    return told


@EVERY
def test_a_rolled_back_client_with_a_journal_never_says_two_things(scene: Scene) -> None:
    turns = Journey(scene).run().turn
    without, journaled = Counter[str](), Counter[str]()
    for turn in range(1, turns):
        other = Journey(scene, lost=frozenset({(turn, 5)})).run()
        without += second_time(scene, other, {})
        journaled += second_time(scene, other, ledgers(scene))
    assert without["different"] > 0  # so a journal is needed
    assert journaled["different"] == 0
    assert journaled["burnt"] > 0


def retrained(scene: Scene, journals: dict[int, Any]) -> Counter[str]:
    """Every client is made again from its key, with another update, and gets the same messages."""
    journey = Journey(scene, journals=journals).run()
    told = Counter[str]()
    for i in range(scene.clients):
        again = scene.make_client(i, 0, journals.get(i))
        for event, sent in zip(journey.events, journey.sent, strict=True):
            if event.party != i:
                continue
            try:
                if event.data is None:
                    out = again.start(*scene.retrained(scene.inputs[i]))
                else:
                    out = again.handle(journey.read(event.data), event.source)
            except (DecodeError, ThresholdError):
                continue  # an asker that cannot read
            except ProtocolError as error:
                assert "burnt" in str(error) and again.phase == "closed"
                told["burnt"] += 1
                break
            told["same" if [m.to_bytes() for m in out] == sent else "different"] += 1
    return told


@EVERY
def test_another_update_under_the_same_key_is_never_released(scene: Scene) -> None:
    assert retrained(scene, {})["different"] >= scene.clients
    told = retrained(scene, ledgers(scene))
    assert told["different"] == 0
    assert told["burnt"] == scene.clients


class Failing(Ledger):
    """A journal whose every entry fails the first time, before it is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: set[str] = set()

    def record(self, kind: str, digest: bytes) -> None:
        if kind not in self.tried:
            self.tried.add(kind)
            raise OSError("the disk is full")
        super().record(kind, digest)


@EVERY
def test_a_step_whose_journal_fails_can_be_taken_again_with_the_same_bytes(scene: Scene) -> None:
    def hook(journey: Journey, event: Event) -> list[bytes]:
        party = journey.parties[event.party]
        while True:
            before = party.phase
            try:
                return journey.perform(event)
            except OSError:
                assert party.phase == before

    journals: dict[int, Any] = {i: Failing() for i in range(scene.clients)}
    journey = Journey(scene, hook=hook, journals=journals).run()
    expect_same(journey, Journey(scene).run())
    kinds = {kind for journal in journals.values() for kind in journal.entries}
    assert len(kinds) >= 3
    assert all(journal.tried == set(journal.entries) for journal in journals.values())


@EVERY
def test_snapshots_that_are_damaged_or_not_ones_own_are_refused(scene: Scene) -> None:
    rng = random.Random(1)
    journey = Journey(scene)
    journey.take_turn()
    journey.clients_act()
    for who in (0, SERVER):
        data = journey.saved(who)
        for _ in range(40):
            at = rng.randrange(len(data))
            flipped = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            for damaged in (flipped, data[:at], data + b"\0", data[at:]):
                with pytest.raises(ProtocolError):
                    journey.resumed(who, damaged)
        for key in (Key(bytes(32)), Key(client_secret(0))):
            with pytest.raises(ProtocolError):
                journey.resumed(who, data, key)
        for other in every_scene():
            if other.name != scene.name:
                with pytest.raises(ProtocolError):
                    Journey(other).resumed(who, data)
        for nothing in (None, "text", 5):
            with pytest.raises(DtypeError):
                journey.resumed(who, nothing)  # type: ignore[arg-type]
        journey.revive(who, data)
    with pytest.raises(DtypeError):
        journey.server.save(STORAGE)


@EVERY
def test_a_snapshot_hides_the_round_key_and_never_repeats_a_nonce(scene: Scene) -> None:
    journey = Journey(scene)
    journey.take_turn()
    first, second = journey.saved(2), journey.saved(2)
    assert first[:HEADER] == second[:HEADER]
    assert first[HEADER:][:12] != second[HEADER:][:12]
    for data in (first, second):
        assert round_key(2, 0, 0) not in data
    assert journey.parties[2]._root.reveal() == round_key(2, 0, 0)


CHILD = """
import os, signal, sys
from pathlib import Path
from pyfed import Key
from pyfed.secagg import FileJournal, Message
from secagg.journeys import STORAGE
from secagg.scenes import lightsecagg

class Fatal(FileJournal):
    def record(self, kind, digest):
        super().record(kind, digest)
        if kind == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)  # journaled, and not yet sent

folder, scene = Path(sys.argv[1]), lightsecagg("curious")
state = (folder / "snapshot").read_bytes()
client = scene.protocol.resume(state, Key(STORAGE), journal=Fatal(folder / "journal"))
data = (folder / "message").read_bytes()
client.handle(Message.from_bytes(data, scene.protocol.parameters), -1)
"""


@pytest.mark.parametrize("kind", ["upload", "answer"])
def test_a_process_killed_between_journal_and_sending_sends_the_same(
    kind: str, tmp_path: Path
) -> None:
    scene = lightsecagg("curious")
    killed = Counter[str]()

    def hook(journey: Journey, event: Event) -> list[bytes]:
        wanted = {"upload": "Inbox", "answer": "Survivors"}[kind]
        if event.party != 2 or not event.data or journey.read(event.data).kind != wanted:
            return journey.perform(event)
        snapshot = journey.saved(2)
        (tmp_path / "snapshot").write_bytes(snapshot)
        (tmp_path / "message").write_bytes(event.data)
        tests = str(Path(__file__).parent.parent)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path), kind], env=environment, check=False
        )
        assert child.returncode == -signal.SIGKILL
        assert (tmp_path / "journal").read_bytes().splitlines()[-1].startswith(kind.encode())
        killed[kind] += 1
        journey.journals[2] = FileJournal(tmp_path / "journal")
        journey.revive(2, snapshot)
        return journey.perform(event)

    journey = Journey(scene, hook=hook).run()
    assert killed[kind] == 1
    expect_same(journey, Journey(scene).run())
