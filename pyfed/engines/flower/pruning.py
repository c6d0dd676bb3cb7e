"""FedPrLLM as a strategy: votes on what to prune, counted in secret."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from pyfed.encoding import Encoding
from pyfed.engines.flower.arrays import to_arrays, to_tensors
from pyfed.engines.flower.strategy import SecureFedAvg
from pyfed.errors import ArgumentError
from pyfed.lanes import VoteLanes
from pyfed.ops.selection import mask_select
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.result import RoundResult


class FedPrLLMStrategy(SecureFedAvg):
    """One round that prunes a model by its clients' votes, of which the server sees the counts.

    The clients get the model, score its weights on their own samples, and return for each layer a
    bool array in the shape of its weight, True for a vote to prune; the clients run a
    :class:`SecureAggMod`. What has the most votes in each group becomes 0, and the other arrays
    stay as they are. It has one round: another would prune what is left.

    Source: Guo et al., FedPrLLM, arXiv 2505.13547.

    Args:
        protocol: of sums, over :class:`pyfed.lanes.VoteLanes`; ``length`` is the number of
            weights in ``layers``.
        layers: names of the arrays that are pruned.
        sparsity: the part of every group that is pruned, 0 to 1; None for N:M groups.
        group: what votes are compared in; see :func:`pyfed.ops.mask_select`.
        ties: ``"index"`` or ``"magnitude"``; None: magnitude in columns, else index.
        options: of :class:`SecureFedAvg`, but ``send``.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> from pyfed.engines.flower import FedPrLLMStrategy
        >>> from pyfed.lanes import VoteLanes
        >>> from pyfed.secagg import LightSecAgg
        >>> votes = VoteLanes(clients=5)
        >>> protocol = LightSecAgg(clients=5, privacy=1, dropouts=1, length=96, fixed=votes)
        >>> strategy = FedPrLLMStrategy(protocol, layers=["up.weight"], sparsity=0.5, group="row")
    """

    _encoding: ClassVar[type[Encoding]] = VoteLanes

    def __init__(
        self,
        protocol: Protocol,
        layers: Sequence[str],
        sparsity: float | Fraction | None = 0.5,
        group: str = "layer",
        ties: str | None = None,
        **options: Any,
    ) -> None:
        if "send" in options:
            raise ArgumentError("FedPrLLMStrategy: it sends votes, and takes no send")
        super().__init__(protocol, send="weights", **options)
        if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
            raise ArgumentError(
                f"FedPrLLMStrategy: layers is {layers!r}; it must be a list of names, each once"
            )
        if ties not in (None, "index", "magnitude"):
            raise ArgumentError(
                f"FedPrLLMStrategy: ties is {ties!r}; it must be 'index', 'magnitude' or None"
            )
        self.names = tuple(layers)
        self.sparsity, self.group, self.ties = sparsity, group, ties
        self._pruned = 0

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        """Run the round; as ``Strategy.start``, and ``num_rounds`` may be left out.

        Raises:
            ArgumentError: ``num_rounds`` is not 1.
        """
        rounds = args[1] if len(args) > 1 else kwargs.setdefault("num_rounds", 1)
        if rounds != 1:
            raise ArgumentError(
                f"FedPrLLMStrategy: num_rounds is {rounds}; it must be 1, as another round would "
                "prune what is left"
            )
        return super().start(grid, *args, **kwargs)

    def _expect_model(self, arrays: ArrayRecord) -> None:
        missing = [name for name in self.names if name not in arrays]
        if missing:
            raise ArgumentError(f"FedPrLLMStrategy: the model has no arrays {missing}")
        weights = ArrayRecord({name: arrays[name] for name in self.names})
        self._expect_floats(weights, "the layers have {} weights")

    def _moved(self, result: RoundResult) -> ArrayRecord:
        """The model with zeros where the votes say."""
        arrays = dict(self._model.items())
        layers = to_tensors(ArrayRecord({name: arrays[name] for name in self.names}))
        sizes = [layer.numel() for layer in layers.values()]
        counts = result.integers.cpu().to(torch.int32).split(sizes)
        self._pruned = 0
        for layer, votes in zip(layers.values(), counts, strict=True):
            weight = layer.to(torch.float32)
            mask = mask_select(
                votes, layer.shape, self.sparsity, self.group, ties=self.ties, weight=weight
            )
            layer[mask] = 0
            self._pruned += int(mask.sum())
        return ArrayRecord(arrays | dict(to_arrays(layers).items()))

    def _metrics(self, replies: list[Message], result: RoundResult) -> MetricRecord:
        """Those of the base, and the part of the layers that is pruned."""
        metrics = super()._metrics(replies, result)
        metrics["sparsity"] = self._pruned / max(1, self.protocol.parameters.length)
        return metrics
