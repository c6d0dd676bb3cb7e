"""The server of federated LoRA through one round."""

from __future__ import annotations

from typing import Any

import torch

from pyfed.checks import expect_device, expect_int
from pyfed.errors import ArgumentError, ThresholdError
from pyfed.lora.fedsa import NAME, FedSALoRA
from pyfed.lora.fedsa_party import LoraParty
from pyfed.lora.fedsa_result import LoraResult
from pyfed.lora.fedsa_state import pack, unpack
from pyfed.lora.messages import LoraMessage, LoraShared, LoraUpdate
from pyfed.lora.plan import MOST_CLIENTS, LoraPlan
from pyfed.ops.weighted import weighted_mean
from pyfed.secagg.session import SERVER


class FedSALoRAServer(LoraParty):
    """The server in one round: ``handle`` takes updates, ``close_phase`` gives their mean.

    Updates are kept until the phase is closed and summed in the order of the clients' numbers, so
    that the order in which they come changes no bit. Clients may drop: the mean is over those that
    came. A message that is refused raises ProtocolError and changes nothing.

    Args:
        rule: the settings.
        plan: of the round.
        clients: N, how many clients there are.
        round_: number of the round.
        device: where the mean is taken.
    """

    expects = LoraUpdate

    def __init__(
        self,
        rule: FedSALoRA,
        plan: LoraPlan,
        clients: int,
        round_: int,
        device: torch.device | str,
    ) -> None:
        expect_int(NAME, "clients", clients, 1, MOST_CLIENTS + 1)
        expect_int(NAME, "round", round_, 0, 2**64)
        if not rule.made(plan, round_):
            raise ArgumentError(
                f"{NAME}: plan is of other settings or of another kind of round; it must be "
                f"rule.plan(..., round={round_})"
            )
        super().__init__("server", SERVER, plan, round_)
        self._clients = clients
        self._device = expect_device(NAME, device)
        self._updates: dict[int, tuple[int, torch.Tensor]] = {}  # client → weight, (values,)
        self._included: frozenset[int] = frozenset()

    @property
    def waiting(self) -> frozenset[int]:
        """The clients whose update is to come; when empty, close the phase."""
        if self._phase != "update":
            return frozenset()
        return frozenset(range(self._clients)).difference(self._updates)

    @property
    def included(self) -> frozenset[int]:
        """The clients in the mean; empty before the phase is closed."""
        return self._included

    def handle(self, message: LoraMessage, source: int) -> list[LoraMessage]:
        """Take a client's update; the list is empty, since the mean comes with the phase's end.

        Args:
            message: what came.
            source: number of the client that the engine authenticated.

        Raises:
            ProtocolError: the update is malformed, forged, late or repeated, of another adapter
                or session, or holds NaN, infinity or a value that is too large.
        """
        with self._lock:
            self._check_envelope(message, source)
            if source >= self._clients:
                raise self._refusal(f"client {source} is none of the {self._clients}", source)
            if source in self._updates:
                raise self._refusal(f"client {source} sent its update before", source)
            vector = unpack(self._plan, message.payload, self._device)
            self._updates[source] = (message.weight, vector)
            return []

    def close_phase(self) -> list[LoraMessage]:
        """The mean of the updates that came, to be sent to every client.

        Raises:
            ThresholdError: no update came, or none with a positive weight; the phase stays open.
            ProtocolError: the round is over.
        """
        with self._lock:
            if self._phase != "update":
                raise self._refusal("there is no phase to close")
            came = sorted(self._updates)
            total = sum(self._updates[client][0] for client in came)
            if total == 0:
                what = "none of those that came has a positive weight" if came else "none came"
                raise ThresholdError(
                    f"{NAME}: there is no mean of the updates: {what}; one is needed",
                    missing=set(range(self._clients)) - set(came),
                    needed=1,
                )
            weights, vectors = zip(*(self._updates[client] for client in came), strict=True)
            (mean,) = weighted_mean([[vector] for vector in vectors], weights)
            body: dict[str, Any] = {
                "weight": total,
                "included": len(came),
                "payload": pack(self._plan, mean),
            }
            self._result = LoraResult(self._plan, mean, len(came), total)
            self._included = frozenset(came)
            self._updates, self._phase = {}, "done"
            return [LoraShared(**self._envelope(c), **body) for c in range(self._clients)]

    def close(self) -> None:
        """Give the round up; the updates are dropped."""
        with self._lock:
            self._updates = {}
            self._phase = "closed"
