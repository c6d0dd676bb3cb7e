"""One rank under NCCL: what travels lies on the GPU, and comes back where it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engines.engine_scenes import code, vector
from pyfed import SOLINAS31, WIDE, Key
from pyfed.engines.distributed import all_reduce, decode_shards, encode_shard, reduce_scatter

pytestmark = pytest.mark.gpu


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_residues_travel_on_the_gpu(alone: None) -> None:
    for field in (SOLINAS31, WIDE):
        for device in ("cuda", "cpu"):
            x = vector(field, 1003, 1).to(device)
            for found in (reduce_scatter(x, field), all_reduce(x, field)):
                assert found.device == x.device and torch.equal(found, x)
    flat = vector(SOLINAS31, 50, 2).cuda()
    first, shares = encode_shard(code(), flat, Key(bytes(32)))
    assert first == 0 and shares.is_cuda
    assert torch.equal(decode_shards(code(), shares[[4, 1, 2]], [4, 1, 2], 50), flat)


def test_gradients_are_masked_on_the_gpu(alone: None) -> None:
    pytest.importorskip("cryptography")
    pytest.importorskip("msgpack")
    from pyfed.engines.distributed import MaskedGradients, mask_gradients

    torch.manual_seed(0)
    network = nn.Linear(20, 30).cuda()
    x, found = torch.randn(5, 20, device="cuda"), []
    for arithmetic in (None, "field", "words"):
        network.zero_grad()
        model = DistributedDataParallel(network)
        if arithmetic is not None:
            state = MaskedGradients(model, clip=8.0, arithmetic=arithmetic)
            model.register_comm_hook(state, mask_gradients)
        model(x).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    for masked in found[1:]:
        assert float((masked - found[0]).abs().max()) < 2.0**-15
