"""Runs checks on several gloo ranks of this machine, and brings home what each rank saw.

As a script, ``ranks.py MODULE SIZE FOLDER``, it is one session: it imports once, forks a process
for each rank, and every rank calls all functions ``check_*`` of the module in one order.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENCE = timedelta(seconds=60)
"""How long a rank waits in a collective that another does not enter."""


def session(module: str, size: int, folder: Path, seconds: float = 400.0) -> dict[str, list[Any]]:
    """What every check of a module gave, on each rank; raises where one failed."""
    ranks = subprocess.Popen(
        [sys.executable, str(HERE / "ranks.py"), module, str(size), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # so that the forked ranks end with it
    )
    try:
        told, _ = ranks.communicate(timeout=seconds)
    except BaseException:
        os.killpg(ranks.pid, signal.SIGKILL)
        raise
    files = [folder / f"{rank}.pickle" for rank in range(size)]
    assert ranks.returncode == 0 and all(f.exists() for f in files), told
    found = [pickle.loads(file.read_bytes()) for file in files]
    return {name: [rank[name] for rank in found] for name in found[0]}


def refused(call: Any, *args: Any, **kwargs: Any) -> tuple[str, str]:
    """The type and the message of the error that a call raises."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", "nothing was raised"


def _serve(module: str, rank: int, size: int, folder: Path) -> None:
    """One rank: all checks, in order; the first that fails ends it."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    found = {}
    for name, check in vars(importlib.import_module(module)).items():
        if name.startswith("check_"):
            torch.manual_seed(7)
            found[name] = check(rank, size)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main() -> int:
    """Fork the ranks, and wait for all of them."""
    module, size, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    importlib.import_module(module)  # once, before the fork; it must start no thread
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            try:
                _serve(module, rank, size, folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main())
