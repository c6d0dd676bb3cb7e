"""The server: rounds of secure averaging, and the accuracy after each."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from flower_secure.task import CLIENTS, accuracy, digits, network, protocol
from pyfed.engines.flower import SecureFedAvg, to_arrays, to_tensors

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    torch.manual_seed(0)
    model = network()
    _, test = digits()
    strategy = SecureFedAvg(protocol, fraction_evaluate=0.0)

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(to_tensors(arrays))
        reached, result = accuracy(model, test), strategy.result
        inside = 0 if result is None else len(result.included)
        if number > 0:
            print(f"round {number}: accuracy {reached:.1%}, {inside} of {CLIENTS} in the sum")
        return MetricRecord({"accuracy": reached, "clients": inside})

    strategy.start(
        grid,
        to_arrays(model.state_dict()),
        num_rounds=int(context.run_config["rounds"]),
        timeout=600,
        evaluate_fn=evaluate,
    )
