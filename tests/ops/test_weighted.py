"""Weighted means of lists of tensors: float32 sums in the order of the clients, to the last bit."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

import lora_oracles as oracles
from contract import same_bits
from lora_cases import DTYPES
from pyfed import use_backend
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import weighted_mean
from runs import Run, runs_of

MEAN_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("weighted_mean"))
SHAPES = ((3, 5), (17,), (), (1, 1, 4), (0, 2), (33,))


def lists(clients: int, device: str) -> list[list[torch.Tensor]]:
    """Tensors of every dtype for each client."""
    return [
        [torch.randn(s).to(DTYPES[k % 3]).to(device) for k, s in enumerate(SHAPES)]
        for _ in range(clients)
    ]


def on_cpu(tensors: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    return [[t.cpu() for t in own] for own in tensors]


@MEAN_RUNS
def test_each_tensor_is_averaged_as_if_alone(op: str, run: Run) -> None:
    """Many tensors, one after the other in a few chunks: none gets a neighbour's elements."""
    tensors, weights = lists(4, run.device), [3, 0.5, 2, 7]
    with run.active():
        together = weighted_mean(tensors, weights)
        for place, mean in enumerate(together):
            (alone,) = weighted_mean([[own[place]] for own in tensors], weights)
            assert same_bits(alone, mean)
            assert (mean.shape, mean.dtype) == (tensors[0][place].shape, tensors[0][place].dtype)
    for mean, right in zip(together, oracles.weighted_mean(on_cpu(tensors), weights), strict=True):
        assert same_bits(mean.cpu(), torch.from_numpy(np.array(right)).to(mean.dtype))


@MEAN_RUNS
def test_half_tensors_are_rounded_once(op: str, run: Run) -> None:
    """In float16, or bfloat16, 300 clients with 1 and 2^-8 would lose what is small."""
    for dtype in DTYPES[1:]:
        tensors = [[torch.full((9,), 2.0**-8, dtype=dtype, device=run.device)] for _ in range(300)]
        tensors[0][0].fill_(256.0)
        with run.active():
            (mean,) = weighted_mean(tensors)
        exact = (256 + 299 * 2.0**-8) / 300
        assert mean.tolist() == [torch.tensor(exact).to(dtype).item()] * 9


@MEAN_RUNS
def test_a_client_of_weight_zero_does_not_count(op: str, run: Run) -> None:
    tensors = lists(4, run.device)
    with run.active():
        with_it = weighted_mean(tensors, [1, 0, 2, 5])
        without = weighted_mean([tensors[0], *tensors[2:]], [1, 2, 5])
    assert all(map(same_bits, with_it, without))


@MEAN_RUNS
def test_the_order_of_the_clients_matters_by_rounding_alone(op: str, run: Run) -> None:
    """Within n roundings of the products and sums; the order that is given is kept."""
    clients = 9
    tensors, weights = lists(clients, run.device), list(range(1, clients + 1))
    exact = [
        sum(w / 45 * t.double() for w, t in zip(weights, own, strict=True))
        for own in zip(*tensors, strict=True)
    ]
    sizes = [
        sum(w / 45 * t.double().abs() for w, t in zip(weights, own, strict=True))
        for own in zip(*tensors, strict=True)
    ]
    for order in (list(range(clients)), list(range(clients))[::-1], [4, 8, 0, 1, 7, 2, 6, 3, 5]):
        with run.active():
            means = weighted_mean([tensors[i] for i in order], [weights[i] for i in order])
        for mean, right, size in zip(means, exact, sizes, strict=True):
            off = (clients + 2) * 2.0**-24 * size
            low, high = ((right + sign * off).float().to(mean.dtype) for sign in (-1, 1))
            assert ((low <= mean) & (mean <= high)).all()


