"""Exact selection: against two sorts that are not ours, and by what must not change it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import mask_oracles as oracles
from clients import CLIENTS, agreeing, counted, packed
from contract import same_bits
from pyfed import Key
from pyfed.errors import ArgumentError
from pyfed.ops import mask_count, mask_select
from runs import Run, runs_of

SELECT_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_select"))
KEY = Key(bytes(range(32)))
RULES = ("index", "random", "magnitude", "score")
SHAPES = {
    **{"layer": (23, 65), "row": (9, 129), "column": (129, 9), "8x16": (24, 64)},
    **{"1x64": (3, 192), "2:4": (7, 132), "1:8": (5, 64), "13:16": (2, 8, 14)},
}
TINY = {
    **{"layer": (5, 13), "row": (3, 33), "column": (33, 3), "8x16": (8, 32)},
    **{"1x64": (1, 128), "2:4": (3, 12), "1:8": (2, 16), "13:16": (1, 8, 4)},
}
EVERY_GROUP = pytest.mark.parametrize("group", SHAPES)


def shape_for(group: str, run: Run | None = None) -> tuple[int, ...]:
    """A shape that the group divides, a small one where Triton is interpreted."""
    return (TINY if run is not None and run.interpreted else SHAPES)[group]


def values_of(seed: int, size: int) -> oracles.Array:
    """Floats among which many are equal, with zeros of both signs."""
    drawn = np.random.default_rng(seed).integers(-4, 5, size).astype(np.float32) / 4
    drawn[drawn == 0] = np.where(np.arange((drawn == 0).sum()) % 2, np.float32(0), -np.float32(0))
    return drawn


def keys_of(rule: str, values: oracles.Array, stream: int) -> list[float]:
    """The tie keys as numbers in the right order."""
    if rule == "random":
        return [float(k) for k in oracles.random_keys(KEY.reveal(), len(values), stream)]
    return {"index": 0 * values, "magnitude": np.abs(values), "score": values}[rule].tolist()


def rule_arguments(
    rule: str, values: oracles.Array, shape: tuple[int, ...], device: str, stream: int = 5
) -> dict[str, Any]:
    tensor = torch.from_numpy(values).reshape(shape).to(device)
    needed = {"random": {"key": KEY, "stream": stream}, "magnitude": {"weight": tensor}}
    return {"ties": rule, **(needed | {"score": {"score": tensor}, "index": {}})[rule]}


@EVERY_GROUP
@SELECT_RUNS
def test_selection_equals_a_lexsort_for_every_rule_and_number_of_clients(
    op: str, run: Run, group: str
) -> None:
    shape = shape_for(group, run)
    size = math.prod(shape)
    cut, sparsity = oracles.groups(shape, group), None if ":" in group else 0.5
    takes = [oracles.per_group(group, len(c), sparsity, "floor") for c in cut]
    for number, clients in enumerate(CLIENTS[3::5] if run.interpreted else CLIENTS):
        bits, values = agreeing(clients, clients, size), values_of(clients, size)
        for rule in RULES[number % 4 :][:1] if run.interpreted else RULES:
            how = rule_arguments(rule, values, shape, run.device)
            with run.active():
                counts = mask_count(packed(bits, run.device), size)
                got = mask_select(counts, shape, sparsity, group, **how)
            wanted = oracles.select(bits.sum(0), keys_of(rule, values, 5), cut, takes)
            assert same_bits(got, torch.from_numpy(wanted).view(shape)), (clients, rule)


@EVERY_GROUP
def test_a_sort_of_composite_integers_agrees_with_both(group: str) -> None:
    """The second oracle: one number holds count, key and place."""
    shape = shape_for(group)
    size = math.prod(shape)
    values, bits = values_of(1, size), agreeing(2, 65, size)
    cut, sparsity = oracles.groups(shape, group), None if ":" in group else 0.7
    takes = [oracles.per_group(group, len(c), sparsity, "nearest") for c in cut]
    ways = {
        "index": lambda i: 0,
        "random": lambda i: oracles.random_keys(KEY.reveal(), i + 1, 5)[i],
        "magnitude": lambda i: oracles.magnitude_key(float(values[i])),
        "score": lambda i: oracles.score_key(float(values[i])),
    }
    for rule in RULES:
        keys = [ways[rule](i) for i in range(size)] if rule != "random" else None
        keys = keys or oracles.random_keys(KEY.reveal(), size, 5)
        wanted = oracles.composite_select(bits.sum(0).tolist(), keys, cut, takes)
        other = oracles.select(bits.sum(0), keys_of(rule, values, 5), cut, takes)
        how = rule_arguments(rule, values, shape, "cpu")
        got = mask_select(counted(bits), shape, sparsity, group, rounding="nearest", **how)
        assert (wanted == other).all()
        assert same_bits(got.view(-1), torch.from_numpy(wanted)), rule


def grouped(values: torch.Tensor, shape: tuple[int, ...], group: str) -> Iterator[torch.Tensor]:
    """The values of each group."""
    for places in oracles.groups(shape, group):
        yield values.reshape(-1).cpu()[places]


@EVERY_GROUP
@SELECT_RUNS
def test_exactly_k_of_each_group_and_all_above_the_threshold(op: str, run: Run, group: str) -> None:
    """G(t* + 1) < k ≤ G(t*): all above t* are selected, none below it."""
    shape = shape_for(group, run)
    sparsities = [None] if ":" in group else [0.01, 0.5, 0.99]
    for clients in (3, 300):
        counts = counted(agreeing(clients, clients, math.prod(shape)), run.device)
        for sparsity in sparsities[::2] if run.interpreted else sparsities:
            with run.active():
                mask = mask_select(counts, shape, sparsity, group, "index")
            pairs = zip(grouped(counts, shape, group), grouped(mask, shape, group), strict=True)
            for votes, chosen in pairs:
                k = oracles.per_group(group, len(votes), sparsity, "floor")
                assert int(chosen.sum()) == k
                if k == 0:
                    continue
                threshold = int(votes[chosen].min())
                above, least = int((votes > threshold).sum()), int((votes >= threshold).sum())
                assert above < k <= least
                assert bool(chosen[votes > threshold].all())
                assert not bool(chosen[votes < threshold].any())


@SELECT_RUNS
def test_k_at_the_edge_of_a_histogram_bin_needs_no_rule_for_ties(op: str, run: Run) -> None:
    votes = torch.arange(10).repeat_interleave(10)[torch.randperm(100)]
    values = values_of(0, 100)
    for edge in (10, 30, 50, 100):
        wanted = votes >= 10 - edge // 10
        for dtype in (torch.uint8, torch.int32):
            for rule in RULES[:2] if run.interpreted else RULES:
                how = rule_arguments(rule, values, (100,), run.device)
                counts = votes.to(dtype).to(run.device)
                with run.active():
                    got = mask_select(counts, (100,), edge / 100, **how)
                assert torch.equal(got.cpu(), wanted)


@EVERY_GROUP
@SELECT_RUNS
def test_none_and_all_and_equal_counts(op: str, run: Run, group: str) -> None:
    """With all counts equal the rule decides alone; k = 0 and k = all need none."""
    shape = shape_for(group, run)
    size = math.prod(shape)
    values = values_of(3, size)
    cut, sparsity = oracles.groups(shape, group), None if ":" in group else 0.3
    takes = [oracles.per_group(group, len(c), sparsity, "floor") for c in cut]
    kinds = ((0, torch.uint8), (255, torch.uint8), (0, torch.int32), (65_535, torch.int32))
    for value, dtype in kinds[1:3] if run.interpreted else kinds:
        counts = torch.full(shape, value, dtype=dtype, device=run.device)
        for rule in RULES[1:2] if run.interpreted else RULES:
            how = rule_arguments(rule, values, shape, run.device)
            with run.active():
                got = mask_select(counts, shape, sparsity, group, **how)
                if ":" not in group:
                    assert not bool(mask_select(counts, shape, 0, group, **how).any())
                    assert bool(mask_select(counts, shape, 1, group, **how).all())
            wanted = oracles.select([value] * size, keys_of(rule, values, 5), cut, takes)
            assert same_bits(got, torch.from_numpy(wanted).view(shape)), rule


@EVERY_GROUP
def test_what_must_not_change_the_selection(group: str) -> None:
    """The order of clients; every client twice; one more client that votes for the outcome."""
    shape = shape_for(group)
    size = math.prod(shape)
    bits, values = agreeing(4, 33, size), values_of(4, size)
    for rule in RULES:
        how = {"group": group, **rule_arguments(rule, values, shape, "cpu")}
        sparsity = None if ":" in group else 0.5
        final = mask_select(counted(bits), shape, sparsity, **how)
        doubled = np.concatenate([bits, bits])
        joined = np.concatenate([bits, final.numpy().reshape(1, size)])
        shuffled = np.random.default_rng(0).permutation(bits)
        many = np.concatenate([doubled, doubled, doubled, doubled])  # 264 clients: int32 counts
        for other in (doubled, joined, shuffled, many):
            again = mask_select(counted(other), shape, sparsity, **how)
            assert torch.equal(again, final), (rule, len(other))


@EVERY_GROUP
def test_identical_masks_are_the_outcome_for_any_number_of_clients(group: str) -> None:
    shape = shape_for(group)
    size = math.prod(shape)
    sparsity = None if ":" in group else 0.5
    counts = counted(agreeing(5, 9, size))
    own = mask_select(counts, shape, sparsity, group, "random", key=KEY)  # k of each group
    for clients in (1, 2, 128, 256, 65_535):
        votes = own.to(torch.int32) * clients
        votes = votes.to(torch.uint8) if clients < 256 else votes
        for rule in RULES:
            how = rule_arguments(rule, values_of(6, size), shape, "cpu")
            assert torch.equal(mask_select(votes, shape, sparsity, group, **how), own)


def test_random_ties_go_by_the_words_of_the_stream_for_selections() -> None:
    """Frozen: every party that selects with this key gets the same mask."""
    counts = torch.zeros(64, dtype=torch.uint8)
    masks = []
    for stream in (0, 1, 2**32 - 1):
        words = oracles.random_keys(KEY.reveal(), 64, stream)
        got = mask_select(counts, (64,), 0.25, ties="random", key=KEY, stream=stream)
        assert sorted(np.argsort(words)[:16].tolist()) == torch.nonzero(got).flatten().tolist()
        masks.append(got)
    assert not torch.equal(masks[0], masks[1])
    other = mask_select(counts, (64,), 0.25, ties="random", key=Key(bytes(32)))
    assert not torch.equal(other, masks[0])


@SELECT_RUNS
def test_equal_values_select_the_same_in_every_dtype_and_layout(op: str, run: Run) -> None:
    shape = (10, 3) if run.interpreted else (40, 12)
    values = values_of(8, math.prod(shape))
    counts = counted(agreeing(8, 20, math.prod(shape)), run.device)
    tensor = torch.from_numpy(values).view(shape).to(run.device)
    for rule, name in (("magnitude", "weight"), ("score", "score")):
        masks = []
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            with run.active():
                how = {name: tensor.to(dtype)}
                masks.append(mask_select(counts, shape, 0.4, "column", rule, **how))
        assert torch.equal(masks[0], masks[1])
        assert torch.equal(masks[0], masks[2])


def test_the_default_rule_is_score_where_given_then_magnitude_in_columns_then_index() -> None:
    counts, shape = counted(agreeing(9, 5, 96)), (8, 12)
    weight = torch.randn(shape)
    score = torch.randn(shape)

    def by(ties: str | None, group: str, **how: Any) -> torch.Tensor:
        return mask_select(counts, shape, 0.5, group, ties, **how)

    for group in ("layer", "row", "4x4"):
        assert torch.equal(by(None, group, weight=weight), by("index", group))
    assert torch.equal(by(None, "column", weight=weight), by("magnitude", "column", weight=weight))
    for group in ("layer", "column"):
        default = by(None, group, weight=weight, score=score)
        assert torch.equal(default, by("score", group, score=score))
    with pytest.raises(
        ArgumentError, match="weight is None; ties by magnitude need it; column gro"
    ):
        by(None, "column")


@pytest.mark.parametrize("op, run", [p for p in runs_of("mask_select") if "cpu-" in p.id])
def test_columns_with_more_ties_than_are_gathered_at_once(op: str, run: Run) -> None:
    """All 4,100 elements of each of 70 columns are tied; a thread gathers 131,072 keys at once."""
    rows, columns = 4100, 70
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(5))
    counts = torch.full((rows, columns), 3, dtype=torch.uint8)
    counts[:, 5] = 0
    smallest = np.argsort(np.abs(weight.numpy()), axis=0, kind="stable")[: rows // 2]
    wanted = np.zeros((rows, columns), dtype=bool)
    np.put_along_axis(wanted, smallest, True, axis=0)
    with run.active():
        got = mask_select(counts, (rows, columns), 0.5, "column", weight=weight)
    assert np.array_equal(got.numpy(), wanted)
