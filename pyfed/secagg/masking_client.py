"""A client that uploads its update under masks: the update waits, and meets them in one pass."""

from __future__ import annotations

from typing import Any

import torch

from pyfed.fixed import FixedPoint
from pyfed.keys import Key
from pyfed.ops.pairwise import add_masks_
from pyfed.ops.upload import quantize_mask
from pyfed.secagg.client import Client
from pyfed.secagg.digests import fingerprint
from pyfed.secagg.party import pack_words


class MaskingClient(Client):
    """What LightSecAgg and SecAgg+ share: the update, and the residues that are released for it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        # The update, to which the masks are added. Floats, float32 (length,), are rounded and
        # masked in one pass; other updates are encoded before, int32 (residues,), over WIDE behind
        # the axis of planes.
        self._values = torch.empty(0, dtype=torch.int32)
        self._weight = 0

    def _take(self, flat: torch.Tensor, weight: int, overwrite: bool) -> None:
        plain = isinstance(self._protocol.fixed, FixedPoint) and not self._parameters.lead
        if not (plain and _all_finite(flat)):
            super()._take(flat, weight, overwrite)  # which tells what is wrong with floats
            return
        own = overwrite and flat.is_contiguous() and not flat.is_inference()
        self._values = flat.to(torch.float32, copy=not own)
        self._weight = weight

    def _keep(self, encoded: torch.Tensor, weight: int) -> None:
        self._values = encoded.clone()
        self._weight = weight

    def _wipe(self) -> None:
        super()._wipe()
        self._forget_update()

    def _forget_update(self) -> None:
        """Overwrite the update, and let it go, so that a saved state is short."""
        self._values.zero_()
        self._values = torch.empty(0, dtype=torch.int32)
        self._weight = 0

    def _masked(self, keys: list[Key], signs: list[int]) -> bytes:
        """The update and the weight with the masks of keys, as it is released; recorded first.

        Raises:
            ProtocolError: another one was released; the round is closed.
        """
        masked = self._sum_with(keys, signs)
        # The weight is one more residue behind the update, with the masks of its own place.
        field, last = self._parameters.field, torch.zeros(*masked.shape[:-1], 1, dtype=torch.int32)
        add_masks_(last, keys, signs, field, start=masked.shape[-1])
        for residue, plane in zip(last.view(-1), field.planes, strict=True):
            residue.fill_((int(residue) + self._weight) % plane.modulus)
        rows = zip(masked.view(len(field.planes), -1), last.view(-1), strict=True)
        words = pack_words(*(part for row in rows for part in row))
        own = self._root.derive("journal")
        try:
            self._record("upload", fingerprint(own, words))
        finally:
            own.wipe()
        return words

    def _sum_with(self, keys: list[Key], signs: list[int]) -> torch.Tensor:
        """The encoded update plus signed masks, int32 (residues,); it may be asked for again.

        Over WIDE it has an axis of planes in front.
        """
        field, fixed = self._parameters.field, self._protocol.fixed
        if not (isinstance(fixed, FixedPoint) and self._values.is_floating_point()):
            masked = self._values.clone()
            try:
                return add_masks_(masked, keys, signs, field)
            except BaseException:
                masked.zero_()
                raise
        rounding = self._root.derive("rounding")
        try:
            return quantize_mask(
                self._values, fixed.scale, fixed.clip, field, keys, signs, rounding, self._weight
            )
        finally:
            rounding.wipe()


def _all_finite(values: torch.Tensor) -> bool:
    """In one pass: both ends of what holds a NaN are NaN."""
    return values.numel() == 0 or bool(torch.stack(torch.aminmax(values)).isfinite().all())
