"""Scores against float64 loops, and local masks against an ordering of Python numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.pruning import (
    local_mask,
    magnitude_scores,
    ria_scores,
    sparsegpt_scores,
    wanda_scores,
)

FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


def drawn(rows: int = 5, columns: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, columns), torch.rand(columns) * 3


def close(got: torch.Tensor, wanted: Any) -> bool:
    return np.allclose(got.double().numpy(), np.asarray(wanted), rtol=1e-6, atol=0)


@FLOATS
def test_magnitude_is_the_exact_size(dtype: torch.dtype) -> None:
    weight = drawn()[0].to(dtype)
    scores = magnitude_scores(weight)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[abs(w) for w in row] for row in weight.tolist()]


@FLOATS
def test_wanda_is_size_times_norm(dtype: torch.dtype) -> None:
    weight, norms = drawn()
    weight = weight.to(dtype)
    wanted = [
        [abs(w) * n for w, n in zip(row, norms.tolist(), strict=True)] for row in weight.tolist()
    ]
    assert close(wanda_scores(weight, norms), wanted)


@FLOATS
@pytest.mark.parametrize("power", [0, 0.5, 1.0, 2.5])
def test_ria_is_the_share_of_row_and_column_times_a_power(dtype: torch.dtype, power: float) -> None:
    weight, norms = drawn()
    weight[2] = 0
    weight[:, 3] = 0
    weight = weight.to(dtype)
    rows = weight.tolist()
    wanted = []
    for i, row in enumerate(rows):
        wanted.append([])
        for j, w in enumerate(row):
            across = math.fsum(abs(v) for v in row)
            down = math.fsum(abs(other[j]) for other in rows)
            share = (abs(w) / across if across else 0) + (abs(w) / down if down else 0)
            wanted[i].append(share * float(norms[j]) ** power)
    assert close(ria_scores(weight, norms, power), wanted)


def test_sparsegpt_takes_the_corner_of_each_trailing_inverse() -> None:
    weight, _ = drawn(4, 6)
    x = torch.randn(40, 6, dtype=torch.float64)
    hessian = x.T @ x
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(6)
    corners = [float(torch.linalg.inv(damped[j:, j:])[0, 0]) for j in range(6)]
    wanted = [[w * w / c for w, c in zip(row, corners, strict=True)] for row in weight.tolist()]
    assert close(sparsegpt_scores(weight, hessian), wanted)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)  # H⁻¹ = UᵀU
    assert close(sparsegpt_scores(weight, hessian), weight.double() ** 2 / upper.diagonal() ** 2)


def test_sparsegpt_bears_dead_and_missing_inputs() -> None:
    weight, _ = drawn(3, 4)
    x = torch.randn(20, 4)
    x[:, 1] = 0
    scores = sparsegpt_scores(weight, x.T @ x)
    assert bool((scores[:, 1] < scores[:, [0, 2, 3]].amin(1)).all())
    assert sparsegpt_scores(weight, torch.zeros(4, 4)).tolist() == [[0.0] * 4] * 3


def test_scores_of_zeros_are_zero() -> None:
    weight, norms = torch.zeros(3, 4), torch.rand(4)
    for scores in (
        magnitude_scores(weight),
        wanda_scores(weight, norms),
        ria_scores(weight, norms),
    ):
        assert scores.tolist() == [[0.0] * 4] * 3
    assert ria_scores(torch.zeros(0, 4), norms).shape == (0, 4)


def test_arguments_are_not_written() -> None:
    weight, norms = drawn()
    hessian = torch.eye(7)
    before = weight.clone(), norms.clone(), hessian.clone()
    magnitude_scores(weight), wanda_scores(weight, norms), ria_scores(weight, norms)
    sparsegpt_scores(weight, hessian)
    assert all(torch.equal(a, b) for a, b in zip(before, (weight, norms, hessian), strict=True))


def test_parameters_may_require_gradients() -> None:
    weight = torch.nn.Parameter(torch.randn(2, 3))
    assert not wanda_scores(weight, torch.ones(3)).requires_grad


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "a list": (lambda w, n: wanda_scores(w.tolist(), n), DtypeError, "weight is list"),
    "float64": (lambda w, n: magnitude_scores(w.double()), DtypeError, "weight has dtype"),
    "a vector": (lambda w, n: magnitude_scores(w[0]), ArgumentError, "1 dimensions"),
    "norms of another length": (
        lambda w, n: wanda_scores(w, n[1:]),
        ArgumentError,
        "norms has 6 elements; weight has 7 inputs",
    ),
    "half norms": (lambda w, n: wanda_scores(w, n.half()), DtypeError, "norms has dtype"),
    "a negative norm": (lambda w, n: ria_scores(w, -n), ArgumentError, "negative element"),
    "an infinite norm": (lambda w, n: ria_scores(w, n / 0), ArgumentError, "in norms"),
    "a NaN weight": (lambda w, n: wanda_scores(w * math.nan, n), ArgumentError, "in weight 35"),
    "an overflow": (
        lambda w, n: wanda_scores(torch.full_like(w, 3e38), n + 9),
        ArgumentError,
        "in scores 35 of 35",
    ),
    "a power too high": (lambda w, n: ria_scores(w, n, 5), ArgumentError, "power is 5"),
    "no power": (lambda w, n: ria_scores(w, n, None), DtypeError, "power is NoneType"),
    "a small Hessian": (
        lambda w, n: sparsegpt_scores(w, torch.eye(6)),
        ArgumentError,
        r"hessian has shape \(6, 6\)",
    ),
    "a negative Hessian": (
        lambda w, n: sparsegpt_scores(w, torch.diag(torch.tensor([9.0] * 6 + [-9.0]))),
        ArgumentError,
        "positive semidefinite",
    ),
    "no damping": (lambda w, n: sparsegpt_scores(w, torch.eye(7), 0), ArgumentError, "damping"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_named(what: str) -> None:
    call, error, match = BAD[what]
    with pytest.raises(error, match=match):
        call(*drawn())


GROUPS = {  # the tile of a group in a matrix of 8 × 12
    "layer": (8, 12),
    "row": (1, 12),
    "column": (8, 1),
    "4x6": (4, 6),
}


def lowest(scores: list[list[float]], tile: tuple[int, int], k: int) -> list[list[bool]]:
    """The k lowest scores of each tile, by score and then by place."""
    rows, columns = len(scores), len(scores[0])
    mask = [[False] * columns for _ in range(rows)]
    for top in range(0, rows, tile[0]):
        for left in range(0, columns, tile[1]):
            places = [(top + i, left + j) for i in range(tile[0]) for j in range(tile[1])]
            places.sort(key=lambda place: (scores[place[0]][place[1]], place))
            for i, j in places[:k]:
                mask[i][j] = True
    return mask


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("sparsity", [0, Fraction(1, 3), 0.5, 0.29, 1])
@pytest.mark.parametrize("rounding", ["floor", "nearest", "ceil"])
def test_local_masks_take_the_lowest_of_every_group(
    group: str, sparsity: float | Fraction, rounding: str
) -> None:
    scores = torch.randint(-3, 4, (8, 12)).float()  # many are equal
    exact = Fraction(str(sparsity)) * GROUPS[group][0] * GROUPS[group][1]
    k = {
        "floor": math.floor(exact),
        "nearest": math.floor(exact + Fraction(1, 2)),
        "ceil": math.ceil(exact),
    }[rounding]
    wanted = lowest(scores.tolist(), GROUPS[group], k)
    assert local_mask(scores, sparsity, group, rounding).tolist() == wanted


@pytest.mark.parametrize("group", ["2:4", "1:4", "4:8"])
def test_local_masks_keep_n_of_m(group: str) -> None:
    kept, of = map(int, group.split(":"))
    scores = torch.randn(6, 16)
    mask = local_mask(scores, None, group)
    assert mask.tolist() == lowest(scores.tolist(), (1, of), of - kept)


def test_local_masks_do_not_depend_on_a_common_factor() -> None:
    scores = torch.rand(6, 16)
    assert torch.equal(local_mask(scores), local_mask(scores * 4))


def test_wanda_in_columns_does_not_depend_on_the_data() -> None:
    weight = torch.randn(8, 6)
    masks = [local_mask(wanda_scores(weight, torch.rand(6) + 0.1), 0.5, "column") for _ in range(5)]
    wanted = local_mask(magnitude_scores(weight), 0.5, "column")
    assert all(torch.equal(mask, wanted) for mask in masks)


def test_local_masks_refuse_scores_that_are_no_numbers() -> None:
    with pytest.raises(ArgumentError, match="NaN or infinite"):
        local_mask(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(DtypeError, match="scores has dtype"):
        local_mask(torch.ones(2, 2, dtype=torch.float64))
