"""Masked means: sums in the order of the clients, exact counts, and one rounding; in every form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import mask_oracles as oracles
from clients import LENGTHS, masks, packed
from contract import same_bits
from pyfed.errors import ArgumentError
from pyfed.ops import Indices, Rectangles, masked_mean
from runs import Run, runs_of

MEAN_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("masked_mean"))
DTYPES = ("float32", "float16", "bfloat16")


def drawn(seed: int, dtype: str, *shape: int) -> oracles.Array:
    """Normal numbers of a dtype, as float32."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return oracles.rounded(values, dtype)


def tensor(values: oracles.Array, dtype: str, device: str) -> torch.Tensor:
    return torch.from_numpy(values.copy()).to(getattr(torch, dtype)).to(device)


def in_forms(
    values: oracles.Array, held: oracles.Array, dtype: str, device: str
) -> dict[str, tuple[torch.Tensor, dict[str, Any]]]:
    """The same call in every form that can say which elements a client holds."""
    dense = tensor(np.where(held, values, np.float32("nan")), dtype, device)
    kept, bits = tensor(values[held], dtype, device), packed(held, device)
    lists = [torch.from_numpy(np.flatnonzero(row)).to(device) for row in held]
    shape = (values.shape[1],)
    return {
        "bool": (dense, {"masks": torch.from_numpy(held).to(device)}),
        "bits": (dense, {"masks": bits}),
        "packed": (kept, {"masks": bits, "shape": shape}),
        "indices": (kept, {"masks": Indices(shape, lists)}),
    }


@MEAN_RUNS
def test_all_forms_give_the_bits_of_float32_sums_in_order(op: str, run: Run) -> None:
    """What is not held is NaN in the dense form; blocks of 512 elements end at every place."""
    for number, n in enumerate(LENGTHS[::8] if run.interpreted else LENGTHS[1::3]):
        clients, dtype = (3, 17, 1, 33)[number % (2 if run.interpreted else 4)], DTYPES[number % 3]
        held = masks(number, clients, n, density=(0.5, 0.9, 0.05)[number % 3])
        values = drawn(number, dtype, clients, n)
        weights = np.random.default_rng(number).integers(0, 900, clients).tolist()
        for denominator in ("keepers", "all", "one"):
            used = weights if denominator != "one" else [1] * clients
            zero = np.zeros(n, dtype=np.float32)
            wanted = oracles.mean(values, held, used, denominator, 1, zero, dtype)
            right = tensor(wanted, dtype, "cpu")
            for form, (own, how) in in_forms(values, held, dtype, run.device).items():
                with run.active():
                    got = masked_mean(own, weights=used, denominator=denominator, **how)
                assert same_bits(got, right), (n, form, denominator)


