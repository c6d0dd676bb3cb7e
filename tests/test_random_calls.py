"""Every backend of every op against Python integers and NumPy, on random calls.

Equal bit for bit; sums that kernels may add in any order lie between their bounds.
"""

from __future__ import annotations

import pytest
import torch

from case import FROM_NOTHING, moved, prepared
from contract import fits, outcome
from draws import draws
from lora_draws import LORA_DRAWERS
from lora_oracles import Between
from pyfed.op import OPS
from runs import OP_RUNS, Run

EVERY_RUN = pytest.mark.parametrize(("op", "run"), OP_RUNS)


def check_draws(op: str, run: Run, count: int) -> None:
    for number, draw in enumerate(draws(op, count)):
        args = [moved(a, run.device) for a in draw.args]
        kwargs = {name: moved(value, run.device) for name, value in draw.kwargs.items()}
        if op in FROM_NOTHING:
            kwargs["device"] = run.device
        with run.active():
            got = outcome(op, prepared(op, *args, **kwargs))
        for one, right in zip(got, draw.answers, strict=True):
            if isinstance(right, Between):
                wanted: Between | torch.Tensor = Between(
                    *(None if end is None else end.reshape(-1) for end in right)
                )
            else:
                wanted = torch.as_tensor(right, dtype=one.dtype).reshape(-1)
            assert fits(one.reshape(-1), wanted), f"call {number}: {draw.args} {draw.kwargs}"


@EVERY_RUN
def test_random_calls_equal_the_oracle(op: str, run: Run) -> None:
    if run.interpreted and op in (*LORA_DRAWERS, "sketch"):
        check_draws(op, run, 12)
    else:
        few = ("mask", "discrete", "quantize_encode", "quantize_mask", "decode_sum", "add_masks")
        quick = 100 if run.backend == "reference" else 200
        check_draws(op, run, (20 if op.startswith(few) else 50) if run.interpreted else quick)


@pytest.mark.slow
@EVERY_RUN
def test_ten_thousand_random_calls_equal_the_oracle(op: str, run: Run) -> None:
    if run.interpreted:
        # Interpreted: about a thousand times slower.
        check_draws(op, run, 60 if op.startswith("discrete") else 600)
    else:
        check_draws(op, run, 10_000)


def test_every_op_has_random_calls() -> None:
    assert all(len(draws(op, 20)) == 20 for op in OPS)
