"""The records of a client before they are coded: checked, clipped to a norm, and weighted."""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Literal

import torch

from pyfed.checks import STREAMS, expect_int, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.keys import Key

OnLarge = Literal["clip", "refuse"]
ON_LARGE = ("clip", "refuse")

SOURCE = 8
"""Bytes that tell one (key, stream) from another."""

SHRINK = 1 - 2.0**-22
"""A clipped record gets this much of the norm, so that rounding to float32 cannot exceed it.

Each of its values is off by at most 2^-24 of itself, hence so is the norm.
"""


def expect_positive(op: str, name: str, value: object) -> float:
    """``value`` as a float; raises unless it is a positive finite number."""
    number = expect_number(op, name, value)
    if number <= 0:
        raise ArgumentError(f"{op}: {name} is {value}; it must be positive")
    return number


def expect_not_negative(op: str, name: str, value: object) -> float:
    """``value`` as a float; raises unless it is a finite number of at least 0."""
    number = expect_number(op, name, value)
    if number < 0:
        raise ArgumentError(f"{op}: {name} is {value}; it must be at least 0")
    return number


def expect_number(op: str, name: str, value: object) -> float:
    """``value`` as a float; raises unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DtypeError(f"{op}: {name} is {type(value).__name__}; it must be a number")
    if not math.isfinite(value):
        raise ArgumentError(f"{op}: {name} is {value}; it must be finite")
    return float(value)


def expect_probability(op: str, name: str, value: object) -> float:
    """``value`` as a float; raises unless it lies in (0, 1]."""
    number = expect_number(op, name, value)
    if not 0 < number <= 1:
        hint = ": leave out a client that never arrives" if number == 0 else ""
        raise ArgumentError(f"{op}: {name} is {value}; a probability must be in (0, 1]{hint}")
    return number


def expect_records(op: str, x: object, y: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (samples, features) and labels (samples, outputs), detached; raises if unfit.

    Labels of shape (samples,) become one column.
    """
    expect_tensor(op, "x", x, torch.float32, 2)
    expect_tensor(op, "y", y, torch.float32)
    assert isinstance(x, torch.Tensor)
    assert isinstance(y, torch.Tensor)
    if y.dim() not in (1, 2):
        raise ArgumentError(
            f"{op}: y has shape {tuple(y.shape)}; it must be (samples,) or (samples, outputs)"
        )
    if len(x) != len(y):
        raise ArgumentError(f"{op}: x has {len(x)} samples and y has {len(y)}; they must match")
    if x.device != y.device:
        raise ArgumentError(f"{op}: x is on {x.device} and y on {y.device}; use one device")
    if not len(x) or not x.shape[1] or not y[0].numel():
        raise ArgumentError(
            f"{op}: x has shape {tuple(x.shape)} and y {tuple(y.shape)}; no size may be 0"
        )
    for name, values in (("x", x), ("y", y)):
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            first = tuple(torch.nonzero(bad)[0].tolist())
            raise ArgumentError(
                f"{op}: in {name} {int(bad.sum())} of {values.numel()} elements are NaN or "
                f"infinite; the first is at index {first}"
            )
    return x.detach(), y.detach().reshape(len(y), -1)


def within_norm(
    op: str, joint: torch.Tensor, record_norm: float | None, on_large: str
) -> torch.Tensor:
    """``joint`` (samples, columns) with no record above ``record_norm``; as it is without one.

    A record above it is scaled down to it, features and labels alike, or refused.
    """
    if on_large not in ON_LARGE:
        raise ArgumentError(f"{op}: on_large is {on_large!r}; it must be one of {ON_LARGE}")
    if record_norm is None:
        return joint
    limit = expect_positive(op, "record_norm", record_norm)
    norms = joint.to(torch.float64).norm(dim=1)
    large = norms > limit
    if not bool(large.any()):
        return joint
    if on_large == "refuse":
        first = int(torch.nonzero(large)[0])
        raise ArgumentError(
            f"{op}: {int(large.sum())} of {len(joint)} records [x, y] have a norm above "
            f"record_norm = {limit}; record {first} has {float(norms[first]):.6g}: raise "
            "record_norm, scale the data, or pass on_large='clip'"
        )
    factors = torch.where(large, SHRINK * limit / norms, torch.ones_like(norms))
    return (joint.to(torch.float64) * factors[:, None]).to(torch.float32)


def sample_weights(op: str, arrival: object, samples: int) -> torch.Tensor:
    """√(1 − p) of every sample, float64 (samples,); ``arrival`` is p, one or one each, in [0, 1].

    p is the probability that the sample's gradient comes from its client in a round; 0 says that
    the client never computes it, so that it is in the code as a whole.
    """
    if isinstance(arrival, torch.Tensor):
        if not arrival.is_floating_point():
            raise DtypeError(f"{op}: arrival has dtype {arrival.dtype}; it must be a float dtype")
        if arrival.shape != (samples,):
            raise ArgumentError(
                f"{op}: arrival has shape {tuple(arrival.shape)}; it must be a number or have "
                f"one for each of the {samples} samples"
            )
        p = arrival.detach().to(torch.float64)
    else:
        p = torch.full((samples,), expect_number(op, "arrival", arrival), dtype=torch.float64)
    if not bool(((p >= 0) & (p <= 1)).all()):  # NaN fails too
        raise ArgumentError(f"{op}: arrival is {arrival}; a probability must be in [0, 1]")
    return torch.sqrt(1 - p)


def source_of(op: str, key: object, stream: object, public: bool) -> bytes:
    """8 bytes that are the same for the same key and stream, and say nothing about the key."""
    expect_int(op, "stream", stream, 0, STREAMS)
    assert isinstance(stream, int)
    if isinstance(key, Key):
        own = key.derive("coded", stream)
        tag = own.reveal()[:SOURCE]
        own.wipe()
        return tag
    if not public:
        raise DtypeError(f"{op}: key is {type(key).__name__}; it must be a pyfed.Key")
    expect_int(op, "key", key, 0, 2**64)
    return hashlib.sha256(struct.pack("<13sQI", b"pyfed/v1/seed", key, stream)).digest()[:SOURCE]
