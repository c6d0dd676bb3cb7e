"""Published rules of aggregation, each as a setting of masked_mean and the ops beside it.

The right answers are computed from what the rule says, element by element, in numbers small enough
to be exact. The rules and their sources are those of the concepts page on masks.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clients import agreeing, counted, masks, packed
from pyfed.ops import (
    Indices,
    Rectangles,
    mask_count,
    mask_pack,
    mask_prune_,
    mask_select,
    masked_mean,
)
from runs import Run, runs_of

MEAN_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("masked_mean"))
CLIENTS, SHAPE = 4, (6, 10)
N = 60


def whole_numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-99, 100, shape)).float()


def kept_by(seed: int, density: float = 0.6) -> torch.Tensor:
    """Which elements each client keeps: bool (clients, *shape)."""
    return torch.from_numpy(masks(seed, CLIENTS, *SHAPE, density=density))


def by_hand(values: torch.Tensor, keeps: torch.Tensor, weights: list[int]) -> torch.Tensor:
    """The weighted mean over the keepers of each element in double precision; NaN without any."""
    a = torch.tensor(weights, dtype=torch.float64).view(-1, *[1] * (values.dim() - 1))
    total, below = (a * keeps * values.double()).sum(0), (a * keeps).sum(0)
    return (total.float() / below.float()).where(below > 0, torch.tensor(torch.nan))


@MEAN_RUNS
def test_fedprllm_scaling_is_the_mean_over_all_clients(op: str, run: Run) -> None:
    """Survivors scaled by (m - votes) / m: the mean of the locally pruned models, masked."""
    weight, prune = whole_numbers(1, *SHAPE).to(run.device), ~kept_by(1).to(run.device)
    local = weight * ~prune
    with run.active():
        counts = mask_count(mask_pack(prune.view(CLIENTS, N)), N)
        mean = masked_mean(local, ~prune, denominator="all")
        scaled = weight.clone()
        mask = mask_prune_(scaled, counts, 0.5, clients=CLIENTS)
    assert torch.equal(scaled, mean * ~mask)


@MEAN_RUNS
def test_fedspallm_keeps_unchanged_weights_and_prunes_the_most_pruned(op: str, run: Run) -> None:
    """The keepers' mean of a weight that nobody changed is that weight, whoever kept it."""
    weight, keeps = whole_numbers(2, *SHAPE).to(run.device), kept_by(2).to(run.device)
    with run.active():
        mean = masked_mean(weight * keeps, keeps)
        assert torch.equal(mean, weight * keeps.any(0))
        counts = counted(~keeps.cpu().numpy().reshape(CLIENTS, N), run.device)
        pruned = mask_select(counts, SHAPE, 0.5)
    assert bool(pruned[~keeps.any(0)].all())  # what all pruned goes first, then the next counts
    assert int(pruned.sum()) == N // 2


@MEAN_RUNS
def test_feddst_weighs_by_samples_and_asks_for_a_least_number_of_clients(op: str, run: Run) -> None:
    values, keeps, samples = whole_numbers(3, CLIENTS, *SHAPE), kept_by(3, 0.4), [600, 1, 30, 7]
    with run.active():
        got = masked_mean(
            values.to(run.device), keeps.to(run.device), weights=samples, min_votes=2
        ).cpu()
    enough = keeps.sum(0) >= 2  # clients: 600 samples of one client are one vote
    assert torch.equal(got, by_hand(values, keeps, samples).where(enough, torch.tensor(0.0)))


@MEAN_RUNS
def test_lotteryfl_and_fedmask_leave_a_client_its_own_where_others_differ(
    op: str, run: Run
) -> None:
    """A client merges its ticket with those that overlap; elsewhere its own value stays."""
    values, keeps = whole_numbers(4, CLIENTS, *SHAPE), kept_by(4)
    for client in range(CLIENTS):
        shared = keeps & keeps[client]  # others count where this client keeps too
        own = values[client].to(run.device)
        with run.active():
            got = masked_mean(
                *(values.to(run.device), shared.to(run.device)),
                **{"empty": "keep", "server": own, "min_votes": 2},  # type: ignore[arg-type]
            ).cpu()
        overlap = keeps[client] & (shared.sum(0) >= 2)
        wanted = by_hand(values, shared, [1] * CLIENTS).where(overlap, values[client])
        assert torch.equal(got, wanted)


@MEAN_RUNS
def test_heterofl_averages_slices_over_those_that_cover_them(op: str, run: Run) -> None:
    """Widths 1, 1/2, 1/4 of a convolution; what nobody covers keeps the server's value."""
    shape = (8, 4, 3, 3)
    widths = Rectangles.prefixes(shape, [(4, 2), (2, 1), (6, 3), (4, 2)])
    whole, server = whole_numbers(5, 4, *shape), whole_numbers(6, *shape)
    parts = [widths.cut(own, client).to(run.device) for client, own in enumerate(whole)]
    with run.active():
        got = masked_mean(parts, widths, empty="keep", server=server.to(run.device)).cpu()
    total, cover = torch.zeros(shape), torch.zeros(shape)
    for client, own in enumerate(whole):
        widths.cut(total, client).add_(widths.cut(own, client))
        widths.cut(cover, client).add_(1)
    assert torch.equal(got, (total / cover).where(cover > 0, server))
    assert int((cover == 0).sum()) > 0


