"""Adapters of many clients in one pass: gradients, and clients that know nothing of each other."""

from __future__ import annotations

import pytest
import torch

import lora_oracles as oracles
from case import KEY
from contract import fits, same_bits
from lora_cases import DTYPES, owners
from lora_layer import CLIENTS, COUNTS, INS, NAMES, OUTS, RANK, dtypes, layer, of_client, trained
from pyfed.ops import counter_dropout, lora_linear
from pyfed.ops.lora_backward import bank_rows
from runs import Run, runs_of

LORA_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("lora_linear"))
KERNEL_RUNS = pytest.mark.parametrize(  # torch's products depend on where rows lie in memory
    ("op", "run"), [p for p in runs_of("lora_linear") if p.values[1].backend != "reference"]
)


@LORA_RUNS
def test_a_client_changes_no_bit_of_another(op: str, run: Run) -> None:
    """Neither its rows, nor its factors, scaling, stream and gradient: infinite ones, NaN."""
    for dtype in dtypes(run):
        given = layer(dtype, run.device)
        grad = torch.randn(sum(COUNTS), OUTS).to(dtype).to(run.device)
        with run.active():
            before = trained(given, grad)
        for number in (2,) if run.interpreted else (0, 2, 3):
            mine = given["client"] == number
            other = {n: t.clone() if isinstance(t, torch.Tensor) else t for n, t in given.items()}
            above = grad.clone()
            for name in ("x", "base_out"):
                other[name][mine] = torch.nan
            above[mine] = -torch.inf
            other["a"][number], other["b"][number] = torch.inf, -7.0
            other["scale"][number], other["stream"][number] = torch.nan, 77
            with run.active():
                after = trained(other, above)
            for client in range(CLIENTS):
                pairs = zip(*(of_client(r, client).values() for r in (before, after)), strict=True)
                assert client == number or all(same_bits(*pair) for pair in pairs), (dtype, client)
            assert not torch.isfinite(of_client(after, number)["out"]).any()


@KERNEL_RUNS
def test_a_client_alone_gives_the_bits_that_it_gives_beside_others(op: str, run: Run) -> None:
    for dtype in dtypes(run):
        given = layer(dtype, run.device)
        grad = torch.randn(sum(COUNTS), OUTS).to(dtype).to(run.device)
        with run.active():
            together = trained(given, grad)
        for number in (2,) if run.interpreted else (0, 2, 3):
            mine = given["client"] == number
            own = {**given, "client": None}
            for name in ("x", "base_out"):
                own[name] = given[name][mine]
            for name in ("a", "b", "scale", "stream"):
                own[name] = given[name][number : number + 1]
            with run.active():
                alone = of_alone(trained(own, grad[mine]))
            for name, right in of_client(together, number).items():
                assert same_bits(alone[name], right), (dtype, number, name)


def of_alone(results: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: t[0] if n in ("da", "db") else t for n, t in results.items()}


@KERNEL_RUNS
def test_the_order_of_the_clients_changes_no_bit(op: str, run: Run) -> None:
    given = layer(torch.float32, run.device)
    grad = torch.randn(sum(COUNTS), OUTS, device=run.device)
    order = torch.tensor([2, 3, 1, 0], device=run.device)
    rows = torch.cat([torch.nonzero(given["client"] == number).flatten() for number in order])
    moved = {**given, "client": owners(*(COUNTS[i] for i in order.tolist())).to(run.device)}
    for name in ("a", "b", "scale", "stream"):
        moved[name] = given[name][order]
    for name in ("x", "base_out"):
        moved[name] = given[name][rows]
    with run.active():
        before, after = trained(given, grad), trained(moved, grad[rows])
    for name in NAMES:
        places = order if name in ("da", "db") else rows
        assert same_bits(before[name][places], after[name]), name


@LORA_RUNS
def test_a_client_without_rows_has_gradients_of_zero(op: str, run: Run) -> None:
    given = layer(torch.float32, run.device)
    with run.active():
        found = trained(given, torch.ones(sum(COUNTS), OUTS, device=run.device))
    for name in ("da", "db"):
        assert same_bits(found[name][1], torch.zeros_like(found[name][1]))
        assert (found[name][[0, 2, 3]] != 0).any(-1).any(-1).all()


