"""Engines at length: six ranks under every two losses, and the example under torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("cryptography")
pytest.importorskip("msgpack")

from engines.engine_scenes import SECRET, pairs_of_drops, protocol, some_updates, weights
from engines.ranks import session
from pyfed import Key
from pyfed.secagg import simulate

pytestmark = pytest.mark.engines
ROOT = Path(__file__).parents[2]


def test_six_ranks_sum_as_one_process_whoever_is_lost(tmp_path: Path) -> None:
    seen = session("rank_scripts", 6, tmp_path, seconds=300)
    agreed = protocol(6, dropouts=2)
    updates = some_updates(agreed)
    drops = pairs_of_drops(6)
    assert len(drops) == 16
    for number, drop in enumerate(drops):
        wanted = simulate(agreed, updates, weights(6), drop=drop, key=Key(SECRET), round=number)
        for rank in seen["check_scripts"]:
            residues, included, total = rank[number]
            assert torch.equal(residues, wanted.residues)
            assert (included, total) == (wanted.included, wanted.total_weight)
    assert seen["check_shares_travel_while_something_else_does"] == [(120, [0.5, 0.5])] * 6
    assert seen["check_a_long_vector"] == [0] * 6


def test_the_example_trains_as_plain_data_parallel_does(tmp_path: Path) -> None:
    for needed in ("matplotlib", "mlxtend"):
        pytest.importorskip(needed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    where = ["--nproc-per-node", "4", "--master-addr", "127.0.0.1", "--master-port", port]
    size = ["--steps", "12", "--width", "32", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *where, "examples/ddp_secure.py", *size],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "ddp_secure-loss.png").stat().st_size > 0
    (counts,) = [line for line in done.stdout.splitlines() if line.startswith("digits 0 to 9")]
    assert sum(int(n) for n in counts.split("[")[1].strip("]").split(",")) == 3000
    apart = [line for line in done.stdout.splitlines() if "loss within" in line]
    assert len(apart) == 2
    assert all(float(line.split("within ")[1].split(" of")[0]) < 1e-3 for line in apart)
