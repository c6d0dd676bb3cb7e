"""Optimisers of many clients: torch's own, one client after the other, over many steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from contract import memory_of, same_bits, with_content
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import bank_adamw_, bank_sgd_
from runs import Run, runs_of

BOTH_RUNS = pytest.mark.parametrize(("op", "run"), [*runs_of("bank_adamw_"), *runs_of("bank_sgd_")])
CLIENTS, LENGTH, ROUNDS = 4, 37, 20
RATES = [0.05, 1e-3, 0.3, 0.01]
DECAYS = [0.0, 0.1, 0.01, 0.5]
ADAMW: tuple[dict[str, Any], ...] = ({}, {"betas": (0.8, 0.95), "eps": 1e-4})
SGD: tuple[dict[str, Any], ...] = (
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.5, "nesterov": True},
)


def present(step: int, client: int) -> bool:
    """Client 1 misses every third round, and client 3 comes late."""
    return not (client == 1 and step % 3 == 0) and not (client == 3 and step < 5)


def trajectory(
    kind: str, how: dict[str, Any], dtype: torch.dtype, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters after 20 steps, of the bank and of one torch optimiser for each client."""
    params = torch.randn(CLIENTS, LENGTH, dtype=dtype, device=device)
    made = [torch.nn.Parameter(row.clone()) for row in params]
    optimisers: list[torch.optim.Optimizer] = []
    for own, lr, decay in zip(made, RATES, DECAYS, strict=True):
        maker: Any = torch.optim.AdamW if kind == "bank_adamw_" else torch.optim.SGD
        optimisers.append(maker([own], lr=lr, weight_decay=decay, foreach=False, **how))
    first, second = torch.zeros_like(params), torch.zeros_like(params)
    done = torch.zeros(CLIENTS, dtype=torch.int64)
    numbers = (("lr", RATES), ("weight_decay", DECAYS))
    rates = {n: torch.tensor(each, dtype=torch.float64, device=device) for n, each in numbers}
    for step in range(ROUNDS):
        grads = torch.randn(CLIENTS, LENGTH, dtype=dtype, device=device)
        here = torch.tensor([present(step, client) for client in range(CLIENTS)])
        done += here
        steps = torch.where(here, done, 0).to(device)
        if kind == "bank_adamw_":
            bank_adamw_(params, grads, first, second, steps, **rates, **how)
        else:
            buffer = first if how.get("momentum") else None
            bank_sgd_(params, grads, buffer, steps, **rates, **how)
        for client, (own, optimiser) in enumerate(zip(made, optimisers, strict=True)):
            if here[client]:
                own.grad = grads[client].clone()
                optimiser.step()
    return params, torch.stack([own.detach() for own in made])


HOWS = [("bank_adamw_", how) for how in ADAMW] + [("bank_sgd_", how) for how in SGD]


@pytest.mark.parametrize(("op", "how"), HOWS)
def test_in_float64_it_is_torchs_optimiser(op: str, how: dict[str, Any]) -> None:
    """With each client's own rate, decay and number of steps, and clients that are away."""
    got, wanted = trajectory(op, how, torch.float64, "cpu")
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@BOTH_RUNS
def test_in_float32_it_is_torchs_optimiser_but_for_a_few_roundings(op: str, run: Run) -> None:
    hows = ADAMW if op == "bank_adamw_" else SGD
    for how in hows[-1:] if run.interpreted else hows:
        with run.active():
            got, wanted = trajectory(op, how, torch.float32, run.device)
        torch.testing.assert_close(got, wanted, rtol=2e-6, atol=2e-6)


def arenas(op: str, device: str) -> tuple[list[Any], Callable[..., torch.Tensor]]:
    """The tensors of a step that are (clients, length), and the step of some of their rows."""
    made: list[Any] = [torch.randn(CLIENTS, LENGTH, device=device) for _ in range(4)]
    made[3] = made[3].square()
    rates, decays = torch.tensor(RATES, device=device), torch.tensor(DECAYS, device=device)

    def step(tensors: list[Any], steps: Any, rows: Any = slice(None)) -> torch.Tensor:
        numbers = torch.tensor(steps, device=device)[rows]
        how = {"lr": rates[rows], "weight_decay": decays[rows]}
        if op == "bank_adamw_":
            return bank_adamw_(*tensors, numbers, **how)
        return bank_sgd_(*tensors, numbers, **how, momentum=0.9)

    return made[:3] if op == "bank_sgd_" else made, step


