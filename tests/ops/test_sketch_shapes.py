"""Sketches of the sizes at which the compiled kernel takes another block, panel or table."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

import sketch_oracles
from case import KEY
from pyfed.ops import sketch, sketch_block
from runs import Run, runs_of

RUNS = runs_of("sketch")
COMPILED = pytest.mark.parametrize(
    ("op", "run"),
    [p for p in RUNS if p.values[1].backend == "cpu"],  # type: ignore[attr-defined]
)
# Kind, rows, samples, features.
SHAPES = (
    *(("rademacher", 20, samples, 3) for samples in (257, 300, 511, 512, 513, 770)),
    *(("rademacher", 64, 33, 300), ("rademacher", 70, 1100, 5), ("rademacher", 2100, 40, 3)),
    *(("gaussian", 450, 257, 20), ("gaussian", 33, 900, 9)),
    *(("countsketch", 7, samples, 5) for samples in (511, 513, 1100)),
    *(("countsketch", 5, 30, features) for features in (255, 257, 513)),
)


@functools.cache
def problem(kind: str, rows: int, samples: int, features: int, transpose: bool) -> Any:
    """What is multiplied, the exact product, and the documented bound of its error."""
    made = torch.Generator().manual_seed(20)
    g = sketch_block((0, rows), (0, samples), KEY, kind, (rows, samples)).double()
    g = g.T if transpose else g
    x = torch.rand(g.shape[1], features, generator=made)  # nothing cancels, so an error shows
    n, u = g.shape[1] + 2, 2.0**-24
    return x, g @ x.double(), n * u / (1 - n * u) * (g.abs() @ x.double())


@pytest.mark.parametrize("transpose", [False, True])
@COMPILED
def test_the_error_is_below_the_documented_bound(op: str, run: Run, transpose: bool) -> None:
    for kind, rows, samples, features in SHAPES:
        x, exact, bound = problem(kind, rows, samples, features, transpose)
        lines = samples if transpose else rows
        with run.active():
            got = sketch(x, lines, KEY, kind, transpose=transpose).double()
        assert ((got - exact).abs() <= bound).all(), (kind, rows, samples, features)


@pytest.mark.parametrize(("op", "run"), RUNS)
def test_the_entry_of_a_count_sketch_is_the_root_rounded_once(op: str, run: Run) -> None:
    for rows in (101,) if run.interpreted else (101, 102, 1009, 65537):
        root = float(np.float32(np.sqrt(np.float64(rows))))
        one = torch.eye(2, device=run.device)
        with run.active():
            made = sketch(one, rows, KEY, "countsketch")
        assert made.abs().sum(0).tolist() == [root, root]
        block = sketch_block((0, rows), (0, 2), KEY, "countsketch", (rows, 2))
        assert torch.equal(made.cpu(), block)


SEED = 2**64 - 3
# Stream, row, first column of a pair and its two words, found by search: where u is rounded to 1 or
# is least, where its exponent changes, and where an angle is 0 or between two quarters, or next to
# these.
EDGES = (
    *((57134686, 3, 20, 0xFFFFFFFE, 0xB61F2E5A), (5672327, 3, 4, 0xFFFFFF81, 0xC07556C8)),
    *((34305143, 1, 16, 0xFFFFFF80, 0x2F184A89), (16372696, 3, 20, 0xFFFFFF7E, 0x90F4AD1A)),
    *((56161317, 3, 14, 0x00000000, 0x6FC7D14C), (8572586, 0, 18, 0x00000001, 0xE8DED3D6)),
    *((32547822, 1, 28, 0x00000002, 0xD551D325), (56121316, 2, 6, 0x00000003, 0x94804D93)),
    *((43293185, 1, 6, 0x005A8278, 0xD6E7914C), (23605668, 2, 6, 0x00B504F2, 0x2E0E1941)),
    *((3693866, 3, 26, 0x0B504F26, 0x5C07E223), (44961, 2, 16, 0x0B504F2C, 0x25958C8A)),
    *((511377, 0, 18, 0xB504F1DD, 0xB9CFC852), (84397, 1, 20, 0xB504F283, 0x812AC5EA)),
    *((24485419, 0, 16, 0xFA8A4592, 0x00000001), (33019105, 3, 30, 0x1BB5E09C, 0xFFFFFFFF)),
    *((6647052, 0, 20, 0x9A44DE70, 0x1FFFFFFF), (27967634, 1, 24, 0xE873E937, 0x3FFFFFFF)),
    *((594568, 3, 26, 0x14246EB6, 0x5FFFFFFF), (31977199, 2, 12, 0xB55E72E9, 0x60000000)),
    *((24538873, 3, 28, 0x1B802CA7, 0x80000000), (2985507, 1, 12, 0x6666DC1A, 0x80000001)),
    *((16922714, 1, 22, 0x4C7358CC, 0x9FFFFFFF), (25282751, 3, 10, 0xE7D9F842, 0xA0000001)),
    *((20900829, 3, 26, 0x04F99537, 0xBFFFFFFF), (8951286, 3, 2, 0xB0C4944D, 0xC0000000)),
)


@COMPILED
def test_normals_from_words_at_edges_are_the_oracles(op: str, run: Run) -> None:
    for stream, row, column, *pair in EDGES:
        places = np.arange(column, column + 2)
        words = sketch_oracles.words(SEED, np.array([row]), places, 2, stream)
        assert words[0].tolist() == pair
        wanted = [float(n[0]) for n in sketch_oracles.normals(words[:, 0], words[:, 1])]
        with run.active():
            made = sketch(torch.eye(32), 4, SEED, "gaussian", stream=stream)
        assert made[row, column : column + 2].tolist() == wanted
