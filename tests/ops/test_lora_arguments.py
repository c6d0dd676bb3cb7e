"""What lora_linear refuses, and what it says then."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from case import KEY
from contract import memory_of
from lora_cases import owners
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import lora_linear

X, OUT = torch.ones(4, 3), torch.zeros(4, 2)
A, B = torch.ones(2, 5, 3), torch.ones(2, 2, 5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": [1.0]}, DtypeError, "x is list; it must be a torch.Tensor"),
        ({"x": X.long()}, DtypeError, "x has dtype torch.int64; it must be torch.float32 or"),
        ({"x": X[0, 0]}, ArgumentError, r"x has shape \(\); it must be \(…, 3\)"),
        ({"x": X[:, :2]}, ArgumentError, r"x has shape \(4, 2\); it must be \(…, 3\)"),
        ({"x": X.half()}, DtypeError, "base_out has dtype torch.float32; it must be torch.float16"),
        ({"base_out": None}, DtypeError, "base_out is NoneType; it must be a torch.Tensor"),
        ({"base_out": OUT[:3]}, ArgumentError, r"base_out has shape \(3, 2\); it must be \(4, 2\)"),
        ({"base_out": OUT[0]}, ArgumentError, r"base_out has shape \(2,\); it must be \(4, 2\)"),
        ({"a": A.half()}, DtypeError, "a has dtype torch.float16; it must be torch.float32"),
        ({"a": A.double()}, DtypeError, "a has dtype torch.float64; it must be torch.float32"),
        ({"a": A[0]}, ArgumentError, r"a has 2 dimensions, shape \(5, 3\); it must have 3"),
        ({"b": B.bfloat16()}, DtypeError, "b has dtype torch.bfloat16; it must be torch.float32"),
        ({"b": B[0]}, ArgumentError, r"b has 2 dimensions, shape \(2, 5\); it must have 3"),
        ({"b": B[:1]}, ArgumentError, r"a has shape \(2, 5, 3\) and b \(1, 2, 5\); they must be"),
        ({"b": B.mT}, ArgumentError, r"they must be \(clients, r, in\) and \(clients, out, r\)"),
        ({"scale": "1"}, DtypeError, "scale is str; it must be a float or a tensor"),
        ({"scale": True}, DtypeError, "scale is bool; it must be a float or a tensor"),
        ({"scale": torch.ones(3)}, ArgumentError, "scale has 3 elements; there are 2 clients"),
        ({"scale": torch.ones(2).half()}, DtypeError, "scale has dtype torch.float16; it must be"),
        ({"scale": torch.tensor(1.0)}, ArgumentError, "scale has 0 dimensions.*it must have 1"),
        (
            {"scale": torch.ones(2).requires_grad_()},
            ArgumentError,
            "scale requires grad.*detach it",
        ),
        ({"client": [0, 0, 1, 1]}, DtypeError, "client is list; it must be a torch.Tensor"),
        ({"client": X[:, 0]}, DtypeError, "client has dtype torch.float32; it must be torch.int64"),
        ({"client": owners(3, 2)}, ArgumentError, "client has 5 elements; there are 4 rows"),
        ({"client": owners(2, 1, 1)}, ArgumentError, r"client holds numbers outside \[0, 2\)"),
        ({"client": owners(2, 2) - 1}, ArgumentError, r"client holds numbers outside \[0, 2\)"),
        (
            {"client": owners(2, 2).flip(0)},
            ArgumentError,
            "or not in ascending order; each of the 4",
        ),
        ({"x": X[:3], "base_out": OUT[:3]}, ArgumentError, "3 rows and 2 clients; .*split equally"),
        ({"dropout": 0.5}, ArgumentError, "key is None; dropout 0.5 needs one"),
        ({"dropout": 0.5, "key": "k"}, DtypeError, "key is str; it must be a pyfed.Key"),
        ({"dropout": 1.0, "key": KEY}, ArgumentError, r"dropout is 1.0; it must be in \[0, 1\)"),
        ({"dropout": -0.5, "key": KEY}, ArgumentError, r"dropout is -0.5; it must be in \[0, 1\)"),
        ({"dropout": math.nan}, ArgumentError, r"dropout is nan; it must be in \[0, 1\)"),
        ({"dropout": None}, DtypeError, "dropout is NoneType; it must be a float"),
        ({"stream": -1}, ArgumentError, r"stream is -1; it must be in \[0, 4294967296\)"),
        ({"stream": 0.5}, DtypeError, "stream is float; it must be an int"),
        ({"stream": owners(3)}, ArgumentError, "stream has 3 elements; there are 2 clients"),
        ({"stream": X[0]}, DtypeError, "stream has dtype torch.float32; it must be torch.int64"),
    ],
)
def test_wrong_arguments_are_refused_by_name_and_nothing_is_changed(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    given: dict[str, Any] = {"x": X, "base_out": OUT, "a": A, "b": B, "scale": 0.5, **change}
    tensors = [t for t in given.values() if isinstance(t, torch.Tensor)]
    before = [memory_of(t.detach()) for t in tensors]
    with pytest.raises(error, match=f"^lora_linear: .*{words}"):
        lora_linear(**given)
    assert all(map(torch.equal, before, (memory_of(t.detach()) for t in tensors)))


def test_a_key_without_dropout_is_no_mistake() -> None:
    """So that one call serves training and evaluation."""
    plain = lora_linear(X, OUT, A, B, 0.5)
    assert torch.equal(lora_linear(X, OUT, A, B, 0.5, dropout=0, key=KEY), plain)
