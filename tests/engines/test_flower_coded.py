"""Coded federated learning over Flower: the same steps as those of the server by itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from engines.grids import NODES, FakeGrid
from pyfed import Key
from pyfed.coded import SCFL, CodedDataset
from pyfed.engines.flower import CodedFedAvg, to_arrays, to_tensors
from pyfed.errors import ArgumentError, DtypeError

SETTINGS = SCFL(rule="complement", arrival=[0.9, 0.8, 0.7, 0.6, 0.5], lr=0.5)


def clients() -> list[Any]:
    torch.manual_seed(5)
    x = torch.randn(5, 20, 3)
    y = x @ torch.tensor([1.0, -1.0, 0.5])
    return [SETTINGS.client(i, x[i], y[i]) for i in range(5)]


def server() -> Any:
    sets = [c.encode(40, Key(bytes([i]) * 32)) for i, c in enumerate(clients())]
    return SETTINGS.server(CodedDataset.total(sets))


def app_of(number: int, client: Any, broken: Collection[int]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weight = to_tensors(message.content["arrays"])["weight"]
        turn = int(message.content["config"]["server-round"]) - 1
        gradient = client.update(weight, turn)
        if number in broken:
            gradient = gradient * torch.nan if number % 2 else gradient[:-1]
        content = {"arrays": to_arrays({"gradient": gradient})}
        metrics = MetricRecord({"client": number})
        return Message(RecordDict({**content, "metrics": metrics}), reply_to=message)

    return app


def grid_with(broken: Collection[int] = (), loss: Any = lambda *_: None) -> FakeGrid:
    nodes, own = sorted(NODES), clients()
    apps = {node: app_of(i, own[i], broken) for i, node in enumerate(nodes)}
    return FakeGrid(apps, loss)


def test_steps_equal_those_of_the_server_by_itself() -> None:
    late = {1: {3}, 2: set(), 3: {0, 4}}  # call → clients
    nodes = sorted(NODES)

    def loss(call: int, stage: str, node: int) -> str | None:
        return ("silent", "error")[call % 2] if nodes.index(node) in late[call] else None

    strategy = CodedFedAvg(server(), fraction_evaluate=0.0)
    result = strategy.start(grid_with(loss=loss), strategy.arrays, num_rounds=3, timeout=1.0)  # type: ignore[arg-type]
    alone, all_clients = server(), clients()
    for turn in range(3):
        there = [i for i in range(5) if i not in late[turn + 1]]
        alone.step({i: all_clients[i].update(alone.weight, turn) for i in there})
    assert torch.equal(to_tensors(result.arrays)["weight"], alone.weight)
    told = [dict(result.train_metrics_clientapp[r])["clients"] for r in (1, 2, 3)]
    assert told == [4, 5, 3]


def test_gradients_that_are_unfit_count_as_late() -> None:
    strategy = CodedFedAvg(server(), fraction_evaluate=0.0)
    result = strategy.start(grid_with({2, 3}), strategy.arrays, num_rounds=1, timeout=1.0)  # type: ignore[arg-type]
    alone, all_clients = server(), clients()
    alone.step({i: all_clients[i].update(alone.weight, 0) for i in (0, 1, 4)})
    assert torch.equal(to_tensors(result.arrays)["weight"], alone.weight)


def test_a_client_counts_once_and_a_reply_needs_its_number() -> None:
    grid = grid_with()
    first, second, third = sorted(NODES)[:3]
    grid.apps[second] = grid.apps[first]

    def nameless(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    grid.apps[third] = ClientApp()
    grid.apps[third].train()(nameless)
    strategy = CodedFedAvg(server(), fraction_evaluate=0.0)
    result = strategy.start(grid, strategy.arrays, num_rounds=1, timeout=1.0)  # type: ignore[arg-type]
    assert dict(result.train_metrics_clientapp[1])["clients"] == 3


def test_arguments_that_are_wrong_are_told() -> None:
    with pytest.raises(DtypeError, match="server is SCFL"):
        CodedFedAvg(SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"fraction_train is 0\.5"):
        CodedFedAvg(server(), fraction_train=0.5)
