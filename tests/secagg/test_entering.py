"""Clients that enter a round before their update is known: the same bytes, and the same guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pyfed import Key
from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.secagg import (
    FileJournal,
    LightSecAgg,
    SecEA,
    SwiftAgg,
)
from secagg.early import EARLY, NUMBERS, Early
from secagg.rounds import client_secret, refuse


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("name", sorted(EARLY))
def test_entering_first_and_starting_send_the_same_bytes(name: str, resumed: bool) -> None:
    agreed = EARLY[name]()
    started, entered = Early(agreed, set()), Early(agreed, {1, 2, 4}, resumed)
    sums = []
    for run in (started, entered):
        run.hello()
        run.step()  # the shares are dealt
        run.provide()
        run.step()
        sums.append(run.finish())
    if name != "checked":  # its server tosses a coin of its own
        assert started.sent == entered.sent
    assert sums[0] == sums[1]


@pytest.mark.parametrize("name", sorted(EARLY))
def test_an_update_may_come_before_the_roster(name: str) -> None:
    run = Early(EARLY[name](), {0, 3})
    run.hello()
    run.provide()
    other = Early(EARLY[name](), set())
    other.hello()
    assert run.finish() == other.finish()


@pytest.mark.parametrize("name", ["light", "plus"])
def test_nothing_is_uploaded_without_an_update(name: str) -> None:
    run = Early(EARLY[name](), {2})
    run.hello()
    run.step()
    inbox = next(m for m in run.server.close_phase() if m.recipient == 2)
    refuse(run.clients[2], inbox, -1, "call provide first")
    run.provide()
    (upload,) = run.clients[2].handle(inbox, -1)
    assert upload.kind == "Upload"


@pytest.mark.parametrize("name", ["light", "plus"])
def test_a_client_serves_one_update_in_one_round(name: str) -> None:
    agreed = EARLY[name]()
    update = torch.zeros(4)
    client = agreed.client(0, 1)
    with pytest.raises(ProtocolError, match="provide comes after enter"):
        client.provide(update)
    client.enter()
    for again in (client.enter, lambda: client.start(update)):
        with pytest.raises(ProtocolError, match="start was called before"):
            again()
    with pytest.raises(DtypeError):
        client.provide([0.0] * 4)  # type: ignore[arg-type]
    for bad, weight in ((torch.zeros(3), 1), (torch.full((4,), torch.nan), 1), (update, 10)):
        with pytest.raises(ArgumentError):
            client.provide(bad, weight)
    client.provide(update, 2)
    with pytest.raises(ProtocolError, match="one update in one round"):
        client.provide(update, 2)
    started = agreed.client(1, 1)
    started.start(update)
    with pytest.raises(ProtocolError, match="one update in one round"):
        started.provide(update)
    for closed in (agreed.client(2, 1), agreed.client(3, 1)):
        closed.close()
        with pytest.raises(ProtocolError, match="closed"):
            closed.enter()
        with pytest.raises(ProtocolError, match="closed"):
            closed.provide(update)


@pytest.mark.parametrize("name", ["light", "plus"])
def test_the_journal_stops_a_second_update_after_a_return(name: str, tmp_path: Path) -> None:
    """The state from before the update is resumed twice: the same mask never covers two."""
    agreed, key = EARLY[name](), Key.generate()
    run = Early(agreed, set())
    journal = FileJournal(tmp_path / "journal")
    run.clients[2] = agreed.client(2, 3, Key(client_secret(2, 3)), journal)
    run.early = {2}
    run.hello()
    run.step()
    state = run.clients[2].save(key)
    inbox = next(m for m in run.server.close_phase() if m.recipient == 2)
    uploads = []
    for update in (torch.zeros(4), torch.zeros(4), torch.ones(4)):
        client: Any = agreed.resume(state, key, FileJournal(tmp_path / "journal"))
        client.provide(update)
        if bool(update.any()):
            with pytest.raises(ProtocolError, match="another upload"):
                client.handle(inbox, -1)
            assert client.phase == "closed"
        else:
            uploads += [message.to_bytes() for message in client.handle(inbox, -1)]
    assert uploads[0] == uploads[1]


def test_clients_that_deal_the_update_itself_cannot_enter_without_it() -> None:
    assert not SwiftAgg.offline and not SecEA.offline
    with pytest.raises(ArgumentError, match="cannot enter"):
        SwiftAgg(**NUMBERS, blocks=1).client(0, 1).enter()
    with pytest.raises(ArgumentError, match="no such device"):
        LightSecAgg(**NUMBERS).client(0, 1).enter("nowhere")
