"""MaskVotes: any order and any batches give the counts, and a refused call changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import pyfed.pruning.votes as votes_module
from pyfed import Key
from pyfed.errors import ArgumentError
from pyfed.ops import mask_pack, mask_select
from pyfed.pruning.votes import MaskVotes

SHAPES = {"q": (3, 7), "empty": (0, 5), "k": (16,), "down": (4, 11)}


def some_masks(clients: int, name: str, seed: int = 1) -> torch.Tensor:
    """Bool (clients, length)."""
    made = torch.Generator().manual_seed(seed + sum(map(ord, name)))
    length = torch.Size(SHAPES[name]).numel()
    return torch.rand(clients, length, generator=made) < torch.rand(length, generator=made)


def counted(masks: torch.Tensor) -> list[int]:
    """Counts by numpy, from the packed form."""
    packed = np.packbits(masks.numpy(), axis=1, bitorder="little")
    bits = np.unpackbits(packed, axis=1, count=masks.shape[1], bitorder="little")
    return bits.sum(axis=0, dtype=np.int64).tolist()


@pytest.mark.parametrize("clients", [1, 2, 7, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129])
def test_clients_one_by_one_give_the_counts_after_each(clients: int) -> None:
    masks = {name: some_masks(clients, name) for name in SHAPES}
    votes = MaskVotes(SHAPES)
    looks = {1, 5, 8, 9, clients}
    for client in range(clients):
        form = {name: mask[client] for name, mask in masks.items()}
        if client % 3 == 1:
            form = {name: mask_pack(mask) for name, mask in form.items()}
        elif client % 3 == 2:
            form = {name: mask.reshape(SHAPES[name]) for name, mask in form.items()}
        votes.add(client, form)
        if client + 1 in looks:
            for name in SHAPES:
                counts = votes.counts(name)
                assert counts.dtype == torch.uint8
                assert counts.tolist() == counted(masks[name][: client + 1])
    assert votes.clients("q") == frozenset(range(clients))


@pytest.mark.parametrize("clients", [254, 255, 256, 1000])
def test_batches_of_any_size_and_single_clients_mix(clients: int) -> None:
    masks = some_masks(clients, "q")
    votes = MaskVotes({"q": SHAPES["q"]})
    numbers = torch.randperm(10 * clients)[:clients].tolist()
    at, sizes = 0, iter([1, 100, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 60, 5000])
    while at < clients:
        size = min(next(sizes), clients - at)
        if size == 1:
            votes.add(numbers[at], {"q": masks[at]})
        else:
            rows = mask_pack(masks[at : at + size])
            votes.add_batch(numbers[at : at + size], {"q": rows})
        at += size
    counts = votes.counts("q")
    assert counts.dtype == (torch.uint8 if clients <= 255 else torch.int32)
    assert counts.tolist() == counted(masks)
    assert votes.clients("q") == set(numbers)


def test_unanimous_votes_at_the_int8_and_uint8_edges_are_counted() -> None:
    votes = MaskVotes({"w": (9,)})
    ones = torch.full((1, 2), 255, dtype=torch.uint8)
    ones[:, 1] = 1
    total = 0
    for more in (127, 1, 1, 126, 1, 1):
        votes.add_batch(range(total, total + more), {"w": ones.expand(more, 2)})
        total += more
        assert votes.counts("w").tolist() == [total] * 9


def test_more_than_65535_clients_are_refused() -> None:
    votes = MaskVotes({"w": (3,)})
    votes.add_batch(range(65_534), {"w": torch.full((65_534, 1), 5, dtype=torch.uint8)})
    two = torch.full((2, 1), 5, dtype=torch.uint8)
    with pytest.raises(ArgumentError, match="has 65534 clients and 2 come; together they must be"):
        votes.add_batch([70_000, 70_001], {"w": two})
    votes.add(70_000, {"w": two[0]})
    assert votes.counts("w").tolist() == [65_535, 0, 65_535]
    with pytest.raises(ArgumentError, match="at most 65535"):
        votes.add(70_001, {"w": two[0]})
    assert votes.counts("w").tolist() == [65_535, 0, 65_535]


def test_the_order_of_arrival_changes_nothing() -> None:
    masks = some_masks(40, "down")
    found = []
    for order in (range(40), reversed(range(40)), torch.randperm(40).tolist()):
        votes = MaskVotes({"down": SHAPES["down"]})
        for client in order:
            votes.add(client, {"down": masks[client]})
        found.append(votes.counts("down"))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_model_comes_block_by_block_and_finished_blocks_are_freed() -> None:
    names = [f"block{i}" for i in range(3)]
    votes = MaskVotes(dict.fromkeys(names, (8, 100)))
    masks = torch.rand(3, 20, 800) < 0.5
    sizes = []
    for block, name in enumerate(names):
        for client in range(20):
            if client != block:  # each block lacks one client
                votes.add(client, {name: masks[block, client]})
        present = [client for client in range(20) if client != block]
        assert votes.clients(name) == set(present)
        assert votes.counts(name).tolist() == counted(masks[block, present])
        sizes.append(votes.state_bytes)
        votes.release(name)
        for use in (votes.counts, votes.clients, votes.release):
            with pytest.raises(ArgumentError, match=f"layer '{name}' was released"):
                use(name)
        with pytest.raises(ArgumentError, match="was released"):
            votes.add(block, {name: masks[block, block]})
    assert len(set(sizes)) == 1  # never more than one block
    assert votes.state_bytes == 0
    assert votes.bits_per_weight == 0


@pytest.mark.parametrize("clients", [1, 3, 64, 255, 1023])
def test_state_is_logarithmic_and_a_byte_for_those_who_wait(clients: int) -> None:
    votes = MaskVotes({"w": (64, 64)})
    assert votes.bits_per_weight == 0
    rows = torch.zeros(clients, 512, dtype=torch.uint8)
    votes.add_batch(range(clients), {"w": rows})
    assert votes.bits_per_weight == clients.bit_length()
    for client in range(clients, clients + 20):
        votes.add(client, {"w": rows[0]})
        assert votes.bits_per_weight <= (client + 1).bit_length() + 8


def test_the_callers_tensors_may_be_used_again() -> None:
    votes = MaskVotes({"w": (16,)})
    buffer = torch.tensor([255, 0], dtype=torch.uint8)
    votes.add(0, {"w": buffer})
    buffer.zero_()
    batch = torch.tensor([[255, 1]], dtype=torch.uint8)
    votes.add_batch([1], {"w": batch})
    batch.zero_()
    assert votes.counts("w").tolist() == [2] * 8 + [1] + [0] * 7


def test_selection_is_that_of_the_op_on_the_counts() -> None:
    votes = MaskVotes(SHAPES)
    masks = some_masks(12, "down")
    votes.add_batch(list(range(12)), {"down": mask_pack(masks)})
    counts = masks.sum(0).to(torch.uint8)
    weight, key = torch.randn(4, 11), Key(bytes(range(32)))
    rules: list[dict[str, Any]] = [
        {},
        {"group": "row", "rounding": "ceil"},
        {"group": "column", "weight": weight},
        {"ties": "random", "key": key, "stream": 3},
        {"ties": "score", "score": weight},
    ]
    for rule in rules:
        mask = votes.select("down", 0.5, **rule)
        assert mask.shape == (4, 11)
        assert torch.equal(mask, mask_select(counts, (4, 11), 0.5, **rule))
    with pytest.raises(ArgumentError, match="no client has voted on 'q'"):
        votes.select("q", 0.5)


@pytest.mark.parametrize("batch", [False, True])
def test_memory_that_runs_out_halfway_changes_no_count(
    batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = MaskVotes(SHAPES)
    masks = {name: some_masks(10, name) for name in SHAPES}
    for client in range(8):
        votes.add(client, {name: mask[client] for name, mask in masks.items()})
    wanted = {name: copy.deepcopy(votes).counts(name).tolist() for name in SHAPES}
    calls, original = [0], votes_module.mask_add

    def failing(*rest: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 3:
            raise MemoryError("no memory")
        return original(*rest)

    monkeypatch.setattr(votes_module, "mask_add", failing)
    with pytest.raises(MemoryError):
        if batch:
            votes.add_batch([8, 9], {name: mask_pack(mask[8:]) for name, mask in masks.items()})
        else:
            votes.add(8, {name: mask[8] for name, mask in masks.items()})
    monkeypatch.undo()
    for name in SHAPES:
        assert votes.counts(name).tolist() == wanted[name]
        assert votes.clients(name) == set(range(8))
    votes.add_batch([8, 9], {name: mask_pack(mask[8:]) for name, mask in masks.items()})
    assert votes.counts("q").tolist() == counted(masks["q"])


def test_zero_clients_have_no_counts() -> None:
    votes = MaskVotes({"w": (4,)})
    votes.add_batch([], {"w": torch.empty(0, 1, dtype=torch.uint8)})
    assert votes.clients("w") == frozenset()
    with pytest.raises(ArgumentError, match="no client has voted on 'w'"):
        votes.counts("w")


@pytest.mark.gpu
def test_votes_are_counted_on_cuda_from_any_device() -> None:
    masks = some_masks(30, "down")
    votes = MaskVotes({"down": SHAPES["down"]}, device="cuda")
    for client in range(20):
        mask = masks[client] if client % 2 else masks[client].cuda()
        votes.add(client, {"down": mask})
    votes.add_batch(range(20, 30), {"down": mask_pack(masks[20:])})
    counts = votes.counts("down")
    assert counts.is_cuda
    assert counts.tolist() == counted(masks)
