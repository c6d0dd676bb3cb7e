"""The law of the coded gradient's variance, against what the kernel's matrices do."""

from __future__ import annotations

import pytest
import torch

from coded_problems import KEY, KINDS, problem
from pyfed.coded import arrival_variance, best_alpha, gradient_covariance, gradient_variance
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import sketch


def coded_gradients(repeats: int, rows: int, sigma: float, kind: str) -> tuple[torch.Tensor, ...]:
    """Of ``repeats`` independent G and noises on one data set, float64 (repeats, d, o)."""
    given = problem(clients=1, samples=10)
    joint = torch.cat([given.x[0], given.y[0]], dim=1)
    if kind == "countsketch":  # whose rows are not independent, but whose streams are
        starts = torch.arange(repeats + 1) * len(joint)
        coded = sketch(joint.repeat(repeats, 1), rows, KEY, kind, sigma, starts=starts)
    else:
        coded = sketch(joint, repeats * rows, KEY, kind, sigma).reshape(repeats, rows, 5)
    coded = coded.double()
    x, y, w = coded[..., :3], coded[..., 3:], given.weight.double()
    return x.mT @ (x @ w - y) / rows - sigma**2 * w, given.x[0], given.y[0], given.weight


@pytest.mark.parametrize("sigma", [0.0, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_measured_variance_is_the_predicted_one_within_5_percent(kind: str, sigma: float) -> None:
    found, x, y, w = coded_gradients(4000, 8, sigma, kind)
    truth = (x.double().T @ (x.double() @ w.double() - y.double()))[None]
    measured = float((found - truth).square().sum((1, 2)).mean())
    predicted = gradient_variance(x, y, w, 8, sigma, kind)
    assert measured / predicted == pytest.approx(1, abs=0.05)
    # The laws of the kinds lie further apart than that.
    other = "rademacher" if kind == "gaussian" else "gaussian"
    assert abs(gradient_variance(x, y, w, 8, sigma, other) / predicted - 1) > 0.07


@pytest.mark.parametrize("kind", KINDS)
def test_measured_covariance_is_the_predicted_one(kind: str) -> None:
    found, x, y, w = coded_gradients(4000, 8, 1.0, kind)
    measured = torch.cov(found.reshape(-1, 6).T)
    predicted = gradient_covariance(x, y, w, 8, 1.0, kind).reshape(6, 6)
    scale = predicted.diagonal().sqrt()
    away = (measured - predicted) / (scale[:, None] * scale[None])
    assert float(away.abs().max()) < 0.12  # 5 standard errors of a correlation


@pytest.mark.parametrize("kind", KINDS)
def test_the_variance_is_the_trace_of_the_covariance(kind: str) -> None:
    given = problem(clients=1, samples=9)
    numbers = (given.x[0], given.y[0], given.weight, 7, 0.8, kind, 1.3)
    full = gradient_covariance(*numbers).reshape(6, 6)
    assert gradient_variance(*numbers) == pytest.approx(float(full.trace()), rel=1e-12)
    assert torch.allclose(full, full.T)
    assert float(torch.linalg.eigvalsh(full)[0]) > 0


def test_labels_may_have_noise_of_their_own() -> None:
    given = problem(clients=1, samples=9)
    x, y, w = given.x[0], given.y[0], given.weight
    none, some = (gradient_variance(x, y, w, 4, 0.5, label_noise_std=s) for s in (0.0, 2.0))
    energy = float(x.double().square().sum()) + 3 * 0.25
    assert some - none == pytest.approx(2 * 4.0 * energy / 4, rel=1e-9)


def test_arrivals_vary_as_all_patterns_say() -> None:
    gradients = [torch.tensor([1.0, 2.0]), torch.tensor([-3.0, 0.5])]
    p = [0.25, 0.6]
    for rule in ("complement", "convex"):
        mean, square = torch.zeros(2, dtype=torch.float64), 0.0
        for first in (0, 1):
            for second in (0, 1):
                chance = (p[0] if first else 1 - p[0]) * (p[1] if second else 1 - p[1])
                scales = (1, 1) if rule == "complement" else (1 / p[0], 1 / p[1])
                total = (
                    first * scales[0] * gradients[0] + second * scales[1] * gradients[1]
                ).double()
                mean += chance * total
                square += chance * float(total.square().sum())
        wanted = square - float(mean.square().sum())
        assert arrival_variance(gradients, p, rule) == pytest.approx(wanted)


def test_best_alpha_is_best() -> None:
    best = best_alpha(coded=2.0, arrivals=6.0)
    assert best == 0.25

    def variance(a: float) -> float:
        return a * a * 6.0 + (1 - a) ** 2 * 2.0

    assert variance(best) < min(variance(best + 0.01), variance(best - 0.01))
    assert best_alpha(0.0, 0.0) == 1.0


def test_wrong_arguments_are_refused() -> None:
    given = problem(clients=1)
    x, y, w = given.x[0], given.y[0], given.weight
    with pytest.raises(ArgumentError, match="rows is 0; it must be in"):
        gradient_variance(x, y, w, 0)
    with pytest.raises(ArgumentError, match=r"x has 5 samples and y has 6"):
        gradient_variance(x[1:], y, w, 4)
    with pytest.raises(ArgumentError, match=r"weight has shape \(2, 2\); it must be \(3, 2\)"):
        gradient_variance(x, y, w[1:], 4)
    with pytest.raises(ArgumentError, match="kind is 'dense'"):
        gradient_covariance(x, y, w, 4, kind="dense")
    with pytest.raises(ArgumentError, match="noise_std is -1"):
        gradient_variance(x, y, w, 4, -1)
    with pytest.raises(DtypeError, match=r"weight has dtype torch\.float64"):
        gradient_variance(x, y, w.double(), 4)
    with pytest.raises(ArgumentError, match=r"arrival\[1\] is 0"):
        arrival_variance([w, w], [0.5, 0])
    with pytest.raises(ArgumentError, match="rule is 'mean'"):
        arrival_variance([w], [0.5], "mean")
    with pytest.raises(ArgumentError, match="1 gradients are given and 2 probabilities"):
        arrival_variance([w], [0.5, 0.5])
    with pytest.raises(ArgumentError, match="coded is nan"):
        best_alpha(float("nan"), 1.0)
