"""Servers and replies that do not keep to the rules, and what they get: nothing of one node."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from engines.grids import from_one, grid_of, protocol_of, zeros
from engines.node_letters import LENGTH, NODE, grid_in, training, updates
from pyfed.engines.flower import SecureAggMod, SecureFedAvg, SecureRounds, to_tensors
from pyfed.engines.flower.desk import Desk
from pyfed.engines.flower.keyfile import machine_key, own_folder
from pyfed.engines.flower.letters import KEYS, RECORD, RECOVER, SHARE, TRAIN, Letter, take, write
from pyfed.engines.flower.rounds import _letters
from pyfed.errors import ArgumentError, ProtocolError
from pyfed.secagg.client import Client


def two_rounds(rounds: SecureRounds, grid: Any) -> dict[int, tuple[bytes, ...]]:
    """Both are set up; node → its Inbox of the one and of the other."""
    rounds._gather(grid)
    inboxes = []
    for server in (rounds._opened(), rounds._opened()):
        rounds._current, rounds._next = rounds._next, server
        rounds._send(grid, {node: rounds._entry(KEYS, server, node) for node in rounds._nodes})
        rounds._send(grid, _letters(SHARE, rounds._closed(server)))
        inboxes.append(rounds._closed(server))
    return {node: inboxes[0][node] + inboxes[1][node] for node in rounds._nodes}


def test_one_training_serves_one_round(tmp_path: Path) -> None:
    grid = grid_in(tmp_path)
    rounds = SecureRounds(protocol_of("LightSecAgg", LENGTH), timeout=1.0)
    both = two_rounds(rounds, grid)
    letters = [training(Letter(TRAIN, both[node]), node) for node in rounds._nodes]
    for reply in grid.send_and_receive(letters, timeout=1.0):
        assert "more than one Inbox" in reply.error.reason
    letters = [training(Letter(TRAIN, both[node][1:]), node) for node in rounds._nodes]
    assert all(reply.has_content() for reply in grid.send_and_receive(letters, timeout=1.0))


def test_two_rounds_of_one_training_would_be_a_nodes_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard is taken out; the second sum leaves one node out, and the rest is its update."""
    monkeypatch.setattr(Desk, "expect", lambda self, letter: None)
    kept = Client.provide  # a copy, where the second round would find the first one's zeros
    monkeypatch.setattr(Client, "provide", lambda self, x, weight, overwrite: kept(self, x, weight))
    grid = grid_in(tmp_path)
    rounds = SecureRounds(protocol_of("LightSecAgg", LENGTH), timeout=1.0)
    both = two_rounds(rounds, grid)
    first, second = rounds._current, rounds._next
    assert first is not None and second is not None
    for node in rounds._nodes:
        (reply,) = grid.send_and_receive([training(Letter(TRAIN, both[node]), node)], timeout=1.0)
        letter = take(reply.content)
        assert letter is not None and len(letter.messages) == 2
        for data in letter.messages[: 1 if node == NODE else 2]:
            rounds._handle(node, data)
    rounds._exchange(grid, RECOVER, rounds._closed(first), rounds._closed(second))
    rounds._closed(first), rounds._closed(second)
    leaked = first.result.sum - second.result.sum
    assert torch.allclose(leaked, torch.full((LENGTH,), 2 / 8), atol=1e-3)


def trained(folder: Path, metrics: dict[str, Any], **options: Any) -> Message:
    """The reply of one node whose train function gives these metrics."""
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_in(folder)
    app = ClientApp(mods=[SecureAggMod(protocol, key_file=folder / "key")])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = {"arrays": message.content["arrays"], "metrics": MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)

    grid.apps[NODE] = app
    strategy = SecureFedAvg(protocol, stage_timeout=1.0, **options)
    messages = strategy.configure_train(1, zeros(LENGTH), ConfigRecord(), grid)
    replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(messages, timeout=1.0)}
    return replies[NODE]


@pytest.mark.parametrize("value", [0.53125, -53125, float("inf"), [0.53125, 2.0]])
def test_an_error_does_not_tell_the_server_a_metric(value: Any, tmp_path: Path) -> None:
    reason = trained(tmp_path, {"num-examples": value}).error.reason
    assert "'num-examples' must be a whole number" in reason
    assert "53125" not in reason and "inf" not in reason


def test_no_metric_is_summed_that_the_node_does_not_call_its_weight(tmp_path: Path) -> None:
    metrics = {"num-examples": 3, "ill": 2}
    reply = trained(tmp_path, metrics, weighted_by_key="ill")
    assert "weighs updates by the metric 'ill', and this node by 'num-e" in reply.error.reason


