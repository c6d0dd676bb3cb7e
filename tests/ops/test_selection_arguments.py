"""What mask_select refuses, and what it says then. Groups and sparsities: ``test_tiles.py``."""

from __future__ import annotations

import pytest
import torch

from pyfed import Key
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import mask_select

KEY = Key(bytes(range(32)))


def test_what_a_rule_needs_must_be_given() -> None:
    counts = torch.zeros(4, dtype=torch.uint8)
    for ties, name in (("random", "key"), ("magnitude", "weight"), ("score", "score")):
        with pytest.raises(ArgumentError, match=f"{name} is None; ties by {ties} need it$"):
            mask_select(counts, (4,), 0.5, ties=ties)
    with pytest.raises(
        ArgumentError, match="ties is 'first'; it must be one of index, random, magn"
    ):
        mask_select(counts, (4,), 0.5, ties="first")
    with pytest.raises(DtypeError, match=r"key is bytes; it must be a pyfed.Key"):
        mask_select(counts, (4,), 0.5, ties="random", key=bytes(32))  # type: ignore[arg-type]
    for stream in (-1, 2**32):
        with pytest.raises(
            ArgumentError, match=rf"stream is {stream}; it must be in \[0, 42949672"
        ):
            mask_select(counts, (4,), 0.5, ties="random", key=KEY, stream=stream)


def test_wrong_counts_weights_and_scores_are_refused_by_name() -> None:
    good, weight = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3)
    for dtype in (torch.int64, torch.bool, torch.float32, torch.int8):
        with pytest.raises(
            DtypeError, match=f"counts has dtype {dtype}; it must be torch.uint8 or"
        ):
            mask_select(good.to(dtype), (2, 3), 0.5)
    for shape in ((3, 2), (6, 1), (2, 3, 1), (7,)):
        with pytest.raises(ArgumentError, match=r"counts has shape \(2, 3\); it must be"):
            mask_select(good, shape, 0.5)
    for name in ("weight", "score"):
        with pytest.raises(ArgumentError, match=rf"{name} has shape \(3, 2\); it must be \(2, 3\)"):
            mask_select(good, (2, 3), 0.5, **{name: weight.T.contiguous()})  # type: ignore[arg-type]
        with pytest.raises(
            DtypeError, match=f"{name} has dtype torch.float64; it must be torch.flo"
        ):
            mask_select(good, (2, 3), 0.5, **{name: weight.double()})  # type: ignore[arg-type]
    bad = good.clone()
    bad[1, 2], bad[1, 0] = 65_536, -1
    text = r"in counts 2 of 6 elements are outside \[0, 65535\]; the first is -1 at index \(1, 0\)"
    with pytest.raises(ArgumentError, match=text):
        mask_select(bad, (2, 3), 0.5)
    for name, ties in (("weight", "magnitude"), ("score", "score")):
        wrong = weight.clone()
        wrong[0, 1] = float("nan")
        text = rf"in {name} 1 of 6 elements are NaN or infinite; the first is nan at index \(0, 1\)"
        for sparsity in (0, 0.5, 1):  # also where no tie needs it
            with pytest.raises(ArgumentError, match=text):
                mask_select(good, (2, 3), sparsity, ties=ties, **{name: wrong})  # type: ignore[arg-type]


def test_without_a_rule_what_is_given_decides_and_the_group_else() -> None:
    counts = torch.zeros(4, 6, dtype=torch.uint8)
    floats = torch.randn(4, 6)
    for group in ("layer", "column"):
        given = {"score": floats, "random": KEY, "magnitude": floats}
        names = {"score": "score", "random": "key", "magnitude": "weight"}
        for ties, name in names.items():
            rule = {name: given[ties]}
            wanted = mask_select(counts, (4, 6), 0.5, group, ties, **rule)
            if ties == "magnitude" and group == "layer":
                wanted = mask_select(counts, (4, 6), 0.5, group, "index")
            assert torch.equal(mask_select(counts, (4, 6), 0.5, group, **rule), wanted)
        by_index = mask_select(counts, (4, 6), 0.5, group, "index", key=KEY, score=floats)
        assert torch.equal(by_index, mask_select(counts, (4, 6), 0.5, group, "index"))
