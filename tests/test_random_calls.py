"""Every backend of every op against Python integers, on random calls."""

from __future__ import annotations

import pytest
import torch

import pyfed
from draws import draws
from pyfed.op import OPS
from runs import OP_RUNS, Run

EVERY_RUN = pytest.mark.parametrize(("op", "run"), OP_RUNS)


def check_draws(op: str, run: Run, count: int) -> None:
    function = getattr(pyfed.ops, op)
    for number, draw in enumerate(draws(op, count)):
        args = [a.to(run.device) if isinstance(a, torch.Tensor) else a for a in draw.args]
        kwargs = dict(draw.kwargs)
        if op.startswith("random_"):
            kwargs["device"] = run.device
        with run.active():
            got = function(*args, **kwargs)
        wanted = torch.tensor(draw.wanted, dtype=got.dtype)
        same = torch.equal(got.cpu().reshape(-1).view(torch.int32), wanted.view(torch.int32))
        assert same, f"call {number}: {args} {kwargs}"


@EVERY_RUN
def test_random_calls_equal_the_integer_oracle(op: str, run: Run) -> None:
    check_draws(op, run, 200)


@pytest.mark.slow
@EVERY_RUN
def test_ten_thousand_random_calls_equal_the_integer_oracle(op: str, run: Run) -> None:
    if run.interpreted:
        check_draws(op, run, 600)  # interpreted: about a thousand times slower
    else:
        check_draws(op, run, 10_000)


def test_every_op_has_random_calls() -> None:
    assert all(len(draws(op, 20)) == 20 for op in OPS)
