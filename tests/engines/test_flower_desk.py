"""A node between its messages: what is refused, what is kept, and what an app may do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from engines.grids import protocol_of
from engines.node_letters import LENGTH, NODE, grid_in, training
from pyfed.engines.flower import SecureAggMod, SecureRounds, to_arrays, to_tensors
from pyfed.engines.flower.desk import Desk
from pyfed.engines.flower.letters import RECORD, TRAIN, Letter, take
from pyfed.secagg.wire import Message as Wire


def set_up(folder: Path) -> tuple[Any, SecureRounds, dict[int, tuple[bytes, ...]]]:
    """A round up to the Inboxes that wait for its nodes."""
    grid = grid_in(folder)
    rounds = SecureRounds(protocol_of("LightSecAgg", LENGTH), timeout=1.0)
    rounds._gather(grid)
    rounds._set_up(grid)
    return grid, rounds, rounds._inboxes


def test_a_refused_inbox_leaves_no_update_behind_and_does_not_burn_the_round(
    tmp_path: Path,
) -> None:
    grid, rounds, inboxes = set_up(tmp_path)
    other = next(node for node in rounds._nodes if node != NODE)
    state = grid.contexts[NODE].state
    before = dict(state.config_records[RECORD])
    (good,) = inboxes[NODE]
    parameters = protocol_of("LightSecAgg", LENGTH).parameters
    read = Wire.from_bytes(good, parameters)
    bad = dataclasses.replace(read, boxes=read.boxes[1:]).to_bytes()  # type: ignore[attr-defined, call-arg]
    for wire, answers in ((bad, 0), (good, 1)):
        (reply,) = grid.send_and_receive([training(Letter(TRAIN, (wire,)), NODE)], timeout=1.0)
        letter = take(reply.content)
        assert letter is not None and len(letter.messages) == answers
        after = dict(grid.contexts[NODE].state.config_records[RECORD])
        assert (after == before) == (wire is bad)
    assert other in inboxes


def test_a_client_that_has_met_a_conflict_is_kept_no_longer(tmp_path: Path) -> None:
    grid, _, inboxes = set_up(tmp_path)
    (name,) = [
        n for n in grid.contexts[NODE].state.config_records[RECORD] if n.startswith("round-")
    ]
    (path,) = (tmp_path / "key.journals").glob(f"*-{NODE}-*")
    with path.open("a") as file:
        file.write(f"upload {bytes(32).hex()}\n")
    message = training(Letter(TRAIN, inboxes[NODE]), NODE)
    (reply,) = grid.send_and_receive([message], timeout=1.0)
    letter = take(reply.content)
    assert letter is not None and letter.messages == ()
    assert name not in grid.contexts[NODE].state.config_records[RECORD]


def test_a_node_that_ran_out_of_memory_answers_when_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, _, inboxes = set_up(tmp_path)
    desk = Desk(protocol_of("LightSecAgg", LENGTH), grid.contexts[NODE], tmp_path / "key", None)
    before = dict(grid.contexts[NODE].state.config_records[RECORD])
    letter = Letter(TRAIN, inboxes[NODE])

    def fail(*given: Any, **more: Any) -> None:
        raise MemoryError("no memory")

    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr("pyfed.secagg.lightsecagg_client.Upload", fail)
        desk.answers(letter, torch.full((LENGTH,), 0.5), 1)
    assert dict(grid.contexts[NODE].state.config_records[RECORD]) == before
    (upload,) = desk.answers(letter, torch.full((LENGTH,), 0.5), 1)
    assert Wire.from_bytes(upload, protocol_of("LightSecAgg", LENGTH).parameters).kind == "Upload"


def test_the_update_that_is_handed_in_is_overwritten_and_not_in_the_state(tmp_path: Path) -> None:
    grid, rounds, inboxes = set_up(tmp_path)
    protocol = protocol_of("LightSecAgg", LENGTH)
    desk = Desk(protocol, grid.contexts[NODE], tmp_path / "key", None)
    update = torch.full((LENGTH,), 0.5)
    (upload,) = desk.answers(Letter(TRAIN, inboxes[NODE]), update, 1)
    assert not update.any()
    record = grid.contexts[NODE].state.config_records[RECORD]
    (kept,) = [value for name, value in record.items() if name.startswith("round-")]
    client: Any = protocol.resume(kept, desk._key, desk._journal(rounds._next.round))  # type: ignore[union-attr]
    assert client.outbox == () and client._values.numel() == 0 and client._weight == 0
    assert Wire.from_bytes(upload, protocol.parameters).kind == "Upload"


def test_an_app_may_change_the_arrays_that_came(tmp_path: Path) -> None:
    grid, _, inboxes = set_up(tmp_path)
    seen: list[torch.Tensor] = []
    app = ClientApp(mods=[SecureAggMod(protocol_of("LightSecAgg", LENGTH), tmp_path / "key")])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        moved = {name: value + 0.5 for name, value in to_tensors(message.content["arrays"]).items()}
        for name, array in to_arrays(moved).items():
            message.content["arrays"][name].data = array.data
        content = {
            "arrays": message.content["arrays"],
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    original = Desk.answers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Desk, "answers", lambda s, a, x, w: (seen.append(x.clone()), original(s, a, x, w))[1]
        )
        app(training(Letter(TRAIN, inboxes[NODE]), NODE), grid.contexts[NODE])
    assert [x.tolist() for x in seen] == [[0.5] * LENGTH]
