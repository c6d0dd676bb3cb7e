"""A layer with adapters of ragged clients, and what a step of it gives; for the tests of lora."""

from __future__ import annotations

from typing import Any

import torch

from case import KEY
from lora_cases import DTYPES, owners
from pyfed.ops import lora_linear
from runs import Run

COUNTS = (5, 0, 17, 1)
CLIENTS = len(COUNTS)
INS, OUTS, RANK = 37, 21, 4
NAMES = ("out", "dx", "dbase", "da", "db")


def dtypes(run: Run) -> tuple[torch.dtype, ...]:
    """One of them where Triton is interpreted."""
    return DTYPES[1:2] if run.interpreted else DTYPES


def layer(dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
    """The arguments of a call with ragged clients."""
    rows = sum(COUNTS)
    made = torch.randn(rows, INS), torch.randn(rows, OUTS)
    x, base_out = (t.to(dtype).to(device) for t in made)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    a = torch.randn(CLIENTS, RANK, INS, dtype=wide).to(device)
    b = torch.randn(CLIENTS, OUTS, RANK, dtype=wide).to(device)
    scale = torch.tensor([0.5, 2.0, -1.0, 0.25], device=device)
    how = {"client": owners(*COUNTS).to(device), "dropout": 0.3, "key": KEY}
    streams = torch.tensor([3, 9, 2**40, 0], device=device)
    return {"x": x, "base_out": base_out, "a": a, "b": b, "scale": scale, **how, "stream": streams}


def trained(given: dict[str, Any], grad: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and gradients of a call."""
    leaves = {n: given[n].detach().requires_grad_() for n in ("x", "base_out", "a", "b")}
    out = lora_linear(**{**given, **leaves})
    out.backward(grad)
    found = [out.detach(), *(leaf.grad for leaf in leaves.values())]
    return dict(zip(NAMES, found, strict=True))  # type: ignore[arg-type]


def of_client(results: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """What a client has of them: its rows, and its factors' gradients."""
    mine = owners(*COUNTS) == number
    return {n: t[number] if n in ("da", "db") else t.cpu()[mine] for n, t in results.items()}
