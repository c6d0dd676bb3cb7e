"""The clients: training as without secure aggregation, behind a mod that masks what it gives."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_secure.task import CLIENTS, digits, network, protocol, train
from pyfed.engines.flower import SecureAggMod, to_arrays, to_tensors

STAGES = ("keys", "share", "update", "recover")


def unreliable(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """A mod that loses one client in every stage of every round, each time another.

    A node has one message a round that asks for keys or for an update, and by those it counts. It
    is lost in the stage that begins now when its number is due: first 0 in keys, 1 in share, 2 in
    update and 3 in recover, and four further each time. So nobody is lost twice in a row.
    """
    if not (context.run_config["drops"] and "pyfed" in message.content):
        return call_next(message, context)
    stage = str(message.content["pyfed"]["stage"]).removeprefix("train.pyfed_")
    kept = context.state.config_records.setdefault("unreliable", ConfigRecord({"count": 0}))
    if stage in ("keys", "update"):
        kept["count"] += 1
    due = STAGES.index(stage) + 4 * kept["count"]
    if context.node_config["partition-id"] == due % CLIENTS:
        return Message(Error(code=0, reason=f"simulated loss in {stage}"), reply_to=message)
    return call_next(message, context)


app = ClientApp(mods=[unreliable, SecureAggMod(protocol)])


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train the model that came on this client's digits."""
    data = digits()[0][int(context.node_config["partition-id"])]
    model = network()
    model.load_state_dict(to_tensors(message.content["arrays"]))
    train(model, data, int(context.run_config["local-epochs"]))
    metrics = MetricRecord({"num-examples": len(data[1])})
    content = {"arrays": to_arrays(model.state_dict()), "metrics": metrics}
    return Message(RecordDict(content), reply_to=message)
