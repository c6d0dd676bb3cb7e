"""What masked_mean refuses, and what it says then."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import Indices, Rectangles, masked_mean


def test_tensors_of_clients_that_do_not_fit_their_masks_are_refused() -> None:
    """Their sum may fit: each is looked at."""
    wide = Rectangles.prefixes((4, 6), [(2, 3), (3, 2)])
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    with pytest.raises(
        ArgumentError, match=r"values\[0\] has shape \(3, 2\); its mask describes \(2, 3\)"
    ):
        masked_mean([b, a], wide)
    with pytest.raises(ArgumentError, match="values are 3 tensors; masks describe 2 clients"):
        masked_mean([a, b[:1], b[1:]], wide)
    lists = Indices((9,), [torch.tensor([1, 2]), torch.tensor([0])])
    with pytest.raises(
        ArgumentError, match=r"values\[0\] has shape \(1,\); its mask describes \(2,\)"
    ):
        masked_mean([torch.ones(1), torch.ones(2)], lists)
    bits = torch.tensor([[True, True, False], [True, False, False]])
    with pytest.raises(ArgumentError, match=r"values\[0\] has 1 elements; its mask keeps 2"):
        masked_mean([torch.ones(1), torch.ones(2)], bits, shape=(3,))
    with pytest.raises(ArgumentError, match="values has 4 elements; the masks keep 3"):
        masked_mean(torch.ones(4), bits, shape=(3,))
    with pytest.raises(ArgumentError, match=r"values has shape \(4,\); masks describe \(3,\)"):
        masked_mean(torch.ones(4), lists)


def test_wrong_indices_are_refused() -> None:
    for own in ([2, 1], [1, 1], [-1, 2], [3, 9]):
        places = [torch.tensor([0, 8]), torch.tensor(own)]
        text = r"the indices of client 1 must be strictly ascending and in \[0, 9\)"
        with pytest.raises(ArgumentError, match=text):
            masked_mean(torch.ones(4), Indices((3, 3), places))
    with pytest.raises(
        DtypeError, match=r"indices\[1\] has dtype torch.int32; it must be torch.int64"
    ):
        Indices((3,), [torch.tensor([1]), torch.tensor([1], dtype=torch.int32)])
    with pytest.raises(ArgumentError, match=r"boxes\[0\]\[1\] stop is 7; it must be in \[0, 7\)"):
        Rectangles.prefixes((4, 6), [(2, 7)])
    with pytest.raises(ArgumentError, match=r"boxes\[0\] has 3 dimensions; it must have at most 2"):
        Rectangles.prefixes((4, 6, 3), [(2, 3, 1)])


def test_rectangles_cut_tensors_of_their_shape_for_clients_that_there_are() -> None:
    widths = Rectangles.prefixes((4, 6), [(2, 3), (3, 2)])
    whole = torch.arange(24.0).view(4, 6)
    assert torch.equal(widths.cut(whole, 1), whole[:3, :2])
    for wrong in (whole[:3], whole[None], whole.T):
        with pytest.raises(ArgumentError, match=r"cut: tensor has shape .* must be \(4, 6\)"):
            widths.cut(wrong, 1)
    with pytest.raises(DtypeError, match="cut: tensor is list"):
        widths.cut([1.0], 1)  # type: ignore[arg-type]
    for client in (-1, 2):
        with pytest.raises(ArgumentError, match=rf"cut: client is {client}; .* \[0, 2\)"):
            widths.cut(whole, client)
        with pytest.raises(ArgumentError, match=rf"extents: client is {client}; .* \[0, 2\)"):
            widths.extents(client)
    with pytest.raises(DtypeError, match=r"prefixes: extents\[0\] is int; it must be a list"):
        Rectangles.prefixes((4, 4), [2, 3])  # type: ignore[list-item]
    with pytest.raises(DtypeError, match="prefixes: extents is int"):
        Rectangles.prefixes((4, 4), 2)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"boxes\[0\]\[0\] is Tensor; it must be a pair"):
        Rectangles((4, 4), ((torch.ones(9),),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        (
            {"denominator": "mean"},
            ArgumentError,
            "denominator is 'mean'; it must be one of keepers",
        ),
        ({"empty": "own"}, ArgumentError, "empty is 'own'; it must be 'zero' or 'keep'"),
        ({"empty": "keep"}, ArgumentError, "server is None; empty='keep' takes"),
        ({"server": torch.ones(3)}, ArgumentError, "server is given; it is used with empty='keep'"),
        (
            {"empty": "keep", "server": torch.ones(2)},
            ArgumentError,
            r"server has shape \(2,\); it mus",
        ),
        (
            {"empty": "keep", "server": torch.ones(3).half()},
            DtypeError,
            "server has dtype torch.floa",
        ),
        ({"min_votes": 0}, ArgumentError, r"min_votes is 0; it must be in \[1, 65536\)"),
        ({"min_votes": 1.0}, DtypeError, "min_votes is float"),
        ({"weights": [1]}, ArgumentError, "weights has 1 elements; there are 2 clients"),
        ({"weights": [1, -1]}, ArgumentError, r"weights\[1\] is -1; it must be in \[0, 16777216\)"),
        ({"weights": [2**24, 0]}, ArgumentError, r"weights\[0\] is 16777216"),
        ({"weights": [0.5, 0.5]}, DtypeError, r"weights\[0\] is float; it must be an int"),
        (
            {"weights": torch.ones(2)},
            DtypeError,
            "weights has dtype torch.float32; it must be torch.",
        ),
        ({"weights": 3}, DtypeError, "weights is int; it must be a tensor or a list of int"),
        (
            {"weights": torch.tensor([-1, 2])},
            ArgumentError,
            r"weights are \[-1, 2\] …; each must be",
        ),
        (
            {"masks": torch.ones(2, 4, dtype=torch.bool)},
            ArgumentError,
            r"masks has shape \(2, 4\) and",
        ),
        (
            {"masks": torch.ones(3, 3, dtype=torch.bool)},
            ArgumentError,
            r"masks has shape \(3, 3\) and",
        ),
        (
            {"masks": torch.ones(2, 3)},
            DtypeError,
            "masks has dtype torch.float32; it must be torch.b",
        ),
        (
            {"masks": torch.full((2, 1), 8, dtype=torch.uint8)},
            ArgumentError,
            "client 0 has a bit set b",
        ),
        (
            {"masks": Rectangles((3,), ((), ())), "shape": (4,)},
            ArgumentError,
            r"shape is \(4,\); mask",
        ),
        ({"shape": (3,)}, ArgumentError, "masks is None; packed values are 1-D, with masks"),
    ],
)
def test_wrong_arguments_are_refused_by_name(how: dict[str, Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        masked_mean(torch.ones(2, 3), **how)


def test_wrong_values_are_refused_by_name() -> None:
    with pytest.raises(
        DtypeError, match=r"values has dtype torch.float64; it must be torch.float32"
    ):
        masked_mean(torch.ones(2, 3).double())
    with pytest.raises(ArgumentError, match="values has no dimension"):
        masked_mean(torch.tensor(1.0))
    with pytest.raises(ArgumentError, match="values is an empty list"):
        masked_mean([])
    with pytest.raises(DtypeError, match=r"values\[1\] is list; it must be a torch"):
        masked_mean([torch.ones(3), [1.0]])  # type: ignore[list-item]
    with pytest.raises(
        DtypeError, match=r"values have dtypes torch.float16, torch.float32; they must"
    ):
        masked_mean([torch.ones(3), torch.ones(3).half()])
    with pytest.raises(
        ArgumentError, match=r"values have shapes \[\(3,\), \(4,\)\]; give Rectangles"
    ):
        masked_mean([torch.ones(3), torch.ones(4)])
    with pytest.raises(ArgumentError, match="come from 65536 clients; it must be at most 65535"):
        masked_mean(torch.ones(1, 2).expand(65_536, 2))
    heavy = torch.full((129,), 2**24 - 1)
    with pytest.raises(ArgumentError, match=r"their sum below 2\^31"):
        masked_mean(torch.ones(129, 2), weights=heavy)
