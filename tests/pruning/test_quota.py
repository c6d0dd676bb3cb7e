"""Exactly k weights of every group: one more or one less is refused, in groups of every kind."""

from __future__ import annotations

import pytest
import torch

from pyfed.ops import mask_pack, mask_select
from pyfed.pruning import FedPrLLM, PrunableLayer
from pyfed.pruning.party import has_quota

LAYER = PrunableLayer("up", (16, 32), 0)


@pytest.mark.parametrize("group", ["layer", "row", "column", "4x8", "1x16", "2:4", "3:8"])
def test_only_the_exact_share_of_every_group_is_a_vote(group: str) -> None:
    sparsity = None if ":" in group else 0.25
    rule = FedPrLLM(sparsity, local_group=group, group=group)
    counts = torch.randint(0, 9, LAYER.shape, dtype=torch.uint8)
    mask = mask_select(counts, LAYER.shape, sparsity, group, ties="index").flatten()
    assert has_quota(mask_pack(mask), LAYER, rule, group)
    for value in (True, False):
        changed = mask.clone()
        changed[torch.nonzero(mask == value)[7]] = not value
        assert not has_quota(mask_pack(changed), LAYER, rule, group)
