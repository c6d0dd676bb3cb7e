"""Calls of the sketches' launcher that between them take every kernel and form."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from pyfed.triton_kernels import sketch

KEY = torch.zeros(8, dtype=torch.int32)
WORD = torch.zeros(1, dtype=torch.int32)
RADEMACHER, GAUSSIAN, COUNTSKETCH = 1, 2, 3
ROWS = 3


def sketched(kind: int, public: bool, features: int, transpose: bool = False) -> None:
    """Two samples of one client."""
    x = torch.zeros(1, ROWS, features) if transpose else torch.zeros(2, features)
    seed, key = (KEY[:2], None) if public else (None, KEY)
    starts = torch.tensor([0, 2])
    sketch.sketch(x, seed, key, starts, 2, ROWS, kind, 0, 0.0, transpose, WORD)


def noisy(features: int) -> None:
    sketch.add_noise(torch.zeros(1, ROWS, features), KEY, 0, 1.0)


CALLS: tuple[Callable[[], object], ...] = (
    *(
        lambda call=call: sketched(*call)
        for call in itertools.product((RADEMACHER,), (True, False), (5, 8), (False, True))
    ),
    *(
        lambda call=call: sketched(*call)
        for call in itertools.product((GAUSSIAN,), (True, False), (5, 8, 71, 72, 129, 132))
    ),
    *(lambda n=n: sketched(GAUSSIAN, True, n, True) for n in (5, 8)),
    *(
        lambda call=call: sketched(*call)
        for call in itertools.product((COUNTSKETCH,), (True, False), (5, 8, 132), (False, True))
    ),
    *(lambda n=n: noisy(n) for n in (5, 20)),
)
