"""Counts of clients' masks: exact for every number of clients, at once and as they arrive."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import mask_oracles as oracles
import pyfed
from clients import CLIENTS, LENGTHS, counted, masks, packed
from contract import same_bits
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import mask_add, mask_count, mask_popcount, mask_totals
from runs import Run, runs_of

COUNT_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_count"))
ADD_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_add"))
TOTALS_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_totals"))


def no_planes(length: int, device: str) -> torch.Tensor:
    return torch.empty(0, (length + 7) // 8, dtype=torch.uint8, device=device)


@COUNT_RUNS
def test_counts_equal_the_sum_of_the_unpacked_bits(op: str, run: Run) -> None:
    """Every number of clients at some length, and every length with some number of clients."""
    clients = (1, 2, 63, 64, 65) if run.interpreted else CLIENTS
    lengths = LENGTHS[::7] if run.interpreted else LENGTHS
    pairs = {(m, n) for m in clients for n in (33, 513)} | {
        (m, n) for n in lengths for m in (3, 64)
    }
    for m, n in sorted(pairs):
        bits = masks(m + n, m, n)
        with run.active():
            got = mask_count(packed(bits, run.device), n)
        assert same_bits(got, counted(bits)), (m, n)


@COUNT_RUNS
def test_no_number_of_clients_wraps(op: str, run: Run) -> None:
    """Where int8 would wrap (128), where uint8 would (256), and around powers of two."""
    many = (127, 128, 255, 256) if run.interpreted else (*CLIENTS, 254, 257, 511, 512, 4095, 32_769)
    for clients in many:
        with run.active():
            got = mask_count(packed(masks(0, clients, 19, density=1.1), run.device), 19)
        assert got.dtype == (torch.uint8 if clients <= 255 else torch.int32)
        assert got.tolist() == [clients] * 19


@COUNT_RUNS
def test_65535_clients_are_counted_and_one_more_refused(op: str, run: Run) -> None:
    if run.backend not in ("reference", "triton") or run.device == "cuda":  # these take seconds
        bits = torch.tensor([[0b10110101, 1]], dtype=torch.uint8, device=run.device)
        with run.active():
            got = mask_count(bits.expand(65_535, 2), 9)
        assert got.tolist() == [65_535 * bit for bit in (1, 0, 1, 0, 1, 1, 0, 1, 1)]
    more = torch.zeros(1, 1, dtype=torch.uint8, device=run.device).expand(65_536, 1)
    with pytest.raises(ArgumentError, match="packed holds 65536 clients; it must be at most 65535"):
        mask_count(more, 3)


@COUNT_RUNS
def test_the_sum_of_counts_is_the_sum_of_popcounts(op: str, run: Run) -> None:
    for m, n in ((3, 77), (65, 513), (300, 40)):
        bits = packed(masks(m, m, n), run.device)
        with run.active():
            total = int(mask_count(bits, n).sum(dtype=torch.int64))
            assert total == int(mask_popcount(bits, n).sum())


@COUNT_RUNS
def test_the_order_of_clients_is_of_no_matter_and_copies_add_up(op: str, run: Run) -> None:
    bits = masks(7, 37, 203)
    with run.active():
        counts = mask_count(packed(bits, run.device), 203)
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(37)
            assert torch.equal(mask_count(packed(bits[order], run.device), 203), counts)
        twice = mask_count(packed(np.concatenate([bits, bits]), run.device), 203)
    assert torch.equal(twice, 2 * counts)


def batches(total: int, sizes: tuple[int, ...]) -> list[slice]:
    """Slices of these sizes, over and over, that make up the total."""
    ends = itertools.takewhile(
        lambda end: end < total, itertools.accumulate(itertools.cycle(sizes))
    )
    return [slice(a, b) for a, b in itertools.pairwise([0, *ends, total])]


@ADD_RUNS
def test_batches_of_any_size_give_the_counts(op: str, run: Run) -> None:
    clients = 33 if run.interpreted else 300
    for n in (1, 65, 513):
        bits = masks(n, clients, n)
        for sizes in ((1,), (8,), (3, 16, 1, 63)):
            if run.interpreted and (sizes == (1,) or n == 65):
                continue
            planes, seen = no_planes(n, run.device), 0
            for part in batches(clients, sizes):
                seen += len(bits[part])
                before = planes.clone()
                with run.active():
                    grown = mask_add(planes, packed(bits[part], run.device), n, capacity=seen)
                assert same_bits(planes, before)
                assert grown.shape == (seen.bit_length(), (n + 7) // 8)
                planes = grown
            wanted = oracles.planes_of(bits.sum(0).tolist(), clients.bit_length())
            assert same_bits(planes, torch.from_numpy(wanted))
            with run.active():
                totals = mask_totals(planes, n)
            assert totals.tolist() == bits.sum(0).tolist()


@ADD_RUNS
def test_a_total_that_does_not_fit_is_refused_and_the_largest_fits(op: str, run: Run) -> None:
    for planes in (1, 2, 7, 8, 15, 16):
        full = oracles.planes_of([2**planes - 2, 0, 2**planes - 2], planes)
        state = torch.from_numpy(full).to(run.device)
        one = packed(np.array([[True, True, True]]), run.device)
        with run.active():
            top = mask_add(state, one, 3, capacity=2**planes - 1)
            assert mask_totals(top, 3).tolist() == [2**planes - 1, 1, 2**planes - 1]
        with pytest.raises(ArgumentError, match="not fit in"), run.active():
            mask_add(top, one, 3, capacity=2**planes - 1)
        if planes < 16:
            with run.active():
                more = mask_add(top, one, 3, capacity=2**planes)
                assert mask_totals(more, 3).tolist() == [2**planes, 2, 2**planes]


@ADD_RUNS
def test_planes_shrink_only_as_far_as_the_totals_allow(op: str, run: Run) -> None:
    state = torch.from_numpy(oracles.planes_of([5, 0, 3], 9)).to(run.device)
    nobody = packed(masks(0, 0, 3), run.device)
    with run.active():
        assert mask_totals(mask_add(state, nobody, 3, 7), 3).tolist() == [5, 0, 3]
    with pytest.raises(ArgumentError, match="not fit in"), run.active():
        mask_add(state, nobody, 3, 3)


def test_the_message_says_which_total_does_not_fit() -> None:
    state = torch.from_numpy(oracles.planes_of([1, 3, 3], 2))
    text = (
        "mask_add: the totals of 2 of 3 elements do not fit in 2 planes; the first is 4 at index "
        "1; capacity must be at least the number of clients added so far and now"
    )
    with pytest.raises(ArgumentError, match=text):
        mask_add(state, torch.tensor([[7]], dtype=torch.uint8), 3, capacity=3)


@TOTALS_RUNS
def test_totals_of_every_number_of_planes_equal_the_integers(op: str, run: Run) -> None:
    for planes in (0, 1, 8, 9, 16) if run.interpreted else range(17):
        for n in (1, 64, 515):
            bits = oracles.pack(masks(planes, planes, n))
            with run.active():
                got = mask_totals(torch.from_numpy(bits).to(run.device), n)
            assert got.dtype == (torch.uint8 if planes <= 8 else torch.int32)
            assert got.tolist() == oracles.totals(bits, n)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_no_clients_and_no_elements_are_no_fault(backend: str) -> None:
    with pyfed.use_backend(backend):
        assert mask_count(packed(masks(0, 0, 9)), 9).tolist() == [0] * 9
        assert mask_count(packed(masks(0, 5, 0)), 0).shape == (0,)
        assert mask_add(no_planes(9, "cpu"), packed(masks(0, 0, 9)), 9, 0).shape == (0, 2)
        assert mask_totals(no_planes(9, "cpu"), 9).tolist() == [0] * 9


def test_wrong_arguments_are_refused_by_name() -> None:
    good, planes = packed(masks(0, 2, 9)), packed(masks(0, 1, 9))
    with pytest.raises(ArgumentError, match=r"mask_count: packed has 1 dimensions, shape \(2,\)"):
        mask_count(good[0], 9)
    with pytest.raises(ArgumentError, match=r"packed has shape \(2, 2\); for length 17"):
        mask_count(good, 17)
    with pytest.raises(DtypeError, match=r"packed has dtype torch.bool; it must be torch.uint8"):
        mask_count(good.to(torch.bool), 9)
    with pytest.raises(ArgumentError, match=r"mask_add: planes has shape \(1, 1\); for length 9"):
        mask_add(planes[:, :1], good, 9, 3)
    with pytest.raises(ArgumentError, match=r"mask_add: packed has shape \(2, 1\); for length 9"):
        mask_add(planes, good[:, :1], 9, 3)
    with pytest.raises(ArgumentError, match="planes are 17; they must be at most 16"):
        mask_add(planes.expand(17, 2), good, 9, 3)
    with pytest.raises(ArgumentError, match="planes are 17; they must be at most 16"):
        mask_totals(planes.expand(17, 2), 9)
    for capacity in (-1, 65_536):
        with pytest.raises(
            ArgumentError, match=rf"capacity is {capacity}; it must be in \[0, 6553"
        ):
            mask_add(planes, good, 9, capacity)
    with pytest.raises(ArgumentError, match="mask_add: packed holds 65536 clients"):
        mask_add(planes, good[:1].expand(65_536, 2), 9, 65_535)
    dirty = planes.clone()
    dirty[0, -1] |= 128
    for name, call in (
        ("planes", lambda: mask_add(dirty, good, 9, 3)),
        ("packed", lambda: mask_add(planes, dirty, 9, 3)),
        ("planes", lambda: mask_totals(dirty, 9)),
        ("packed", lambda: mask_count(dirty, 9)),
    ):
        with pytest.raises(
            ArgumentError, match=f"in {name} the last byte of 1 of 1 rows has a bit"
        ):
            call()