@MEAN_RUNS
def test_weights_matter_by_their_ratios(op: str, run: Run) -> None:
    """In any container and dtype; powers of two cancel to the last bit, tiny and huge ones too."""
    tensors, weights = lists(4, run.device), [1, 2, 3, 10]
    with run.active():
        wanted = weighted_mean(tensors, weights)
        for other in (
            *(tuple(weights), [w * 2.0**-900 for w in weights], [w * 2.0**900 for w in weights]),
            *(torch.tensor(weights), torch.tensor(weights, dtype=torch.int32)),
            *(torch.tensor(weights).float(), torch.tensor(weights).double() * 2.0**-900),
        ):
            given = other.to(run.device) if isinstance(other, torch.Tensor) else other
            assert all(map(same_bits, weighted_mean(tensors, given), wanted)), other
        equal = weighted_mean(tensors)
        assert all(map(same_bits, weighted_mean(tensors, [7.0] * 4), equal))


@MEAN_RUNS
def test_views_and_repeated_tensors_are_read_where_they_lie(op: str, run: Run) -> None:
    """Views into one arena, the transposed and the expanded, and one tensor for two clients."""
    arena = torch.randn(3, 40, device=run.device)
    tensors = [[row[1:13].view(3, 4), row[13:33].view(4, 5).T, row[39].expand(6)] for row in arena]
    copies = [[t.contiguous() for t in own] for own in tensors]
    with run.active():
        assert all(map(same_bits, weighted_mean(tensors), weighted_mean(copies)))
        twice = weighted_mean([tensors[0], tensors[0]])
    assert all(map(torch.equal, twice, copies[0]))


def test_float64_is_summed_in_float64_beside_the_others() -> None:
    tensors = [[torch.randn(5, dtype=torch.float64), torch.randn(3)] for _ in range(3)]
    got = weighted_mean(tensors, [1, 2, 4])
    exact = sum(w / 7 * own[0] for w, own in zip([1, 2, 4], tensors, strict=True))
    torch.testing.assert_close(got[0], exact, rtol=1e-15, atol=1e-15)
    with use_backend("reference"):
        assert same_bits(weighted_mean([own[1:] for own in tensors], [1, 2, 4])[0], got[1])


def test_the_values_of_a_state_dict_are_taken_as_they_are() -> None:
    states = [OrderedDict(a=torch.full((2,), float(c)), b=torch.ones(1)) for c in range(3)]
    means = weighted_mean([tuple(state.values()) for state in states])
    assert [t.tolist() for t in means] == [[1.0, 1.0], [1.0]]
    assert isinstance(means, list)


@MEAN_RUNS
def test_what_is_not_finite_is_refused_also_at_weight_zero(op: str, run: Run) -> None:
    """Zero times infinity is no number: a client that is to be left out is left out of the list."""
    for place in range(len(SHAPES)):
        if math.prod(SHAPES[place]) == 0:
            continue
        for client, bad in ((0, math.nan), (3, math.inf), (1, -math.inf)):
            tensors = lists(4, run.device)
            tensors[client][place].view(-1)[-1] = bad
            with pytest.raises(ArgumentError, match="NaN or infinite"), run.active():
                weighted_mean(tensors, [1, 0, 2, 5])


@MEAN_RUNS
def test_a_mean_too_large_for_its_dtype_is_refused(op: str, run: Run) -> None:
    """No mean of finite numbers is, but for the roundings of the largest ones."""
    largest = torch.full((3,), torch.finfo(torch.float32).max, device=run.device)
    with run.active():
        assert weighted_mean([[largest], [largest]])[0].tolist() == largest.tolist()
    words = "a mean does not fit in the dtype|NaN or infinite"
    with pytest.raises(ArgumentError, match=words), run.active():
        weighted_mean([[largest]] * 10)
    sixes = torch.full((3,), 65504.0, dtype=torch.float16, device=run.device)
    with run.active():
        assert weighted_mean([[sixes]] * 7)[0].tolist() == sixes.tolist()


T, U = torch.ones(2), torch.ones(2, 3)
GOOD = [[T, U], [T, U]]


