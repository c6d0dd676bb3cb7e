"""The corrected Hessian X̃ᵀX̃/c − σ²I of a coded set: its extreme eigenvalues, and its solution."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyfed.checks import expect_int
from pyfed.coded.dataset import CodedDataset
from pyfed.coded.records import expect_number
from pyfed.errors import ArgumentError, DtypeError

STEPS = 400
"""Lanczos steps at most; each costs a product with X̃ and one with X̃ᵀ."""
TOLERANCE = 0.01
"""The least eigenvalue is wanted to this fraction of σ², the largest to this fraction of itself."""


def extreme_eigenvalues(coded: CodedDataset, steps: int = STEPS) -> tuple[float, float]:
    """Bounds of the spectrum of the corrected Hessian X̃ᵀX̃/c − σ²I, by the method of Lanczos.

    It is indefinite in general: with fewer rows than features its least eigenvalue is −σ² exactly.
    In float64, with full reorthogonalisation; the residual of each end is added to it, so the
    bounds hold once the end has been found, which a random start misses with probability 0.

    Args:
        coded: the set.
        steps: Lanczos steps at most.

    Returns:
        (a lower bound of the least eigenvalue, an upper bound of the largest one).

    Raises:
        DtypeError, ArgumentError: an argument is wrong.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.coded import CodedDataset, extreme_eigenvalues
        >>> key = pyfed.Key(bytes(range(32)))
        >>> coded = CodedDataset.encode(torch.eye(6), torch.ones(6), 4, key, noise_std=2.0)
        >>> round(extreme_eigenvalues(coded)[0], 3)
        -4.0
    """
    expect_coded("extreme_eigenvalues", coded)
    expect_int("extreme_eigenvalues", "steps", steps, 1, 2**31)
    x = coded.x.to(torch.float64)
    sigma2, rows = coded.variance, coded.rows
    known = sigma2 == 0 or rows < coded.features
    # With σ = 0 the least one is at least 0; with few rows some direction is in no row.

    def product(v: torch.Tensor) -> torch.Tensor:
        return x.T @ (x @ v) / rows

    wanted = float("inf") if known else TOLERANCE * sigma2
    low, high = _lanczos(product, coded.features, x.device, min(steps, coded.features), wanted)
    least = 0.0 if sigma2 == 0 else -sigma2
    if not known:
        least = max(low, 0.0) - sigma2
    return least, high - sigma2


def _lanczos(
    product: Callable[[torch.Tensor], torch.Tensor],
    size: int,
    device: torch.device,
    steps: int,
    wanted: float,
) -> tuple[float, float]:
    """Both ends of a symmetric positive semidefinite spectrum, widened by their residuals.

    Stops when the lower residual is at most ``wanted`` and the upper one TOLERANCE of its end.
    """
    generator = torch.Generator().manual_seed(size)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    basis = torch.empty(steps, size, dtype=torch.float64, device=device)
    v = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        basis[step] = v
        r = product(v)
        diagonal.append(float(v @ r))
        for _ in range(2):  # twice is enough: Parlett, The Symmetric Eigenvalue Problem, 6.9
            r -= basis[: step + 1].T @ (basis[: step + 1] @ r)
        beta = float(r.norm())
        done = step + 1 == steps or beta <= 1e-12 * max(diagonal)
        if done or step % 10 == 9:
            t = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            off = torch.tensor(beside, dtype=torch.float64)
            t += torch.diag(off, 1) + torch.diag(off, -1)
            values, vectors = torch.linalg.eigh(t)
            left = 0.0 if step + 1 == size else beta
            errors = left * vectors[-1, [0, -1]].abs()
            low, high = float(values[0] - errors[0]), float(values[-1] + errors[1])
            near = float(errors[0]) <= wanted and float(errors[1]) <= TOLERANCE * high
            if done or near:
                return low, high
        beside.append(beta)
        v = r / beta
    raise AssertionError  # the last step is done


def coded_solution(coded: CodedDataset, ridge: float = 0.0) -> torch.Tensor:
    """Where descent on the coded set alone ends: (X̃ᵀX̃/c − σ²I + λI)⁻¹ X̃ᵀỸ/c.

    Args:
        coded: the set.
        ridge: λ.

    Returns:
        float32 (features, outputs), by float64 arithmetic.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: the matrix is not positive definite, so that descent does not end there.

    Example:
        >>> import torch, pyfed
        >>> from pyfed.coded import CodedDataset, coded_solution
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
        >>> y = x @ torch.tensor([1.0, -1.0])
        >>> coded = CodedDataset.encode(x, y, 400, pyfed.Key(bytes(range(32))), noise_std=0.1)
        >>> coded_solution(coded).flatten().round(decimals=1)
        tensor([ 1., -1.])
    """
    expect_coded("coded_solution", coded)
    extra = expect_number("coded_solution", "ridge", ridge)
    x, y = coded.x.to(torch.float64), coded.y.to(torch.float64)
    hessian = x.T @ x / coded.rows
    hessian.diagonal().add_(extra - coded.variance)
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if int(failed):
        least = float(torch.linalg.eigvalsh(hessian)[0])
        raise ArgumentError(
            f"coded_solution: X̃ᵀX̃/c − σ²I + ridge·I has the eigenvalue {least:.6g}; raise ridge, "
            f"now {extra:.6g}, by more than {-least:.6g}"
        )
    return torch.cholesky_solve(x.T @ y / coded.rows, factor).to(torch.float32)


def expect_coded(op: str, coded: object) -> None:
    """Raise unless ``coded`` is a CodedDataset."""
    if not isinstance(coded, CodedDataset):
        raise DtypeError(f"{op}: coded is {type(coded).__name__}; it must be a CodedDataset")
