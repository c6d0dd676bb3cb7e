"""A SuperLink and SuperNodes over loopback, one of which is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from engines.processes import BIN, answers, free_port, kill, running, wait_for

pytestmark = pytest.mark.engines

APP = Path(__file__).parent / "flower_app"
sys.path.insert(0, str(APP))


def test_a_killed_node_leaves_the_round_whole(tmp_path: Path) -> None:
    """Four nodes, since three must be left: the colluder, and two whose updates are one sum."""
    from secure_app.task import CLIENTS, LENGTH, update_of

    port = free_port()
    (tmp_path / "home").mkdir()
    address = f'[superlink.loop]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (tmp_path / "home" / "config.toml").write_text(address)
    with ExitStack() as stack:

        def run(name: str, *command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(running(tmp_path, name, str(BIN / command[0]), *command[1:]))

        alone = ("--insecure", "--host", "127.0.0.1", "--port")
        installs = "--disable-runtime-dependency-installation"
        run("link", "flower-superlink", *alone, str(port), installs)
        wait_for(lambda: answers(port), 60)
        nodes = [
            run(
                f"node-{i}",
                *("flower-supernode", *alone, str(free_port()), "--superlink", f"127.0.0.1:{port}"),
                *("--node-config", f'partition-id={i} pyfed-key-file="{tmp_path}/key-{i}"'),
            )
            for i in range(CLIENTS)
        ]
        run("run", "flwr", "run", str(APP), "loop", "--run-config", f'folder="{tmp_path}"')
        wait_for((tmp_path / "trained-2-3").exists, 300)
        kill(nodes[3])
        wait_for((tmp_path / "result.json").exists, 200)
    report = json.loads((tmp_path / "result.json").read_text())
    for (included, weight, sums), count in zip(report["rounds"], (4, 3), strict=True):
        assert (len(included), weight) == (count, sum(range(count + 1)))
        steps = sum((1 + i) * update_of(i) * 2**15 for i in range(count))
        assert sums == steps.to(int).tolist()
    traffic = {tuple(sender): count for sender, count in report["traffic"]}
    assert 4 * LENGTH <= traffic["client", "upload"] / 3 < 4 * LENGTH + 500
    assert (tmp_path / "key-0").stat().st_mode & 0o777 == 0o600
