"""Embeddings by entity, checked one by one, as one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pyfed.checks import expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.secea_messages import NAME

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def stacked(name: str, embeddings: object, ids: Sequence[object], dim: int) -> torch.Tensor:
    """Embeddings by entity as float32 (count, dim), in the order of ``ids``, detached.

    Args:
        name: what messages call ``embeddings``.
        embeddings: entity → float32, float16 or bfloat16 (dim,), finite, all on one device.
        ids: the entities.
        dim: d.

    Raises:
        DtypeError, ArgumentError: they are not those of exactly these entities; the message names
            the entity.
    """
    if not isinstance(embeddings, Mapping):
        kind = type(embeddings).__name__
        raise DtypeError(f"{NAME}: {name} is {kind}; it must map entities to tensors")
    if set(embeddings) != set(ids):
        raise ArgumentError(
            f"{NAME}: {name} has {len(embeddings)} entities that are not exactly the {len(ids)} "
            "of the setup; use setup.moved(ids), or set up again"
        )
    for entity in ids:
        row, called = embeddings[entity], f"{name}[{entity!r}]"
        expect_tensor(NAME, called, row, FLOATS, 1)
        if row.numel() != dim:
            raise ArgumentError(f"{NAME}: {called} has {row.numel()} elements; dim is {dim}")
    devices = sorted({str(embeddings[entity].device) for entity in ids})
    if len(devices) > 1:
        found = ", ".join(devices)
        raise ArgumentError(f"{NAME}: {name} lie on {found}; they must be on one device")
    if not ids:
        return torch.empty(0, dim)
    rows = torch.stack([embeddings[entity].detach().to(torch.float32) for entity in ids])
    bad = torch.nonzero(~torch.isfinite(rows))
    if len(bad):
        row, at = bad[0].tolist()
        raise ArgumentError(f"{NAME}: {name}[{ids[row]!r}] is NaN or infinite at index {at}")
    return rows
