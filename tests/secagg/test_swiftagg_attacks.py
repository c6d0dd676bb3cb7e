"""Sums in clear, two sets of members, lost memories and secrets that stay."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from pyfed import Key, LagrangeCode
from pyfed.errors import DecodeError, ProtocolError, ThresholdError
from pyfed.ops.field import field_sum
from pyfed.secagg import Identity, swiftagg_client
from pyfed.secagg.channel import Peers
from pyfed.secagg.common import Quorum
from pyfed.secagg.session import SEALING, SERVER, survivors_digest
from secagg.rounds import client_secret, replaced, state
from secagg.swift_rounds import SwiftRound, included, swift

READINGS = (  # where residues may lie in a segment
    lambda segment: segment[SEALING:],
    lambda segment: segment[12:-16],
    lambda segment: segment[:-SEALING],
)


def prefix_sums(run: SwiftRound) -> list[list[int]]:
    """What a server finds that takes the sums between groups to be in clear.

    It decodes the rows of each group, and believes what the row beyond K + T agrees with.
    """
    p, found = run.agreed.parameters, []
    code = LagrangeCode(p.holders, p.blocks, p.privacy, p.field)
    for group, reading in itertools.product(range(p.layout.groups), READINGS):
        rows = {}
        for message in run.sent:
            if message.kind == "Hop" and p.layout.seat(message.sender)[0] == group:
                ((_, (segment,)),) = message.boxes
                words = memoryview(reading(segment)).cast("I").tolist()
                rows[p.layout.seat(message.sender)[1]] = words
        table = torch.tensor([rows[j] for j in sorted(rows)], dtype=torch.int64)
        if not rows or bool((table >= p.field.modulus).any()):
            continue
        try:
            found.append(code.decode(table.int(), sorted(rows), length=p.width).tolist())
        except DecodeError:
            continue
    return found


def in_clear(self: Peers, peer: int, use: str, kind: str, data: memoryview) -> tuple[bytes, ...]:
    return (bytes(SEALING) + bytes(data),)


def read_clear(
    self: Peers, peer: int, use: str, kind: str, box: tuple[bytes, ...], out: memoryview
) -> bool:
    out[:] = box[0][SEALING:]
    return True


def test_the_server_cannot_read_the_sums_between_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the boxes taken away, the same reading gives it the sum of the leaf groups."""
    agreed = swift(12, 1, 1, 2, tree="chain")
    assert prefix_sums(SwiftRound(agreed).play()) == []
    monkeypatch.setattr(Peers, "seal", in_clear)
    monkeypatch.setattr(Peers, "open_into", read_clear)
    run = SwiftRound(agreed).play()
    run.check(range(12))
    values, _ = run.dealt()
    p = agreed.parameters.field.modulus
    last = [sum(column) % p for column in zip(*(values[i] for i in range(8, 12)), strict=True)]
    assert last in prefix_sums(run)


def malicious(clients: int = 8, **more: Any) -> tuple[Any, list[Identity]]:
    people = [Identity(Key(bytes([i]) * 32)) for i in range(clients)]
    publics = [person.public for person in people]
    return swift(clients, server="malicious", identities=publics, **more), people


@pytest.mark.parametrize(
    "drop",
    [
        {},
        {"upload": {5}},
        {"commit": {6}},
        {"commit": {1}},
        {"recover": {4}},
        {("recover", 1): {2}},
    ],
    ids=str,
)
def test_a_signed_round_survives_losses_in_every_phase(drop: dict[Any, set[int]]) -> None:
    agreed, people = malicious()
    run = SwiftRound(agreed, drop, identities=people).play()
    run.check(included(agreed, drop))


def test_a_split_view_of_the_members_gets_no_sum() -> None:
    """The server names S to one client and S without a member to the others."""
    agreed, people = malicious()
    run = SwiftRound(agreed, identities=people).play(until=("upload", 0))
    members = {m.recipient: m for m in run.server.close_phase()}
    whole, part = members[4].members, tuple(i for i in members[4].members if i != 6)
    commits = {}
    for i in part:
        shown = whole if i in (4, 5, 7) else part
        (commits[i],) = run.clients[i].handle(replaced(members[i], members=shown), SERVER)
        assert commits[i].digest == survivors_digest(shown)
    for i in part:
        own = tuple((j, c.signature) for j, c in commits.items() if c.digest == commits[i].digest)
        mixed = tuple((j, c.signature) for j, c in commits.items())
        for signatures, text in ((own, "at least 7"), (mixed, "false signature")):
            before = state(run.clients[i])
            with pytest.raises(ProtocolError, match=text):
                quorum = Quorum(**run.server._envelope(i), signatures=signatures)
                run.clients[i].handle(quorum, SERVER)
            assert state(run.clients[i]) == before
    with pytest.raises(ProtocolError, match="second set"):
        run.clients[4].handle(replaced(members[4], members=part), SERVER)


