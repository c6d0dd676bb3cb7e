"""The laws of the random matrices: unbiased, of the known variance, uniform, uncorrelated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from case import KEY
from pyfed.ops import sketch, sketch_block, sketch_seed
from sketch_oracles import KINDS

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
BOTH = pytest.mark.parametrize("public", [True, False])
RARE = 1e-6  # how likely a right law fails each test
SIGMAS = 5.0


def repeated(x: torch.Tensor, rows: int, kind: str, times: int, public: bool) -> torch.Tensor:
    """Sketches of x (samples, features) by as many independent matrices: (times, rows, …)."""
    starts = torch.arange(times + 1) * len(x)
    return sketch(x.repeat(times, 1), rows, KEY, kind, public=public, starts=starts).double()


@BOTH
@EVERY_KIND
def test_products_of_sketches_have_the_known_mean_and_variance(kind: str, public: bool) -> None:
    """E⟨Gx, Gy⟩ = c⟨x, y⟩; variance c(|x|²|y|² + ⟨x, y⟩²), less 2c Σ x²y² where it is not normal.

    That of a variance is not known, so it may be off by 6 %, 4 and more standard deviations.
    """
    times, rows = 20_000, 5
    pair = torch.tensor([[1.0, 0.5], [-2, 1], [0.25, 3], [1.5, -1], [0, 2], [-1, -1], [2, 0.5]])
    x, y = pair.T.double()
    made = repeated(pair, rows, kind, times, public)
    products = (made[:, :, 0] * made[:, :, 1]).sum(1)
    variance = rows * (x.dot(x) * y.dot(y) + x.dot(y) ** 2)
    if kind != "gaussian":
        variance -= 2 * rows * (x**2).dot(y**2)
    off = products.mean() - rows * x.dot(y)
    assert abs(off) < SIGMAS * (variance / times).sqrt()
    assert abs(products.var() / variance - 1) < 0.06


@BOTH
@EVERY_KIND
def test_the_mean_of_gram_matrices_is_the_number_of_rows_times_the_identity(
    kind: str, public: bool
) -> None:
    times, rows, samples = 4000, 6, 9
    made = repeated(torch.eye(samples), rows, kind, times, public)
    gram = (made.mT @ made).mean(0)
    spread = math.sqrt(rows * (2 if kind == "gaussian" else 1) / times)
    assert (gram - rows * torch.eye(samples)).abs().max() < SIGMAS * spread
    if kind != "gaussian":  # on the diagonal there is no chance
        assert torch.allclose((made**2).sum(1), torch.tensor(float(rows)).double())
    assert made.mean().abs() < SIGMAS / math.sqrt(made.numel())


@BOTH
@EVERY_KIND
def test_neighbours_of_every_sort_are_uncorrelated(kind: str, public: bool) -> None:
    """Rows, columns, streams, seeds; and their squares too, where these are not all 1."""
    rows, samples = 60, 1000
    shape = (rows, samples)

    def block(key: object, stream: int) -> torch.Tensor:
        given = sketch_seed(KEY) + 1 if public and key else KEY.derive("other") if key else KEY
        return sketch_block((0, rows), (0, samples), given, kind, shape, stream, public).double()

    g, other_stream, other_key = block(None, 0), block(None, 1), block("other", 0)
    pairs = [(g, other_stream), (g, other_key), (g[1:], g[:-1]), (g[2:], g[:-2])]
    pairs += [(g[:, lag:], g[:, :-lag]) for lag in (1, 2, 4, 16, 32, 64, 128)]
    for one, two in pairs:
        assert abs((one * two).mean()) < SIGMAS / math.sqrt(one.numel())
        if kind == "gaussian":
            squares = (one**2 - 1) * (two**2 - 1) / 2
            assert abs(squares.mean()) < SIGMAS / math.sqrt(one.numel())


@BOTH
def test_signs_are_balanced_at_every_bit_of_a_word(public: bool) -> None:
    rows, samples = 200, 3200
    g = sketch_block((0, rows), (0, samples), KEY, "rademacher", (rows, samples), 0, public)
    lanes = g.double().view(rows, -1, 32).mean((0, 1))
    assert lanes.abs().max() < SIGMAS * math.sqrt(32 / g.numel())
    assert abs(g.double().mean()) < SIGMAS / math.sqrt(g.numel())
    assert set(g.unique().tolist()) == {-1.0, 1.0}


def even(outcomes: np.ndarray, number: int) -> bool:
    """Whether 0 … number - 1 may be equally likely, by χ²."""
    counts = np.bincount(outcomes, minlength=number)
    expected = len(outcomes) / number
    statistic = ((counts - expected) ** 2 / expected).sum()
    return len(counts) == number and bool(statistic < stats.chi2.isf(RARE, number - 1))


@BOTH
@pytest.mark.parametrize("rows", [2, 7, 64, 100])
def test_a_count_sketch_hits_every_row_with_either_sign_alike(rows: int, public: bool) -> None:
    """Also together with the next column's, and with those of the next stream."""
    samples = 400_000
    hit, sign = [], []
    for stream in (0, 1):
        # The transposed sketch of the row numbers tells which row each column has, and its sign.
        numbers = torch.arange(1.0, rows + 1)[:, None] / math.sqrt(rows)
        told = sketch(numbers, samples, KEY, "countsketch", 0.0, stream, public, transpose=True)
        hit.append(told.abs().round().int().flatten().numpy() - 1)
        sign.append((told > 0).int().flatten().numpy())
    here, there = hit
    up, other = sign
    assert even(here, rows)
    assert even(up + 2 * here, 2 * rows)
    assert even(here[1:] + rows * here[:-1], rows * rows)
    assert even(here + rows * there, rows * rows)
    assert even(up[1:] + 2 * up[:-1] + 4 * other[1:], 8)


def test_rows_of_noise_streams_and_noise_of_rows_are_uncorrelated() -> None:
    """Noise with itself a row, a feature, a pair and a stream on, and with G of the same words."""
    rows, features = 300, 300
    starts = torch.tensor([0, 0, 0])
    zero = torch.zeros(0, features)
    n, later = sketch(zero, rows, KEY, "gaussian", 1.0, 5, False, starts=starts).double()
    g = sketch_block((0, rows), (0, features), KEY, "gaussian", (rows, features), 5, False)
    pairs = [(n, later), (n, g.double()), (n[1:], n[:-1]), (n, n.T)]
    pairs += [(n[:, lag:], n[:, :-lag]) for lag in (1, 2, 8, 16)]
    for (one, two), power in itertools.product(pairs, (1, 2)):
        if two is n.T:  # each product appears twice
            one, two = one.triu(1), two.triu(1)
        together = (one**power * two**power).mean() - (power == 2) * (one**2).mean() * (
            two**2
        ).mean()
        spread = math.sqrt(1 if power == 1 else 8) / math.sqrt(one.numel())
        assert abs(together) < SIGMAS * spread
    assert abs(n.mean()) < SIGMAS / math.sqrt(n.numel())
    assert abs((n**2).mean() - 1) < SIGMAS * math.sqrt(2 / n.numel())
    assert stats.kstest(n.flatten().numpy(), "norm").pvalue > RARE
