"""What a node keeps and gives away: nothing in clear, no second answer, no way around."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from engines.grids import NODES, SECRET, FakeGrid, from_one, grid_of, protocol_of, stage_of, zeros
from pyfed import Key
from pyfed.engines.flower import SecureAggMod, SecureFedAvg
from pyfed.engines.flower.keyfile import machine_key, read_key
from pyfed.engines.flower.letters import BODIES, RECORD
from pyfed.errors import ArgumentError, DtypeError

LENGTH = 40
NODE = sorted(NODES)[2]


def update_of(client: int) -> torch.Tensor:
    torch.manual_seed(client)
    return torch.rand(LENGTH) - 0.5


class Watched(FakeGrid):
    """Keeps, after every message, the bytes of one node's state; and every message to it."""

    def __init__(self, grid: FakeGrid) -> None:
        super().__init__(grid.apps)
        self.states: list[bytes] = []
        self.inward: list[Message] = []
        self.outward: list[Message] = []

    def reply(self, message: Message) -> Message | None:
        mine = message.metadata.dst_node_id == NODE
        if mine:
            self.inward.append(copied(message))
        answer = super().reply(message)
        if mine and answer is not None:
            if answer.has_content():
                self.outward.append(copied(answer))
            self.states.append(bytes_of(self.contexts[NODE].state))
        return answer


def copied(message: Message) -> Message:
    from engines.grids import through_bytes

    again = Message(RecordDict(), message.metadata.dst_node_id, "train")
    again.content = through_bytes(message.content)
    return again


def bytes_of(content: RecordDict) -> bytes:
    from flwr.common.serde import recorddict_to_proto

    return recorddict_to_proto(content).SerializeToString()


