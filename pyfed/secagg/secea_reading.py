"""Answering questions on the device where the embeddings are, and reading the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pyfed.errors import DecodeError, ThresholdError
from pyfed.secagg.secea_messages import NAME
from pyfed.secagg.secea_queries import NOTHING, EntityCode

if TYPE_CHECKING:
    from pyfed.secagg.secea import SecEA


class Reading:
    """What an answerer needs for every question: the sums of shares, on the device that multiplies.

    Args:
        code: of the session.
        shares: sum of the survivors' shares, int32 (entities · width,).
        masks: sum of the dealers' shares of the masks, int32 (clients, wanted · width).
        device: where the products are made.
    """

    def __init__(
        self, code: EntityCode, shares: torch.Tensor, masks: torch.Tensor, device: str
    ) -> None:
        self._code = code
        self._shares = shares.to(device)
        self._masks = masks
        self._device = device

    def answer(self, asker: int, query: torch.Tensor) -> torch.Tensor:
        """The masked answer to one asker, int32 (wanted · width,) on the CPU.

        Args:
            asker: whose mask serves; once.
            query: int32 (wanted, entities) on the CPU.
        """
        there, mask = query.to(self._device), self._masks[asker][None].to(self._device)
        answer = self._code.answer(there, self._shares, mask)
        if not answer.is_cuda:
            return answer
        here = answer.cpu()
        for copy in (there, mask, answer):
            copy.zero_()
        return here

    def wipe(self) -> None:
        """Overwrite the copy of the shares on the device, where there is one."""
        if self._shares.is_cuda:
            self._shares.zero_()


def read_out(
    protocol: SecEA,
    answers: torch.Tensor,
    answerers: Sequence[int],
    positions: Sequence[int],
    included: int,
    weight: int,
) -> tuple[torch.Tensor, tuple[int, ...], tuple[int, ...]]:
    """An asker's entities, from the answers that came.

    Args:
        protocol: of the round.
        answers: int32 (n, wanted · width).
        answerers: the client of each, in row order; the asker comes first.
        positions: of the asker's entities in the union, or NOTHING.
        included: how many clients are in the sum.
        weight: of the asker, which is one of them.

    Returns:
        Σ c·h of every entity that is in the union, int32 (entities, dim), Σ c of each, and the
        clients whose answers were wrong.

    Raises:
        ThresholdError: fewer than 2K + 2T - 1 + 2E + F answers.
        DecodeError: more than E answers are wrong; or the asker's own is; or they agree, and no
            honest clients can have made what they stand for.
    """
    p, code = protocol.parameters, protocol.code
    if len(answerers) < p.needed:
        missing = sorted(set(range(p.clients)) - set(answerers))
        raise ThresholdError(
            f"{NAME}: {len(answerers)} answers came and 2·blocks + 2·privacy - 1 + 2·errors + "
            f"detect = {p.needed} are needed; missing are {missing}",
            missing=missing,
            needed=p.needed,
        )
    wrong: tuple[int, ...] = ()
    try:
        sums, totals = code.read(answers, answerers)
    except DecodeError as error:
        if len(error.rows) > p.errors:
            raise DecodeError(
                f"{NAME}: the {len(answerers)} answers contradict one another; those of clients "
                f"{list(error.rows)} are wrong, unless more are; errors is {p.errors}: make the "
                "protocol with more of them to have wrong answers repaired",
                rows=error.rows,
            ) from None
        if not error.rows:
            raise
        # An asker knows its own answer, so it takes no majority's word against it.
        if answerers[0] in error.rows:
            raise DecodeError(
                f"{NAME}: client {answerers[0]}'s own answer contradicts the others': they answer "
                "something else, or a dealer gave it false shares"
            ) from None
        wrong = error.rows
        sums, totals = code.read(answers, answerers, correct=p.errors)
    _expect_honest(sums, totals, positions, included * p.max_weight, weight)
    known = [row for row, position in enumerate(positions) if position != NOTHING]
    out = sums[known]
    sums.zero_()
    return out, tuple(totals[row] for row in known), wrong


def _expect_honest(
    sums: torch.Tensor, totals: list[int], positions: Sequence[int], most: int, weight: int
) -> None:
    """Raise DecodeError when no honest clients can have made such rows.

    Args:
        sums: int32 (wanted, dim).
        totals: the ownership symbol of each row.
        positions: what the first rows ask for; the others ask for nothing.
        most: the largest sum of weights.
        weight: of the asker, which owns every entity that it asks for.
    """
    for row, total in enumerate(totals):
        asks = row < len(positions) and positions[row] != NOTHING
        if not (weight <= total <= most if asks else total == 0):
            bounds = f"from {weight} to {most}" if asks else "0"
            raise DecodeError(
                f"{NAME}: the weights of row {row} sum to {total}, which must be {bounds}: some "
                "client did not keep to the protocol"
            )
    asked = {row for row, position in enumerate(positions) if position != NOTHING}
    silent = [row for row in range(len(totals)) if row not in asked]
    if bool(sums[silent].any()):
        raise DecodeError(f"{NAME}: a row that asks for nothing is not zero: an answer was forged")