@BOTH_RUNS
def test_a_client_that_is_skipped_keeps_every_bit(op: str, run: Run) -> None:
    """Of parameters and state, whatever its gradient and state hold: NaN, infinity, -0."""
    tensors, step = arenas(op, run.device)
    for t in tensors:
        t[1, :3] = torch.tensor([math.nan, -math.inf, -0.0])
    before = [t.clone() for t in tensors]
    with run.active():
        assert step(tensors, [3, 0, 1, 0]) is tensors[0]
    for place, (t, old) in enumerate(zip(tensors, before, strict=True)):
        for client in (1, 3):
            assert same_bits(t[client], old[client])
        for client in (0, 2):
            assert same_bits(t[client], old[client]) == (place == 1)  # gradients are read alone


@BOTH_RUNS
def test_a_client_changes_no_bit_of_another(op: str, run: Run) -> None:
    """Alone, beside others, beside one whose numbers are not finite, in another order."""
    tensors, step = arenas(op, run.device)
    steps = [3, 1, 7, 1000]
    together, ill = [t.clone() for t in tensors], [t.clone() for t in tensors]
    ill[1][2] = math.nan
    order = torch.tensor([2, 0, 3, 1], device=run.device)
    moved = [t[order] for t in tensors]
    with run.active():
        step(together, steps)
        step(ill, steps)
        step(moved, steps, order)
        for client in range(CLIENTS):
            alone = [t[client : client + 1].clone() for t in tensors]
            step(alone, steps, slice(client, client + 1))
            for one, all_of_them in zip(alone, together, strict=True):
                assert same_bits(one[0], all_of_them[client])
    for whole, other, turned in zip(together, ill, moved, strict=True):
        assert same_bits(whole[[0, 1, 3]], other[[0, 1, 3]])
        assert same_bits(whole[order], turned)
    assert ill[0][2].isnan().all()


@BOTH_RUNS
def test_a_gradient_of_zero_moves_by_the_decay_alone(op: str, run: Run) -> None:
    params = torch.randn(CLIENTS, LENGTH, device=run.device)
    before, zero = params.clone(), torch.zeros_like(params)
    steps = torch.ones(CLIENTS, dtype=torch.int64, device=run.device)
    state = [torch.zeros_like(params), torch.zeros_like(params)]
    with run.active():
        if op == "bank_adamw_":
            bank_adamw_(params, zero, *state, steps, 0.5, weight_decay=0.0)
            assert same_bits(params, before)
            bank_adamw_(params, zero, *state, steps, 0.5, weight_decay=0.5)
        else:
            bank_sgd_(params, zero, None, steps, 0.5)
            assert same_bits(params, before)
            bank_sgd_(params, zero, None, steps, 0.5, weight_decay=0.5)
    torch.testing.assert_close(params, before * 0.75, rtol=1e-6, atol=0)


@BOTH_RUNS
def test_a_part_of_an_arena_is_stepped_in_place(op: str, run: Run) -> None:
    tensors, step = arenas(op, run.device)
    apart, views = [t.clone() for t in tensors], []
    for t in tensors:
        room = torch.full((CLIENTS + 2, 2 * LENGTH + 5), math.nan, device=run.device)
        views.append(room[1:-1, 3 : 2 * LENGTH + 3 : 2].copy_(t))
    memories = [memory_of(view) for view in views]
    with run.active():
        step(views, [3, 0, 1, 2])
        step(apart, [3, 0, 1, 2])
    for view, right, memory in zip(views, apart, memories, strict=True):
        assert same_bits(view, right)
        assert torch.equal(memory_of(view), with_content(memory, view))


def test_parameters_are_stepped_without_a_graph() -> None:
    """As an optimiser does: under no_grad, on a leaf."""
    params = torch.nn.Parameter(torch.ones(1, 3))
    with torch.no_grad():
        bank_sgd_(params, torch.ones(1, 3), None, torch.tensor([1]), 0.5)
    assert params.tolist() == [[0.5] * 3]
    assert params.requires_grad and params.grad_fn is None


