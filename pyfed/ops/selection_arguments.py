"""What ops that select by votes are given: checks, the rule for ties, and the tiles."""

from __future__ import annotations

from typing import Any

import torch

from pyfed.checks import STREAMS, expect_int, expect_key, expect_tensor
from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.ops.tiles import constant_tiles

INDEX, RANDOM, MAGNITUDE, SCORE = range(4)
TIES = {"index": INDEX, "random": RANDOM, "magnitude": MAGNITUDE, "score": SCORE}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
KINDS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
"""The number of a dtype in compiled kernels; 0 stands for no tensor."""


def prepare_selection(
    op: str,
    counts: object,
    shape: tuple[int, ...],
    layout: tuple[str, object, str],
    ties: str | None,
    weight: torch.Tensor | None,
    score: torch.Tensor | None,
    key: Key | None,
    stream: int,
) -> tuple[Any, ...]:
    """Check what selecting ops share; gives tie, key words, tiles (5), ties, stream.

    Args:
        op: what a message names.
        counts: the votes.
        shape: of the matrix.
        layout: group, sparsity and rounding.
        ties: the rule for ties, or None for its default.
        weight: needed for ties by magnitude.
        score: needed for ties by score.
        key: needed for random ties.
        stream: of the key.
    """
    expect_tensor(op, "counts", counts, (torch.uint8, torch.int32))
    assert isinstance(counts, torch.Tensor)
    group, sparsity, rounding = layout
    cut = constant_tiles(op, shape, group, sparsity, rounding)
    size = cut.rows * cut.columns
    if counts.numel() != size or counts.shape not in ((size,), shape):
        raise ArgumentError(
            f"{op}: counts has shape {tuple(counts.shape)}; it must be {shape} or ({size},)"
        )
    expect_int(op, "stream", stream, 0, STREAMS)
    if ties is None:
        by_group = "magnitude" if group == "column" else "index"
        ties = "score" if score is not None else "random" if key is not None else by_group
    if ties not in TIES:
        raise ArgumentError(f"{op}: ties is {ties!r}; it must be one of {', '.join(TIES)}, or None")
    for name, value in (("weight", weight), ("score", score)):
        if value is not None:
            expect_tensor(op, name, value, FLOATS)
            if value.shape not in ((size,), shape):
                raise ArgumentError(
                    f"{op}: {name} has shape {tuple(value.shape)}; it must be {shape}"
                )
    wanted = {"random": key, "magnitude": weight, "score": score}
    name = {"random": "key", "magnitude": "weight", "score": "score"}.get(ties, "")
    if name and wanted[ties] is None:
        raise ArgumentError(
            f"{op}: {name} is None; ties by {ties} need it"
            + (
                "; column groups take them by default, or say ties='index'"
                if group == "column"
                else ""
            )
        )
    if key is not None:
        expect_key(op, key)
    words = key.words(counts.device) if ties == "random" and key is not None else None
    tie = {"magnitude": weight, "score": score}.get(ties)
    return (None if tie is None else tie.detach()), words, *cut, TIES[ties], stream
