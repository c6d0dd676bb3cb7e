"""A client that adds its update to the model, and tells that it has been there."""

import time
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pyfed.engines.flower import SecureAggMod, to_arrays, to_tensors
from secure_app.task import protocol, update_of

app = ClientApp(mods=[SecureAggMod(protocol)])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Wait to be killed where that is the plan: partition 3, in the second round."""
    partition = int(context.node_config["partition-id"])
    number = int(message.content["config"]["server-round"])
    folder = Path(str(context.run_config["folder"]))
    (folder / f"trained-{number}-{partition}").touch()
    if (number, partition) == (2, 3):
        time.sleep(100)
    (weights,) = to_tensors(message.content["arrays"]).values()
    arrays = to_arrays({"w": weights + update_of(partition)})
    metrics = MetricRecord({"num-examples": 1 + partition})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
