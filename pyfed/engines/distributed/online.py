"""LightSecAgg as a collective: every rank is a client, and all together are the server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from pyfed.engines.distributed.agreement import Step, agreed, bits, numbers_of
from pyfed.engines.distributed.offline import OP, OfflineRound
from pyfed.engines.distributed.recovery import decoded
from pyfed.engines.distributed.slices import joined, slice_sizes, summed_slice
from pyfed.errors import DecodeError, ProtocolError
from pyfed.keys import Key
from pyfed.ops.field import field_sum
from pyfed.ops.lift import field_lift
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.messages import Answer, Survivors, Upload
from pyfed.secagg.party import unpack_words
from pyfed.secagg.result import RoundResult
from pyfed.secagg.session import SERVER


class SecureSum(OfflineRound):
    """One round of LightSecAgg over a process group, in three steps that every rank takes.

    Making one exchanges public keys; :meth:`share` deals the shares of this rank's mask in boxes
    that only their recipients open, and needs no update yet; :meth:`reduce` sums the
    masked updates, and the masks of those that came. No rank sees more of another's update than
    the server of LightSecAgg would together with that rank, which is nothing while at most
    ``privacy`` ranks pool what they see.

    torch.distributed has no ranks that leave: a rank that is *lost* stays in every collective and
    takes part with nothing. When a step raises, it raises on every rank, and the round is over.

    Args:
        protocol: a LightSecAgg with as many clients as the group has ranks, under a curious
            server and without checked dealers. Rank i is client i.
        group: a process group; None: the default one.
        round: number of the round.
        key: this rank's own round key, which is copied; None takes a fresh one from the operating
            system, as production code does. A key serves one round: the mask follows from the key
            and not from ``round``, and two updates under one mask give away their difference. With
            ``K.derive("client", round, rank)`` on every rank the sum has the bits of
            ``simulate(..., key=K, round=round)``.
        lost: the phase from which on this rank takes part with nothing: ``"keys"``, ``"share"``,
            ``"upload"`` (lost so far: outside the sum) or ``"recover"`` (inside). None: it stays.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, here or on another rank, or differs.
        ThresholdError: more ranks are lost than the protocol bears.
    """

    def reduce(self, update: torch.Tensor | None, weight: int = 1) -> RoundResult:
        """Sum the updates of all ranks that have one.

        Args:
            update: what the session's encoding takes, on any device, as ``simulate`` takes it;
                None: this rank has none, and is outside the sum.
            weight: an integer from 0 to the ``max_weight`` of the encoding.

        Returns:
            The sum, equal on every rank, lost ones too. ``.traffic`` has the bytes that this rank
            sent, ``.seconds`` the wall time here, both by phase.

        Raises:
            DtypeError, ArgumentError: an argument is wrong, here or on another rank.
            ProtocolError: it is not the time for it.
            ThresholdError: more ranks are lost than the protocol bears.
            DecodeError: answers contradict one another beyond repair.
        """
        if update is None and self._stays("upload"):
            self._lost = "upload"
        try:
            with self._phase("upload"):
                survivors, masked = self._uploaded(update, weight)
            with self._phase("recover"):
                residues, total, wrong = self._recovered(survivors, masked)
        finally:
            self.close()
        home = update.device if isinstance(update, torch.Tensor) else residues.device
        return RoundResult(
            residues=residues.to(home),
            included=frozenset(survivors),
            total_weight=total,
            fixed=self._protocol.fixed,
            length=self._protocol.parameters.length,
            wrong=wrong,
            traffic=dict(self._traffic),
            seconds=dict(self._seconds),
        )

    def _uploaded(self, update: Any, weight: int) -> tuple[tuple[int, ...], torch.Tensor]:
        """The survivors, and the sum of their masked updates, int32 (width,)."""
        p, field = self._protocol.parameters, self._protocol.fixed.field
        masked = torch.empty(0, dtype=torch.int32, device=self._link.device)
        words = len(bits((), p.clients))

        def prepare() -> Step:
            self._expect_stage("upload")
            if not (self._stays("upload") and self._client is not None and self._inbox is not None):
                return Step(masked, ("upload",), [0] * (1 + words))
            self._client.provide(update, weight)
            (upload,) = self._client.handle(self._inbox, SERVER)
            assert isinstance(upload, Upload)
            vector = masked.new_empty(*p.lead, p.width)
            unpack_words(upload.masked, vector)
            return Step(vector, ("upload",), [1, *bits(upload.complaints, p.clients)])

        mine, told = agreed(f"{OP}.reduce", self._link, prepare, told=1 + words)
        assert isinstance(mine, torch.Tensor)
        came = {rank: set(numbers_of(row[1:])) for rank, row in enumerate(told) if row[0]}
        survivors = _survivors(came, p.privacy)
        self._expect_enough("upload", survivors)
        sizes = slice_sizes(p.width, survivors, self._link.size)
        part = summed_slice(self._link, mine, field, sizes, survivors)
        return survivors, joined(self._link, part, field, sizes)

    def _recovered(
        self, survivors: tuple[int, ...], masked: torch.Tensor
    ) -> tuple[torch.Tensor, int, tuple[int, ...]]:
        """The sum as int32 (residues,), the sum of weights, and the ranks with wrong answers."""
        p, field = self._protocol.parameters, self._protocol.fixed.field
        here = self._stays("recover") and self._link.rank in survivors

        def prepare() -> Step:
            row = masked.new_empty(*p.lead, p.columns if here else 0)
            if here:
                (answer,) = self._handled(Survivors, survivors=survivors)
                assert isinstance(answer, Answer)
                unpack_words(answer.row, row)
            return Step(row, (survivors,), [int(here)])

        op = f"{OP}.reduce"
        row, told = agreed(op, self._link, prepare, told=1, error=ProtocolError)
        assert isinstance(row, torch.Tensor)
        answered = tuple(rank for rank, (came,) in enumerate(told) if came)
        self._expect_enough("recover", answered)
        code = self._protocol.code
        mask, wrong = decoded(op, self._link, code, row, p.columns, answered, p.errors)
        pair = torch.stack([masked, mask[..., : p.width]], dim=len(p.lead))
        residues = field_sum(pair, field, weights=[1, field.modulus - 1])
        weight = int(field_lift(residues[..., -1], field)) % field.modulus
        most = len(survivors) * p.max_weight
        if weight > most:
            raise DecodeError(
                f"{op}: the weights sum to {weight} and cannot exceed {most}: a rank that uploaded "
                "did not keep to the protocol"
            )
        return residues[..., :-1], weight, wrong


def secure_sum(
    protocol: LightSecAgg,
    update: torch.Tensor | None,
    weight: int = 1,
    group: Any = None,
    round: int = 0,
    key: Key | None = None,
    lost: str | None = None,
) -> RoundResult:
    """All of a :class:`SecureSum` at once: the sum of all ranks' updates, and of none alone.

    Args:
        protocol: a LightSecAgg with as many clients as the group has ranks.
        update: as :meth:`SecureSum.reduce` takes it.
        weight: an integer from 0 to the ``max_weight`` of the encoding.
        group: a process group; None: the default one.
        round: number of the round.
        key: this rank's round key, for this round alone; None takes a fresh one.
        lost: the phase from which on this rank takes part with nothing.

    Returns:
        The sum, equal on every rank.

    Raises:
        DtypeError, ArgumentError, ThresholdError, DecodeError: as :class:`SecureSum`.
    """
    step = SecureSum(protocol, group, round, key, lost)
    step.share()
    return step.reduce(update, weight)


def _survivors(came: dict[int, set[int]], privacy: int) -> tuple[int, ...]:
    """Who is in the sum: rank → the dealers whose box was bad, less the ranks at fault.

    As at LightSecAgg's server: a dealer with more than ``privacy`` complaints leaves; then those
    who complain about a dealer that is left.
    """
    counts = Counter(dealer for about in came.values() for dealer in about)
    left = set(came) - {dealer for dealer, count in counts.items() if count > privacy}
    return tuple(sorted(rank for rank in left if not left & came[rank]))
