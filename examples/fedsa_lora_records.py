"""What the experiment compares and writes down: methods, and a row for each run of one."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """A way to train the clients' adapters.

    Attributes:
        name: In tables.
        rule: Of aggregation; None: clients never meet.
        heads: ``local`` or ``shared``.
        adapter: Which kind.
        lr: Learning rate; see RATES in fedsa_lora_study.py.
    """

    name: str
    rule: str | None
    heads: str
    lr: float
    adapter: str = "LoRA"

    @property
    def is_global(self) -> bool:
        """Whether all clients have one model after a round."""
        return self.heads == "shared" and self.rule not in (None, "fedsa")


@dataclass
class Row:
    """One run of one method; a line of metrics.jsonl.

    Attributes:
        method: Its name.
        seed: Of the split, first values, batches and dropout.
        rule: As of the method.
        heads: As of the method.
        adapter: As of the method.
        lr: As of the method.
        personal: For each client the part of its test set that its own model has right, with what
            it received at the end of the last round.
        trained: Likewise just before, after its own last steps: a global model that was tuned to
            the client, or a personal one before A was averaged.
        global_accuracy: Of the one global model on the global test set; None without such.
        mean_model: Likewise of the mean of all clients' A, B and heads; None for a global model.
        own_models: Likewise of each client's own model, the mean of them; None for a global one.
        uplink: Bytes that a client sends in a round, the mean over rounds.
        downlink: Bytes that it gets.
        curve: Round → mean personal accuracy after it.
        seconds: Of training and aggregation, without tests.
    """

    method: str
    seed: int
    rule: str | None
    heads: str
    adapter: str
    lr: float
    personal: list[float]
    trained: list[float]
    global_accuracy: float | None
    mean_model: float | None
    own_models: float | None
    uplink: float
    downlink: float
    curve: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        """Personal accuracy over all clients."""
        return sum(self.personal) / len(self.personal)
