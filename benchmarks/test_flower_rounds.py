"""A tiny size of flower_rounds.py, and that it reports nothing that is wrong."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("flwr")

import flower_rounds
from flower_contestants import Plain
from flower_rounds import SECURE, Fate, Played, WrongResultError, make_task, played, ratio

CLIENTS, LENGTH = 7, 20_000
Rounds = dict[str, list[Played]]
Fates = dict[str, dict[str, Fate]]


@pytest.fixture(scope="module")
def found() -> Rounds:
    return flower_rounds.measured(CLIENTS, LENGTH, rounds=2)


@pytest.fixture(scope="module")
def fates() -> Fates:
    return flower_rounds.fates(CLIENTS, length=50)


def test_every_contestant_gives_the_mean_and_counts_its_bytes(found: Rounds) -> None:
    upload = {name: rounds[-1].upload / CLIENTS / LENGTH for name, rounds in found.items()}
    assert upload["flwr SecAgg+"] == pytest.approx(8, abs=0.2)
    for name in ("FedAvg", *SECURE[:2]):
        assert upload[name] == pytest.approx(4, abs=0.3)
    assert found["FedAvg"][0].shares == (0, 0)
    for name in SECURE:
        one = found[name][-1]
        assert min(one.shares) > 0
        assert one.sent > one.upload
        assert min(one.protocol.wall, one.server.wall, one.engine.wall) > 0
        assert set(one.clients) == {"keys", "share", "update", "recover"}
        assert 0 < one.offline.wall < one.protocol.wall
        assert one.online.wall + one.offline.wall == pytest.approx(one.protocol.wall)
        assert (one.protocol.disk > 0) == (name in SECURE[:2])  # who keeps a journal


def test_a_client_lost_before_its_update_ends_the_round_of_one_rival_only(fates: Fates) -> None:
    for stage, inside in {"keys": 6, "share": 6, "update": 6, "recover": 7}.items():
        assert [fates[stage][name].inside for name in SECURE[:2]] == [inside, inside]
        rival = fates[stage]["flwr SecAgg+"]
        if stage in ("keys", "share"):
            assert rival.inside == 0
            assert "Not enough shares" in str(rival) and "KeyError" in str(rival)
        else:
            assert rival.inside == inside


def test_a_wrong_mean_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    contestant = Plain(make_task(CLIENTS, 10))
    played(contestant)
    monkeypatch.setattr(Plain, "play", lambda self: self.task.model)
    with pytest.raises(WrongResultError, match="off by"):
        played(contestant)


def test_a_ratio_is_of_protocol_times(found: Rounds) -> None:
    same = ratio(found["FedAvg"], found["FedAvg"], "protocol", "wall")
    assert (same.low, same.median, same.high) == (1, 1, 1)
    assert ratio(found["FedAvg"], found["flwr SecAgg+"], "online", "computed").low > 1


def test_the_script_prints_its_tables(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: Rounds,
    fates: Fates,
) -> None:
    monkeypatch.setattr(sys, "argv", ["flower_rounds.py"])
    monkeypatch.setattr(flower_rounds, "measured", lambda *size: found)
    monkeypatch.setattr(flower_rounds, "fates", lambda *size: fates)
    flower_rounds.main()
    shown = capsys.readouterr().out
    assert "flwr SecAgg+ takes" in shown and "lost: Not enough shares" in shown
