"""What clients and the server of federated LoRA share: where they stand, and what they look at."""

from __future__ import annotations

import threading
from typing import Any

from pyfed.errors import ProtocolError
from pyfed.lora.fedsa_result import LoraResult
from pyfed.lora.messages import LoraMessage
from pyfed.lora.plan import LoraPlan
from pyfed.secagg.session import SERVER


class LoraParty:
    """One side of one round.

    Args:
        name: for messages of errors.
        number: of the client, or -1 for the server.
        plan: what is agreed on.
        round_: number of the round.
    """

    expects: type[LoraMessage]

    def __init__(self, name: str, number: int, plan: LoraPlan, round_: int) -> None:
        self._lock = threading.RLock()
        self._name = name
        self._number = number
        self._plan = plan
        self._round = round_
        self._phase = "update"
        self._result: LoraResult | None = None

    @property
    def plan(self) -> LoraPlan:
        """The tensors and settings; ``LoraMessage.from_bytes`` needs them."""
        return self._plan

    @property
    def phase(self) -> str:
        """``update`` or, of a client, ``share``; ``done`` or ``closed`` at the end."""
        return self._phase

    @property
    def result(self) -> LoraResult:
        """The outcome of the round; ProtocolError until this party has it."""
        if self._result is None:
            raise self._refusal("there is no result yet")
        return self._result

    def _refusal(self, reason: str, sender: int | None = None) -> ProtocolError:
        return ProtocolError(f"{self._name}: {reason}", sender=sender, phase=self._phase)

    def _envelope(self, recipient: int) -> dict[str, Any]:
        """The fields that every message from here carries."""
        return {
            "session": self._plan.digest,
            "marks": self._plan.marks,
            "round": self._round,
            "sender": self._number,
            "recipient": recipient,
        }

    def _check_envelope(self, message: LoraMessage, source: int) -> None:
        """Raise ProtocolError unless the message is well-formed, for this party, and for now.

        Args:
            message: what came; checked in full, so that it may come from anywhere.
            source: the peer that the engine authenticated.
        """
        if not isinstance(message, LoraMessage):
            kind = type(message).__name__
            raise self._refusal(f"a message is {kind}; it must be a LoraMessage")
        if self._phase in ("done", "closed"):
            raise self._refusal(f"the round is {self._phase}", source)
        if not isinstance(message, self.expects):
            raise self._refusal(f"{message.kind} is not for this side", source)
        # The round first: by turns, rounds have other sessions, and this is the plainer reason.
        if type(message.round) is int and message.round != self._round:
            raise self._refusal(
                f"{message.kind} is of round {message.round}; this is round {self._round}", source
            )
        try:
            message.check(self._plan)
        except ProtocolError as error:
            raise self._refusal(str(error), error.sender) from None
        if source != message.sender:
            raise self._refusal(
                f"{message.kind} names sender {message.sender}, but came from {source}", source
            )
        if message.recipient != self._number:
            to = message.recipient
            whom = "the server" if to == SERVER else f"client {to}"
            raise self._refusal(f"{message.kind} is for {whom}", source)
