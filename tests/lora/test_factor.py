"""low_rank_svd equals the dense decomposition, and never makes the dense matrix."""

from __future__ import annotations

import pytest
import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import LowRank, low_rank_svd

Wide = torch.float64
SHAPES = [(1, 1, 1), (3, 7, 5), (5, 3, 9), (9, 4, 5), (12, 40, 30), (20, 64, 64), (8, 8, 8)]


def factors(
    ranks: int, outs: int, ins: int, dtype: torch.dtype = Wide
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(ranks, ins, dtype=dtype), torch.randn(outs, ranks, dtype=dtype)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return b.to(Wide) @ a.to(Wide)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ranks", "outs", "ins"), SHAPES)
def test_it_is_the_dense_decomposition(ranks: int, outs: int, ins: int, dtype: torch.dtype) -> None:
    a, b = factors(ranks, outs, ins, dtype)
    scale = torch.rand(ranks) + 0.5
    u, s, v = low_rank_svd(a, b, scale=scale)
    assert u.dtype == s.dtype == v.dtype == dtype
    dense = product(a, b.to(Wide) * scale)
    wanted = torch.linalg.svdvals(dense)[: len(s)]
    eps = torch.finfo(dtype).eps
    assert len(s) == min(ranks, outs, ins)
    near = max(2 * eps, 1e-14)  # the dense decomposition is rounded too
    assert torch.allclose(s.to(Wide), wanted, rtol=near, atol=near * float(wanted[0]))
    error = (product(v, u * s) - dense).norm() / dense.norm()
    assert float(error) < max(8 * eps, 1e-14)
    for vectors in (u.T, v):
        own = vectors.to(Wide)
        assert float((own @ own.T - torch.eye(len(s))).abs().max()) < max(8 * eps, 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 2, 5, 11])
def test_a_lower_rank_is_the_best_approximation(rank: int, dtype: torch.dtype) -> None:
    a, b = factors(12, 40, 30, dtype)
    u, s, v = low_rank_svd(a, b, rank)
    left, values, right = torch.linalg.svd(product(a, b), full_matrices=False)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    assert u.shape == (40, rank) and v.shape == (rank, 30)
    error = (product(v, u * s) - best).norm() / best.norm()
    assert float(error) < (1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("real", [0, 1, 3])
def test_vectors_are_orthonormal_where_the_rank_is_deficient(real: int, dtype: torch.dtype) -> None:
    a, b = torch.zeros(8, 30, dtype=dtype), torch.zeros(40, 8, dtype=dtype)
    if real:
        a[:] = torch.randn(8, real).to(dtype) @ torch.randn(real, 30).to(dtype)
        b[:] = torch.randn(40, 8)
    u, s, v = low_rank_svd(a, b)
    assert not s[real:].gt(1e-5 * max(float(s[0]), 1)).any()
    for vectors in (u.T, v):
        own = vectors.to(Wide)
        assert float((own @ own.T - torch.eye(8)).abs().max()) < 1e-5
    if real:
        dense = product(a, b)
        assert float((product(v, u * s) - dense).norm() / dense.norm()) < 1e-5


@pytest.mark.parametrize("exponent", range(0, 40, 3))
def test_small_singular_values_keep_orthonormal_vectors(exponent: int) -> None:
    """Across the bound at which Gram matrices are left for QR."""
    a, b = factors(6, 50, 40, torch.float32)
    steep = torch.logspace(0, -exponent / 4, 6, dtype=Wide)
    u, s, v = low_rank_svd(a, b, scale=steep)
    for vectors in (u.T, v):
        own = vectors.to(Wide)
        assert float((own @ own.T - torch.eye(6)).abs().max()) < 1e-6
    dense = product(a, b.to(Wide) * steep)
    assert float((product(v, u * s) - dense).norm() / dense.norm()) < 1e-6


def test_signs_do_not_depend_on_the_order_of_factors() -> None:
    a, b = factors(6, 20, 15)
    u, _, v = low_rank_svd(a, b)
    order = torch.randperm(6)
    again_u, _, again_v = low_rank_svd(a[order], b[:, order])
    assert torch.allclose(u, again_u, atol=1e-12) and torch.allclose(v, again_v, atol=1e-12)
    assert (v.gather(1, v.abs().argmax(1, keepdim=True)) > 0).all()
    again_u, _, again_v = low_rank_svd(-a, -b)
    assert torch.allclose(u, again_u, atol=1e-12)


def test_a_batch_is_each_of_its_members() -> None:
    a, b = torch.randn(2, 3, 4, 9), torch.randn(2, 3, 12, 4)
    scale = torch.rand(2, 3, 4)
    u, s, v = low_rank_svd(a, b, 2, scale)
    for i in range(2):
        for j in range(3):
            one = low_rank_svd(a[i, j], b[i, j], 2, scale[i, j])
            for whole, own in zip((u, s, v), one, strict=True):
                assert torch.allclose(whole[i, j], own, atol=1e-6)


def test_inputs_are_untouched() -> None:
    a, b = factors(4, 9, 8, torch.float32)
    copies = a.clone(), b.clone()
    low_rank_svd(a, b, 2, torch.ones(4))
    assert torch.equal(a, copies[0]) and torch.equal(b, copies[1])


def test_a_matrix_that_no_memory_holds_is_decomposed() -> None:
    length = 2_000_000  # the dense matrix would have 4·10^12 entries
    a, b = factors(2, length, length, torch.float32)
    _, s, _ = low_rank_svd(a, b, 1)
    assert float(s) == pytest.approx(float(LowRank(a[:1], b[:, :1], _one()).norm()), rel=0.1)


def _one() -> torch.Tensor:
    return torch.ones(1, dtype=Wide)


@pytest.mark.parametrize(
    ("a", "b", "more", "says"),
    [
        (torch.ones(2, 3), torch.ones(4, 3), {}, "a has 2 rows and b 3 columns"),
        (torch.ones(3), torch.ones(4, 3), {}, "they must be"),
        (torch.ones(2, 2, 3), torch.ones(3, 4, 2), {}, "they must be"),
        (torch.ones(0, 3), torch.ones(4, 0), {}, "not empty"),
        (torch.ones(2, 3), torch.ones(4, 2), {"rank": 0}, "rank is 0"),
        (torch.ones(2, 3), torch.ones(4, 2), {"scale": torch.ones(3)}, "scale has shape"),
        (torch.ones(2, 3), torch.full((4, 2), torch.inf), {}, "b holds NaN"),
        (torch.ones(2, 3).div(0) * 0, torch.ones(4, 2), {}, "a holds NaN"),
        (torch.ones(2, 3), torch.ones(4, 2), {"scale": torch.tensor([1, torch.nan])}, "scale hol"),
    ],
)
def test_what_does_not_fit_is_refused(
    a: torch.Tensor, b: torch.Tensor, more: dict[str, object], says: str
) -> None:
    with pytest.raises(ArgumentError, match=says):
        low_rank_svd(a, b, **more)  # type: ignore[arg-type]


def test_dtypes_must_fit() -> None:
    with pytest.raises(DtypeError, match="a has dtype"):
        low_rank_svd(torch.ones(2, 3, dtype=torch.int32), torch.ones(4, 2))
    with pytest.raises(DtypeError, match="b has dtype"):
        low_rank_svd(torch.ones(2, 3), torch.ones(4, 2).double())
    with pytest.raises(DtypeError, match="rank is float"):
        low_rank_svd(torch.ones(2, 3), torch.ones(4, 2), 1.0)  # type: ignore[arg-type]
