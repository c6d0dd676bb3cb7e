"""Two rounds, each from zero, and a report."""

import json
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pyfed.engines.flower import SecureFedAvg, to_arrays
from secure_app.task import LENGTH, protocol

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play the rounds."""
    rounds = []

    class Kept(SecureFedAvg):
        """Keeps what the rounds gave."""

        def configure_train(self, server_round, arrays, config, grid):
            return super().configure_train(server_round, zeros, config, grid)

        def aggregate_train(self, server_round, replies):
            made = super().aggregate_train(server_round, replies)
            result = self.result
            rounds.append([sorted(result.included), result.total_weight, result.integers.tolist()])
            return made

    zeros = to_arrays({"w": torch.zeros(LENGTH)})
    strategy = Kept(protocol, stage_timeout=60.0, fraction_evaluate=0.0)
    strategy.start(grid, zeros, num_rounds=2, timeout=75.0)
    folder = Path(str(context.run_config["folder"]))
    report = {"rounds": rounds, "traffic": sorted(map(list, strategy.result.traffic.items()))}
    (folder / "result.json").write_text(json.dumps(report))
