"""The sum of uploads as they came: packed residues, of which no second copy is made on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pyfed.fields import Field
from pyfed.ops.aggregate import decode_sum
from pyfed.ops.field import field_sum
from pyfed.secagg.party import place_for, unpack_words

BLOCK = 2**15
"""Residues that are summed over all uploads before the next: 128 KiB, which stay in a cache."""


def summed(
    uploads: Sequence[bytes],
    width: int,
    field: Field,
    device: torch.device,
    minus: torch.Tensor | None = None,
) -> torch.Tensor:
    """Σ uploads - minus modulo the prime: int32 (width,), over ``WIDE`` (2, width).

    Args:
        uploads: of each client ``width`` packed residues, over ``WIDE`` of one plane behind those
            of the other; one at least.
        width: residues of a plane.
        field: of the residues.
        device: of the result.
        minus: residues in the shape of the result, on the same device; None: zeros.
    """
    planes = field.planes
    total = place_for((len(planes), width), device)
    rows = total if minus is None else minus.view(len(planes), width)
    for number, plane in enumerate(planes):
        if device.type == "cpu":
            words = [
                np.frombuffer(upload, dtype="<u4", count=width, offset=4 * width * number)
                for upload in uploads
            ]
            taken = None if minus is None else rows[number].numpy().view(np.uint32)
            _add(words, taken, plane.modulus, total[number].numpy().view(np.uint32))
        else:
            stacked = torch.empty(len(uploads), width, dtype=torch.int32, device=device)
            for upload, row in zip(uploads, stacked, strict=True):
                view = memoryview(upload)[4 * width * number : 4 * width * (number + 1)]
                unpack_words(view, row)
            if minus is None:
                total[number] = field_sum(stacked, plane)
            else:
                one = torch.ones(1, 1, dtype=torch.int32, device=device)
                total[number] = decode_sum(stacked, rows[number : number + 1], one, plane)
    return total.view(*field.lead, width)


def _add(
    words: Sequence[np.ndarray], minus: np.ndarray | None, modulus: int, out: np.ndarray
) -> None:
    """Write Σ words - minus mod p, all uint32 (width,), to ``out``.

    Sums of two residues are below 2p < 2^32. Of such a sum s and s - p, which wraps around where
    s < p, the smaller one is the residue.
    """
    p = np.uint32(modulus)
    less = np.empty(min(BLOCK, len(out)), dtype=np.uint32)
    for start in range(0, len(out), BLOCK):
        block = slice(start, min(start + BLOCK, len(out)))
        sums, other = out[block], less[: block.stop - start]
        if minus is None:
            sums[:] = 0
        else:
            np.subtract(p, minus[block], out=sums)
            np.subtract(sums, p, out=other)
            np.minimum(sums, other, out=sums)
        for each in words:
            np.add(sums, each[block], out=sums)
            np.subtract(sums, p, out=other)
            np.minimum(sums, other, out=sums)
