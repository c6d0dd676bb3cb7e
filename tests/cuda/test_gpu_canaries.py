"""What secrets leave behind in a device's memory: nothing that the next tensor could show."""

from __future__ import annotations

import pytest
import torch

import pyfed.ops
from cases import KEY
from pyfed import SOLINAS31, Key
from pyfed.errors import ArgumentError

pytestmark = pytest.mark.gpu
EVERY_BACKEND = pytest.mark.parametrize("backend", ["cuda", "triton"])
OTHER = Key(bytes(reversed(range(32))))

# Sizes above 20 MB: the allocator then gives each tensor a segment of its own, or a part of the one
# free block that `free_block` leaves.
ROOM = 1 << 26
COLUMNS = 1 << 23


def free_block() -> None:
    """Leave one free block of zeros in the allocator, which the next tensors are cut from."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.zeros(ROOM, dtype=torch.int32, device="cuda")


def seen_in_free_block(pattern: torch.Tensor) -> bool:
    """Whether the first 8 words of a pattern lie anywhere in the block, freed again."""
    room = torch.empty(ROOM, dtype=torch.int32, device="cuda")
    hit = torch.ones(ROOM - 7, dtype=torch.bool, device="cuda")
    for i, word in enumerate(pattern[:8].tolist()):
        hit &= room[i : ROOM - 7 + i] == word
    return bool(hit.any())


def seen_in_small_blocks(words: torch.Tensor) -> bool:
    """Whether words lie at the start of any of the blocks that small tensors are given."""
    rooms = [torch.empty(128, dtype=torch.int32, device="cuda") for _ in range(4096)]
    starts = torch.stack(rooms)[:, : len(words)].cpu()
    return bool((starts == words).all(1).any())


@EVERY_BACKEND
def test_random_rows_never_reach_device_memory(backend: str) -> None:
    data = torch.ones(COLUMNS, dtype=torch.int32, device="cuda")
    key = OTHER
    # A share that is the random row itself tells its values; the shares below do not hold them.
    row = torch.tensor([[0, 1]], dtype=torch.int32, device="cuda")
    padding = pyfed.ops.lagrange_encode(data, row, key, SOLINAS31, blocks=1)[0].cpu()
    pattern = padding[COLUMNS // 2 :]
    matrix = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32, device="cuda")
    free_block()
    with pyfed.use_backend(backend):
        shares = pyfed.ops.lagrange_encode(data, matrix, key, SOLINAS31, blocks=1)
    del shares
    assert not seen_in_free_block(pattern)
    free_block()
    left = padding.cuda()  # the same search finds what is left behind
    del left
    assert seen_in_free_block(pattern)


@EVERY_BACKEND
def test_masks_of_pairs_never_reach_device_memory(backend: str) -> None:
    values = torch.zeros(COLUMNS, dtype=torch.int32, device="cuda")
    masks = [pyfed.ops.random_residues(key, COLUMNS, SOLINAS31) for key in (KEY, OTHER)]
    free_block()
    with pyfed.use_backend(backend):
        pyfed.ops.add_masks_(values, [KEY, OTHER], [1, -1], SOLINAS31)
    for mask in masks:
        assert not seen_in_free_block(mask[COLUMNS // 2 :])
    wanted = (masks[0].to(torch.int64) - masks[1]) % SOLINAS31.modulus
    assert torch.equal(values.cpu(), wanted.to(torch.int32))


@EVERY_BACKEND
def test_stacked_keys_are_overwritten(backend: str) -> None:
    key = Key(bytes(range(100, 132)))
    words = key.words()
    for length in (5, 0, -1):  # the last: a call that is refused
        values = torch.full((abs(length),), min(length, 0), dtype=torch.int32, device="cuda")
        torch.cuda.empty_cache()
        with pyfed.use_backend(backend):
            pyfed.ops.add_masks_(values, [key, KEY], [1, -1], SOLINAS31)
        if length < 0:
            with pytest.raises(ArgumentError):
                pyfed.check()
        assert not seen_in_small_blocks(words)
    left = words.cuda()  # the same search finds what is left behind
    del left
    assert seen_in_small_blocks(words)


def test_a_wiped_key_is_gone_from_the_device() -> None:
    key = Key(KEY.reveal())
    words = key.words("cuda")
    assert bool(words.any())
    key.wipe()
    assert not bool(words.any())
