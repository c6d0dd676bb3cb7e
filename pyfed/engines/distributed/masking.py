"""Gradients as masked integers, in one of two arithmetics, and the sums of them as floats again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from pyfed.engines.distributed.link import Link
from pyfed.engines.distributed.positions import Run
from pyfed.engines.distributed.slices import joined, slice_sizes, summed_slice
from pyfed.fixed import FixedPoint
from pyfed.keys import Key
from pyfed.ops.fixed import dequantize, quantize
from pyfed.ops.lift import field_lift
from pyfed.ops.random import random_words
from pyfed.ops.upload import quantize_mask

ARITHMETICS = ("field", "words")
TAIL = 2
"""Elements behind the gradients: the step, and whether a gradient was not finite."""


class Masking:
    """How a bucket becomes a payload of int32, and payloads become a mean.

    Args:
        fixed: how gradients become integers.
        keys: shared with every other rank.
        signs: +1 or -1 for each.
        rounding: this rank's own key.
        arithmetic: ``"field"`` or ``"words"``.
        total: elements of all parameters; the masks of tails stand behind theirs.
    """

    def __init__(
        self,
        fixed: FixedPoint,
        keys: Sequence[Key],
        signs: Sequence[int],
        rounding: Key,
        arithmetic: str,
        total: int,
    ) -> None:
        self._fixed, self._keys, self._signs = fixed, list(keys), list(signs)
        self._rounding, self._total = rounding, total
        self._words = arithmetic == "words"
        self.modulus = 2**32 if self._words else fixed.field.modulus

    def wipe(self) -> None:
        """Overwrite the keys."""
        for key in (*self._keys, self._rounding):
            key.wipe()

    def masked(
        self, values: torch.Tensor, runs: Sequence[Run], step: int, bad: torch.Tensor
    ) -> torch.Tensor:
        """Clipped, rounded and masked gradients, and a masked tail: int32 (elements + TAIL,).

        A bucket's tail has a place of its own in the stream: no two have one first element. Where
        ranks are not at one step their masks differ, so that the sum of the tails tells it.

        Args:
            values: float (elements,), finite.
            runs: where the elements stand among all parameters.
            step: the stream of every key.
            bad: int32 (), 1 where a gradient was not finite.
        """
        out = torch.empty(values.numel() + TAIL, dtype=torch.int32, device=values.device)
        make = self._in_words if self._words else self._in_field
        for at, start, size in runs:
            out[at : at + size] = make(values[at : at + size], step, start)
        place = self._total + TAIL * (runs[0].start if runs else self._total)
        tail = make(values.new_zeros(TAIL), step, place).to(torch.int64)
        tail[0] += step
        tail[1] += bad
        tail %= self.modulus
        tail -= (tail >= 2**31) * 2**32  # words are signed
        out[-TAIL:] = tail
        return out

    def _in_field(self, values: torch.Tensor, step: int, start: int) -> torch.Tensor:
        fixed = self._fixed
        how = (fixed.scale, fixed.clip, fixed.field, self._keys, self._signs, self._rounding)
        return quantize_mask(values, *how, stream=step, start=start)

    def _in_words(self, values: torch.Tensor, step: int, start: int) -> torch.Tensor:
        fixed, device = self._fixed, values.device
        how = (fixed.scale, fixed.clip, fixed.field, self._rounding, step, start)
        words = field_lift(quantize(values, *how), fixed.field).to(torch.int32)
        for key, sign in zip(self._keys, self._signs, strict=True):
            mask = random_words(key, values.numel(), step, start, device)
            words.add_(mask, alpha=sign)  # modulo 2^32
        return words

    def summed(
        self, link: Link, payload: torch.Tensor, finish: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.futures.Future[torch.Tensor]:
        """What ``finish`` makes of the sum of all ranks' payloads.

        A sum of words travels while the backward pass goes on; one of residues is waited for.
        """
        if self._words:
            there = payload.to(link.device)
            work = dist.all_reduce(there, group=link.group, async_op=True)
            future: torch.futures.Future[list[torch.Tensor]] = work.get_future()
            return future.then(lambda done: finish(done.value()[0].to(payload.device)))
        field = self._fixed.field
        sizes = slice_sizes(payload.numel(), range(link.size), link.size)
        part = summed_slice(link, payload, field, sizes, range(link.size))
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(finish(joined(link, part, field, sizes)))
        return done

    def mean(self, total: torch.Tensor, ranks: int) -> tuple[torch.Tensor, int, int]:
        """Float32 (elements,), the sum of steps, and how many ranks had gradients not finite."""
        values = total[:-TAIL]
        if self._words:
            floats = values.to(torch.float32) * (1.0 / self._fixed.scale)
        else:
            floats = dequantize(values, self._fixed.scale, self._fixed.field)
        steps, bad = total[-TAIL:].tolist()
        return floats.div_(ranks), steps, bad
