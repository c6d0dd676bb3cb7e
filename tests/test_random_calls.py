"""Every backend of every op against Python integers and NumPy, on random calls."""

from __future__ import annotations

import pytest
import torch

import pyfed
from case import moved
from contract import same_bits
from draws import draws
from pyfed.op import OPS
from runs import OP_RUNS, Run

EVERY_RUN = pytest.mark.parametrize(("op", "run"), OP_RUNS)


def check_draws(op: str, run: Run, count: int) -> None:
    function = getattr(pyfed.ops, op)
    for number, draw in enumerate(draws(op, count)):
        args = [moved(a, run.device) for a in draw.args]
        kwargs = {name: moved(value, run.device) for name, value in draw.kwargs.items()}
        if op.startswith("random_"):
            kwargs["device"] = run.device
        with run.active():
            got = [function(*args, **kwargs), *(args[place] for place in OPS[op].written)]
        for one, right in zip(got, (draw.wanted, *draw.written), strict=True):
            wanted = torch.as_tensor(right, dtype=one.dtype)
            assert same_bits(one.reshape(-1), wanted), f"call {number}: {draw.args} {draw.kwargs}"


@EVERY_RUN
def test_random_calls_equal_the_integer_oracle(op: str, run: Run) -> None:
    few = run.interpreted and op.startswith("mask")
    check_draws(op, run, 20 if few else 200)


@pytest.mark.slow
@EVERY_RUN
def test_ten_thousand_random_calls_equal_the_integer_oracle(op: str, run: Run) -> None:
    if run.interpreted:
        check_draws(op, run, 600)  # interpreted: about a thousand times slower
    else:
        check_draws(op, run, 10_000)


def test_every_op_has_random_calls() -> None:
    assert all(len(draws(op, 20)) == 20 for op in OPS)
