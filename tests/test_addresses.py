"""The fast look at thousands of tensors: it tells what Python would, or that it cannot tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import pyfed.ops
from pyfed import native
from pyfed.errors import ArgumentError, DtypeError

pytestmark = pytest.mark.skipif(bool(native.MISSING), reason=native.MISSING)


class Marked(torch.Tensor):
    """A subclass, which may mean anything."""


LIKE: dict[str, Callable[[], torch.Tensor]] = {
    "plain": lambda: torch.randn(3, 4),
    "inside another": lambda: torch.randn(5, 4)[1:4],
    "parameter": lambda: torch.nn.Parameter(torch.randn(3, 4)),
    "result that requires grad": lambda: torch.nn.Parameter(torch.randn(3, 4)) * 2,
}
UNLIKE: dict[str, Callable[[], object]] = {
    "transposed": lambda: torch.randn(4, 3).t(),
    "with gaps": lambda: torch.randn(3, 8)[:, ::2],
    "expanded": lambda: torch.randn(3, 1).expand(3, 4),
    "shape": lambda: torch.randn(4, 3),
    "dimensions": lambda: torch.randn(3, 4, 1),
    "dtype": lambda: torch.randn(3, 4).to(torch.bfloat16),
    "integers": lambda: torch.zeros(3, 4, dtype=torch.int32),
    "device": lambda: torch.randn(3, 4, device="meta"),
    "sparse": lambda: torch.randn(3, 4).to_sparse(),
    "subclass": lambda: torch.randn(3, 4).as_subclass(Marked),
    "array": lambda: torch.randn(3, 4).numpy(),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("kind", LIKE)
def test_addresses_are_those_of_the_tensors(kind: str) -> None:
    tensors = [torch.randn(3, 4), torch.zeros(0, 2), torch.randn(()), torch.randn(1, 7)[:, :5]]
    many = [*tensors, LIKE[kind](), *(torch.empty_like(t) for t in tensors[1:])]
    found = native.addresses(many, 4)
    if native._EXCHANGE is not None:
        assert found is not None
        assert found.tolist() == [t.data_ptr() for t in many]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", UNLIKE)
def test_there_are_none_where_one_is_unlike(kind: str, place: int) -> None:
    many: list[object] = [torch.randn(3, 4) for _ in range(3)]
    many[place] = UNLIKE[kind]()
    assert native.addresses(many, 1) is None  # type: ignore[arg-type]


def test_there_are_none_of_lists_that_make_no_sense() -> None:
    assert native.addresses([torch.ones(1)], 0) is None
    assert native.addresses([torch.ones(1)], -1) is None


@pytest.mark.parametrize("kind", UNLIKE)
def test_means_are_refused_alike_with_and_without(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = UNLIKE[kind]()
    lists = [[torch.ones(2), torch.ones(3, 4)], [torch.ones(2), other]]

    def told() -> str | list[torch.Tensor]:
        try:
            return pyfed.ops.weighted_mean(lists)  # type: ignore[arg-type, return-value]
        except (ArgumentError, DtypeError) as error:
            return str(error)

    fast = told()
    monkeypatch.setattr(native, "_EXCHANGE", None)
    slow = told()
    if isinstance(fast, str):
        assert fast == slow
        assert "weighted_mean: tensors[1][1]" in fast
    else:
        assert kind in ("transposed", "with gaps", "expanded", "subclass")
        assert all(torch.equal(one, two) for one, two in zip(fast, slow, strict=True))


def test_means_of_views_and_parameters_are_those_of_copies() -> None:
    with torch.no_grad():
        lists = [[make()] for make in LIKE.values()]
        copies = [[t.detach().clone() for t in own] for own in lists]
        got, wanted = (pyfed.ops.weighted_mean(given, [1, 2, 3, 4]) for given in (lists, copies))
    assert torch.equal(got[0], wanted[0])


def test_means_see_a_negated_view_as_its_numbers() -> None:
    numbers = torch.randn(3, 4)
    (got,) = pyfed.ops.weighted_mean([[torch._neg_view(numbers)], [torch.zeros(3, 4)]])
    assert torch.equal(got, numbers * -0.5)
