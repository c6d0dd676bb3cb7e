"""Uploads of clients that mask: memory that is given, kept and overwritten, and what is saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import WIDE, FixedPoint, Key
from pyfed.secagg import (
    LightSecAgg,
    Message,
    lightsecagg_client,
    simulate,
    uploads,
)
from pyfed.secagg.session import LONG
from secagg.early import EARLY, NUMBERS, Early, update_of
from secagg.rounds import client_secret


@pytest.mark.parametrize("kind", ["light", "wide", "votes", "plus"])  # "checked" tosses coins
def test_an_update_that_may_be_overwritten_gives_the_same_bytes(kind: str) -> None:
    sent = {}
    for overwrite in (False, True):
        run = Early(EARLY[kind](), set(range(5)))
        run.hello()
        run.step()
        given = []
        for i, client in enumerate(run.clients):
            update, weight = update_of(run.agreed, i)
            client.provide(update, weight, overwrite=overwrite)
            given.append(update)
        before = [update_of(run.agreed, i)[0] for i in range(5)]
        assert all(map(torch.equal, given, before))  # until it has served
        run.step()
        sent[overwrite] = run.sent
        kept = all(map(torch.equal, given, before))
        # Where updates are encoded when they are handed over, there is nothing to overwrite.
        assert kept == (not overwrite or kind in ("wide", "votes"))
        if not kept:
            assert not any(update.any() for update in given)
    assert sent[False] == sent[True]


def test_updates_of_other_dtypes_are_copied_in_any_case() -> None:
    client = EARLY["light"]().client(0, 3, Key(client_secret(0, 3)))
    client.enter()
    update = torch.tensor([0.5, -0.25, 0.0, 1.0], dtype=torch.float16)
    client.provide(update, overwrite=True)
    client.close()
    assert update.tolist() == [0.5, -0.25, 0.0, 1.0]


@pytest.mark.parametrize("kind", ["light", "plus"])
def test_states_without_the_outbox_hold_no_upload_and_go_on_alike(kind: str) -> None:
    agreed = EARLY[kind]()
    key, runs = Key(bytes(range(32))), [Early(agreed, set()) for _ in range(2)]
    for run in runs:
        run.hello()
    for _ in range(3):
        for again, run in enumerate(runs):
            run.step()
            for i, client in enumerate(run.clients if again else []):
                whole, bare = client.save(key), client.save(key, outbox=False)
                assert len(bare) < len(whole)
                back = agreed.resume(bare, key)
                assert back.outbox == () and client.outbox != ()
                run.clients[i] = back  # type: ignore[call-overload]
    assert runs[0].sent == runs[1].sent
    for run in runs:
        run.server.close_phase()
    assert torch.equal(runs[0].server.result.residues, runs[1].server.result.residues)


def test_messages_with_long_bytes_come_back_as_they_were() -> None:
    agreed = LightSecAgg(**NUMBERS | {"length": 100_000})
    update = torch.linspace(-1, 1, 100_000)
    clients = [agreed.client(i, 1) for i in range(5)]
    server, kinds = agreed.server(1), set()
    out = [message for client in clients for message in client.start(update)]
    while server.phase != "done":
        for message in out:
            data = message.to_bytes()
            assert Message.from_bytes(data, agreed.parameters) == message
            kinds |= {message.kind} if len(data) > LONG else set()
            server.handle(message, message.sender)
        out = []
        for message in server.close_phase():
            assert Message.from_bytes(message.to_bytes(), agreed.parameters) == message
            out += clients[message.recipient].handle(message, -1)
    assert kinds == {"Share", "Upload", "Answer"}
    assert torch.allclose(server.result.mean, update, atol=1e-3)


@pytest.mark.parametrize("kind", ["light", "plus", "wide"])
def test_memory_that_is_not_zero_does_not_reach_a_sum(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def garbage(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return torch.full(shape, 12345, dtype=torch.int32)

    for module in (lightsecagg_client, uploads):
        monkeypatch.setattr(module, "place_for", garbage)
    run = Early(EARLY[kind](), set())
    run.hello()
    run.step()
    sent = run.server.close_phase()
    lost = {3}  # in upload
    for message in sent:
        if message.recipient not in lost:
            answers = run.clients[message.recipient].handle(message, -1)
            run.deliver(answers, message.recipient)
    for message in run.server.close_phase():
        run.deliver(run.clients[message.recipient].handle(message, -1), message.recipient)
    run.server.close_phase()
    assert run.server.result.included == {0, 1, 2, 4}
    inside = [update_of(run.agreed, i) for i in (0, 1, 2, 4)]
    wanted = sum(update.clamp(-1, 1) * weight for update, weight in inside)
    assert torch.allclose(run.server.result.sum, wanted, atol=0.02)


@pytest.mark.parametrize("kind", ["light", "plus", "wide", "votes"])
def test_updates_of_inference_mode_are_masked_and_overwritten_too(kind: str) -> None:
    run = Early(EARLY[kind](), {0})
    with torch.inference_mode():
        run.hello()
        run.step()
        update, weight = update_of(run.agreed, 0)
        given = update.clone()
        run.clients[0].provide(given, weight, overwrite=True)
    run.step()
    run.step()
    run.server.close_phase()
    assert run.server.result.included == {0, 1, 2, 3, 4}
    for client in run.clients:
        client.close()


def test_strided_updates_are_not_written_to() -> None:
    client = EARLY["light"]().client(0, 3, Key(client_secret(0, 3)))
    client.enter()
    whole = torch.tensor([0.5, 9.0, -0.25, 9.0, 0.0, 9.0, 1.0, 9.0])
    client.provide(whole[::2], overwrite=True)
    assert client._values.tolist() == [0.5, -0.25, 0.0, 1.0]  # type: ignore[attr-defined]
    client.close()
    assert whole.tolist() == [0.5, 9.0, -0.25, 9.0, 0.0, 9.0, 1.0, 9.0]


def test_single_columns_over_two_planes_are_dealt() -> None:
    fixed = FixedPoint(1.0, 12, clients=4, max_weight=9, field=WIDE)
    agreed = LightSecAgg(clients=4, privacy=1, dropouts=1, length=1, fixed=fixed)
    result = simulate(agreed, [torch.tensor([0.5])] * 4)
    assert result.sum.tolist() == pytest.approx([2.0], abs=1e-2)


@pytest.mark.parametrize("kind", ["light", "plus"])
def test_shares_of_an_attempt_that_the_journal_refused_are_overwritten(kind: str) -> None:
    class Full:
        fail = False

        def record(self, kind: str, digest: bytes) -> None:
            if self.fail:
                raise OSError("the disk is full")

    run, journal = Early(EARLY[kind](), set()), Full()
    run.clients[2] = run.agreed.client(2, 3, Key(client_secret(2, 3)), journal)
    run.hello()
    run.step()
    (inbox,) = [m for m in run.server.close_phase() if m.recipient == 2]
    client: Any = run.clients[2]
    journal.fail = True
    with pytest.raises(OSError, match="disk is full"):
        client.handle(inbox, -1)
    first = client._held
    assert first.any()
    journal.fail = False
    (upload,) = client.handle(inbox, -1)
    assert upload.kind == "Upload" and not first.any() and client._held.any()
    assert client._weight == 0
