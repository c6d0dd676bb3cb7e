"""Ops that give several results, a list or none, and arguments that are lists or missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pyfed import use_backend
from pyfed.checks import expect_one_device
from pyfed.errors import ArgumentError
from pyfed.op import OPS, Op

ONE = torch.ones(1)


@pytest.fixture(scope="module")
def several() -> Iterator[Op]:
    """An op with two results, of which a gradient needs the second, and one that only writes."""
    op = Op(
        "several_for_tests(Tensor x, float n) -> (Tensor, Tensor)",
        fake=lambda x, n: (x.new_empty(x.shape), x.new_empty(x.shape)),
        reference=lambda x, n: (x * n, x * x),
    )

    def backward(ctx: Any, grad: torch.Tensor, unused: torch.Tensor) -> tuple[Any, None]:
        return grad * ctx.n + unused * 0, None

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.n = inputs[1]
        ctx.mark_non_differentiable(output[1])

    op.differentiable(backward, keep)
    yield op
    del OPS[op.name]


def test_a_public_function_gives_the_first_of_several_results(several: Op) -> None:
    @several.public
    def times(x: torch.Tensor, n: float) -> tuple[Any, ...]:
        """Multiply."""
        return x, n

    x = torch.tensor([2.0, 3.0], requires_grad=True)
    assert times(x.detach(), 4.0).tolist() == [8.0, 12.0]
    times(x, 4.0).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [4.0, 4.0]
    assert [t.requires_grad for t in several.torch_op(x, 4.0)] == [True, False]


def test_a_public_function_that_only_writes_gives_its_first_argument() -> None:
    def add(x: torch.Tensor, y: torch.Tensor | None) -> None:
        for t in (x, y):
            if t is not None:
                t.data.add_(1)

    op = Op(
        "quiet_for_tests_(Tensor(a!) x, Tensor(b!)? y) -> ()", fake=lambda x, y: None, reference=add
    )
    try:

        @op.public
        def quiet(x: torch.Tensor, y: torch.Tensor | None) -> tuple[Any, ...]:
            """Add 1 to both."""
            return x, y

        x, y = torch.zeros(2), torch.zeros(2)
        assert op.written == [0, 1]
        for other, versions in ((y, (1, 1)), (None, (2, 1))):
            assert quiet(x, other) is x
            assert (x._version, y._version) == versions  # None has no version
        assert (x.tolist(), y.tolist()) == ([2.0, 2.0], [1.0, 1.0])
    finally:
        del OPS[op.name]


def test_a_public_function_may_give_a_list() -> None:
    op = Op(
        "lists_for_tests(Tensor[] x, Tensor n) -> Tensor[]",
        fake=lambda x, n: [t.new_empty(t.shape) for t in x],
        reference=lambda x, n: [t + n for t in x],
    )
    try:

        @op.public
        def plus(x: list[torch.Tensor], n: torch.Tensor) -> tuple[Any, ...]:
            """Add n to each."""
            return x, n

        got = plus([ONE, ONE + 1], ONE)
        assert isinstance(got, list)
        assert [float(t) for t in got] == [2.0, 3.0]
        with use_backend("reference"):
            assert [float(t) for t in plus([], ONE)] == []
    finally:
        del OPS[op.name]


def test_tensors_in_lists_count_for_the_device() -> None:
    """A list on another device than the rest is told of, and names both devices.

    Of its tensors the first counts; the others are for the op to look at.
    """
    elsewhere = torch.ones(1, device="meta")
    with pytest.raises(ArgumentError, match="are on cpu, meta; they must be on one device"):
        expect_one_device("some_op", ([elsewhere, ONE], ONE, 3, None))
    assert expect_one_device("some_op", ([ONE], ONE, "text")).type == "cpu"