P, STEPS = torch.ones(2, 3), torch.tensor([1, 2])
COMMON: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"params": [1.0]}, DtypeError, "params is list; it must be a torch.Tensor"),
    ({"params": P.half()}, DtypeError, "params has dtype torch.float16; it must be torch.float32"),
    ({"params": P[0]}, ArgumentError, "params has 1 dimensions.*it must have 2"),
    ({"params": P.clone().requires_grad_()}, ArgumentError, "params requires grad; call it under"),
    ({"params": P[:1].expand(2, 3)}, ArgumentError, "params shows one number in memory at many"),
    (
        {"grads": P.double()},
        ArgumentError,
        r"grads has shape \(2, 3\) and dtype torch.float64; it m",
    ),
    (
        {"grads": P[:1]},
        ArgumentError,
        r"grads has shape \(1, 3\) and .* must have \(2, 3\) and torch",
    ),
    ({"grads": None}, DtypeError, "grads is NoneType; it must be a torch.Tensor"),
    ({"steps": [1, 2]}, DtypeError, "steps is list; it must be a torch.Tensor"),
    ({"steps": STEPS.int()}, DtypeError, "steps has dtype torch.int32; it must be torch.int64"),
    ({"steps": STEPS[:1]}, ArgumentError, "steps has 1 elements; there are 2 clients"),
    ({"lr": -0.1}, ArgumentError, "lr is -0.1; it must be 0 or more"),
    ({"lr": math.nan}, ArgumentError, "lr is nan; it must be 0 or more"),
    (
        {"lr": math.inf},
        ArgumentError,
        r"lr or weight_decay of clients \[0, 1\] is negative, NaN, inf",
    ),
    ({"lr": "1"}, DtypeError, r"lr is str; it must be a number or a tensor \(clients,\)"),
    ({"lr": torch.ones(3)}, ArgumentError, "lr has 3 elements; there are 2 clients"),
    ({"lr": STEPS}, DtypeError, "lr has dtype torch.int64; it must be torch.float32"),
    ({"lr": torch.tensor([1.0, -1.0])}, ArgumentError, r"of clients \[1\] is negative.*0 or more"),
    ({"lr": torch.tensor([math.nan, 1.0])}, ArgumentError, r"of clients \[0\] is .*NaN"),
    ({"weight_decay": -1}, ArgumentError, "weight_decay is -1; it must be 0 or more"),
    ({"weight_decay": False}, DtypeError, "weight_decay is bool; it must be a number or a tensor"),
    ({"weight_decay": torch.tensor([0.1, -0.1])}, ArgumentError, r"of clients \[1\] is negative"),
]
OF_ADAMW: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"exp_avg": P[:, :2]}, ArgumentError, r"exp_avg has shape \(2, 2\).* must have \(2, 3\)"),
    ({"exp_avg_sq": 0.0}, DtypeError, "exp_avg_sq is float; it must be a torch.Tensor"),
    ({"betas": 0.9}, DtypeError, "betas is 0.9; it must be a pair"),
    ({"betas": (0.9,)}, DtypeError, r"betas is \(0.9,\); it must be a pair"),
    ({"betas": (1.0, 0.9)}, ArgumentError, r"betas\[0\] is 1.0; it must be in \[0, 1\)"),
    ({"betas": (0.9, -0.1)}, ArgumentError, r"betas\[1\] is -0.1; it must be in \[0, 1\)"),
    ({"betas": (0.9, "x")}, DtypeError, r"betas\[1\] is str; it must be a number"),
    ({"eps": -1e-8}, ArgumentError, r"eps is -1e-08; it must be in \[0, inf\)"),
    ({"eps": None}, DtypeError, "eps is NoneType; it must be a number"),
]
OF_SGD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"momentum": 1.5}, ArgumentError, r"momentum is 1.5; it must be in \[0, 1\]"),
    ({"momentum": "m"}, DtypeError, "momentum is str; it must be a number"),
    ({"momentum": 0}, ArgumentError, "momentum is 0 and momentum_buffer is given; the buffer goes"),
    (
        {"momentum_buffer": None},
        ArgumentError,
        "momentum is 0.9 and momentum_buffer is None; the b",
    ),
    ({"momentum_buffer": P[:1]}, ArgumentError, r"momentum_buffer has shape \(1, 3\)"),
    ({"dampening": -1}, ArgumentError, r"dampening is -1; it must be in \[0, 1\]"),
    ({"nesterov": 1}, DtypeError, "nesterov is int; it must be a bool"),
    (
        {"nesterov": True, "dampening": 0.5},
        ArgumentError,
        "nesterov is True; it needs momentum, and",
    ),
    (
        {"nesterov": True, "momentum": 0, "momentum_buffer": None},
        ArgumentError,
        "nesterov is True; it needs momentum, and dampening 0",
    ),
]


@pytest.mark.parametrize(
    ("op", "change", "error", "words"),
    [
        *(("bank_adamw_", *case) for case in (*COMMON, *OF_ADAMW)),
        *(("bank_sgd_", *case) for case in (*COMMON, *OF_SGD)),
    ],
)
def test_wrong_arguments_are_refused_by_name_and_nothing_is_changed(
    op: str, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    given: dict[str, Any] = {"params": P.clone(), "grads": P.clone(), "steps": STEPS, "lr": 0.1}
    if op == "bank_adamw_":
        given |= {"exp_avg": P.clone(), "exp_avg_sq": P.clone()}
    else:
        given |= {"momentum_buffer": P.clone(), "momentum": 0.9}
    given |= change
    tensors = [t for t in given.values() if isinstance(t, torch.Tensor)]
    before = [(memory_of(t.detach()), t._version) for t in tensors]
    with pytest.raises(error, match=f"^{op}: .*{words}"):
        (bank_adamw_ if op == "bank_adamw_" else bank_sgd_)(**given)
    for t, (memory, version) in zip(tensors, before, strict=True):
        assert torch.equal(memory_of(t.detach()), memory)
        assert t._version == version