class Memory:
    """A journal in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def record(self, kind: str, digest: bytes) -> None:
        if self.kept.setdefault(kind, digest) != digest:
            raise ProtocolError(f"another {kind} was recorded")


def with_journal(journal: Memory, update_seed: int) -> SwiftRound:
    run = SwiftRound(swift(8, 1, 1, 2), seed=update_seed)
    run.clients[4] = run.agreed.client(4, 0, Key(client_secret(4)), journal)
    return run


def test_a_client_that_lost_its_memory_releases_the_same_or_nothing() -> None:
    journal = Memory()
    first = with_journal(journal, 1).play()
    assert set(journal.kept) == {"roster", "share", "answer", "hop"}
    again = with_journal(journal, 1).play()
    assert [m.to_bytes() for m in first.sent] == [m.to_bytes() for m in again.sent]
    with pytest.raises(ProtocolError, match="another share"):
        with_journal(journal, 2).play()
    smaller = with_journal(journal, 1)
    smaller.drop = {"upload": {7}}
    with pytest.raises(ProtocolError, match="another answer"):
        smaller.play()
    assert smaller.clients[4].phase == "closed"


@pytest.mark.parametrize("index", [4, 0])  # in the middle of the chain, and at its root
def test_another_sum_than_the_journal_has_is_not_released(index: int) -> None:
    def with_memory(journal: Memory) -> SwiftRound:
        run = SwiftRound(swift(12, 1, 1, 2, tree="chain"))
        run.clients[index] = run.agreed.client(index, 0, Key(client_secret(index)), journal)
        return run

    journal = Memory()
    with_memory(journal).play()
    journal.kept["hop"] = bytes(32)
    run = with_memory(journal)
    with pytest.raises(ProtocolError, match="another hop"):
        run.play()
    assert run.clients[index].phase == "closed"
    assert not run.clients[index]._row.any()


def test_every_sum_that_a_client_makes_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []

    def watched(x: torch.Tensor, field: Any, weights: Any = None) -> torch.Tensor:
        out = field_sum(x, field, weights=weights)
        assert out.any()
        made.extend([x, out])
        return out

    monkeypatch.setattr(swiftagg_client, "field_sum", watched)
    SwiftRound(swift(12, 1, 1, 2, tree="chain")).play()
    assert len(made) == 2 * (12 + 8)  # a sum of shares each, and with sums from below
    assert not any(tensor.any() for tensor in made)


@pytest.mark.parametrize("index", [8, 4, 0])  # a leaf, the middle of the chain, its root
@pytest.mark.parametrize("where", ["journal", "memory"])
def test_a_sum_that_is_not_handed_on_is_wiped(
    index: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.Tensor] = []
    journal = Memory()

    def watched(x: torch.Tensor, field: Any, weights: Any = None) -> torch.Tensor:
        out = field_sum(x, field, weights=weights)
        made.append(out)
        return out

    def fail(**given: Any) -> None:
        raise MemoryError("no memory")

    run = SwiftRound(swift(12, 1, 1, 2, tree="chain"))
    step = run.agreed.parameters.layout.heights[index // 4]
    moment = ("recover", step - 1) if step else ("upload", 0)
    run.clients[index] = run.agreed.client(index, 0, Key(client_secret(index)), journal)
    run.play(until=moment)
    message = next(m for m in run.server.close_phase() if m.recipient == index)
    monkeypatch.setattr(swiftagg_client, "field_sum", watched)
    if where == "journal":
        journal.kept["hop"] = bytes(32)
        with pytest.raises(ProtocolError, match="another hop"):
            run.clients[index].handle(message, SERVER)
        assert run.clients[index].phase == "closed"
    else:
        with monkeypatch.context() as broken, pytest.raises(MemoryError):
            broken.setattr(swiftagg_client, "Hop" if index else "Root", fail)
            run.clients[index].handle(message, SERVER)
        assert run.clients[index].phase == "closed"
    assert made and not any(tensor.any() for tensor in made)


def test_secrets_are_wiped_when_they_have_served() -> None:
    agreed = swift(12, 1, 1, 2, tree="chain")
    run = SwiftRound(agreed).play(until=("share", 0))
    for client in run.clients:
        assert client._values.numel() and not client._values.any()
    run = SwiftRound(agreed).play(until=("recover", 0))
    assert not run.clients[8]._held.any() and run.clients[4]._row.any()
    assert run.clients[8]._peers is not None and run.clients[8]._peers.numbers == ()
    assert not run.clients[4]._held.any()
    run.clients[4].close()
    assert not run.clients[4]._row.any()
    run = SwiftRound(agreed, {("recover", 1): {5}}).play()
    for index, client in enumerate(run.clients):
        if index != 5:
            assert not client._held.any() and not client._row.any()
            assert client._peers is not None and client._peers.numbers == ()
    assert not run.server._rows.any() and run.server._hops == {}


@pytest.mark.parametrize("signed", [False, True])
def test_parties_that_die_before_every_call_send_the_same_bytes(signed: bool) -> None:
    agreed, people = malicious() if signed else (swift(9, tree="chain", blocks=1), None)
    drop = {"upload": {5}}
    plain = SwiftRound(agreed, drop, identities=people).play()
    resumed = SwiftRound(agreed, drop, identities=people, storage=Key(bytes(32))).play()
    resumed.check(included(agreed, drop))
    assert [m.to_bytes() for m in resumed.sent] == [m.to_bytes() for m in plain.sent]


def test_a_round_with_losses_in_two_phases_names_all_of_them() -> None:
    agreed, people = malicious()
    with pytest.raises(ThresholdError) as caught:
        SwiftRound(agreed, {"commit": {6}, "recover": {5}}, identities=people).play()
    assert caught.value.missing == (5, 6)
    assert caught.value.needed == 7


def test_another_tree_is_another_session() -> None:
    binary, chain = swift(12, tree="binary", blocks=1), swift(12, tree="chain", blocks=1)
    assert binary.parameters.packed() != chain.parameters.packed()
    run = SwiftRound(binary).play(until=("keys", 0))
    roster = run.server.close_phase()[0]
    client = chain.client(0, 0, Key(client_secret(0)))
    client.start(run.updates[0], run.weights[0])
    with pytest.raises(ProtocolError, match="other parameters"):
        client.handle(roster, SERVER)
