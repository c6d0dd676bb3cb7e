"""Pruning in place: the selection of mask_select, and survivors that are right to the last bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import mask_oracles as oracles
from clients import agreeing, counted, masks
from contract import same_bits
from pyfed import Key
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import mask_prune_, mask_select
from runs import Run, runs_of

PRUNE_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("mask_prune_"))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KEY = Key(bytes(range(32)))
GROUPS = {"layer": (5, 13), "row": (4, 33), "column": (33, 4), "4x8": (8, 24), "2:4": (5, 12)}
RULES: tuple[str, ...] = ("index", "random", "magnitude", "score")


def weights(seed: int, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Normal weights, with zeros of both signs, denormals and the largest ones among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator).to(dtype)
    flat, info = values.view(-1), torch.finfo(dtype)
    special = (0.0, -0.0, info.max, info.min, info.smallest_normal / 4, -info.smallest_normal / 2)
    for place, value in enumerate(special[: flat.numel() // 3]):
        flat[3 * place] = value
    return values


@pytest.mark.parametrize("group", GROUPS)
@PRUNE_RUNS
def test_pruning_is_selection_and_zeroing(op: str, run: Run, group: str) -> None:
    """Survivors keep their bits, -0.0 too; what is pruned is +0.0; magnitudes are the old ones."""
    shape, sparsity = GROUPS[group], None if ":" in group else 0.5
    counts = counted(agreeing(1, 9, math.prod(shape)), run.device)
    for number, rule in enumerate(RULES):
        for dtype in DTYPES[number % 3 :][:1] if run.interpreted else DTYPES:
            weight = weights(number, dtype, *shape).to(run.device)
            before = weight.clone()
            score = weights(7, DTYPES[number % 3], *shape).to(run.device)
            how: dict[str, Any] = {"group": group, "ties": rule, "score": score, "key": KEY}
            with run.active():
                wanted = mask_select(counts, shape, sparsity, weight=before, **how)
                mask = mask_prune_(weight, counts, sparsity, **how)
            assert same_bits(mask, wanted), (rule, dtype)
            assert same_bits(weight, before.masked_fill(wanted, 0.0)), (rule, dtype)


@PRUNE_RUNS
def test_survivors_are_scaled_with_one_rounding_of_factor_and_product(op: str, run: Run) -> None:
    shape = (7, 40) if run.interpreted else (37, 129)
    for clients in (3, 300) if run.interpreted else (1, 2, 3, 7, 64, 255, 256, 1000, 65_535):
        numbers = np.random.default_rng(clients)
        votes = numbers.integers(0, clients + 1, math.prod(shape))
        counts = torch.from_numpy(votes.astype(np.uint8 if clients < 256 else np.int32))
        for name in ("float32", "float16", "bfloat16"):
            weight = weights(clients, getattr(torch, name), *shape)
            old = weight.float().numpy().ravel().copy()
            weight = weight.to(run.device)
            with run.active():
                mask = mask_prune_(weight, counts.to(run.device), 0.3, clients=clients)
            chosen = mask.cpu().numpy().ravel()
            wanted = oracles.prune(old, votes.tolist(), chosen, clients, name)
            assert same_bits(weight.view(-1), torch.from_numpy(wanted).to(weight.dtype)), clients


@pytest.mark.parametrize("group", GROUPS)
@PRUNE_RUNS
def test_scaled_survivors_are_the_mean_of_the_locally_pruned_models(
    op: str, run: Run, group: str
) -> None:
    """W·(m - M̂)/m·(1 - M) = mean_i W·(1 - M_i)·(1 - M): exact with m = 2^j and small integers."""
    shape, sparsity = GROUPS[group], None if ":" in group else 0.5
    for clients in (1, 4, 64, 256):
        bits = agreeing(clients, clients, math.prod(shape))
        for dtype in (torch.float32, torch.float16):  # halves hold integers up to 2^11
            generator = torch.Generator().manual_seed(clients)
            limit = 2**11 if dtype == torch.float32 else 8
            own = torch.randint(-limit + 1, limit, shape, generator=generator).to(dtype)
            local = own.double() * torch.from_numpy(~bits).view(clients, *shape)
            mean = local.sum(0) / clients
            weight = own.clone().to(run.device)
            with run.active():
                mask = mask_prune_(
                    weight, counted(bits, run.device), sparsity, group, "index", clients=clients
                )
            wanted = (mean * ~mask.cpu()).to(dtype)
            assert torch.equal(wanted.double(), mean * ~mask.cpu())  # exact, as claimed
            assert torch.equal(weight.cpu(), wanted), clients


@PRUNE_RUNS
def test_bad_values_change_nothing(op: str, run: Run) -> None:
    """Wherever they are, and also where no tie and no survivor needs them."""
    if run.device == "cuda":
        pytest.skip("a device tells of bad values after the fact")
    shape = (9, 70)
    counts = counted(masks(1, 3, 630))
    for sparsity in (0, 0.5, 1):
        for place in (333,) if run.interpreted else (0, 333, 629):
            for group in ("layer", "row") if not run.interpreted else ("row",):
                weight = weights(1, torch.float32, *shape)
                weight.view(-1)[place] = float("nan")
                before, version = weight.clone(), weight._version
                with pytest.raises(ArgumentError, match="NaN or infinite"), run.active():
                    mask_prune_(weight, counts, sparsity, group, clients=3)
                assert same_bits(weight, before)
                assert weight._version == version
                weight, bad = weights(1, torch.float32, *shape), counts.clone()
                bad[place] = 4
                before = weight.clone()
                with pytest.raises(ArgumentError, match="outside"), run.active():
                    mask_prune_(weight, bad, sparsity, group, clients=3)
                assert same_bits(weight, before)


@PRUNE_RUNS
def test_a_score_may_be_the_weight_itself(op: str, run: Run) -> None:
    """The scores are those before the pruning, although the same memory is written."""
    counts = torch.zeros(700, dtype=torch.uint8, device=run.device)
    for group in ("layer", "row"):
        weight = weights(2, torch.float32, 10, 70).to(run.device)
        old = weight.clone()
        with run.active():
            wanted = mask_select(counts, (10, 70), 0.5, group, "score", score=old)
            mask = mask_prune_(weight, counts, 0.5, group, "score", score=weight)
        assert same_bits(mask, wanted)
        assert same_bits(weight, old.masked_fill(wanted, 0.0))


@PRUNE_RUNS
def test_a_part_of_a_tensor_is_pruned_and_the_rest_is_left(op: str, run: Run) -> None:
    counts = counted(masks(3, 5, 60), run.device)
    for rows, columns in ((slice(2, 8), slice(5, 15)), (slice(0, 12, 2), slice(1, 20, 2))):
        whole = weights(3, torch.bfloat16, 20, 30).to(run.device)
        alone = whole[rows, columns].clone()
        wanted = whole.clone()
        with run.active():
            mask = mask_prune_(whole[rows, columns], counts, 0.5, clients=5)
            assert same_bits(mask, mask_prune_(alone, counts, 0.5, clients=5))
        wanted[rows, columns] = alone
        assert same_bits(whole, wanted)


def test_a_message_shows_the_offender_and_the_range() -> None:
    weight, counts = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.uint8)
    counts[1, 0] = 9
    text = (
        r"mask_prune_: in counts 1 of 6 elements are outside \[0, 8\]; the first is 9 at index \(1,"
    )
    with pytest.raises(ArgumentError, match=text):
        mask_prune_(weight, counts, 0.5, clients=8)
    weight[0, 2] = -math.inf
    text = r"in weight 1 of 6 elements are NaN or infinite; the first is -inf at index \(0, 2\)"
    with pytest.raises(ArgumentError, match=text):
        mask_prune_(weight, counts, 0.5)
    score = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, math.nan]])
    with pytest.raises(ArgumentError, match=r"in score 1 of 6 .* nan at index \(1, 2\)"):
        mask_prune_(torch.ones(2, 3), counts, 0.5, score=score)


def test_wrong_arguments_are_refused_by_name() -> None:
    weight, counts = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(
        DtypeError, match=r"weight has dtype torch.float64; it must be torch.float32"
    ):
        mask_prune_(weight.double(), counts, 0.5)
    with pytest.raises(
        ArgumentError, match=r"counts has shape \(2, 3\); it must be \(3, 2\) or \(6"
    ):
        mask_prune_(torch.ones(3, 2), counts, 0.5)
    for clients, error in ((0, ArgumentError), (65_536, ArgumentError), (2.0, DtypeError)):
        with pytest.raises(
            error, match=f"clients is {clients if error is ArgumentError else 'float'}"
        ):
            mask_prune_(weight, counts, 0.5, clients=clients)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="key is None; ties by random need it"):
        mask_prune_(weight, counts, 0.5, ties="random")
    with pytest.raises(
        ArgumentError, match=r"weight requires grad; call it under torch.no_grad\(\)"
    ):
        mask_prune_(weight.requires_grad_(), counts, 0.5)
    with pytest.raises(ArgumentError, match="weight shows one number in memory at many places"):
        mask_prune_(torch.ones(3).expand(2, 3), counts, 0.5)
    assert weight.eq(1).all()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_compiler_keeps_the_order_of_writes_and_reads(backend: str) -> None:
    """Functionalised: a read before sees the old weights, one after the new, also through views."""
    counts = counted(masks(4, 5, 24))

    def step(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        doubled = weight * 2
        before = doubled.amax(1)
        mask = mask_prune_(doubled, counts, 0.5, clients=5)
        part = weight[1:3]
        small = mask_prune_(part, counts[:12], 0.5, "row")
        return before, mask, doubled + 1, small, weight * 3, part

    torch._dynamo.reset()
    first = weights(4, torch.float32, 4, 6).clamp(-9, 9)
    second = first.clone()
    wanted = step(first)
    got = torch.compile(step, fullgraph=True, backend=backend)(second)
    assert same_bits(second, first)
    for one, right in zip(got, wanted, strict=True):
        assert same_bits(one, right)