@pytest.mark.parametrize(
    ("tensors", "weights", "error", "words"),
    [
        (T, None, DtypeError, "tensors is Tensor; it must be a list for each client"),
        ([], None, DtypeError, "tensors is empty; it must be a list for each client"),
        ({0: [T]}, None, DtypeError, "tensors is dict; it must be a list for each client"),
        ([[T], T], None, DtypeError, r"tensors\[1\] is Tensor; it must be a list of tensors"),
        ([[T], {"a": T}], None, DtypeError, r"tensors\[1\] is dict; it must be a list of tensors"),
        (
            [[], []],
            None,
            ArgumentError,
            "the clients' lists are empty; there is nothing to average",
        ),
        ([[T], [T, U]], None, ArgumentError, "client 1 has 2 tensors; client 0 has 1"),
        (
            [[T, 1.0]] * 2,
            None,
            DtypeError,
            r"tensors\[0\]\[1\] is float; it must be a torch.Tensor",
        ),
        ([[T], [1.0]], None, DtypeError, r"tensors\[1\]\[0\] is float; it must be a torch.Tensor"),
        ([[T.int()]], None, DtypeError, r"tensors\[0\]\[0\] has dtype torch.int32; it must be"),
        (
            [[T, U], [T, U.half()]],
            None,
            DtypeError,
            r"tensors\[1\]\[1\] has dtype torch.float16; it must be torch.float32",
        ),
        (
            [[T, U], [T, U.T]],
            None,
            ArgumentError,
            r"tensors\[1\]\[1\] has shape \(3, 2\); that of client 0 has \(2, 3\)",
        ),
        ([[T], [T.to_sparse()]], None, ArgumentError, r"tensors\[1\]\[0\] has layout"),
        (
            [[T], [T.clone().requires_grad_()]],
            None,
            ArgumentError,
            "a tensor requires grad.*detach it",
        ),
        (GOOD, [1], ArgumentError, "weights has 1 elements; there are 2 clients"),
        (GOOD, torch.ones(3), ArgumentError, "weights has 3 elements; there are 2 clients"),
        (GOOD, torch.ones(2, 1), ArgumentError, "weights has 2 dimensions"),
        (GOOD, torch.ones(2).half(), DtypeError, "weights has dtype torch.float16; it must be"),
        (GOOD, 3, DtypeError, "weights is int; it must be a list of numbers"),
        (GOOD, "12", DtypeError, "weights is str; it must be a list of numbers"),
        (GOOD, [1, "2"], DtypeError, r"weights\[1\] is str; it must be a number"),
        (GOOD, [True, 1], DtypeError, r"weights\[0\] is bool; it must be a number"),
        (GOOD, [1, -0.5], ArgumentError, r"weights\[1\] is -0.5; it must be finite and 0 or more"),
        (
            GOOD,
            [math.nan, 1],
            ArgumentError,
            r"weights\[0\] is nan; it must be finite and 0 or more",
        ),
        (
            GOOD,
            [math.inf, 1],
            ArgumentError,
            r"weights\[0\] is inf; it must be finite and 0 or more",
        ),
        (GOOD, [0, 0.0], ArgumentError, "the weights sum to 0.0; it must be more than 0"),
        (GOOD, torch.tensor([0, 0]), ArgumentError, "weights must be finite and 0 or more"),
        (GOOD, torch.tensor([2.0, -1.0]), ArgumentError, "weights must be finite and 0 or more"),
        (GOOD, torch.tensor([math.inf, 1]), ArgumentError, "weights must be finite and 0 or more"),
        (GOOD, torch.tensor([math.nan, 1]), ArgumentError, "weights must be finite and 0 or more"),
        (
            [[T, U], [T, U * torch.tensor([1.0, math.inf, math.nan])]],
            None,
            ArgumentError,
            r"in tensor 1 of client 1 4 of 6 elements are NaN or infinite; the first is inf at "
            r"index \(0, 1\)",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    tensors: Any, weights: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^weighted_mean: {words}"):
        weighted_mean(tensors, weights)
    assert T.tolist() == [1, 1]
