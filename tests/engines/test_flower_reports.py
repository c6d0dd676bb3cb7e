"""What the Flower engine tells: logs below Flower's own, callbacks, and rounds that failed."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp import ClientApp

from engines.grids import NODES, FakeGrid, grid_of, protocol_of, zeros
from pyfed.engines.callbacks import JsonLines
from pyfed.engines.flower import SecureAggMod, SecureFedAvg, to_tensors
from pyfed.errors import ArgumentError, DtypeError

LENGTH = 6


def grid_in(folder: Path, weights: list[int] | None = None, scale: float = 0.125) -> FakeGrid:
    updates = [torch.full((LENGTH,), i * scale) for i in range(5)]
    return grid_of(protocol_of("LightSecAgg", LENGTH), updates, weights or [1] * 5, folder)


def started(grid: FakeGrid, protocol: Any = None, rounds: int = 1, **options: Any) -> Any:
    strategy = SecureFedAvg(
        protocol or protocol_of("LightSecAgg", LENGTH),
        stage_timeout=1.0,
        fraction_evaluate=0.0,
        **options,
    )
    model: Any = zeros(LENGTH)
    result = strategy.start(grid, model, num_rounds=rounds, timeout=1.0)  # type: ignore[arg-type]
    return strategy, result


def test_callbacks_are_told_of_every_round(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    started(grid_in(tmp_path), rounds=2, callbacks=[JsonLines(path)])
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["round"], second["round"]) == (1, 2)
    for record in (first, second):
        assert record["protocol"] == "LightSecAgg" and record["clients"] == 5
        assert record["included"] == [0, 1, 2, 3, 4] and record["total_weight"] == 5
        assert record["bytes"]["client"]["upload"] > 0 and record["seconds"]["upload"] > 0
    with pytest.raises(DtypeError, match="SecureFedAvg: callbacks"):
        started(grid_in(tmp_path), callbacks=[print])


def test_where_every_round_fails_the_model_is_what_was_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strategy, result = started(grid_in(tmp_path), protocol_of("LightSecAgg", LENGTH, privacy=2))
    assert strategy.result is None
    assert {name: value.sum() for name, value in to_tensors(result.arrays).items()} == {
        "w": 0,
        "b": 0,
    }
    told = [record for record in caplog.records if record.name == "flwr.pyfed"]
    differs = "the server's protocol is not that of this node: privacy is 2 there and 1 here"
    assert sum(differs in record.getMessage() for record in told) == 5  # of each node
    assert any(record.levelno == logging.ERROR for record in told)


def test_the_result_of_a_round_before_is_not_that_of_one_that_failed(tmp_path: Path) -> None:
    grid = grid_in(tmp_path)
    strategy, _ = started(grid)
    assert strategy.result is not None
    grid.apps = dict.fromkeys(grid.apps, ClientApp())
    messages = strategy.configure_train(2, zeros(LENGTH), ConfigRecord(), grid)
    assert strategy.aggregate_train(2, grid.send_and_receive(messages, timeout=1.0)) == (None, None)
    assert strategy.result is None


def test_nodes_without_the_mod_are_guessed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid, app = grid_in(tmp_path), ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise KeyError("config")

    grid.apps = dict.fromkeys(grid.apps, app)
    started(grid)
    assert "none of 5 nodes has answered as a client of secure aggregation" in caplog.text


def test_weights_and_floats_that_are_cut_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strategy, _ = started(grid_in(tmp_path, weights=[1, 1, 1, 1, 10], scale=0.375))
    assert strategy.result.total_weight == 4 + 9
    assert "'num-examples' is cut to max_weight=9" in caplog.text
    told = [r.getMessage() for r in caplog.records if "beyond clip" in r.getMessage()]
    assert told == ["6 of 6 floats of the update are beyond clip=1, and are cut to it"] * 2


@pytest.mark.parametrize(("value", "times"), [(-2.0, 5), (-1.0, 0), (1.0, 0)])
def test_floats_beyond_the_clip_on_either_side_are_told_and_those_at_it_are_not(
    value: float, times: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    updates = [torch.full((LENGTH,), value)] * 5
    protocol = protocol_of("LightSecAgg", LENGTH)
    started(grid_of(protocol, updates, [1] * 5, tmp_path), protocol)
    assert sum("beyond clip=1" in record.getMessage() for record in caplog.records) == times


def test_a_model_of_another_length_is_told_before_the_training(tmp_path: Path) -> None:
    mod = SecureAggMod(protocol_of("LightSecAgg", LENGTH), key_file=tmp_path / "key")
    with pytest.raises(ArgumentError, match="model has 9 floats and the protocol's length is 6"):
        mod._expect_length(zeros(9))


def test_clear_metrics_are_a_list() -> None:
    with pytest.raises(DtypeError, match="clear_metrics is a str"):
        SecureAggMod(protocol_of("LightSecAgg", LENGTH), clear_metrics="loss")


@pytest.mark.parametrize("mode", ["error", "silent"])
def test_a_node_that_is_lost_is_named_with_its_client_and_its_stage(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = sorted(NODES)[3]
    grid = grid_in(tmp_path)
    grid.loss = lambda call, stage, node: mode if (stage, node) == ("update", lost) else None
    strategy, _ = started(grid)
    assert strategy.result is not None and strategy.result.included == {0, 1, 2, 4}
    why = "it gave no reply in time" if mode == "silent" else ".+"
    wanted = rf"node {lost} \(client 3\) in stage train.pyfed_update is lost: {why}"
    (told,) = [r.getMessage() for r in caplog.records if "is lost" in r.getMessage()]
    assert re.fullmatch(wanted, told)


def test_of_an_error_the_last_line_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = grid_in(tmp_path)
    strategy, _ = started(grid)
    messages = strategy.configure_train(2, zeros(LENGTH), ConfigRecord(), grid)
    reason = "a trace\nof many lines\nand what was wrong\n"
    replies = [Message(Error(code=0, reason=reason), reply_to=message) for message in messages]
    strategy.aggregate_train(2, replies)
    told = [r.getMessage() for r in caplog.records if "is lost" in r.getMessage()]
    assert len(told) == 5 and all(text.endswith("is lost: and what was wrong") for text in told)
    assert "do they run" not in caplog.text  # they have answered before


def test_who_waits_for_nodes_is_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = grid_in(tmp_path)
    grid.apps.pop(sorted(grid.apps)[0])
    strategy, _ = started(grid)
    assert strategy.result is not None
    assert "4 nodes are there and 5 wanted; waiting up to 1 s" in caplog.text
