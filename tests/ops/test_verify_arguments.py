"""What field_verify refuses, and how it says it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import SOLINAS31
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import field_verify

ONES = torch.ones(2, 3, dtype=torch.int32)
GOOD: dict[str, Any] = {
    "a": ONES,
    "b": ONES.t(),
    "product": torch.full((2, 2), 3, dtype=torch.int32),
    "field": SOLINAS31,
}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"a": [[1]]}, DtypeError, "a is list; it must be a torch.Tensor"),
        ({"b": ONES.t().long()}, DtypeError, "b has dtype torch.int64; it must be torch.int32"),
        ({"product": torch.ones(2, 2)}, DtypeError, "product has dtype torch.float32"),
        ({"a": ONES[0]}, ArgumentError, r"a has 1 dimensions, shape \(3,\); it must have 2"),
        ({"a": ONES.to_sparse()}, ArgumentError, "a has layout torch.sparse_coo"),
        ({"b": ONES}, ArgumentError, r"b is \(2, 3\); it must have 3 rows"),
        ({"product": ONES}, ArgumentError, r"product is \(2, 3\); it must be \(2, 2\)"),
        ({"product": ONES[:1, :2]}, ArgumentError, r"product is \(1, 2\); it must be \(2, 2\)"),
        ({"b": ONES.t().to("meta")}, ArgumentError, "b is on meta; it must be on cpu"),
        ({"field": 7}, DtypeError, "field is int; it must be a pyfed.Field"),
        ({"trials": 0}, ArgumentError, r"trials is 0; it must be in \[1, 4097\)"),
        ({"trials": 4097}, ArgumentError, r"trials is 4097; it must be in \[1, 4097\)"),
        ({"trials": 2.0}, DtypeError, "trials is float; it must be an int"),
        ({"trials": True}, DtypeError, "trials is bool; it must be an int"),
        ({"key": b"secret"}, DtypeError, "key is bytes; it must be a pyfed.Key"),
    ],
)
def test_bad_arguments_are_named(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    assert field_verify(**GOOD)
    with pytest.raises(error, match=f"^field_verify: {words}"):
        field_verify(**{**GOOD, **change})


def test_more_vectors_than_a_stream_holds_are_refused() -> None:
    wide = torch.empty(0, 1, dtype=torch.int32).expand(0, 2**24 + 1)
    with pytest.raises(ArgumentError, match=r"^field_verify: trials is 4096; it must be at most"):
        field_verify(torch.empty(0, 0, dtype=torch.int32), wide, wide, SOLINAS31, trials=4096)


@pytest.mark.parametrize("name", ["a", "b", "product"])
@pytest.mark.parametrize("value", [SOLINAS31.modulus, -1])
def test_elements_outside_the_field_are_named(name: str, value: int) -> None:
    changed = GOOD[name].clone()
    changed[1, 1] = value
    words = rf"^field_verify: in {name} 1 of \d elements are outside \[0, .* at index \(1, 1\)"
    with pytest.raises(ArgumentError, match=words):
        field_verify(**{**GOOD, name: changed})