@LORA_RUNS
def test_dropout_inside_is_counter_dropout_before(op: str, run: Run) -> None:
    """To the last bit: both make the same rounded numbers, and the same gradient of them."""
    for dtype in dtypes(run):
        given = layer(dtype, run.device)
        grad = torch.randn(sum(COUNTS), OUTS).to(dtype).to(run.device)
        rest = given["client"], CLIENTS, given["stream"]
        with run.active():
            inside = trained(given, grad)
            dropped = counter_dropout(given["x"], 0.3, KEY, *rest)
            outside = trained({**given, "x": dropped, "dropout": 0.0, "key": None}, grad)
        for name in ("out", "dbase", "da", "db"):
            assert same_bits(inside[name], outside[name]), (dtype, name)
        if dtype == torch.float32:  # else dx is rounded twice outside
            with run.active():
                dx = counter_dropout(outside["dx"], 0.3, KEY, *rest)
            assert torch.equal(dx != 0, inside["dx"] != 0)
            torch.testing.assert_close(dx, inside["dx"], rtol=1e-6, atol=1e-6)


@LORA_RUNS
def test_banks_inside_an_arena_give_the_bits_of_copies(op: str, run: Run) -> None:
    """Clients lie apart by more than a matrix, as views of all of their parameters do."""
    given = layer(torch.float32, run.device)
    room = RANK * INS + OUTS * RANK + 48
    arena = torch.full((CLIENTS, room), torch.nan, device=run.device)
    a = arena[:, 16 : 16 + RANK * INS].view(CLIENTS, RANK, INS)
    b = arena[:, -OUTS * RANK :].view(CLIENTS, OUTS, RANK)
    a.copy_(given["a"])
    b.copy_(given["b"])
    for bank in (a, b):
        assert bank_rows(bank)[0] is bank and bank_rows(bank)[1] == room
    grad = torch.randn(sum(COUNTS), OUTS, device=run.device)
    with run.active():
        apart, copied = trained({**given, "a": a, "b": b}, grad), trained(given, grad)
    assert all(same_bits(apart[name], copied[name]) for name in NAMES)


@LORA_RUNS
def test_a_scaling_of_zero_gives_the_bits_of_the_base(op: str, run: Run) -> None:
    for dtype in dtypes(run):
        given = layer(dtype, run.device)
        with run.active():
            out = lora_linear(**{**given, "scale": 0.0})
            fresh = lora_linear(**{**given, "b": torch.zeros_like(given["b"])})
        assert torch.equal(out, given["base_out"])
        assert torch.equal(fresh, given["base_out"])


@LORA_RUNS
def test_rows_may_be_split_equally_in_any_shape(op: str, run: Run) -> None:
    given = layer(torch.float32, run.device)
    x, base = torch.randn(2, 6, INS), torch.randn(2, 6, OUTS)
    rest = {n: given[n] for n in ("a", "b", "scale", "dropout", "key", "stream")}
    with run.active():
        flat = lora_linear(
            x.view(12, INS).to(run.device), base.view(12, OUTS).to(run.device), **rest
        )
        got = lora_linear(x.to(run.device), base.to(run.device), **rest)
        named = lora_linear(
            x.to(run.device), base.to(run.device), **rest, client=owners(3, 3, 3, 3).to(run.device)
        )
    assert got.shape == (2, 6, OUTS)
    assert same_bits(got.view(12, OUTS), flat)
    assert same_bits(got, named)


def test_float64_equals_the_formula() -> None:
    given = layer(torch.float64) | {"dropout": 0.0, "key": None}
    out = lora_linear(**given)
    for number in range(CLIENTS):
        mine = given["client"] == number
        inner = given["x"][mine] @ given["a"][number].T
        wanted = given["base_out"][mine] + given["scale"][number] * (inner @ given["b"][number].T)
        torch.testing.assert_close(out[mine], wanted, rtol=1e-13, atol=1e-13)


@LORA_RUNS
def test_half_inputs_are_summed_in_float32(op: str, run: Run) -> None:
    """Many large and small products: a sum in the dtype of the inputs would lose the small ones."""
    ins = 2049
    for dtype in DTYPES[1:]:
        x = torch.full((2, ins), 2**-7, device=run.device).to(dtype)
        x[:, 0] = 1024
        a, b = torch.ones(1, 1, ins, device=run.device), torch.ones(1, 1, 1, device=run.device)
        base = torch.full((2, 1), -1024.0, device=run.device).to(dtype)
        with run.active():
            got = lora_linear(x, base, a, b, 1.0)
        right = oracles.lora_linear(*(t.cpu() for t in (x, base, a, b)), 1.0)
        assert fits(got, right[0])
        assert got.tolist() == [[16.0], [16.0]]
