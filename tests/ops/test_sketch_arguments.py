"""What sketches refuse, by name and with what it must be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from case import KEY
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import sketch, sketch_block, sketch_seed

X = torch.ones(4, 3)
BACK: dict[str, Any] = {"transpose": True, "rows": 5}
GRID: dict[str, Any] = {"noise": "discrete", "noise_std": 1.0, "grid": 0.5}


def starts(*places: int) -> torch.Tensor:
    return torch.tensor(places)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": [1.0]}, DtypeError, "x is list; it must be a torch.Tensor"),
        ({"x": X.double()}, DtypeError, "x has dtype torch.float64; it must be torch.float32"),
        ({"x": X.half()}, DtypeError, "x has dtype torch.float16; it must be torch.float32"),
        ({"x": X[0]}, ArgumentError, r"x has shape \(3,\); it must be \(samples, features\)"),
        ({"x": X[None]}, ArgumentError, r"x has shape \(1, 4, 3\); it must be \(samples, fe"),
        ({"x": X[None], **BACK}, ArgumentError, r"x has shape \(1, 4, 3\); it must be \(rows of"),
        ({"x": X.to_sparse()}, ArgumentError, "x has layout torch.sparse_coo; it must be dense"),
        ({"x": X * math.nan}, ArgumentError, r"in x 12 of 12 elements are NaN or .* \(0, 0\)"),
        ({"x": X / 0, **BACK}, ArgumentError, "in x 12 of 12 elements are NaN or infinite"),
        ({"rows": 0}, ArgumentError, r"rows is 0; it must be in \[1, "),
        ({"rows": -3}, ArgumentError, r"rows is -3; it must be in \[1, "),
        ({"rows": 2**31 + 1}, ArgumentError, "rows is 2147483649; it must be"),
        ({"rows": 2.0}, DtypeError, "rows is float; it must be an int"),
        ({"rows": True}, DtypeError, "rows is bool; it must be an int"),
        ({**BACK, "rows": -1}, ArgumentError, r"rows is -1; it must be in \[0, "),
        ({**BACK, "rows": 2**36 + 1}, ArgumentError, "rows is 68719476737; it must be"),
        ({**BACK, "x": X[:0]}, ArgumentError, r"x.shape\[-2\] is 0; it must be in \[1, "),
        ({"key": bytes(32)}, DtypeError, "key is bytes; it must be a pyfed.Key"),
        ({"key": True}, DtypeError, "key is bool; it must be a pyfed.Key"),
        ({"key": -1}, ArgumentError, r"key is -1; as a seed it must be in \[0, 2\^64\)"),
        ({"key": 2**64}, ArgumentError, "key is 18446744073709551616; as a seed"),
        ({"key": 5, "noise_std": 1.0}, ArgumentError, "key is an int, .*; noise needs a pyfed.Key"),
        ({"key": 5, **GRID}, ArgumentError, "key is an int, .*; noise needs a pyfed.Key"),
        ({"key": 5, "public": False}, ArgumentError, "a secret matrix needs a pyfed.Key"),
        ({"public": 1}, DtypeError, "public is int; it must be a bool"),
        ({"transpose": 1}, DtypeError, "transpose is int; it must be a bool"),
        ({"kind": "sparse"}, ArgumentError, "kind is 'sparse'; it must be one of rademacher, gau"),
        ({"kind": 1}, DtypeError, "kind is int; it must be a str"),
        ({"noise_std": -1.0}, ArgumentError, r"noise_std is -1.0; it must be 0 or in"),
        ({"noise_std": math.nan}, ArgumentError, "noise_std is nan; it must be 0 or in"),
        ({"noise_std": math.inf}, ArgumentError, "noise_std is inf; it must be 0 or in"),
        ({"noise_std": 2.0**-101}, ArgumentError, "noise_std is .*; it must be 0 or in"),
        ({"noise_std": "1"}, DtypeError, "noise_std is str; it must be a float"),
        ({"noise_std": True}, DtypeError, "noise_std is bool; it must be a float"),
        ({**BACK, "noise_std": 1.0}, ArgumentError, "noise_std is 1.0; a transposed sketch has no"),
        ({**BACK, **GRID}, ArgumentError, "noise_std is 1.0; a transposed sketch has no"),
        ({"noise": None}, DtypeError, "noise is NoneType; it must be a str"),
        ({"noise": np.ones(2)}, DtypeError, "noise is ndarray; it must be a str"),
        ({"noise": "laplace"}, ArgumentError, "noise is 'laplace'; it must be 'gaussian' or 'disc"),
        ({"grid": 1.0}, ArgumentError, "grid is 1.0; noise 'gaussian' has none"),
        ({**GRID, "grid": None}, DtypeError, "grid is NoneType; discrete noise needs one"),
        ({**GRID, "grid": 0.3}, ArgumentError, "grid is 0.3; it must be a power of two"),
        ({**GRID, "grid": 0.0}, ArgumentError, "grid is 0.0; it must be a power of two"),
        ({**GRID, "grid": -0.5}, ArgumentError, "grid is -0.5; it must be a power of two"),
        ({**GRID, "grid": 2.0**101}, ArgumentError, "grid is .*; it must be a power of two"),
        ({**GRID, "noise_std": 0.0}, ArgumentError, "noise_std is 0.0; discrete noise on a grid"),
        ({**GRID, "noise_std": 2.0**20}, ArgumentError, "discrete noise .* at most 524288.0"),
        ({**GRID, "x": X.clone().requires_grad_()}, ArgumentError, "x requires grad.*x.detach"),
        ({"stream": -1}, ArgumentError, r"stream is -1; it must be in \[0, "),
        ({"stream": 2**32}, ArgumentError, r"stream is 4294967296; it must be in \[0, "),
        ({"stream": 0.0}, DtypeError, "stream is float; it must be an int"),
        (
            {"stream": 2**32 - 1, "starts": starts(0, 1, 4)},
            *(ArgumentError, "stream is 4294967295; with 2 clients it must be at most 4294967294"),
        ),
        ({"starts": [0, 4]}, DtypeError, "starts is list; it must be a torch.Tensor"),
        ({"starts": starts(0, 4).int()}, DtypeError, "starts has dtype torch.int32; it must be"),
        ({"starts": starts(0, 4)[None]}, ArgumentError, "starts has 2 dimensions.*must have 1"),
        ({"starts": starts(0)}, ArgumentError, "starts has 1 elements; it must have one for each"),
        ({"starts": starts(0, 3)}, ArgumentError, r"starts is \[0, 3\]; .* ascending from 0 to 4"),
        ({"starts": starts(0, 5)}, ArgumentError, r"starts is \[0, 5\]; .* ascending from 0 to 4"),
        ({"starts": starts(1, 4)}, ArgumentError, r"starts is \[1, 4\]; .* ascending from 0 to 4"),
        ({"starts": starts(0, 3, 2, 4)}, ArgumentError, "it must be ascending from 0 to 4"),
        (
            {"starts": starts(0, 5), **BACK},
            ArgumentError,
            r"x has shape \(4, 3\); .*\(clients, row",
        ),
        (
            {"x": X.expand(3, 4, 3), "starts": starts(0, 2, 5), **BACK},
            *(ArgumentError, "x has 3 clients; starts has 2"),
        ),
        (
            {"x": X.expand(2, 4, 3), "starts": starts(0, 2, 4), **BACK},
            *(ArgumentError, r"starts is \[0, 2, 4\]; it must be ascending from 0 to 5"),
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(change: Any, error: Any, words: str) -> None:
    given = {"x": X, "rows": 2, "key": KEY, **change}
    with pytest.raises(error, match=f"^sketch: .*{words}"):
        sketch(**given)
    assert sketch(X, 2, KEY).shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"rows": 3}, DtypeError, r"rows is 3; it must be a pair \(first, count\)"),
        ({"rows": (0,)}, DtypeError, r"rows is \(0,\); it must be a pair"),
        ({"rows": (0, 1.0)}, DtypeError, r"rows\[1\] is float; it must be an int"),
        ({"rows": (-1, 2)}, ArgumentError, r"rows\[0\] is -1; it must be in \[0, "),
        ({"columns": (0, -2)}, ArgumentError, r"columns\[1\] is -2; it must be in \[0, "),
        ({"rows": (3, 3)}, ArgumentError, "rows ends at 6; G has 5 in that direction"),
        ({"columns": (9, 1)}, ArgumentError, "columns ends at 10; G has 9 in that direction"),
        ({"key": "secret"}, DtypeError, "key is str; it must be a pyfed.Key"),
        ({"key": 1, "public": False}, ArgumentError, "a secret matrix needs a pyfed.Key"),
        ({"kind": "normal"}, ArgumentError, "kind is 'normal'; it must be one of"),
        ({"shape": 5}, DtypeError, r"shape is 5; it must be a pair \(rows, columns\)"),
        ({"shape": (0, 9)}, ArgumentError, r"shape\[0\] is 0; it must be in \[1, "),
        ({"shape": (5, 2**36 + 1)}, ArgumentError, r"shape\[1\] is 68719476737; it must be"),
        ({"stream": 2**32}, ArgumentError, "stream is 4294967296; it must be"),
        ({"public": None}, DtypeError, "public is NoneType; it must be a bool"),
        ({"device": "nowhere"}, ArgumentError, "device is 'nowhere'"),
    ],
)
def test_wrong_blocks_are_refused_by_name(change: Any, error: Any, words: str) -> None:
    given = {"rows": (0, 2), "columns": (0, 3), "key": KEY, "kind": "gaussian", "shape": (5, 9)}
    with pytest.raises(error, match=f"^sketch_block: .*{words}"):
        sketch_block(**{**given, **change})


def test_a_seed_comes_from_a_key_alone() -> None:
    with pytest.raises(DtypeError, match=r"sketch_seed: key is int; it must be a pyfed\.Key"):
        sketch_seed(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("transpose", [False, True])
def test_a_gradient_that_is_not_finite_is_named(transpose: bool) -> None:
    x = X.clone().requires_grad_()
    above = torch.ones(2, 3)
    above[1, 2] = math.nan
    words = r"^sketch: in the gradient of the result 1 of 6 .* nan at index \(1, 2\)"
    with pytest.raises(ArgumentError, match=words):
        sketch(x, 2, 5, transpose=transpose).backward(above)
    assert x.grad is None
    with pytest.raises(ArgumentError, match=r"^sketch: in x 1 of 6"):
        sketch(above, 2, 5, transpose=transpose)


def test_no_noise_and_no_samples_are_no_error() -> None:
    assert sketch(X, 2, 5, noise_std=0).shape == (2, 3)
    assert torch.equal(sketch(X[:0], 2, 5), torch.zeros(2, 3))
    assert sketch(X, 0, 5, transpose=True).shape == (0, 3)
    assert torch.equal(sketch(X[:0], 2, 5, starts=starts(0, 0, 0)), torch.zeros(2, 2, 3))
