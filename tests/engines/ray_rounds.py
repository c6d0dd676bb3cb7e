"""Two rounds in Flower's simulation engine, with a client lost in each stage; a script of a test.

Usage: ray_rounds.py FOLDER. Writes result.json there: for each round who was in it and the sum, and
the same of the rounds in one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

sys.path.insert(0, str(Path(__file__).parent.parent))

from engines.grids import SECRET, from_one, protocol_of, stage_of, zeros
from pyfed import Key
from pyfed.engines.flower import SecureAggMod, SecureFedAvg
from pyfed.secagg import RoundResult, simulate

NODES, LENGTH = 5, 6
LOST = {"keys": 0, "share": 1, "update": 2, "recover": 3}
"""Stage → the partition that fails there: the first two in round 1, the others in round 2."""


def update_of(node: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(node % 2**31)
    return torch.rand(LENGTH, generator=generator) - 0.5


class Failing:
    """A mod that raises in one stage of one round at one partition."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, message: Message, context: Context, call_next: Any) -> Message:
        partition, stage = int(context.node_config["partition-id"]), stage_of(message)
        count = len(list(self.folder.glob(f"{partition}-{stage}-*")))
        (self.folder / f"{partition}-{stage}-{count}").touch()
        (self.folder / f"node-{partition}").write_text(str(context.node_id))
        due = {"keys": 0, "share": 0, "update": 1, "recover": 1}[stage]
        if LOST[stage] == partition and count == due:
            raise RuntimeError(f"partition {partition} fails in stage {stage}")
        return call_next(message, context)


def client_app(folder: Path) -> ClientApp:
    protocol = protocol_of("LightSecAgg", LENGTH, NODES, dropouts=2)
    app = ClientApp(mods=[Failing(folder), SecureAggMod(protocol, key_file=folder / "key")])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = message.content["arrays"].to_torch_state_dict()
        sizes = [value.numel() for value in model.values()]
        pieces = update_of(context.node_id).split(sizes)
        trained = {name: model[name] + piece for name, piece in zip(model, pieces, strict=True)}
        content = {"arrays": ArrayRecord(trained), "metrics": MetricRecord({"num-examples": 2})}
        return Message(RecordDict(content), reply_to=message)

    return app


def server_app(folder: Path) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        protocol = protocol_of("LightSecAgg", LENGTH, NODES, dropouts=2)
        results: list[RoundResult | None] = []

        class Kept(SecureFedAvg):
            """Begins every round at zero, so that updates come back as they were."""

            def configure_train(self, server_round: int, arrays: Any, *more: Any) -> Any:
                self.result = None
                return super().configure_train(server_round, zeros(LENGTH), *more)

            def aggregate_train(self, *given: Any) -> Any:
                made = super().aggregate_train(*given)
                results.append(self.result)
                return made

        strategy = from_one(Kept(protocol, stage_timeout=240.0, fraction_evaluate=0.0))
        strategy.start(grid, zeros(LENGTH), num_rounds=2, timeout=240.0)
        numbers = strategy.rounds.numbers
        told = {p: int((folder / f"node-{p}").read_text()) for p in range(NODES)}
        report = {
            "rounds": [r and [sorted(r.included), r.integers.tolist()] for r in results],
            "expected": expected(protocol, numbers, told),
        }
        (folder / "result.json").write_text(json.dumps(report))

    return app


def expected(protocol: Any, numbers: Any, nodes: dict[int, int]) -> list[Any]:
    """The same rounds in one process."""
    client = {partition: numbers[node] for partition, node in nodes.items()}
    updates = [update_of(node) for node, _ in sorted(numbers.items(), key=lambda pair: pair[1])]
    drops = [
        {"keys": {client[0]}, "share": {client[1]}},
        {"upload": {client[2]}, "recover": {client[3]}},
    ]
    out = []
    for number, drop in enumerate(drops, 1):
        weights = [2] * NODES
        result = simulate(protocol, updates, weights, drop, Key(SECRET), number)
        out.append([sorted(result.included), result.integers.tolist()])
    return out


if __name__ == "__main__":
    place = Path(sys.argv[1])
    run_simulation(
        server_app=server_app(place),
        client_app=client_app(place),
        num_supernodes=NODES,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"_node_ip_address": "127.0.0.1", "num_cpus": 2},
        },
    )