@MEAN_RUNS
def test_heterofl_labels_split_the_rows_of_the_head(op: str, run: Run) -> None:
    """A client updates the rows of the classes that it has: bits, row by row."""
    values, server = whole_numbers(7, 3, 5, 8), whole_numbers(8, 5, 8)
    rows = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.bool)
    keeps = rows[:, :, None].expand(3, 5, 8)
    with run.active():
        got = masked_mean(
            *(values.to(run.device), keeps.to(run.device)),
            **{"empty": "keep", "server": server.to(run.device)},  # type: ignore[arg-type]
        ).cpu()
    assert torch.equal(got, by_hand(values, keeps, [1] * 3).where(keeps.any(0), server))


@MEAN_RUNS
def test_fjord_averages_prefixes_of_neurons(op: str, run: Run) -> None:
    extents = [2, 7, 5, 7]
    prefixes = Rectangles.prefixes((7, 3), [(extent,) for extent in extents])
    whole = whole_numbers(9, 4, 7, 3)
    parts = [whole[client, :extent].to(run.device) for client, extent in enumerate(extents)]
    with run.active():
        got = masked_mean(parts, prefixes, weights=[3, 1, 2, 5]).cpu()
    keeps = torch.arange(7)[None, :] < torch.tensor(extents)[:, None]
    assert torch.equal(got, by_hand(whole, keeps[:, :, None].expand(4, 7, 3), [3, 1, 2, 5]))


@MEAN_RUNS
def test_fedpm_probabilities_are_votes_by_clients(op: str, run: Run) -> None:
    """With λ0 = 1 and a prior reset each round, (α - 1) / (α + β - 2) is the mean of the bits."""
    bits = masks(10, 13, N, density=0.3)
    with run.active():
        votes = mask_count(packed(bits, run.device), N)
        got = masked_mean(torch.from_numpy(bits).float().to(run.device))
    assert torch.equal(got, votes.to(torch.float32) / 13)
    alpha, beta = 1 + bits.sum(0), 1 + (~bits).sum(0)
    wanted = (alpha - 1).astype(np.float32) / (alpha + beta - 2).astype(np.float32)
    assert torch.equal(got.cpu(), torch.from_numpy(wanted))


@MEAN_RUNS
def test_deltamask_uploads_changes_and_votes_on_what_they_give(op: str, run: Run) -> None:
    """The server undoes the XOR with the last mask, bits with bits, and counts."""
    last, bits = masks(11, 1, N), agreeing(11, 9, N)
    changes = packed(bits ^ last, run.device)
    with run.active():
        votes = mask_count(changes ^ packed(last, run.device), N)
    assert torch.equal(votes.cpu(), counted(bits))


@MEAN_RUNS
def test_prunefl_and_flash_share_one_mask_and_take_the_plain_mean(op: str, run: Run) -> None:
    values, shared = whole_numbers(12, CLIENTS, *SHAPE), kept_by(12)[0]
    keeps = shared.expand(CLIENTS, *SHAPE)
    with run.active():
        got = masked_mean(values.to(run.device), keeps.to(run.device)).cpu()
    assert torch.equal(got, values.mean(0) * shared)


@MEAN_RUNS
def test_zerofl_adds_differences_and_divides_by_all(op: str, run: Run) -> None:
    """Sparse differences of the top k, packed: who sends nothing for a weight counts as 0."""
    changes, keeps = whole_numbers(13, CLIENTS, *SHAPE), kept_by(13, 0.2)
    sent = [own[keep].to(run.device) for own, keep in zip(changes, keeps, strict=True)]
    with run.active():
        got = masked_mean(sent, keeps.to(run.device), denominator="all", shape=SHAPE).cpu()
    assert torch.equal(got, (changes * keeps).sum(0) / CLIENTS)


@MEAN_RUNS
def test_dgc_scatters_indices_and_values_and_divides_by_all(op: str, run: Run) -> None:
    gradients = whole_numbers(14, CLIENTS, N)
    places = [own.abs().topk(7).indices.sort().values for own in gradients]
    sent = [own[place].to(run.device) for own, place in zip(gradients, places, strict=True)]
    with run.active():
        masks_of = Indices((N,), [place.to(run.device) for place in places])
        got = masked_mean(sent, masks_of, denominator="all").cpu()
    total = torch.zeros(N)
    for own, place in zip(gradients, places, strict=True):
        total[place] += own[place]
    assert torch.equal(got, total / CLIENTS)
