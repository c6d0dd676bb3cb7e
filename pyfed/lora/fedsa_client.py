"""A client of federated LoRA through one round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.fedsa import NAME, FedSALoRA
from pyfed.lora.fedsa_party import LoraParty
from pyfed.lora.fedsa_result import LoraResult
from pyfed.lora.fedsa_state import Held, Source, pack, unpack
from pyfed.lora.messages import LoraMessage, LoraShared, LoraUpdate, out_of_range
from pyfed.lora.plan import MOST_CLIENTS, MOST_WEIGHT
from pyfed.secagg.session import SERVER


class FedSALoRAClient(LoraParty):
    """One client in one round: ``start`` gives its update, ``handle`` takes the mean.

    Make it, train the adapter, call ``start``. When the mean comes, it is written into the tensors
    that are shared, and into nothing else. A client that was away may take the mean without having
    sent an update. A message that is refused raises ProtocolError and changes nothing.

    Every client needs an adapter of its own. Where clients of one process share a module, what
    each keeps to itself is overwritten by the next.

    Args:
        rule: the settings.
        index: number of this client.
        adapter: its own PEFT model or state dict.
        config: of a state dict, its PEFT configuration.
        round_: number of the round.
        name: of the adapter in a model.
    """

    expects = LoraShared

    def __init__(
        self, rule: FedSALoRA, index: int, adapter: Source, config: Any, round_: int, name: str
    ) -> None:
        expect_int(NAME, "index", index, 0, MOST_CLIENTS)
        if not isinstance(adapter, nn.Module | Mapping):
            kind = type(adapter).__name__
            raise DtypeError(
                f"{NAME}: adapter is {kind}; it must be a PEFT model or a state dict, which "
                "is written in place"
            )
        self._rule = rule
        self._source: tuple[Source, Any, str] | None = (adapter, config, name)
        found = rule.read(f"client {index}", adapter, config, name)
        super().__init__(f"client {index}", index, rule.plan_of(found, round_), round_)

    def start(self, weight: int = 1) -> list[LoraMessage]:
        """The update: what is shared of the adapter, as it is now.

        Args:
            weight: the number of samples it was trained on, from 0 to 2^37 - 1.

        Raises:
            DtypeError, ArgumentError: the weight is wrong; a value is NaN, infinite or too large
                for the wire; or the adapter has another form than when the client was made, or
                the half that the rule freezes has changed. ``start`` may be called again.
            ProtocolError: the client has started already.
        """
        with self._lock:
            if self._phase != "update":
                raise self._refusal("start was called before, or the round is over")
            expect_int(NAME, "weight", weight, 0, MOST_WEIGHT)
            payload = pack(self._plan, self._held().vector(self._plan))
            bad = out_of_range(payload, self._plan)
            if bad:
                raise ArgumentError(f"{NAME}: client {self._number}: {bad}")
            self._phase = "share"
            return [LoraUpdate(**self._envelope(SERVER), weight=weight, payload=payload)]

    def handle(self, message: LoraMessage, source: int) -> list[LoraMessage]:
        """Take the mean and load it; the list is empty, since the round ends with it.

        Args:
            message: what came.
            source: the peer that the engine authenticated; -1 is the server.

        Raises:
            ProtocolError: the message is malformed, forged, repeated or stale.
            ArgumentError: the adapter has another form than when the client was made.
        """
        with self._lock:
            self._check_envelope(message, source)
            assert isinstance(message, LoraShared)
            found = self._held()
            vector = unpack(self._plan, message.payload)
            found.load_(self._plan, vector)
            self._result = LoraResult(self._plan, vector, message.included, message.weight)
            self._source, self._phase = None, "done"
            return []

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors by the keys that PEFT saves; they share its memory."""
        with self._lock:
            return self._held().tensors

    def close(self) -> None:
        """Give the round up; the adapter stays as it is."""
        with self._lock:
            self._source = None
            self._phase = "closed"

    def _held(self) -> Held:
        """The adapter as it is now: a model may have been moved since, and its tensors with it."""
        if self._source is None:
            raise self._refusal(f"the round is {self._phase}")
        found = self._rule.read(f"client {self._number}", *self._source)
        odd = self._plan.difference(self._rule.plan_of(found, self._round))
        if odd:
            raise ArgumentError(
                f"{NAME}: client {self._number}: the adapter has changed since this client was "
                f"made: {odd}"
            )
        return found
