"""FedSA-LoRA as a strategy: the A halves of adapters travel, and each client keeps its B."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from pyfed.engines.flower.strategy import SecureFedAvg
from pyfed.errors import ArgumentError
from pyfed.lora.keys import parse_key
from pyfed.secagg.protocol import Protocol


class FedSALoRA(SecureFedAvg):
    """Federated LoRA under secure aggregation: A is averaged, and B stays with each client.

    Of the arrays only the A halves (of VeRA λ_d) go out, with the layers that ``modules_to_save``
    names unless ``heads`` is ``"local"``. A train function puts them into its adapter, trains, and
    may return all of it: :class:`SecureAggMod` takes what came and nothing else. B is for the app
    to keep, in a file of its own or in the state of its context.

    Source: Guo et al., Selective Aggregation for Low-Rank Adaptation in Federated Learning, ICLR
    2025, arXiv 2410.01463.

    Args:
        protocol: as in :class:`SecureFedAvg`; ``length`` is the number of floats that travel, see
            :meth:`travelling`.
        heads: ``"shared"`` or ``"local"``.
        options: of :class:`SecureFedAvg`.

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import torch
        >>> from pyfed.engines.flower import FedSALoRA, to_arrays
        >>> adapter = {
        ...     "base_model.model.q.lora_A.weight": torch.ones(4, 8),
        ...     "base_model.model.q.lora_B.weight": torch.zeros(16, 4),
        ... }
        >>> list(FedSALoRA.travelling(to_arrays(adapter)))
        ['base_model.model.q.lora_A.weight']
    """

    def __init__(self, protocol: Protocol, heads: str = "shared", **options: Any) -> None:
        if heads not in ("shared", "local"):
            raise ArgumentError(f"FedSALoRA: heads is {heads!r}; it must be 'shared' or 'local'")
        super().__init__(protocol, **options)
        self.heads = heads

    @staticmethod
    def travelling(arrays: ArrayRecord, heads: str = "shared") -> ArrayRecord:
        """What of an adapter goes out, in its order.

        Args:
            arrays: PEFT's state of an adapter, under its saved keys or its live ones.
            heads: ``"shared"`` or ``"local"``.

        Raises:
            ArgumentError: a name is none of an adapter's, or nothing is left.
        """
        roles = ("A", "head") if heads == "shared" else ("A",)
        kept = {}
        for name, array in arrays.items():
            key = parse_key(name)
            if key is None:
                raise ArgumentError(
                    f"FedSALoRA: the array {name!r} is no part of an adapter; pass what "
                    "peft.get_peft_model_state_dict gives"
                )
            if key.role in roles:
                kept[name] = array
        if not kept:
            raise ArgumentError(
                f"FedSALoRA: none of the {len(arrays)} arrays is a half A; pass the adapter's state"
            )
        return ArrayRecord(kept)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As in :class:`SecureFedAvg`, with what travels."""
        shared = self.travelling(arrays, self.heads)
        return super().configure_train(server_round, shared, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As in ``FedAvg``, with what travels."""
        shared = self.travelling(arrays, self.heads)
        return super().configure_evaluate(server_round, shared, config, grid)
