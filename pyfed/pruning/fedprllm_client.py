"""A client of FedPrLLM through one round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pyfed.checks import expect_int
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.masks import mask_pack
from pyfed.pruning.fedprllm import NAME, FedPrLLM
from pyfed.pruning.local import local_votes
from pyfed.pruning.messages import PruneDecision, PruneMessage, PruneVote
from pyfed.pruning.party import PruneParty
from pyfed.pruning.plan import MOST_CLIENTS
from pyfed.pruning.result import PruneResult, block_verdicts
from pyfed.pruning.samples import Samples
from pyfed.secagg.session import SERVER


class FedPrLLMClient(PruneParty):
    """One client in one round: ``start`` gives its first votes, ``handle`` takes decisions.

    The model is not changed before the last decision has come; then it is pruned at once, so a
    round that is given up leaves nothing behind. A message that is refused raises ProtocolError
    and changes nothing.

    Every client needs a model of its own (``copy.deepcopy``). Clients of one process that share a
    model would each prune it; with ``scaling`` its weights would shrink once for every client, and
    the votes of a client that starts late would be on a pruned model.

    Args:
        rule: the settings.
        index: number of this client.
        model: its copy of the model.
        samples: its calibration samples.
        round_: number of the round.
        batch_size: how many samples are run at once.
    """

    expects = PruneDecision

    def __init__(
        self,
        rule: FedPrLLM,
        index: int,
        model: nn.Module,
        samples: torch.Tensor | Mapping[str, torch.Tensor] | None,
        round_: int,
        batch_size: int,
    ) -> None:
        expect_int(NAME, "index", index, 0, MOST_CLIENTS)
        expect_int(NAME, "round", round_, 0, 2**64)
        expect_int(NAME, "batch_size", batch_size, 1, 2**31)
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise DtypeError(f"{NAME}: model is {kind}; it must be a torch.nn.Module")
        if rule.score != "magnitude":
            if samples is None:
                raise ArgumentError(f"{NAME}: samples is None; score {rule.score!r} needs them")
            Samples(samples, rule.max_length, rule.truncate, NAME).expect_known(NAME, model)
        super().__init__(f"client {index}", index, rule, rule.plan(model), round_)
        self._model: nn.Module | None = model
        self._decisions: dict[int, PruneDecision] = {}
        self._votes = local_votes(
            model,
            samples,
            rule.sparsity,
            rule.score,
            rule.local_group,
            rule.rounding,
            max_length=rule.max_length,
            truncate=rule.truncate,
            batch_size=batch_size,
            power=rule.power,
            damping=rule.damping,
            blocks=rule.blocks,
            skip=rule.skip,
        )

    def start(self) -> list[PruneMessage]:
        """Calibrate, and vote: on every block, or on the first one when blocks are decided in turn.

        Raises:
            ArgumentError: the model cannot be calibrated; the client is closed then.
            ProtocolError: the client has started already.
        """
        with self._lock:
            if self._phase != "vote":
                raise self._refusal("start was called before, or the round is closed")
            try:
                if self._rule.iterative:
                    votes = [self._vote(0, next(self._votes))]
                else:
                    votes = [self._vote(block, masks) for block, masks in enumerate(self._votes)]
            except BaseException:
                self.close()
                raise
            self._phase = "decide"
            return list(votes)

    def handle(self, message: PruneMessage, source: int) -> list[PruneMessage]:
        """Take a decision; when blocks are decided in turn, the vote on the next one.

        Args:
            message: what came.
            source: the peer that the engine authenticated; -1 is the server.

        Raises:
            ProtocolError: the message is malformed, forged, repeated, stale or out of order.
        """
        with self._lock:
            if self._phase == "vote":
                raise self._refusal("start has not been called")
            self._check_envelope(message, source)
            assert isinstance(message, PruneDecision)
            block = message.block
            if block in self._decisions:
                raise self._refusal(f"block {block} was decided before", source)
            if self._rule.iterative and block != len(self._decisions):
                raise self._refusal(f"block {len(self._decisions)} is to be decided next", source)
            self._check_quota(message, self._rule.group)
            decisions = {**self._decisions, block: message}
            answers: list[PruneMessage] = []
            if len(decisions) == len(self._plan.blocks):
                self._finish(tuple(decisions[number] for number in sorted(decisions)))
            elif self._rule.iterative:
                answers.append(self._next(message))
            self._decisions = decisions
            return answers

    def close(self) -> None:
        """Give the round up: samples and activations are dropped, the model stays as it is."""
        with self._lock:
            self._votes.close()
            self._model = None
            self._phase = "closed"

    def _vote(self, block: int, masks: Mapping[str, torch.Tensor]) -> PruneVote:
        packed = tuple(
            (name, mask_pack(mask.flatten()).cpu().numpy().tobytes())
            for name, mask in masks.items()
        )
        return PruneVote(**self._envelope(SERVER, block), masks=packed)

    def _next(self, decision: PruneDecision) -> PruneVote:
        """Go on with what was decided, and vote on the next block."""
        try:
            masks = self._votes.send(block_verdicts(self._plan, decision))
        except BaseException:
            self.close()
            raise
        return self._vote(decision.block + 1, masks)

    def _finish(self, decisions: tuple[PruneDecision, ...]) -> None:
        """Prune the model, once: a second time would scale again what is scaled."""
        result = PruneResult(self._plan, decisions)
        model = self._model
        assert model is not None
        try:
            result.apply_(model)
        finally:
            self.close()
        self._result, self._phase = result, "done"