def test_what_cannot_be_encoded_costs_one_round_only(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    given = updates()
    given[2] = torch.full((LENGTH,), torch.nan)
    grid = grid_of(protocol, given, [1] * 5, tmp_path)
    strategy = from_one(SecureFedAvg(protocol, stage_timeout=1.0))
    for number in (1, 2):
        messages = strategy.configure_train(number, zeros(LENGTH), ConfigRecord(), grid)  # type: ignore[arg-type]
        replies = grid.send_and_receive(messages, timeout=1.0)
        assert len(replies) == 5 and all(reply.has_content() for reply in replies)
        strategy.aggregate_train(number, replies)
        assert strategy.result is not None and strategy.result.included == {0, 1, 3, 4}


def test_no_error_tells_what_cannot_be_encoded(tmp_path: Path) -> None:
    protocol = protocol_of("SwiftAgg", LENGTH)
    given = updates()
    given[2][3] = torch.inf
    grid = grid_of(protocol, given, [1] * 5, tmp_path)
    strategy = from_one(SecureFedAvg(protocol, stage_timeout=1.0))
    messages = strategy.configure_train(1, zeros(LENGTH), ConfigRecord(), grid)  # type: ignore[arg-type]
    replies = grid.send_and_receive(messages, timeout=1.0)
    assert len(replies) == 5 and all(reply.has_content() for reply in replies)
    strategy.aggregate_train(1, replies)
    assert strategy.result is not None and strategy.result.included == {0, 1, 3, 4}


@pytest.mark.parametrize(
    "change", [{"enter": 1}, {"client": 5}, {"client": -2}, {"client": -1}, {"protocol": b""}]
)
def test_a_letter_that_is_refused_costs_nothing(change: dict[str, int], tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_in(tmp_path)
    rounds = SecureRounds(protocol, timeout=1.0)
    rounds._clock = lambda: 0
    letter = rounds.begin(grid)[NODE]
    assert letter.enter == 2 and len(letter.messages) == 1
    (reply,) = grid.send_and_receive(
        [training(dataclasses.replace(letter, **change), NODE)], timeout=1.0
    )
    told = "names no protocol" if "protocol" in change else "this node is to"
    assert told in reply.error.reason
    (reply,) = grid.send_and_receive([training(letter, NODE)], timeout=1.0)
    assert reply.has_content() and len(reply.content.config_records[RECORD]["small"]) == 2


def test_strategies_made_together_follow_one_another(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_in(tmp_path)
    made = [SecureFedAvg(protocol, stage_timeout=1.0, on_failure="raise") for _ in range(2)]
    now = 1000
    for strategy in made:
        strategy.rounds._clock = lambda: now
    for strategy in (made[0], made[0], made[0], made[1]):
        now += 10
        messages = strategy.configure_train(1, zeros(LENGTH), ConfigRecord(), grid)
        strategy.aggregate_train(1, grid.send_and_receive(messages, timeout=1.0))
        assert strategy.result is not None and len(strategy.result.included) == 5


def test_one_message_that_is_refused_leaves_the_others(tmp_path: Path) -> None:
    """An upload that is damaged on the way costs the node this round, and not the next."""
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_in(tmp_path)
    strategy = from_one(SecureFedAvg(protocol, stage_timeout=1.0))
    messages = strategy.configure_train(1, zeros(LENGTH), ConfigRecord(), grid)
    replies = grid.send_and_receive(messages, timeout=1.0)
    for reply in replies:
        if reply.metadata.src_node_id == NODE:
            upload, hello = reply.content.config_records[RECORD]["small"]
            reply.content.config_records[RECORD]["small"] = [upload[:-1], hello]
    strategy.aggregate_train(1, replies)
    assert strategy.result is not None and len(strategy.result.included) == 4
    assert NODE in strategy.rounds._inboxes


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (2,), "numpy.ndarray", b"no numpy"),
        dataclasses.replace(Array(torch.zeros(2).numpy()), shape=(3,)),
        dataclasses.replace(Array(torch.zeros(2).numpy()), dtype="int64"),
        Array("bfloat16", (2,), "pyfed.bfloat16", b"odd"),
        Array("bfloat16", (2,), "pyfed.bfloat16", bytes(6)),
    ],
)
def test_arrays_that_are_not_what_they_tell_are_refused(array: Array) -> None:
    with pytest.raises(ArgumentError, match="the array 'w' is no "):
        to_tensors(ArrayRecord({"w": array}))


def test_letters_of_many_messages_are_refused() -> None:
    content = RecordDict()
    write(Letter(TRAIN, (b"",) * 17), content)
    with pytest.raises(ProtocolError, match="a letter has 17 messages"):
        take(content)
    write(Letter(TRAIN, send="model"), content)
    with pytest.raises(ProtocolError, match="send is 'model'"):
        take(content)


def test_keys_and_journals_that_others_could_change_are_refused(tmp_path: Path) -> None:
    key, folder = tmp_path / "key", tmp_path / "journals"
    machine_key(key)
    assert own_folder(folder).stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(ArgumentError, match="has mode 770, so that others may take journals"):
        own_folder(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(ArgumentError, match="is no folder of its own"):
        own_folder(link)
    if os.geteuid() == 0:
        for path in (key, folder):
            os.chown(path, 12345, -1)
        with pytest.raises(ArgumentError, match="belongs to user 12345, who may change it"):
            machine_key(key)
        with pytest.raises(ArgumentError, match="belongs to user 12345, who may change it"):
            own_folder(folder)