def play(folder: Path, name: str = "LightSecAgg", rounds: int = 2, length: int = LENGTH) -> Watched:
    protocol = protocol_of(name, length)
    updates = [update_of(i).repeat(length // LENGTH) for i in range(5)]
    grid = Watched(grid_of(protocol, updates, [3] * 5, folder))
    strategy = from_one(SecureFedAvg(protocol, stage_timeout=1.0, fraction_evaluate=0.0))
    strategy.start(grid, zeros(length), num_rounds=rounds, timeout=1.0)  # type: ignore[arg-type]
    assert strategy.result is not None
    return grid


def encodings(secret: bytes) -> list[bytes]:
    import base64

    return [secret, secret[::-1], secret.hex().encode(), base64.b64encode(secret)[:-4]]


@pytest.mark.parametrize("name", ["LightSecAgg", "SecAggPlus", "SwiftAgg"])
def test_the_state_between_messages_holds_no_secret_in_clear(name: str, tmp_path: Path) -> None:
    """Keys of the round and what is derived from them, masks, residues and floats of the update."""
    grid = play(tmp_path, name)
    protocol, client = protocol_of(name, LENGTH), 2
    needles = [(tmp_path / "key").read_bytes()]
    for number in (1, 2):
        root = Key(SECRET).derive("client", number, client)
        labels = ("channel", "mask", "padding", "rounding", "pairwise", "self", "nonce")
        keys = [root, *(root.derive(label) for label in labels)]
        needles += [key.reveal() for key in keys]
        mask = pyfed_residues(keys[2])
        residues = protocol.fixed.encode_update(
            update_of(client), LENGTH, root.derive("rounding"), 3
        )
        for vector in (mask, residues, update_of(client), update_of(client) * 3):
            needles += [vector[i : i + 4].numpy().tobytes() for i in range(0, LENGTH, 4)]
        needles += [vector.double()[i : i + 2].numpy().tobytes() for i in range(0, LENGTH, 2)]
    assert len(grid.states) >= 4
    for state in grid.states:
        for needle in needles:
            assert not any(form in state for form in encodings(needle))
        for value in update_of(client).tolist():
            assert repr(value).encode() not in state


def pyfed_residues(key: Key) -> torch.Tensor:
    from pyfed import SOLINAS31
    from pyfed.ops import random_residues

    return random_residues(key, LENGTH, SOLINAS31)


def test_what_is_searched_for_would_be_found(tmp_path: Path) -> None:
    """The same secrets lie in a state that is opened with the key of the machine."""
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict as Proto

    from pyfed.secagg.snapshot import _opened

    grid = play(tmp_path, rounds=1)
    entered = recorddict_from_proto(Proto.FromString(grid.states[0]))
    state = entered.config_records[RECORD]["round-1"]
    key = machine_key(tmp_path / "key").derive("flower", grid.contexts[NODE].run_id, NODE)
    assert isinstance(state, bytes)
    _, _, plain = _opened(protocol_of("LightSecAgg", LENGTH).parameters, state, key)
    assert Key(SECRET).derive("client", 1, 2).reveal() in plain


def test_only_masked_words_and_named_metrics_leave_the_node(tmp_path: Path) -> None:
    grid = play(tmp_path, length=LENGTH * 500)
    uploads = [m.content for m in grid.outward if stage_of(m) == "update"]
    assert len(uploads) == 2
    for content in uploads:
        assert dict(content.metric_records["metrics"]) == {"loss": 0.5}
        (array,) = content.array_records[BODIES].values()
        assert array.dtype == "int32"
        assert 4 * LENGTH * 500 <= len(array.data) < 4 * LENGTH * 500 + 500
        floats = update_of(2).numpy().tobytes()
        assert floats[:16] not in bytes_of(content)


def test_no_round_is_answered_for_two_sets_of_survivors(tmp_path: Path) -> None:
    """Neither as it is, nor when the state is put back to before the first answer."""
    from pyfed.secagg.messages import Survivors
    from pyfed.secagg.wire import Message as Wire

    protocol = protocol_of("LightSecAgg", LENGTH)
    before: list[RecordDict] = []

    class Rewound(Watched):
        def reply(self, message: Message) -> Message | None:
            if message.metadata.dst_node_id == NODE and stage_of(message) == "recover":
                before.append(copied(message).content)
                before.append(copied(Message(self.contexts[NODE].state, NODE, "train")).content)
                reply = super().reply(message)
                assert reply is not None
                self.answer = reply.content.config_records[RECORD]["small"]
                return reply
            return super().reply(message)

    updates = [update_of(i) for i in range(5)]
    grid = Rewound(grid_of(protocol, updates, [3] * 5, tmp_path))
    strategy = SecureFedAvg(protocol, stage_timeout=1.0, fraction_evaluate=0.0)
    strategy.start(grid, zeros(LENGTH), num_rounds=1, timeout=1.0)  # type: ignore[arg-type]
    letter, state = before
    (data,) = letter.config_records[RECORD]["small"]  # type: ignore[misc, union-attr]
    assert isinstance(data, bytes)
    survivors = Wire.from_bytes(data, protocol.parameters)
    assert isinstance(survivors, Survivors) and survivors.survivors == (0, 1, 2, 3, 4)
    fewer = replaced(survivors, (0, 1, 2, 3))
    answers: dict[tuple[bool, str], Any] = {}
    for rewound in (False, True):
        for name, wire in (("same", data), ("fewer", fewer)):
            if rewound:
                grid.contexts[NODE].state = copied(Message(state, NODE, "train")).content
            letter.config_records[RECORD]["small"] = [wire]
            message = copied(Message(letter, NODE, "train"))
            reply = FakeGrid.reply(grid, message)
            assert reply is not None
            if reply.has_error():
                answers[rewound, name] = reply.error.reason
            else:
                answers[rewound, name] = reply.content.config_records[RECORD]["small"]
    over = f"ProtocolError('this node has no part in round {survivors.round}')"
    assert answers[False, "same"] == answers[False, "fewer"] == over
    assert answers[True, "same"] == grid.answer != []
    assert answers[True, "fewer"] == []


def replaced(message: Any, survivors: tuple[int, ...]) -> bytes:
    import dataclasses

    return dataclasses.replace(message, survivors=survivors).to_bytes()


def test_a_round_is_entered_once_and_numbers_only_go_up(tmp_path: Path) -> None:
    grid = play(tmp_path, rounds=2)
    for message in [m for m in grid.inward if stage_of(m) in ("keys", "update")]:
        reply = FakeGrid.reply(grid, message)
        assert reply is not None
        if reply.has_error():
            assert "only goes up" in reply.error.reason or "no part" in reply.error.reason
        else:  # the last training, which lets the node enter no other round: it is refused inside
            assert list(reply.content.config_records[RECORD]["small"]) == []  # type: ignore[arg-type]


def test_training_without_secure_aggregation_is_refused(tmp_path: Path) -> None:
    grid = play(tmp_path, rounds=1)
    content = RecordDict({"arrays": zeros(LENGTH), "config": ConfigRecord()})
    reply = grid.reply(Message(content, NODE, "train"))
    assert reply is not None and "refuses: the update would reach it in clear" in reply.error.reason


def answered(folder: Path, reply_content: RecordDict) -> str:
    """The error of an app whose train function gives that."""
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_of(protocol, [update_of(i) for i in range(5)], [1] * 5, folder)
    app = ClientApp(mods=[SecureAggMod(protocol, key_file=folder / "key")])

    @app.train()
    def train(message: Message, context: Any) -> Message:
        return Message(reply_content, reply_to=message)

    grid.apps[NODE] = app
    strategy = SecureFedAvg(protocol, stage_timeout=1.0)
    messages = strategy.configure_train(1, zeros(LENGTH), ConfigRecord(), grid)  # type: ignore[arg-type]
    replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(messages, timeout=1.0)}
    return replies[NODE].error.reason


@pytest.mark.parametrize(
    ("arrays", "metrics", "told"),
    [
        (zeros(LENGTH), {"loss": 1.0}, "no metric 'num-examples'"),
        (zeros(LENGTH), {"num-examples": -1}, "a whole number from 0 on"),
        (zeros(LENGTH + 1), {"num-examples": 1}, "must be floats of shape"),
        (None, {"num-examples": 1}, "one of them must be 'arrays'"),
    ],
)
def test_a_bad_reply_of_the_app_is_told(
    arrays: Any, metrics: dict[str, Any], told: str, tmp_path: Path
) -> None:
    content = RecordDict({"metrics": MetricRecord(metrics)})
    if arrays is not None:
        content["arrays"] = arrays
    assert told in answered(tmp_path, content)


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    first = machine_key(path)
    assert machine_key(path) == first == read_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
    path.chmod(0o640)
    with pytest.raises(ArgumentError, match="has mode 640"):
        machine_key(path)
    path.chmod(0o600)
    path.write_bytes(bytes(31))
    with pytest.raises(ArgumentError, match="has 31 bytes"):
        machine_key(path)
    with pytest.raises(ArgumentError, match="there is no key file"):
        read_key(tmp_path / "other")


def test_the_path_of_the_key_may_be_in_the_configuration_of_the_node(tmp_path: Path) -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    grid = grid_of(protocol, [update_of(i) for i in range(5)], [1] * 5, tmp_path)
    grid.apps[NODE] = ClientApp(mods=[SecureAggMod(protocol)])
    grid.apps[NODE].train()(lambda message, context: message)
    grid.contexts[NODE].node_config["pyfed-key-file"] = str(tmp_path / "own")
    list(SecureFedAvg(protocol).configure_train(1, zeros(LENGTH), ConfigRecord(), grid))  # type: ignore[arg-type]
    assert (tmp_path / "own").is_file()


def test_arguments_that_are_wrong_are_told() -> None:
    protocol = protocol_of("LightSecAgg", LENGTH)
    with pytest.raises(DtypeError, match="protocol is int"):
        SecureAggMod(3)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="protocol is str"):
        SecureFedAvg("LightSecAgg")  # type: ignore[arg-type]
    for wrong, told in (
        ({"send": "gradient"}, "send is 'gradient'"),
        ({"on_failure": "retry"}, "on_failure is 'retry'"),
        ({"stage_timeout": 0.0}, "stage_timeout is 0.0"),
    ):
        with pytest.raises(ArgumentError, match=told):
            SecureFedAvg(protocol, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"41 floats and the protocol's length is 40"):
        SecureFedAvg(protocol).configure_train(1, zeros(41), ConfigRecord(), FakeGrid({}))  # type: ignore[arg-type]
