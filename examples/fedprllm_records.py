"""What the experiment writes down: a row for each pruned model, and figures of the votes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Row:
    """One pruned model; a line of metrics.jsonl.

    Attributes:
        seed: Of the split.
        method: ``dense``, ``centralised``, ``local-only`` or ``federated``.
        sparsity: The part that is pruned.
        group: Of the server's selection.
        ties: Its rule for ties.
        scaling: Whether survivors were scaled.
        quality: Perplexity, or 1 - cosine; less is better. Of local-only the mean over clients.
        losses: For each held-out window; of local-only the mean over clients.
        each: For local-only the quality of each client's model.
        tie_share: The part of all weights that the rule for ties has pruned.
    """

    seed: int
    method: str
    sparsity: float
    quality: float
    losses: list[float]
    group: str | None = None
    ties: str | None = None
    scaling: bool = False
    each: list[float] = field(default_factory=list)
    tie_share: float | None = None

    @property
    def variant(self) -> str:
        """What it is called in tables."""
        if self.method != "federated":
            return self.method
        return f"{self.group}, ties by {self.ties}" + (", scaled" if self.scaling else "")


@dataclass
class VoteFigures:
    """What the votes of one split cost and reveal; a line of metrics.jsonl too.

    Attributes:
        seed: Of the split.
        sparsity: That was voted on.
        unanimous: The part of all weights that all clients keep, or all prune.
        disagreement: The mean part of a client's votes that the majority is against.
        upload_bits: Bits for a weight that an upload takes, by what it is coded against: nothing,
            the server's own votes on public text, or the outcome (as a second round could).
    """

    seed: int
    sparsity: float
    unanimous: float
    disagreement: float
    upload_bits: dict[str, float]
