"""examples/flower_secure, as its README runs it, but on ports and in folders of its own."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("flwr")
pytest.importorskip("mlxtend")
pytest.importorskip("ray")

from engines.processes import BIN, answers, free_port, running, wait_for

pytestmark = pytest.mark.engines

APP = Path(__file__).parents[2] / "examples" / "flower_secure"


def test_rounds_with_a_client_lost_in_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven of ten are in each sum: one is lost in training, two in set-up or in the last round."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where the key of the clients' state is made
    port = free_port()
    (tmp_path / "home").mkdir()
    address = f'[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (tmp_path / "home" / "config.toml").write_text(address)
    with ExitStack() as stack:
        link = ("--insecure", "--simulation", "--disable-runtime-dependency-installation")
        at = ("--host", "127.0.0.1", "--port", str(port))
        stack.enter_context(running(tmp_path, "link", str(BIN / "flower-superlink"), *link, *at))
        wait_for(lambda: answers(port), 60)
        options = ("--run-config", "rounds=2 local-epochs=4", "--federation-config")
        nodes = "num-supernodes=10 client-resources-num-cpus=1"
        command = (str(BIN / "flwr"), "run", str(APP), "own", "--stream", *options, nodes)
        run = stack.enter_context(running(tmp_path, "run", *command))
        run.wait(300)
    shown = (tmp_path / "run.log").read_text()
    rounds = re.findall(r"round (\d): accuracy ([\d.]+)%, (\d+) of 10 in the sum", shown)
    assert [(number, inside) for number, _, inside in rounds] == [("1", "7"), ("2", "7")], shown
    assert float(rounds[-1][1]) > 20  # ten digits: guessing gives 10 %
