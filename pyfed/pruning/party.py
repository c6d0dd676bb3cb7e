"""What clients and the server of federated pruning share: the envelope check, and quotas."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch

from pyfed.errors import ProtocolError
from pyfed.ops.masks import mask_popcount, mask_unpack
from pyfed.ops.tiles import tiles
from pyfed.pruning.messages import PruneMessage
from pyfed.pruning.plan import Plan, PrunableLayer
from pyfed.pruning.result import PruneResult, packed_tensor
from pyfed.secagg.session import SERVER

if TYPE_CHECKING:
    from pyfed.pruning.fedprllm import FedPrLLM


class PruneParty:
    """One side of one round: where it stands, and which messages it will look at.

    Args:
        name: for messages of errors.
        number: of the client, or -1 for the server.
        rule: the settings.
        plan: the layers.
        round_: number of the round.
    """

    expects: type[PruneMessage]

    def __init__(self, name: str, number: int, rule: FedPrLLM, plan: Plan, round_: int) -> None:
        self._lock = threading.RLock()
        self._name = name
        self._number = number
        self._rule = rule
        self._plan = plan
        self._round = round_
        self._phase = "vote"
        self._result: PruneResult | None = None

    @property
    def plan(self) -> Plan:
        """The layers and settings; ``PruneMessage.from_bytes`` needs them."""
        return self._plan

    @property
    def phase(self) -> str:
        """``vote`` or ``decide``; ``done`` or ``closed`` at the end."""
        return self._phase

    @property
    def result(self) -> PruneResult:
        """The outcome of the round; ProtocolError until this party has it."""
        if self._result is None:
            raise self._refusal("there is no result yet")
        return self._result

    def _refusal(self, reason: str, sender: int | None = None) -> ProtocolError:
        return ProtocolError(f"{self._name}: {reason}", sender=sender, phase=self._phase)

    def _envelope(self, recipient: int, block: int) -> dict[str, Any]:
        """The fields that every message from here carries."""
        return {
            "session": self._plan.digest,
            "round": self._round,
            "sender": self._number,
            "recipient": recipient,
            "block": block,
        }

    def _check_envelope(self, message: PruneMessage, source: int) -> None:
        """Raise ProtocolError unless the message is well-formed, for this party, and for now.

        Args:
            message: what came; checked in full, so that it may come from anywhere.
            source: the peer that the engine authenticated.
        """
        if not isinstance(message, PruneMessage):
            kind = type(message).__name__
            raise self._refusal(f"a message is {kind}; it must be a PruneMessage")
        if self._phase in ("done", "closed"):
            raise self._refusal(f"the round is {self._phase}")
        if not isinstance(message, self.expects):
            raise self._refusal(f"{message.kind} is not for this side")
        if message.session != self._plan.digest:
            raise self._refusal(
                f"{message.kind} is of other settings, layers or shapes than here; compare the "
                "rules, and plan.layers (in torch.compile or DataParallel layers have other names)",
                source,
            )
        message.check(self._plan)
        if source != message.sender:
            raise self._refusal(
                f"{message.kind} names sender {message.sender}, but came from {source}"
            )
        if message.recipient != self._number:
            to = message.recipient
            whom = "the server" if to == SERVER else f"client {to}"
            raise self._refusal(f"{message.kind} is for {whom}", source)
        if message.round != self._round:
            raise self._refusal(
                f"{message.kind} is of round {message.round}; this is round {self._round}", source
            )

    def _check_quota(self, message: PruneMessage, group: str) -> None:
        """Raise unless every mask prunes exactly its share of each group."""
        for layer, (name, packed) in zip(
            self._plan.blocks[message.block], message.masks, strict=True
        ):
            if not has_quota(packed_tensor(packed), layer, self._rule, group):
                raise self._refusal(
                    f"the mask of {name} in {message.kind} does not prune the agreed part of every "
                    f"group ({group})",
                    message.sender,
                )


def has_quota(packed: torch.Tensor, layer: PrunableLayer, rule: FedPrLLM, group: str) -> bool:
    """Whether a packed mask prunes exactly k weights of every group."""
    cut = tiles("FedPrLLM", layer.shape, group, rule.sparsity, rule.rounding)
    if cut.tile_rows == cut.rows and cut.tile_columns == cut.columns:
        return int(mask_popcount(packed, layer.weights)) == cut.k
    if cut.tile_rows == 1 and cut.tile_columns % 8 == 0:  # groups begin at whole bytes
        by_group = packed.view(-1, cut.tile_columns // 8)
        return bool((mask_popcount(by_group, cut.tile_columns) == cut.k).all())
    down, across = cut.rows // cut.tile_rows, cut.columns // cut.tile_columns
    bits = mask_unpack(packed, layer.weights).view(down, cut.tile_rows, across, cut.tile_columns)
    return bool((bits.sum((1, 3), dtype=torch.int32) == cut.k).all())