@MEAN_RUNS
def test_rectangles_equal_the_bits_that_they_stand_for(op: str, run: Run) -> None:
    shapes = ((6, 10), (3, 5, 3, 3), (70,), (33, 65))
    for shape in shapes[:2] if run.interpreted else shapes:
        boxes = [[], [(1, shape[0])], [(0, 0)], [(0, shape[0] // 2)]]
        if len(shape) > 1:
            boxes += [
                [(0, shape[0] // 2), (0, shape[1] // 2)],
                [(2, 3), (1, shape[1])],
                [(0, 1), (3, 3)],
            ]
        rectangles = Rectangles(shape, tuple(map(tuple, boxes)))
        whole = torch.randn(len(boxes), *shape, device=run.device)
        held = torch.zeros(len(boxes), *shape, dtype=torch.bool, device=run.device)
        for client, own in enumerate(held):
            rectangles.cut(own, client).fill_(True)
        parts = [rectangles.cut(own, client) for client, own in enumerate(whole)]
        for how in ({}, {"weights": [5, 0, 3, 9, 1, 2, 7][: len(boxes)], "denominator": "all"}):
            with run.active():
                got = masked_mean(parts, rectangles, **how)
                assert same_bits(got, masked_mean(whole, held, **how))
                assert same_bits(
                    got, masked_mean(torch.cat([p.reshape(-1) for p in parts]), rectangles, **how)
                )


@MEAN_RUNS
def test_integer_weights_are_exact(op: str, run: Run) -> None:
    """Denominators above 2^24 are summed as integers, and rounded to float32 only at the end."""
    top = 2**24 - 1
    for weights in ([top, 1, 1, 1], [top] * 3, [top] * 127 + [127], [1, 0, 0, 0]):
        values = torch.zeros(len(weights), 3, device=run.device)
        values[0] = torch.tensor([1.0, 3.0, -1.0])
        with run.active():
            got = masked_mean(values, weights=weights)
        wanted = [
            np.float32(weights[0]) * np.float32(v) / np.float32(sum(weights)) for v in (1, 3, -1)
        ]
        assert got.tolist() == [float(w) for w in wanted]


@MEAN_RUNS
def test_min_votes_counts_clients_and_not_their_weights(op: str, run: Run) -> None:
    values = torch.tensor([[1.0], [3.0], [5.0]], device=run.device)
    server = torch.tensor([9.0], device=run.device)
    how: dict[str, Any] = {"empty": "keep", "server": server}
    with run.active():
        for weights, least, wanted in (
            *(([7, 0, 0], 3, 1.0), ([1000, 1000, 1000], 4, 9.0), ([1, 1, 1], 3, 3.0)),
            *(([0, 0, 0], 1, 9.0), ([0, 0, 4], 65_535, 9.0)),
        ):
            got = masked_mean(values, weights=weights, min_votes=least, **how)
            assert got.tolist() == [wanted], (weights, least)


@MEAN_RUNS
def test_what_no_client_holds_is_zero_or_the_servers(op: str, run: Run) -> None:
    server = torch.tensor([-0.0, math.inf, 3.0], device=run.device)  # copied, not looked at
    values = torch.full((2, 3), math.nan, device=run.device)
    nobody = torch.zeros(2, 3, dtype=torch.bool, device=run.device)
    with run.active():
        for denominator in ("keepers", "all", "one"):
            kept = masked_mean(values, nobody, None, denominator, "keep", server)
            assert same_bits(kept, server)
            assert same_bits(
                masked_mean(values, nobody, None, denominator), 0 * server.nan_to_num(0, 0).abs()
            )
        none = masked_mean(values[:0], empty="keep", server=server)
        assert same_bits(none, server)


@MEAN_RUNS
def test_a_value_that_is_not_finite_is_refused_where_it_counts_only(op: str, run: Run) -> None:
    values = torch.ones(3, 600, device=run.device)
    held = torch.ones(3, 600, dtype=torch.bool, device=run.device)
    for place in (0, 511, 599):
        for bad in (math.nan, math.inf, -math.inf):
            wrong, mask = values.clone(), held.clone()
            wrong[1, place] = bad
            with pytest.raises(ArgumentError, match="NaN or infinite"), run.active():
                masked_mean(wrong, mask)
            mask[1, place] = False
            with run.active():
                assert same_bits(masked_mean(wrong, mask), values[0])
    few = held.clone()
    few[:2, 7] = False
    values[2, 7] = math.nan
    with run.active():  # one vote: not used
        assert float(masked_mean(values, few, min_votes=2)[7]) == 0


@MEAN_RUNS
def test_a_mean_too_large_for_its_dtype_is_refused(op: str, run: Run) -> None:
    """Also where the sum alone is infinite in float32; sums of halves have room."""
    large = torch.full((2, 9), 6e4, dtype=torch.float16, device=run.device)
    with run.active():
        assert masked_mean(large).tolist() == large[0].tolist()
    for values, how in (
        (large, {"denominator": "one"}),
        (torch.full((2, 9), 3e38, device=run.device), {}),
        (torch.full((1, 9), 3e38, device=run.device), {"weights": [2]}),
    ):
        with pytest.raises(ArgumentError), run.active():
            masked_mean(values, **how)
    with pytest.raises(ArgumentError, match=r"a mean is too large for torch.float16"):
        masked_mean(large.cpu(), denominator="one")


def test_every_form_compiles_as_one_graph() -> None:
    def step(values: torch.Tensor, kept: torch.Tensor, bits: torch.Tensor) -> list[torch.Tensor]:
        boxes = Rectangles.prefixes((3, 4), [(2, 2), (1, 4)])
        lists = Indices((3, 4), [torch.arange(4), torch.arange(2, 6)])
        return [
            masked_mean(values * 2, bits),
            masked_mean(kept * 2, bits, shape=(3, 4)),
            masked_mean(kept[:8] * 2, boxes, weights=[1, 2]),
            masked_mean(kept[:8] * 2, lists, denominator="all"),
        ]

    bits = torch.from_numpy(masks(1, 2, 3, 4, density=0.8))
    args = torch.randn(2, 3, 4), torch.randn(int(bits.sum())), bits
    assert args[1].numel() >= 8
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(compiled(*args), step(*args), strict=True):
        assert same_bits(got, wanted)
