"""What the methods of models of delays are asked for, checked."""

from __future__ import annotations

import numpy as np

from pyfed.coded.plain import plain
from pyfed.coded.records import expect_not_negative
from pyfed.errors import ArgumentError, DtypeError


def expect_round(op: str, deadline: object, load: object) -> tuple[float, float]:
    """Deadline and load as floats; raises unless both are finite and at least 0."""
    given = expect_not_negative(op, "deadline", plain(deadline))
    return given, expect_not_negative(op, "load", plain(load))


def expect_generator(op: str, count: object, seed: object) -> np.random.Generator:
    """The generator that is given or seeded; raises unless it is one and ``count`` an int ≥ 0."""
    count, seed = plain(count), plain(seed)
    if isinstance(count, bool) or not isinstance(count, int):
        raise DtypeError(f"{op}: count is {type(count).__name__}; it must be an int")
    if count < 0:
        raise ArgumentError(f"{op}: count is {count}; it must be at least 0")
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        kind = type(seed).__name__
        raise DtypeError(f"{op}: seed is {kind}; it must be an int or a numpy.random.Generator")
    if seed < 0:
        raise ArgumentError(f"{op}: seed is {seed}; it must be at least 0")
    return np.random.default_rng(seed)
